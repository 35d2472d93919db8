"""The network between hosts and Postgres: cut, black hole, delay, lost answers, for everybody or for one host."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from chaos.world import World

from .injury import Injury

BRIEF_S = (0.5, 3.0)
LONG_S = 8.0
"""Longer than a lease: the host loses its shards meanwhile."""
DELAY_S = 0.15


def everybody(mode: str) -> Callable[[World, Injury], Awaitable[None]]:
    """That fault for all hosts and the supervisor."""

    async def inflict(world: World, injury: Injury) -> None:
        seconds = world.rng.uniform(*BRIEF_S)
        await _fault(world, injury, mode, None, seconds)
        injury.undone_at = time.time()
        await world.until_whole()

    return inflict


def one_host(mode: str) -> Callable[[World, Injury], Awaitable[None]]:
    """That fault for one host, for longer than its lease."""

    async def inflict(world: World, injury: Injury) -> None:
        victim = world.rng.choice(await world.until_whole())
        injury.touches([victim])
        await _fault(world, injury, mode, [victim.pid], LONG_S)
        rows = await world.sql("select status from hosts where incarnation = %s", victim.incarnation)
        injury.evidence[-1] += f", host {victim.pid} is {rows[0]['status'] if rows else 'forgotten'}"
        await world.until_whole()

    return inflict


async def _fault(world: World, injury: Injury, mode: str, pids: list[int] | None, seconds: float) -> None:
    answer = await world.proxy.order(mode, pids=pids, delay_s=DELAY_S)
    await asyncio.sleep(seconds)
    counters = (await world.proxy.order("pass"))["counters"]
    shown = {name: count for name, count in counters.items() if name != "accepted"}
    is_shown = answer["hit"] and (mode == "cut" or shown)
    injury.shows(f"{answer['hit']} connections, {seconds:.1f} s: {shown}" if is_shown else "")
