"""Whether a process is really gone. Ray says that an actor is dead while its process still runs, and the other way
round; a pid alone may have been given to another process since.

A process is named by machine (boot and pid namespace), pid and start time. Only on the same machine can anybody
answer; elsewhere the answer is "unknown", never "gone".
"""

import os
from enum import Enum
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

_PROC = Path("/proc")


class Pulse(Enum):
    """What is known about a process."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


class ProcessName(NamedTuple):
    """One process, for ever: no later process has an equal name."""

    machine: str
    pid: int
    started: str


@cache
def this_machine() -> str:
    """This boot of this machine, as seen from this pid namespace; empty if that cannot be told."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the target is no path
    except OSError:
        return ""
    return f"{boot[:13]}.{namespace.strip('pid:[]')}"


def this_process() -> ProcessName:
    """The name of the calling process."""
    pid = os.getpid()
    return ProcessName(this_machine(), pid, _started(pid) or "")


def pulse(name: ProcessName) -> Pulse:
    """Whether that process still exists. A zombie without further threads does not."""
    if not name.machine or not name.started or name.machine != this_machine():
        return Pulse.UNKNOWN
    started = _started(name.pid)
    if started != name.started:
        return Pulse.GONE
    try:
        is_zombie = psutil.Process(name.pid).status() == psutil.STATUS_ZOMBIE
        threads = len(os.listdir(_PROC / str(name.pid) / "task"))  # noqa: PTH208 - names are enough
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return Pulse.GONE
    except (psutil.Error, OSError):
        return Pulse.UNKNOWN
    return Pulse.GONE if is_zombie and threads <= 1 else Pulse.ALIVE


def _started(pid: int) -> str | None:
    """Start time in clock ticks since boot; None if there is no such process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(b")")[2].split()[19].decode("ascii")
