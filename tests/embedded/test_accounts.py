"""Root, ordinary users, and directories that they may or may not use."""

import contextlib
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from perdure.cluster.embedded import DataDirectoryUnusable, DiskFull, EmbeddedPostgres, place
from perdure.cluster.embedded.account import Account, run_as

from .conftest import needs_root
from .scene import Owner, an_ordinary_account, insert, numbers


@pytest.fixture
def closed(open_directory: Path) -> Path:
    """A directory like /root: nobody but root gets in."""
    path = open_directory / "closed"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def elsewhere(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /var/lib/perdure."""
    path = open_directory / "elsewhere"
    path.mkdir(mode=0o755)
    monkeypatch.setattr(place, "PLACES_FOR_ROOT", (path,))
    return path


@pytest.fixture
def ordinary() -> Account:
    return an_ordinary_account()


@pytest.fixture
def python(ordinary: Account) -> str:
    """A Python of our version that an ordinary user can run; that of the virtual environment may be below /root."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        with contextlib.suppress(OSError):
            if run_as(ordinary, [candidate, "--version"]).returncode == 0:
                return candidate
    pytest.skip(f"user {ordinary.name} can run no {name} on this machine")


@needs_root
def test_root_keeps_the_database_elsewhere_if_the_account_cannot_reach_the_project(
    closed: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = closed / ".perdure" / "postgres"
    with caplog.at_level(logging.WARNING), EmbeddedPostgres(directory) as server:
        insert(server.dsn, 1)
        assert server.data_directory.is_relative_to(elsewhere)
        assert psutil.Process(server.postmaster_pid).uids().effective != 0
    assert [str(directory) in message and str(elsewhere) in message for message in caplog.messages] == [True]

    caplog.clear()
    with EmbeddedPostgres(directory) as server:
        assert numbers(server.dsn) == [1]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700, "it is not ours to open"


@needs_root
def test_root_s_project_may_be_moved_but_not_copied(closed: Path, elsewhere: Path) -> None:
    with EmbeddedPostgres(closed / "one" / "postgres") as server:
        insert(server.dsn, 1)
    shutil.copytree(closed / "one", closed / "copy")
    with pytest.raises(DataDirectoryUnusable, match="is a copy of"):
        EmbeddedPostgres(closed / "copy" / "postgres").start()

    (closed / "one").rename(closed / "two")
    with EmbeddedPostgres(closed / "two" / "postgres") as server:
        assert numbers(server.dsn) == [1]


@needs_root
def test_a_database_that_vanished_is_not_replaced_in_silence(closed: Path, elsewhere: Path) -> None:
    with EmbeddedPostgres(closed / "postgres") as server:
        home = server.data_directory.parent.parent
    shutil.rmtree(home)
    with pytest.raises(DataDirectoryUnusable, match="is gone"):
        EmbeddedPostgres(closed / "postgres").start()


@needs_root
def test_where_root_finds_no_place_the_message_says_so(
    closed: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "PLACES_FOR_ROOT", (closed,))
    with pytest.raises(DataDirectoryUnusable, match="as an ordinary user"):
        EmbeddedPostgres(closed / "postgres").start()


@needs_root
def test_an_ordinary_user_runs_the_server_himself(open_directory: Path, ordinary: Account, python: str) -> None:
    os.chown(open_directory, ordinary.uid, ordinary.gid)
    with Owner(open_directory / "postgres", account=ordinary, python=python) as owner:
        assert "error" not in owner.answer, owner.answer
        assert psutil.Process(owner.answer["pid"]).uids().real == ordinary.uid


@needs_root
def test_what_root_made_in_a_user_s_project_the_user_can_use(
    open_directory: Path, ordinary: Account, python: str
) -> None:
    os.chown(open_directory, ordinary.uid, ordinary.gid)
    with EmbeddedPostgres(open_directory / "postgres") as server:
        insert(server.dsn, 1)
        assert psutil.Process(server.postmaster_pid).uids().real == ordinary.uid
    with Owner(open_directory / "postgres", account=ordinary, python=python) as owner:
        assert "error" not in owner.answer, owner.answer
        assert numbers(owner.answer["dsn"]) == [1]


@needs_root
def test_a_directory_that_may_not_be_written_is_named(open_directory: Path, ordinary: Account, python: str) -> None:
    (open_directory / "postgres").mkdir(mode=0o755)
    for directory in (open_directory / "postgres", open_directory / "fresh"):
        with Owner(directory, account=ordinary, python=python) as owner:
            assert owner.answer["error"] == "DataDirectoryUnusable"
            assert str(directory) in owner.answer["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the test above asks as an ordinary user")
def test_our_own_directory_that_may_not_be_written_is_named(directory: Path) -> None:
    directory.mkdir(mode=0o555)
    with pytest.raises(DataDirectoryUnusable, match=str(directory)):
        EmbeddedPostgres(directory).start()


def test_a_file_in_the_way_is_named(directory: Path) -> None:
    directory.write_text("")
    with pytest.raises(DataDirectoryUnusable, match=str(directory)):
        EmbeddedPostgres(directory).start()


def test_somebody_else_s_directory_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.tex").write_text("")
    with pytest.raises(DataDirectoryUnusable, match="thesis"):
        EmbeddedPostgres(directory).start()
    assert [path.name for path in directory.iterdir()] == ["thesis.tex"]


@pytest.fixture
def small_disk(open_directory: Path) -> Iterator[Path]:
    path = open_directory / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=755", "none", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("not allowed to mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@needs_root
def test_a_full_disk_is_called_that(small_disk: Path) -> None:
    with pytest.raises(DiskFull, match="No space left"):
        EmbeddedPostgres(small_disk / "postgres").start()
