"""Processes that were killed, and what they left behind."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres, processes
from perdure.cluster.embedded.account import choose_account, environment
from perdure.cluster.embedded.processes import server_processes
from perdure.cluster.embedded.settings import connection_url, server_command

from .scene import (
    Owner,
    guard_of,
    insert,
    kill_all,
    numbers,
    suspend,
    wait_until,
    wait_until_gone,
)


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any of this and must survive it."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        assert process.poll() is None, "an innocent process was killed"
        process.kill()


def test_committed_rows_survive_kill_9_of_the_whole_server(server: EmbeddedPostgres) -> None:
    insert(server.dsn, 2)
    postmaster = psutil.Process(server.postmaster_pid)
    kill_all(server.data_directory)
    wait_until_gone(postmaster)
    assert not server.is_alive()

    server.start()
    assert numbers(server.dsn) == [1, 2]


def test_a_child_that_outlives_its_postmaster_is_ended_before_a_new_server_runs(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LEAVE_S", 0.5)
    monkeypatch.setattr(processes, "QUIT_S", 0.5)
    with psycopg.connect(server.dsn) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        suspend(backend)  # it cannot notice that its postmaster dies
        postmaster = psutil.Process(server.postmaster_pid)
        postmaster.kill()
        wait_until_gone(postmaster)

        server.start()
        wait_until_gone(backend)
    assert numbers(server.dsn) == [1]


def test_the_server_does_not_outlive_an_owner_that_was_killed(seeded: Path) -> None:
    with Owner(seeded) as owner:
        postmaster = psutil.Process(owner.answer["pid"])
        owner.kill()
        wait_until_gone(postmaster)
    assert server_processes(seeded / "server" / "data") == []


def test_start_right_after_the_owner_was_killed(seeded: Path) -> None:
    with Owner(seeded) as owner:
        insert(owner.answer["dsn"], 2)
        owner.kill()
        with EmbeddedPostgres(seeded) as server:
            assert server.is_owner
            assert server.postmaster_pid != owner.answer["pid"], "that one is being stopped"
            assert numbers(server.dsn) == [1, 2]


def test_a_server_that_lost_owner_and_guard_is_adopted(seeded: Path) -> None:
    with Owner(seeded) as owner:
        guard = guard_of(owner.answer["pid"])
        guard.kill()
        wait_until_gone(guard)
        owner.kill()
        with EmbeddedPostgres(seeded) as server:
            assert server.is_owner
            assert server.postmaster_pid == owner.answer["pid"]
            assert numbers(server.dsn) == [1]
        assert not server.is_alive()


def test_a_suspended_server_that_lost_owner_and_guard_is_replaced(
    seeded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "KILL_S", 1.0)
    with Owner(seeded) as owner:
        postmaster = psutil.Process(owner.answer["pid"])
        guard_of(postmaster.pid).kill()
        suspend(postmaster)
        owner.kill()
        with EmbeddedPostgres(seeded, start_timeout_s=1) as server:
            assert server.postmaster_pid != postmaster.pid
            assert numbers(server.dsn) == [1]


def test_a_zombie_postmaster_is_dead(seeded: Path) -> None:
    data, socket_directory = seeded / "server" / "data", seeded / "server" / "run"
    account = choose_account(seeded, data)
    with EmbeddedPostgres(seeded) as server:
        postgres = Path(psutil.Process(server.postmaster_pid).cmdline()[0])
    with subprocess.Popen(  # our own child, which nobody reaps until the end of the block
        server_command(postgres, data=data, socket_directory=socket_directory),
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        cwd=data,
        env=environment(),
        stderr=subprocess.DEVNULL,
    ) as child:
        wait_until(lambda: _answers(connection_url(socket_directory)), "the server is ready")
        insert(connection_url(socket_directory), 2)
        kill_all(data)
        wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "the postmaster is a zombie")

        with EmbeddedPostgres(seeded) as server:
            assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
            assert server.postmaster_pid != child.pid
            assert numbers(server.dsn) == [1, 2]


def test_a_stale_pid_file_is_no_obstacle(seeded: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    _write_pid_file(seeded, f"{process.pid}\n{seeded / 'server' / 'data'}\n1700000000\n5432\n/tmp\n\n  1 2\nready   \n")
    with EmbeddedPostgres(seeded) as server:
        assert numbers(server.dsn) == [1]


def test_an_innocent_process_with_the_recycled_pid_survives(seeded: Path, innocent: subprocess.Popen[bytes]) -> None:
    _write_pid_file(
        seeded, f"{innocent.pid}\n{seeded / 'server' / 'data'}\n1700000000\n5432\n/tmp\n\n  1 2\nready   \n"
    )
    with EmbeddedPostgres(seeded) as server:
        assert server.postmaster_pid != innocent.pid
        assert numbers(server.dsn) == [1]


def test_another_database_s_postmaster_with_the_recycled_pid_survives(seeded: Path, template: Path) -> None:
    with EmbeddedPostgres(template) as other:
        _write_pid_file(
            seeded, f"{other.postmaster_pid}\n{seeded / 'server' / 'data'}\n1700000000\n5432\n/tmp\n\n  1 2\nready   \n"
        )
        with EmbeddedPostgres(seeded) as server:
            assert server.postmaster_pid != other.postmaster_pid
            assert numbers(server.dsn) == [1]
        assert other.is_alive()


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_truncated_pid_file_is_no_obstacle(seeded: Path, innocent: subprocess.Popen[bytes], lines: int) -> None:
    _write_pid_file(seeded, "".join(f"{line}\n" for line in (innocent.pid, seeded / "server" / "data")[:lines]))
    with EmbeddedPostgres(seeded) as server:
        assert numbers(server.dsn) == [1]


def test_a_live_server_without_its_pid_file_is_not_joined_by_a_second_one(seeded: Path) -> None:
    with Owner(seeded) as owner:
        postmaster = psutil.Process(owner.answer["pid"])
        guard_of(postmaster.pid).kill()
        owner.kill()
        (seeded / "server" / "data" / "postmaster.pid").unlink()
        with EmbeddedPostgres(seeded, start_timeout_s=1) as server:
            wait_until_gone(postmaster)
            assert numbers(server.dsn) == [1]


def test_an_initdb_that_was_cut_off_leaves_no_trace(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        pass
    data = server.data_directory
    abandoned = data.with_name("data.partial-0123abcd")
    data.rename(abandoned)
    with EmbeddedPostgres(directory) as server:
        insert(server.dsn, 1)
    assert not abandoned.exists()


def test_terminating_the_guard_ends_the_server_in_order(server: EmbeddedPostgres) -> None:
    pid = server.postmaster_pid
    assert pid is not None
    postmaster = psutil.Process(pid)
    guard_of(pid).send_signal(signal.SIGTERM)
    wait_until_gone(postmaster)
    assert "database system is shut down" in server.log_path.read_text()
    assert numbers(server.start().dsn) == [1]


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


def _write_pid_file(directory: Path, content: str) -> None:
    (directory / "server" / "data" / "postmaster.pid").write_text(content)
