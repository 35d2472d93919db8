"""P1, P2, P6: a commit whose answer was lost may take effect later; nobody goes on from a state read in between."""

import pytest

from perdure.entities import CallTimeout, Entity, handler, workflow
from perdure.entities.testing import LocalCluster

from .late_store import LateStore


class Trip(Entity):
    legs: int = 0

    @workflow
    async def travel(self, legs: int) -> int:
        self.legs += legs
        return self.legs

    @handler
    async def add(self, legs: int) -> int:
        self.legs += legs
        return self.legs

    @handler
    async def look(self) -> int:
        return self.legs


async def test_a_run_whose_start_was_committed_late_is_not_denied() -> None:
    """Found by simulation (W9, seed 502407): `no_such_run`, of a run that went on."""
    store = LateStore()
    async with LocalCluster([Trip], store=store) as cluster:
        store.loses_answer = True
        assert await Trip.ref("t").travel(3) == 3
        assert cluster.engines[0].stats()["commit_failures"] == 1
    assert store.applied_late == [False]


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_what_a_late_commit_held_is_done_once(lost: int) -> None:
    store = LateStore()
    async with LocalCluster([Trip], store=store):
        assert await Trip.ref("t").add(1) == 1
        store.loses_answer, store.lost_settlements = True, lost
        assert await Trip.ref("t").add(10) == 11
        assert await Trip.ref("t").look() == 11
    assert store.applied_late == [False]
    assert sum(owner.epoch for owner in await store.owners()) == len(await store.owners()) + 1


async def test_a_host_that_was_fenced_meanwhile_ends_instead_of_settling() -> None:
    store = LateStore()
    async with LocalCluster([Trip], store=store) as cluster:
        assert await Trip.ref("t").add(1) == 1
        await store.fence(cluster.engines[0].incarnation, is_dead=True)
        store.loses_answer = True
        with pytest.raises(CallTimeout):
            await Trip.ref("t").add.options(timeout=0.3)(10)
        assert cluster.engines[0].is_stopped
