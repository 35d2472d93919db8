"""Timers: how late are they? By the database's clock: when the commit of the timer's turn began, less its due time."""

import asyncio
import random
import time
from typing import Any

from bench.entities import Alarm
from bench.harness import Figures, Size, each, percentile
from bench.scene import Scene

TIMERS = 10_000
SPREAD_S = 5.0
SETTERS = 128
LARGE = 1_000_000
LARGE_EACH = 100
"""Timers of one entity."""
LARGE_PER_S = 1_000
"""A million of them are due within a quarter of an hour, and all are pending when the first one is."""
PATIENCE_S = 300.0


async def measure(scene: Scene, size: Size) -> Figures:
    """10,000 entities with a timer each, due within five seconds."""
    timers = size.of(TIMERS, least=50)
    set_up_s = max(2.0, timers / 1_500)  # long enough that all are set before the first one is due
    late = await _lateness(scene, timers, each_has=1, first_after_s=set_up_s, spread_s=SPREAD_S * max(0.2, size.share))
    return {"timers": percentile(late, 99) * 1e3, "timers_p50": percentile(late, 50) * 1e3}


async def measure_large(scene: Scene, size: Size) -> Figures:
    """A million timers, a hundred on each entity."""
    timers = size.of(LARGE, least=1_000)
    set_up_s = max(5.0, timers / 10_000)
    spread_s = timers / LARGE_PER_S
    late = await _lateness(scene, timers, each_has=LARGE_EACH, first_after_s=set_up_s, spread_s=spread_s)
    return {"timers_large": percentile(late, 99)}


async def _lateness(scene: Scene, timers: int, *, each_has: int, first_after_s: float, spread_s: float) -> list[float]:
    base, chance = next(scene.keys), random.Random(1)
    [(database_s,)] = await scene.sql("select extract(epoch from clock_timestamp())::float8")
    first_s = database_s + first_after_s

    async def arm(one: int) -> None:
        due = [round((first_s + chance.random() * spread_s) * 1e6) for _ in range(each_has)]
        await Alarm.ref(f"alarm-{base}-{one}").arm(due)

    took_s = await each(arm, timers // each_has, at_once=SETTERS)
    if took_s > first_after_s:
        print(f"  timers: setting them took {took_s:.1f} s, the first ones were due after {first_after_s:.1f} s")
    await asyncio.sleep(max(0.0, first_after_s + spread_s - took_s))
    rung = timers // each_has * each_has
    deadline = time.monotonic() + PATIENCE_S
    while (rows := await _rung(scene, base, rung)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"of {rung} timers some have not fired {PATIENCE_S:g} s after the last was due")
        await asyncio.sleep(0.5)
    return [row[0] for row in rows]


async def _rung(scene: Scene, base: int, expected: int) -> list[tuple[Any, ...]] | None:
    """Seconds of lateness in order, once all have rung."""
    mine = "from history where type = 'Alarm' and name = 'ring' and key like %s"
    [(number,)] = await scene.sql(f"select count(*) {mine}", f"alarm-{base}-%")
    if number < expected:
        return None
    late = "extract(epoch from recorded_at)::float8 - (args->>'due_us')::float8 / 1e6"
    return await scene.sql(f"select {late} {mine} order by 1", f"alarm-{base}-%")
