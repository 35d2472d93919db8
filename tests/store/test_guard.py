"""The start-up guard: refusals say what is wrong, where, and how to put it right; never the password."""

import asyncio
from collections.abc import Iterator
from urllib.parse import urlencode

import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import guard, migrations
from perdure.cluster.postgres.guard import check_server
from perdure.cluster.postgres.names import application_name, masked, without_password
from perdure.entities.errors import StartRefused


def with_setting(dsn: str, name: str, value: str) -> str:
    value = value.replace(" ", r"\ ")
    return f"{dsn}&{urlencode({'options': f'-c {name}={value}'})}".replace("+", "%20")


async def set_for_all(dsn: str, name: str, value: str | None) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            (f"alter system set {name} = {value}" if value else f"alter system reset {name}").encode()
        )
        await connection.execute("select pg_reload_conf()")
        for _ in range(1_000):
            row = await (await connection.execute(f"show {name}".encode())).fetchone()
            if row == (value or "on",):
                return
            await asyncio.sleep(0.01)
    raise AssertionError("the setting did not change")


async def refusal(dsn: str, namespace: str) -> str:
    with pytest.raises(StartRefused) as error:
        await check_server(dsn, namespace)
    return str(error.value)


async def test_good_server_is_accepted(server: EmbeddedPostgres, namespace: str) -> None:
    await check_server(server.dsn, namespace)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_server_that_may_lose_everything_is_refused(
    server: EmbeddedPostgres, namespace: str, setting: str
) -> None:
    await set_for_all(server.dsn, setting, "off")
    try:
        message = await refusal(server.dsn, namespace)
    finally:
        await set_for_all(server.dsn, setting, None)
    assert f"{setting}=off" in message
    assert f"ALTER SYSTEM SET {setting} = on" in message


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
        ({"server_version": "14.9", "server_version_num": "140009"}, "14.9"),
        ({"in_recovery": "true", "default_transaction_read_only": "on"}, "pg_promote"),
    ],
)
def test_servers_that_cannot_be_used_are_refused(changed: dict[str, str], expected: str) -> None:
    guard._check_settings(GOOD, "here")
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
        patch.setattr(migrations, "head", lambda: "0009")
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
    ],
)
async def test_wrong_dsn_is_explained_without_the_password(dsn: str) -> None:
    message = await refusal(dsn, "perdure")
    assert "cannot use Postgres at" in message
    assert "s3cret" not in message
    assert "s3cret" not in masked(dsn)
    assert "s3cret" not in without_password(f"could not parse {dsn}", dsn)


def test_application_names_fit_and_stay_valid_text() -> None:
    assert application_name("host-1") == "perdure:host-1"
    assert len(application_name("é" * 99).encode()) <= 63
