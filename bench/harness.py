"""How a workload is run: a warm-up that does not count, then callers in closed loops for a fixed time.

A caller does one operation after the other; an operation counts if it began and ended within the measured time. It has
ended when its answer has come, and answers come when the turn is committed with fsync: there is no other mode.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from .scene import Scene
from .usage import cpu_s

Operation = Callable[[int, int], Awaitable[object]]
"""What caller `c` does as its `n`-th operation, n = 0, 1, 2, …"""
Figures = dict[str, float]
"""By the name of the row (see rows.py)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a repetition does."""

    seconds: float
    """Measured time of what runs for a time."""
    warm_up_s: float
    share: float
    """Of what is counted rather than timed (workflows, timers, entities): 1 is what the row says."""

    def of(self, number: int, *, least: int = 20) -> int:
        """A number of things, at this size."""
        return max(least, round(number * self.share))


FULL = Size(seconds=5.0, warm_up_s=1.0, share=1.0)
QUICK = Size(seconds=0.4, warm_up_s=0.2, share=0.02)


@dataclass(frozen=True)
class Loops:
    """What callers in closed loops have measured."""

    latencies: list[float]
    """Seconds, sorted."""
    seconds: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency in milliseconds."""
        return percentile(self.latencies, percent) * 1e3


def percentile(ordered: list[float], percent: float) -> float:
    """Of values in order. Raises ValueError if there are none."""
    if not ordered:
        raise ValueError("nothing was measured: no operation has ended within the time")
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def closed_loops(operation: Operation, *, callers: int, seconds: float, warm_up_s: float) -> Loops:
    """Run them. If no operation has ended within that time, for as long again after the first one that has."""
    begin = time.perf_counter() + warm_up_s
    end = begin + seconds
    latencies: list[float] = []

    async def loop(caller: int) -> None:
        nonlocal end
        for n in count():
            started = time.perf_counter()
            if started >= end and latencies:
                return
            await operation(caller, n)
            finished = time.perf_counter()
            if started >= begin and not latencies and finished > end:
                end = finished + seconds
            if started >= begin and finished <= end:
                latencies.append(finished - started)

    async with asyncio.TaskGroup() as group:
        for caller in range(callers):
            group.create_task(loop(caller))
    return Loops(sorted(latencies), end - begin)


async def each(operation: Callable[[int], Awaitable[object]], number: int, *, at_once: int) -> float:
    """`operation(0)` … `operation(number - 1)`, so many at once; returns how many seconds all of them took."""
    numbers = iter(range(number))

    async def loop() -> None:
        for one in numbers:
            await operation(one)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(loop())
    return time.perf_counter() - began


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stretch of work has cost."""

    turns: int
    cpu_s: dict[str, float]
    """By side."""
    wal_bytes: int
    stored_bytes: int
    commits: int
    ray_calls: int

    def cpu_per_1000(self, side: str) -> float:
        """CPU seconds of that side for a thousand turns."""
        return self.cpu_s[side] / max(1, self.turns) * 1_000


class Meter:
    """Cost between `start` and `stop`, of everybody who takes part."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def start(self) -> None:
        """Begin to count."""
        scene = self._scene
        self._sides = await scene.sides()
        self._wal, self._stored = await scene.wal_bytes(), await scene.stored_bytes()
        self._counted = await scene.stats()
        self._cpu = {side: cpu_s(pids) for side, pids in self._sides.items()}

    async def stop(self) -> Cost:
        """What was used since then."""
        cpu = {side: cpu_s(pids) - self._cpu[side] for side, pids in self._sides.items()}
        scene = self._scene
        counted = await scene.stats()
        turns, commits, ray_calls = (
            counted[name] - self._counted[name] for name in ("turns", "commits", "exchange_calls")
        )
        return Cost(
            turns=turns,
            commits=commits,
            ray_calls=ray_calls,
            cpu_s=cpu,
            wal_bytes=await scene.wal_bytes() - self._wal,
            stored_bytes=await scene.stored_bytes() - self._stored,
        )
