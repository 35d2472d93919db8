"""Which shards a host takes and gives up, and what it makes of answers that got lost."""

from collections.abc import Collection, Mapping
from types import SimpleNamespace

import pytest

from perdure.cluster import ownership as ownership_module
from perdure.cluster.lease import Doubts
from perdure.cluster.ownership import Ownership
from perdure.cluster.routes import Routes
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.port import StoreUnavailable
from perdure.entities.store.rows import HostRow

SHARDS = 4


class LossyStore(MemoryStore):
    """A release or claim gets lost as told."""

    def __init__(self) -> None:
        self.clock = 1_000_000_000
        super().__init__(shards=SHARDS, now_us=lambda: self.clock)
        self.loses_release = False
        self.loses_claim = False

    async def release(self, incarnation: str, shards: Collection[int]) -> None:
        if self.loses_release:
            self.loses_release = False
            raise StoreUnavailable("the request got lost", maybe_applied=True)
        await super().release(incarnation, shards)

    async def claim(self, incarnation: str, shards: Collection[int]) -> dict[int, int]:
        claimed = await super().claim(incarnation, shards)
        if self.loses_claim:
            self.loses_claim = False
            raise StoreUnavailable("the answer got lost", maybe_applied=True)
        return claimed


class Owner:
    """What the engine is told."""

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        self.may_take_over = False
        self.taken_us: dict[int, int] = {}

    def own(
        self, epochs: Mapping[int, int], *, taken_over: Collection[int] = (), taken_us: Mapping[int, int] = {}
    ) -> None:
        assert not self.epochs.keys() & epochs.keys()
        assert self.may_take_over or not taken_over
        self.taken_us = dict(taken_us)
        self.epochs.update(epochs)

    async def disown(self, shards: Collection[int]) -> None:
        for shard in shards:
            del self.epochs[shard]


class Host:
    def __init__(self, name: str, store: LossyStore) -> None:
        self.name = name
        self.engine = Owner()
        self.fenced: list[str] = []
        self.ownership = Ownership(
            incarnation=name,
            store=store,
            engine=self.engine,  # type: ignore[arg-type]
            routes=Routes.of_store(store),
            doubts=Doubts(lease_s=60.0, patience_s=20.0),
            move_max=SHARDS,
            poke=lambda _hosts: None,
            changed=lambda: None,
            fenced=self.fenced.append,
        )


async def start(name: str, store: LossyStore) -> Host:
    await store.register(HostRow(name, name, "elsewhere", 0, "active", 0), lease_s=3_600.0)
    return Host(name, store)


@pytest.fixture
def store() -> LossyStore:
    return LossyStore()


async def test_a_shard_whose_release_got_lost_comes_back_at_a_new_epoch(store: LossyStore) -> None:
    """A commit from before the engine let go of it may still be on its way (decision 26)."""
    here = await start("a", store)
    await here.ownership.settle()
    before = dict(here.engine.epochs)
    assert before.keys() == set(range(SHARDS))
    there = await start("b", store)
    store.loses_release = True
    with pytest.raises(StoreUnavailable):
        await here.ownership.settle()
    left = before.keys() - here.engine.epochs.keys()
    assert left
    await store.fence(there.name, is_dead=True)
    await here.ownership.settle()
    assert here.engine.epochs == {shard: epoch + (shard in left) for shard, epoch in before.items()}
    assert {row.shard: row.epoch for row in await store.owners()} == here.engine.epochs
    assert here.ownership.shards == before.keys()
    assert not here.fenced


async def test_a_shard_whose_claim_was_not_answered_is_owned_at_the_next_look(store: LossyStore) -> None:
    here = await start("a", store)
    store.loses_claim = True
    with pytest.raises(StoreUnavailable):
        await here.ownership.settle()
    assert here.engine.epochs == {}
    await here.ownership.settle()
    assert {row.shard: row.epoch for row in await store.owners()} == here.engine.epochs
    assert len(here.engine.epochs) == SHARDS


@pytest.mark.parametrize("is_answered", [True, False])
async def test_the_engine_learns_when_shards_were_taken_from_the_dead(store: LossyStore, is_answered: bool) -> None:
    dead = await start("a", store)
    await dead.ownership.settle()
    await store.fence(dead.name, is_dead=True)
    heir = await start("b", store)
    heir.engine.may_take_over = True
    taken_us = store.clock
    if not is_answered:
        store.loses_claim = True
        with pytest.raises(StoreUnavailable):
            await heir.ownership.settle()
        store.clock += 1_000_000
    await heir.ownership.settle()
    assert heir.engine.taken_us == dict.fromkeys(range(SHARDS), taken_us)
    store.clock += 1_000_000
    await heir.ownership.leave()
    await store.retire(heir.name)
    next_one = await start("c", store)
    await next_one.ownership.settle()
    assert next_one.engine.taken_us == dict.fromkeys(range(SHARDS), taken_us)


async def test_a_host_that_is_ordered_out_keeps_what_it_owns_and_takes_nothing(store: LossyStore) -> None:
    here = await start("a", store)
    await here.ownership.settle()
    there = await start("b", store)
    await here.ownership.settle()
    await there.ownership.settle()
    mine, theirs = dict(here.engine.epochs), there.engine.epochs
    assert mine.keys() | theirs.keys() == set(range(SHARDS))
    await store.set_draining(here.name)
    await store.fence(there.name, is_dead=True)
    await here.ownership.settle()
    assert here.engine.epochs == mine
    heir = await start("c", store)
    heir.engine.may_take_over = True
    await heir.ownership.settle()
    assert heir.engine.epochs.keys() == theirs.keys()
    assert here.engine.epochs == mine, "it waits until it is asked to leave"


async def test_a_host_that_is_ordered_out_serves_a_shard_whose_claim_was_not_answered(store: LossyStore) -> None:
    """It may have to wait for its successor for long."""
    here = await start("a", store)
    store.loses_claim = True
    with pytest.raises(StoreUnavailable):
        await here.ownership.settle()
    await store.set_draining(here.name)
    await here.ownership.settle()
    assert {row.shard: row.epoch for row in await store.owners()} == here.engine.epochs
    assert len(here.engine.epochs) == SHARDS


async def test_a_host_that_was_fenced_adopts_nothing(store: LossyStore) -> None:
    here = await start("a", store)
    store.loses_claim = True
    with pytest.raises(StoreUnavailable):
        await here.ownership.settle()
    await store.fence(here.name, is_dead=True)
    await here.ownership.settle()
    assert here.engine.epochs == {}
    assert here.fenced


async def test_a_database_clock_that_was_set_back_keeps_nobody_from_the_shards_of_the_dead(
    store: LossyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a host on another machine: whether it lives is told by its lease alone."""
    now = [100.0]
    monkeypatch.setattr(ownership_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    dead = await start("a", store)
    await dead.ownership.settle()
    heir = await start("b", store)
    heir.engine.may_take_over = True
    await store.renew(dead.name, lease_s=60.0)
    await store.renew(heir.name, lease_s=60.0)
    await heir.ownership.settle()
    store.clock -= 3_600_000_000
    now[0] += 60.0
    await heir.ownership.settle()
    assert not heir.engine.epochs
    now[0] += 20.0
    await heir.ownership.settle()
    assert heir.engine.epochs.keys() == set(range(SHARDS))
