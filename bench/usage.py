"""What processes use, from /proc: CPU seconds and memory."""

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used so far, in user and kernel mode; those that are gone count nothing."""
    total = 0
    for pid in pids:
        try:
            fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory_bytes(pids: Iterable[int]) -> int:
    """Private memory of these processes: what would be free if they were gone."""
    return sum(int(psutil.Process(pid).memory_full_info().uss) for pid in pids)


def postgres_pids(postmaster: int) -> list[int]:
    """The server's processes; sessions come and go, so ask again."""
    return [postmaster, *(child.pid for child in psutil.Process(postmaster).children(recursive=True))]
