"""P4: one committed writer per entity version, enforced by the store, not by membership."""

import asyncio
from dataclasses import replace

import pytest

from perdure.entities import EntityId, Unavailable
from perdure.entities.store.port import HostFenced, WriteConflict
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Account, world
from .waiting import eventually

A = Account.ref("a")


async def test_a_zombie_host_cannot_commit(store: FaultyStore) -> None:
    """It is cut off with a turn in its hands, fenced, and comes back."""
    async with LocalCluster([Account], store=store, settings=QUICK) as cluster:
        await A.deposit(1)
        zombie = cluster.engines[0]
        store.hold_commits()
        call = asyncio.create_task(A.deposit.options(idempotency_key="k")(5))
        await store.waiting.wait()
        assert await store.fence(zombie.incarnation, is_dead=True)
        cluster.engines.remove(zombie)
        await cluster.add_host()
        await cluster.balance()
        store.let_commits_go()
        await eventually(lambda: zombie.is_stopped)
        cluster.engines.append(zombie)
        assert await asyncio.wait_for(A.deposit.options(idempotency_key="k")(5), 30) == 6
        call.cancel()
        assert await A.total() == 6
        assert [row.version for row in store.history("Account/a")] == [1, 2]


async def test_a_fenced_host_answers_nothing_any_more(cluster: LocalCluster, store: FaultyStore) -> None:
    await A.deposit(1)
    store.faults.append(Fault.FENCED)
    call = asyncio.create_task(A.deposit(1))
    await eventually(lambda: cluster.engines[0].is_stopped)
    assert not call.done()
    call.cancel()
    with pytest.raises(Unavailable, match="no host owns it"):
        await A.total.options(timeout=0.02)()
    await cluster.crash()
    assert await A.total() == 1


@pytest.mark.unfit("lease", reason="it says itself when the lease has run out")
async def test_a_host_whose_lease_ran_out_answers_no_query(cluster: LocalCluster) -> None:
    """Another host may own the entity by now: memory is no proof."""
    await A.deposit(1)
    engine = cluster.engines[0]
    engine.set_lease(engine.monotonic() - 0.001, 0)
    with pytest.raises((Unavailable, TimeoutError)):
        await asyncio.wait_for(A.total(), 0.05)
    assert await A.deposit(1) == 2, "a commit is its own proof"
    engine.set_lease(engine.monotonic() + 60, 0)
    assert await A.total() == 2


async def test_a_conflicting_writer_makes_the_entity_start_again(cluster: LocalCluster, store: FaultyStore) -> None:
    """Somebody else has written: only the entity concerned is read again."""
    await asyncio.gather(A.deposit(1), Account.ref("b").deposit(1))
    store._entities[next(e for e in store._entities if e.key == "a")].version = 7
    store.set_state("Account/a", b'{"balance": 100}')
    results = await asyncio.gather(A.deposit(1), Account.ref("b").deposit(1))
    assert list(results) == [101, 2]
    assert store.version("Account/a") == 8


async def test_versions_are_gap_free_over_hosts_and_crashes(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, hosts=3, settings=QUICK) as cluster:
        for number in range(6):
            await asyncio.gather(*(A.deposit(1) for _ in range(5)))
            await cluster.crash(number % len(cluster.engines))
        assert await A.total() == 30
        assert [row.version for row in store.history("Account/a")] == list(range(1, 31))
        assert world.ran["deposit"] >= 30


async def test_an_ended_host_writes_no_more(cluster: LocalCluster, store: FaultyStore) -> None:
    engine = cluster.engines[0]
    await A.deposit(1)
    await cluster.crash()
    commits = len(store.commits)
    with pytest.raises(HostFenced):
        await store.renew(engine.incarnation, lease_s=5)
    assert await A.deposit(1) == 2
    assert {batch.incarnation for batch in store.commits[commits:]} == {cluster.engines[0].incarnation}


async def test_a_killed_host_leaves_nothing_running(cluster: LocalCluster) -> None:
    before = asyncio.all_tasks()
    engine = await cluster.add_host()
    assert asyncio.all_tasks() > before
    cluster.engines.remove(engine)
    engine.kill()
    await engine.stop()
    assert asyncio.all_tasks() <= before


class Refusing(FaultyStore):
    """Refuses one batch because of this entity alone."""

    guilty: EntityId | None = None

    async def commit(self, batch: Batch) -> int:
        guilty, names = self.guilty, [write.entity for write in batch.writes]
        if guilty is not None and guilty in names:
            self.guilty = None
            await super().commit(replace(batch, writes=[]))  # which waits as long as commits are held
            raise WriteConflict("injected", entities=[guilty])
        return await super().commit(batch)


async def test_whoever_is_in_a_batch_with_a_conflict_loses_nothing() -> None:
    """Not the turns in the batch, and not those that were made while it was under way."""
    store = Refusing()
    async with LocalCluster([Account], store=store, settings=QUICK) as cluster:
        await Account.ref("b").deposit(10)
        store.hold_commits()
        store.guilty = EntityId("Account", "b")
        first = asyncio.gather(A.deposit(1), Account.ref("b").deposit(1))
        await store.waiting.wait()
        rest = asyncio.gather(A.deposit(2), Account.ref("b").deposit(2))
        await eventually(lambda: world.ran["deposit"] == 5)
        store.let_commits_go()
        assert [*await first, *await rest] == [1, 11, 3, 13]
        await cluster.crash()
        assert [await A.total(), await Account.ref("b").total()] == [3, 13]
        assert [row.version for row in store.history("Account/a")] == [1, 2], "what was answered is on record"
