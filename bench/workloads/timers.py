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
LATER_S = 24 * 3_600.0
PATIENCE_S = 300.0


async def measure(scene: Scene, size: Size) -> Figures:
    """10,000 entities with a timer each, due within five seconds."""
    timers = size.of(TIMERS, least=50)
    late = await _lateness(scene, timers, each_has=1, spread_s=SPREAD_S * max(0.2, size.share))
    return {"timers": percentile(late, 99) * 1e3, "timers_p50": percentile(late, 50) * 1e3}


async def measure_large(scene: Scene, size: Size) -> Figures:
    """A million timers, a hundred on each entity."""
    timers = size.of(LARGE, least=1_000)
    late = await _lateness(scene, timers, each_has=LARGE_EACH, spread_s=timers / LARGE_PER_S)
    return {"timers_large": percentile(late, 99)}


async def _lateness(scene: Scene, timers: int, *, each_has: int, spread_s: float) -> list[float]:
    base, chance, entities = next(scene.keys), random.Random(1), timers // each_has

    async def set_all(what: str, number: int, first_s: float) -> float:
        """Returns how many seconds it took."""

        async def arm(one: int) -> None:
            due = [round((first_s + chance.random() * spread_s) * 1e6) for _ in range(each_has)]
            await Alarm.ref(f"{what}-{base}-{one}").arm(due)

        return await each(arm, number, at_once=SETTERS)

    # All must be set before the first one is due: a few, for far later, tell how long that will take.
    few = max(20, entities // 20)
    one_s = await set_all("later", few, await _now_s(scene) + LATER_S) / few
    first_after_s = 2.0 + 2.0 * one_s * entities
    took_s = await set_all("alarm", entities, await _now_s(scene) + first_after_s)
    if took_s > first_after_s:
        print(f"  timers: setting them took {took_s:.1f} s, the first ones were due after {first_after_s:.1f} s")
    await asyncio.sleep(max(0.0, first_after_s + spread_s - took_s))
    rung = entities * each_has
    deadline = time.monotonic() + PATIENCE_S
    while (rows := await _rung(scene, base, rung)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"of {rung} timers some have not fired {PATIENCE_S:g} s after the last was due")
        await asyncio.sleep(0.5)
    return [row[0] for row in rows]


async def _now_s(scene: Scene) -> float:
    """By the database's clock."""
    return float((await scene.sql("select extract(epoch from clock_timestamp())::float8"))[0][0])


async def _rung(scene: Scene, base: int, expected: int) -> list[tuple[Any, ...]] | None:
    """Seconds of lateness in order, once all have rung."""
    mine = "from history where type = 'Alarm' and name = 'ring' and key like %s"
    [(number,)] = await scene.sql(f"select count(*) {mine}", f"alarm-{base}-%")
    if number < expected:
        return None
    late = "extract(epoch from recorded_at)::float8 - (args->>'due_us')::float8 / 1e6"
    return await scene.sql(f"select {late} {mine} order by 1", f"alarm-{base}-%")
