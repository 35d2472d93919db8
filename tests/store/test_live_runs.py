"""Finding unfinished runs, for tools."""

from perdure.entities.ids import EntityId
from perdure.entities.store.rows import RunStatus

from .conftest import World
from .rows import run


async def test_entities_with_running_or_parked_runs_in_order_of_address(world: World) -> None:
    ids = [EntityId(kind, key) for kind in ("A", "B") for key in ("a", "b", "c")]
    statuses = [RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.PARKED] * 2
    for entity, status in zip(ids, statuses, strict=True):
        runs = [run(status=status), run(workflow="other", status=RunStatus.RUNNING)]
        await world.commit(world.write(entity, runs=runs if status is not RunStatus.COMPLETED else runs[:1]))
    live = [ids[0], ids[2], ids[3], ids[5]]
    find = world.store.with_live_runs
    assert await find("", after=None, limit=10) == live
    assert await find("B", after=None, limit=10) == live[2:]
    assert await find("", after=live[0], limit=2) == live[1:3]
    assert await find("C", after=None, limit=10) == []
