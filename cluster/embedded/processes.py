"""Which processes belong to a data directory: the only place that decides whom we may signal.

`postmaster.pid` is a hint and never proof: its process may be gone, a zombie, or an innocent one that was given the
number later. A process is believed to be ours by its command line, which everybody may read (its working directory
not: root in a container has no right to see that of another account). The postmaster carries `-D <data>`, its
children carry the cluster name, which is derived from the data directory, in their titles. psutil compares the create
time before each signal, so a number that is recycled between look and signal is not hit either.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from .settings import cluster_name

POLL_S = 0.02
LEAVE_S = 3.0  # for orphaned children to notice by themselves that their postmaster is gone
QUIT_S = 2.0  # for them to follow SIGQUIT
KILL_S = 10.0  # for the kernel to remove what was killed
_STARTED_SLACK_S = 5.0  # between the creation of the postmaster and the time it notes in its pid file


@dataclass(frozen=True, kw_only=True)
class PidFile:
    """What `postmaster.pid` says; it is written bit by bit while the server starts."""

    pid: int
    started_at: float | None
    socket_directory: Path | None
    status: str

    @property
    def is_stopping(self) -> bool:
        return self.status == "stopping"


def read_pid_file(data: Path) -> PidFile | None:
    """None if there is no such file or it makes no sense."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if pid <= 0:
        return None
    lines += [""] * (8 - len(lines))
    return PidFile(
        pid=pid,
        started_at=float(lines[2]) if lines[2].isdecimal() else None,
        socket_directory=Path(lines[4]) if lines[4].startswith("/") else None,
        status=lines[7].strip(),
    )


def clear_stale_pid_file(data: Path) -> None:
    """Remove a `postmaster.pid` that would keep Postgres from starting although no process of the data lives.

    To be called only by the owner, and only after `server_processes` found none. If the process it names is simply
    gone, the file stays: Postgres copes with that itself, and looks for leftover shared memory by what is in it.
    """
    hint = read_pid_file(data)
    if hint is None or psutil.pid_exists(hint.pid):
        (data / "postmaster.pid").unlink(missing_ok=True)


def find_postmaster(data: Path) -> psutil.Process | None:
    """The live postmaster of the data directory, whatever the pid file says."""
    hint = read_pid_file(data)
    if hint is not None and (process := _named_postmaster(hint, data)) is not None:
        return process
    mine = {process.pid: process for process in server_processes(data)}
    for process in mine.values():
        with contextlib.suppress(psutil.Error):
            if _has_data_argument(process.cmdline(), data) and process.ppid() not in mine:
                return process
    return None


def server_processes(data: Path) -> list[psutil.Process]:
    """Every live process of the data directory: the postmaster, its children, children that it left behind."""
    return [process for process in psutil.process_iter() if _belongs_to(process, data)]


def is_gone(process: psutil.Process) -> bool:
    """Whether the process has ended. A zombie has: it waits for its parent, and nothing else will come of it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def end_postmaster(postmaster: psutil.Process, *, fast_s: float, immediate: bool, data: Path) -> bool:
    """Stop a server in order: fast shutdown, after `fast_s` seconds immediate shutdown, then the axe.

    Whichever it takes, committed data is safe. Returns whether it is gone.
    """
    steps = [] if immediate else [(signal.SIGINT, fast_s)]
    for number, patience_s in (*steps, (signal.SIGQUIT, KILL_S), (signal.SIGKILL, KILL_S)):
        _signal(postmaster, number)
        if _wait_until(lambda: is_gone(postmaster), patience_s):
            break
    return is_gone(postmaster) and end_orphans(data)


def end_orphans(data: Path) -> bool:
    """Wait for, then end, the processes that outlived their postmaster; a new server must not run beside them.

    To be called only when there is no postmaster. Returns whether they are gone.
    """
    if _wait_until(lambda: not server_processes(data), LEAVE_S):
        return True
    for number, patience_s in ((signal.SIGQUIT, QUIT_S), (signal.SIGKILL, KILL_S)):
        for process in server_processes(data):
            _signal(process, number)
        if _wait_until(lambda: not server_processes(data), patience_s):
            return True
    return False


def _named_postmaster(hint: PidFile, data: Path) -> psutil.Process | None:
    """The process of the pid file, if it is what the file says."""
    try:
        process = psutil.Process(hint.pid)
        if is_gone(process) or process.name() != "postgres":
            return None
        if _has_data_argument(process.cmdline(), data):
            return process
        # A server that was started by hand, say by pg_ctl with a relative path. We would harm the data by taking it
        # for dead, so look closer.
        try:
            is_it = Path(process.cwd()) == data
        except psutil.AccessDenied:
            started_at = hint.started_at
            is_it = started_at is not None and abs(process.create_time() - started_at) < _STARTED_SLACK_S
    except psutil.Error:
        return None
    return process if is_it else None


def _belongs_to(process: psutil.Process, data: Path) -> bool:
    try:
        if process.name() != "postgres" or is_gone(process):
            return False
        command = process.cmdline()
    except psutil.Error:
        return False
    return _has_data_argument(command, data) or " ".join(command).startswith(f"postgres: {cluster_name(data)}: ")


def _has_data_argument(command: list[str], data: Path) -> bool:
    return any(pair == ("-D", str(data)) for pair in pairwise(command))


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    if process.pid == os.getpid():
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait_until(condition: Callable[[], bool], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
