import asyncio

import pytest

from perdure.entities.archive import ambient_survey

from .conftest import World
from .counter import Counter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]


async def test_entities_answer_through_hosts(world: World) -> None:
    await world.up(2)
    await world.connect()
    for number in range(20):
        assert await Counter.ref(f"c{number}").add(number) == number
    assert await Counter.ref("c7").get() == 7
    await Counter.ref("c1").tell("c2", 40)


async def test_hosts_note_what_they_do(world: World) -> None:
    await world.up(2)
    client = await world.connect()
    assert await Counter.ref("c1").add(1) == 1
    readings = await client.readings(timeout_s=10)
    levels = [level for reading in readings.values() for level in (reading.levels if reading is not None else ())]
    assert len(readings) == 2
    assert sum(level.value for level in levels if level.name == "perdure_turns_total") == 1
    assert min(level.value for level in levels if level.name == "perdure_lease_remaining_seconds") > 0
    survey = ambient_survey()
    async with asyncio.timeout(60):
        while len({one.incarnation for one in await survey.minutes(since_us=0)}) < 2:
            await asyncio.sleep(0.05)
    found = await survey.hosts()
    assert [(one.row.status, one.last is not None) for one in found.hosts] == [("active", True)] * 2
    assert found.unowned == 0
    assert sum(one.shards for one in found.hosts) == found.shards
