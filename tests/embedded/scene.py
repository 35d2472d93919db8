"""What the tests of the embedded Postgres do again and again."""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from perdure.cluster.embedded.account import Account
from perdure.cluster.embedded.processes import is_gone, server_processes

OWNER_SCRIPT = Path(__file__).with_name("owner.py")
PATIENCE_S = 30.0


class Owner:
    """The process of owner.py."""

    def __init__(self, directory: Path, *, account: Account | None = None, python: str = sys.executable) -> None:
        paths = [str(Path(__file__).resolve().parents[2] / ".links"), str(Path(psycopg.__file__).parent.parent)]
        self._popen = subprocess.Popen(
            [python, str(OWNER_SCRIPT), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._answer: dict[str, Any] | None = None

    @property
    def answer(self) -> dict[str, Any]:
        if self._answer is None:
            assert self._popen.stdout is not None
            answer: dict[str, Any] = json.loads(self._popen.stdout.readline())
            self._answer = answer
        return self._answer

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def finish(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._popen.wait(PATIENCE_S)
        self._popen.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


def insert(dsn: str, number: int) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("create table if not exists kept (number int)")
        connection.execute("insert into kept values (%s)", (number,))


def numbers(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("select number from kept order by number")]


def kill_all(data: Path) -> None:
    """kill -9 of the postmaster and all its children, as the OOM killer or a power cut would have it."""
    for process in server_processes(data):
        with contextlib.suppress(psutil.NoSuchProcess):  # backends end by themselves, and with their postmaster
            process.kill()


def guard_of(postmaster_pid: int) -> psutil.Process:
    guard = psutil.Process(postmaster_pid).parent()
    assert guard is not None
    assert any(argument.endswith("guard.py") for argument in guard.cmdline())
    return guard


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain until {what}"
        time.sleep(0.01)


def wait_until_gone(process: psutil.Process) -> None:
    wait_until(lambda: is_gone(process), f"process {process.pid} is gone")


def an_ordinary_account() -> Account:
    entry = pwd.getpwnam("nobody")
    return Account(name="nobody", uid=entry.pw_uid, gid=entry.pw_gid)


def suspend(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the process is suspended")
