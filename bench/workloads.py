"""The workloads, each a closed loop of callers for a fixed time, after a warm-up. Acknowledged means durable."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from .entities import Counter, Steps

KEYS = 1_000


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run of one workload."""

    operations: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`callers` loops that each do `operation(caller, n)` for n = 0, 1, 2, …"""

    name: str
    callers: int
    operation: Callable[[int, int], Awaitable[object]]


_fresh = count(time.time_ns())
"""Workflow keys that no run has used, in this process or an earlier one on the same database."""


async def entity_call(caller: int, n: int) -> None:
    """A call to one of a thousand entities."""
    await Counter.ref(f"counter-{(caller * 7919 + n * 104_729) % KEYS}").add(1)


async def hot_key(_caller: int, _n: int) -> None:
    """A call to the one entity that everybody calls."""
    await Counter.ref("hot").add(1)


async def five_steps(_caller: int, _n: int) -> None:
    """Start a workflow of five steps and wait for its result."""
    steps = Steps.ref(f"steps-{next(_fresh)}")
    await steps.run.start()
    await steps.run.result()


WORKLOADS = [
    *(Workload(name="entity call", callers=callers, operation=entity_call) for callers in (1, 64, 256, 1024)),
    Workload(name="hot key", callers=64, operation=hot_key),
    *(Workload(name="workflow of five steps", callers=callers, operation=five_steps) for callers in (1, 64)),
]


async def run(workload: Workload, *, seconds: float, warm_up: float) -> Figures:
    """Run it; only operations that begin and end within the measured time count."""
    begin = time.perf_counter() + warm_up
    end = begin + seconds
    latencies: list[float] = []

    async def loop(caller: int) -> None:
        for n in count():
            started = time.perf_counter()
            if started >= end:
                return
            await workload.operation(caller, n)
            finished = time.perf_counter()
            if started >= begin and finished <= end:
                latencies.append(finished - started)

    await asyncio.gather(*(loop(caller) for caller in range(workload.callers)))
    latencies.sort()
    return Figures(
        operations=len(latencies),
        seconds=seconds,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
    )
