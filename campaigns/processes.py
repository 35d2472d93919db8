"""Processes: named by pid and start time, killed, stopped, measured, and seen to be gone."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
GONE_S = 60.0
_PROC = Path("/proc")
_SOCKET = re.compile(r"\s(\d+)\s+\*\s+(\d+)\s+users:\((.*)\)")
_PID = re.compile(r"pid=(\d+)")
_PORTS = range(20_000, 32_000)
_chance = random.SystemRandom()  # the ordinary one is seeded alike in all processes of a test run


class NotGone(Exception):
    """A process that should have ended has not."""


def find(pid: int) -> psutil.Process | None:
    """The process of that pid, unless it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process if is_alive(process) else None
    return None


def start_module(log: Path, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a Python module as a process; its output is added to the file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs (or is stopped). A zombie does only as long as other threads of it do.

    From /proc, for psutil takes a process for another one when it computes a slightly different time of birth.
    """
    here = _PROC / str(process.pid)
    try:
        state = (here / "stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X") or sum(1 for _ in (here / "task").iterdir()) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def strike(processes: Iterable[psutil.Process], number: signal.Signals = signal.SIGKILL) -> float:
    """Send the signal to all of them, as nearly at once as can be; returns when (Unix time)."""
    at = time.time()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(process.pid, number)
    return at


async def until_gone(processes: Collection[psutil.Process], timeout_s: float = GONE_S) -> None:
    """Wait until none of them exists. Raises NotGone."""
    deadline = time.monotonic() + timeout_s
    while alive := [process for process in processes if is_alive(process)]:
        if time.monotonic() > deadline:
            raise NotGone(f"still there after {timeout_s:g} s: {alive}")
        await asyncio.sleep(0.01)


async def unix_peers(pid: int) -> list[psutil.Process]:
    """The processes at the other ends of a process's connected Unix sockets (asks `ss`)."""
    done = await asyncio.create_subprocess_exec("ss", "-xpH", stdout=asyncio.subprocess.PIPE)
    output, _ = await done.communicate()
    owners: dict[str, set[int]] = {}
    ends: list[tuple[str, str]] = []
    for match in _SOCKET.finditer(output.decode()):
        here, there, users = match.groups()
        owners[here] = {int(number) for number in _PID.findall(users)}
        ends.append((here, there))
    peers = {peer for here, there in ends if pid in owners[here] for peer in owners.get(there, ())}
    return [process for peer in sorted(peers - {pid}) if (process := find(peer)) is not None]


def descendants() -> list[psutil.Process]:
    """Everything below this process."""
    return psutil.Process().children(recursive=True)


def end_all(processes: Iterable[psutil.Process]) -> list[int]:
    """SIGKILL to those that still live (by pid and start time); returns their pids."""
    left = [process for process in processes if is_alive(process)]
    strike(left)
    psutil.wait_procs(left, timeout=5)
    return [process.pid for process in left]


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def free_port() -> int:
    """A TCP port of the loopback address that nobody has just now.

    It is used seconds later, so it is none that the system gives to whoever connects meanwhile, nor one of Ray's.
    """
    while True:
        port = _chance.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
