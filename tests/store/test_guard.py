"""The start-up guard: refusals say what is wrong, where, and how to put it right; never the password."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.embedded.account import choose_account
from perdure.cluster.embedded.binaries import choose_binaries
from perdure.cluster.postgres import guard, migrations
from perdure.cluster.postgres.guard import check_server
from perdure.cluster.postgres.names import application_name, masked, without_password
from perdure.entities.errors import StartRefused
from tests.scratch import scratch_directory


def with_setting(dsn: str, name: str, value: str) -> str:
    value = value.replace(" ", r"\ ")
    return f"{dsn}&{urlencode({'options': f'-c {name}={value}'})}".replace("+", "%20")


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """Data of a server that is not running."""
    with scratch_directory("perdure-store-") as directory:
        with EmbeddedPostgres(directory) as server:
            path = server.data_directory
        yield path


@contextlib.contextmanager
def started(data: Path, *settings: str) -> Generator[str]:
    """A server with settings that the embedded one never has."""
    account = choose_account(data, data)
    binaries = choose_binaries("auto", account=account, copies=data.parent / "copies", data_major=None)
    process = subprocess.Popen(
        [binaries.postgres, "-D", data, "-k", data, "-c", "listen_addresses=", *settings],
        cwd="/",
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        stderr=subprocess.DEVNULL,
    )
    dsn = f"host={data} dbname=perdure user=perdure"
    try:
        while psycopg.pq.PGconn.ping(dsn.encode()) != psycopg.pq.Ping.OK:
            assert process.poll() is None
            time.sleep(0.02)
        yield dsn
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


async def refusal(dsn: str, namespace: str) -> str:
    with pytest.raises(StartRefused) as error:
        await check_server(dsn, namespace)
    return str(error.value)


async def test_good_server_is_accepted(server: EmbeddedPostgres, namespace: str) -> None:
    await check_server(server.dsn, namespace)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_server_that_may_lose_everything_is_refused(data: Path, setting: str) -> None:
    with started(data, "-c", f"{setting}=off") as dsn:
        message = await refusal(dsn, "perdure")
    assert f"{setting}=off" in message
    assert f"ALTER SYSTEM SET {setting} = on" in message


async def test_standby_is_refused(data: Path) -> None:
    signal_file = data / "standby.signal"
    signal_file.touch()
    try:
        # A standby refuses to start with fewer connections than the data's primary had.
        with started(data, "-c", "max_connections=500") as dsn:
            assert "pg_promote" in await refusal(dsn, "perdure")
    finally:
        signal_file.unlink()


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("synchronous_commit", "off", "ALTER SYSTEM SET synchronous_commit = on"),
        ("default_transaction_read_only", "on", "ALTER ROLE CURRENT_USER SET default_transaction_read_only = 'off'"),
        ("default_transaction_isolation", "serializable", "SET default_transaction_isolation = 'read committed'"),
    ],
)
async def test_settings_that_break_promises_are_refused(
    server: EmbeddedPostgres, namespace: str, name: str, value: str, fix: str
) -> None:
    message = await refusal(with_setting(server.dsn, name, value), namespace)
    assert name in message or "read only" in message
    assert fix in message


async def test_local_synchronous_commit_is_accepted(server: EmbeddedPostgres, namespace: str) -> None:
    await check_server(with_setting(server.dsn, "synchronous_commit", "local"), namespace)


GOOD = {
    "server_version": "17.2",
    "server_version_num": "170002",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "in_recovery": "false",
    "default_transaction_read_only": "off",
    "server_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"server_version": "14.23", "server_version_num": "140023"}, "14.23 at here is too old: Perdure needs 15 or"),
        ({"in_recovery": "true", "default_transaction_read_only": "on"}, "pg_promote"),
    ],
)
def test_servers_that_cannot_be_used_are_refused(changed: dict[str, str], expected: str) -> None:
    guard._check_settings(GOOD, "here")
    guard._check_settings(GOOD | {"server_version": "15.0", "server_version_num": "150000"}, "here")
    with pytest.raises(StartRefused, match=expected):
        guard._check_settings(GOOD | changed, "here")


@pytest.fixture
def latin(server: EmbeddedPostgres) -> Iterator[str]:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("create database latin encoding 'LATIN1' locale 'C' template template0")
    yield server.dsn.replace("/perdure?", "/latin?")
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("drop database latin with (force)")


async def test_database_that_cannot_hold_every_text_is_refused(latin: str) -> None:
    assert "LATIN1" in await refusal(latin, "perdure")


async def test_missing_namespace_names_the_command(server: EmbeddedPostgres) -> None:
    message = await refusal(server.dsn, "not_there")
    assert "'not_there'" in message
    assert message.endswith("perdure db upgrade")


async def test_schema_of_another_release_is_refused(
    server: EmbeddedPostgres, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "head", lambda: "9999")
        assert "perdure db upgrade" in await refusal(server.dsn, namespace)
    with psycopg.connect(server.dsn) as connection:
        connection.execute(f"update {namespace}.{migrations.VERSION_TABLE} set version_num = '9999'".encode())
    assert "newer than this code" in await refusal(server.dsn, namespace)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:s3cret@127.0.0.1:1/x",
        "host=127.0.0.1 port=1 user=me password=s3cret dbname=x",
        "host=127.0.0.1 port=1 password='s3cret' nonsense=1",
        "postgresql://me:s3cret@no-such-host.invalid/x",
        "postgres//me:s3cret@127.0.0.1/x",
        "postgresql://127.0.0.1:1/x?password=s3cret&user=me",
        "postgresql://me:s3cret/half@127.0.0.1:1/x",
        "postgresql://me:half@s3cret@127.0.0.1:1/x",
        "postgresql://me:s3%63ret@127.0.0.1:1/x",
    ],
)
async def test_wrong_dsn_is_explained_without_the_password(dsn: str) -> None:
    message = await refusal(dsn, "perdure")
    assert "cannot use Postgres at" in message
    for text in (message, masked(dsn), without_password(f"could not parse {dsn}", dsn)):
        assert "s3" not in text
        assert "half" not in text


def test_application_names_fit_and_stay_valid_text() -> None:
    assert application_name("host-1") == "perdure:host-1"
    assert len(application_name("é" * 99).encode()) <= 63
