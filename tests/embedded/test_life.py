"""Start, stop, and start again."""

import os
import stat
from pathlib import Path

import psutil
import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres, StartFailed, open_postgres
from perdure.cluster.embedded.processes import server_processes

from .scene import insert, numbers


def test_second_start_finds_what_the_first_one_committed(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        insert(server.dsn, 7)
        data = server.data_directory
    assert server_processes(data) == []

    with EmbeddedPostgres(directory) as server:
        assert numbers(server.dsn) == [7]


def test_immediate_stop_loses_nothing(server: EmbeddedPostgres) -> None:
    insert(server.dsn, 2)
    server.stop(immediate=True)
    assert not server.is_alive()

    server.start()
    assert numbers(server.dsn) == [1, 2]


def test_stop_ends_the_server_while_clients_are_connected(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn):
        server.stop()
    assert server_processes(server.data_directory) == []


def test_start_and_stop_may_be_repeated(server: EmbeddedPostgres) -> None:
    pid = server.postmaster_pid
    assert server.start().postmaster_pid == pid
    server.stop()
    server.stop()
    assert server.postmaster_pid is None


def test_acknowledged_commits_are_durable_by_configuration(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert connection.execute(f"show {setting}".encode()).fetchone() == ("on",), setting
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("show max_connections").fetchone() == ("200",)


def test_nobody_else_reaches_the_server(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)
    closed = server.data_directory.parent
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_interrupt_in_the_terminal_does_not_reach_the_server(server: EmbeddedPostgres) -> None:
    pid = server.postmaster_pid
    assert pid is not None
    guard = psutil.Process(pid).ppid()
    assert os.getsid(0) not in {os.getsid(pid), os.getsid(guard)}


def test_stop_in_a_forked_child_does_not_concern_the_parent(server: EmbeddedPostgres) -> None:
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert numbers(server.dsn) == [1]


def test_a_path_too_long_for_a_socket_is_no_obstacle(open_directory: Path) -> None:
    directory = open_directory / ("a very long name " * 6) / "postgres"
    with EmbeddedPostgres(directory) as server:
        insert(server.dsn, 1)
        with psycopg.connect(server.dsn) as connection:
            row = connection.execute("show unix_socket_directories").fetchone()
        assert row is not None
        socket_directory = Path(row[0].strip('"'))
        assert stat.S_IMODE(socket_directory.stat().st_mode) == 0o700
    assert not socket_directory.exists()


def test_the_caller_s_own_dsn_wins(directory: Path) -> None:
    with open_postgres("postgresql://db.example/prod", directory) as dsn:
        assert dsn == "postgresql://db.example/prod"
    assert not directory.exists()


def test_without_a_dsn_there_is_an_embedded_server(seeded: Path) -> None:
    with open_postgres(None, seeded) as dsn:
        assert numbers(dsn) == [1]


def test_a_refusal_to_start_shows_what_the_server_said(seeded: Path) -> None:
    data = seeded / "server" / "data"
    with (data / "postgresql.conf").open("a") as file:
        file.write("\nno_such_setting = 1\n")
    with pytest.raises(StartFailed, match="no_such_setting"):
        EmbeddedPostgres(seeded).start()
    assert server_processes(data) == []
