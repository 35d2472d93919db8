"""P9 on real processes: handlers that block or end their host."""

import asyncio
import json
import logging
import time

import psycopg
import pytest

from perdure.cluster.settings import ClusterSettings
from perdure.entities import HostKilled
from perdure.entities.engine.quarantine import POINTS_MAX

from .conftest import World
from .counter import Counter
from .test_faults import Load

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]

SETTINGS = ClusterSettings(lease_s=2.0, blocked_max_s=3.0)


async def fenced(world: World) -> int:
    return len(await world.hosts("fenced"))


async def test_a_handler_that_sleeps_costs_two_hosts_and_is_refused(world: World) -> None:
    await world.up(2, settings=SETTINGS)
    await world.connect()
    start = time.monotonic()
    async with Load(5).running() as load:
        with pytest.raises(HostKilled, match=r"Counter/sleeper\.block is refused for good.*blocked the event loop in"):
            await Counter.ref("sleeper").block.options(timeout=90)(600.0)
        log.info("refused after %.1f s", time.monotonic() - start)
        before = load.calls
        await world.until_owned_by(2)
        assert await Counter.ref("sleeper").add() == 1
    assert load.calls > before
    assert await fenced(world) <= 2


async def test_a_one_way_message_that_ends_its_process_is_dead_lettered(world: World) -> None:
    await world.up(2, settings=SETTINGS)
    await world.connect()
    start = time.monotonic()
    await Counter.ref("sender").make_vanish("victim", "witness")
    async with asyncio.timeout(120):
        while not (letters := dead_letters(world)):
            await asyncio.sleep(0.2)
    log.info("dead-lettered after %.1f s", time.monotonic() - start)
    [(name, error)] = letters
    assert (name, error["code"]) == ("vanish", "host_killed")
    assert 2 <= await fenced(world) <= POINTS_MAX
    await world.until_owned_by(2)
    async with asyncio.timeout(30):
        while await Counter.ref("victim").get() != 11 or await Counter.ref("witness").get() != 100:
            await asyncio.sleep(0.1)


def dead_letters(world: World) -> list[tuple[str, dict[str, str]]]:
    with psycopg.connect(world.dsn) as connection:
        rows = connection.execute(f"select name, error::text from {world.namespace}.dead_letters".encode()).fetchall()
    return [(name, json.loads(error)) for name, error in rows]
