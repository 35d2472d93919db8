"""What entities cost in memory: activated and idle, and asleep in the middle of a workflow. And how fast they wake."""

import asyncio
import dataclasses

from bench.entities import Counter, Sleeper
from bench.harness import Figures, Size, each
from bench.scene import Scene
from bench.usage import memory_bytes

ENTITIES = 20_000
WORKFLOWS = 10_000
AT_ONCE = 256
SOON_S = 2.0
SETTLED_S = 6.0
"""Hosts give memory back every few seconds, not at once."""
AN_HOUR_S = 3_600.0


async def measure(scene: Scene, size: Size) -> Figures:
    """On fresh hosts, warm with half as many entities as will be counted."""
    number = size.of(ENTITIES)
    settled_s = SETTLED_S if size.share == 1 else 0.0
    await scene.renew_hosts()
    before, after = next(scene.keys), next(scene.keys)
    await _call(before, number // 2)
    await asyncio.sleep(settled_s)
    pids = await scene.host_pids()
    base = memory_bytes(pids)
    await _call(after, number)
    await asyncio.sleep(settled_s)
    active = (memory_bytes(pids) - base) / number

    await scene.renew_hosts()

    async def wake(one: int) -> None:
        assert await Counter.ref(f"memory-{after}-{one}").read() == 1

    await scene.client.routes.refresh()
    cold = number / await each(wake, number, at_once=AT_ONCE)
    return {"memory_active": active, "cold": cold}


async def measure_sleeping(scene: Scene, size: Size) -> Figures:
    """Workflows that sleep, each on an entity of its own, once all of them have left memory."""
    number = size.of(WORKFLOWS)
    settled_s = SETTLED_S if size.share == 1 else 0.0
    awake = scene.cluster
    await scene.use(dataclasses.replace(awake, idle_s=SOON_S))
    await _sleep(next(scene.keys), number)  # what the hosts need once, and free lists that never shrink
    await scene.until_asleep()
    await asyncio.sleep(settled_s)
    pids = await scene.host_pids()
    base = memory_bytes(pids)
    await _sleep(next(scene.keys), number)
    await scene.until_asleep()
    await asyncio.sleep(settled_s)
    sleeping = (memory_bytes(pids) - base) / number
    await scene.use(awake)
    return {"memory_sleeping": sleeping}


async def _call(base: int, number: int) -> None:
    async def call(one: int) -> None:
        await Counter.ref(f"memory-{base}-{one}").add(1)

    await each(call, number, at_once=AT_ONCE)


async def _sleep(base: int, number: int) -> None:
    async def start(one: int) -> None:
        await Sleeper.ref(f"sleeper-{base}-{one}").run.start(AN_HOUR_S)

    await each(start, number, at_once=AT_ONCE)
