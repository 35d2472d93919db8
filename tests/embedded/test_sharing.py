"""Several processes and one directory."""

from pathlib import Path

import psutil

from perdure.cluster.embedded import EmbeddedPostgres

from .scene import Owner, insert, numbers, wait_until


def test_two_processes_that_start_at_once_on_a_fresh_directory_share_one_server(directory: Path) -> None:
    with Owner(directory) as first, Owner(directory) as second:
        assert first.answer["pid"] == second.answer["pid"]
        assert sorted([first.answer["is_owner"], second.answer["is_owner"]]) == [False, True]
        insert(first.answer["dsn"], 1)
        assert numbers(second.answer["dsn"]) == [1]


def test_who_attached_does_not_stop_the_server(seeded: Path) -> None:
    with Owner(seeded) as owner:
        pid = owner.answer["pid"]
        with EmbeddedPostgres(seeded) as attached:
            assert not attached.is_owner
            assert attached.postmaster_pid == pid
            assert numbers(attached.dsn) == [1]
        assert psutil.pid_exists(pid)
        assert numbers(owner.answer["dsn"]) == [1]


def test_who_attached_can_take_over_when_the_owner_stops(seeded: Path) -> None:
    owner = EmbeddedPostgres(seeded).start()
    with EmbeddedPostgres(seeded) as attached:
        owner.stop()
        wait_until(lambda: not attached.is_alive(), "the server is down")

        attached.start()
        assert attached.is_owner
        assert numbers(attached.dsn) == [1]
