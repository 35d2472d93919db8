import pytest

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
