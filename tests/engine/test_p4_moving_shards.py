"""P1, P4, P8: a shard that changes hands in order, while something of it is under way."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import pytest

from perdure.entities import Entity, handler, query
from perdure.entities.engine.engine import Engine
from perdure.entities.ids import EntityId
from perdure.entities.messages import IN_DOUBT, Envelope, Reply, Status
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import Batch, Loaded
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import becomes, eventually


class Bell(Entity):
    rung: int = 0
    refuses: bool = True

    @handler
    async def ring(self) -> int:
        self.rung += 1
        return self.rung

    @handler
    async def refuse(self) -> None:
        if self.refuses:
            raise RuntimeError("not yet")

    @handler
    async def allow(self) -> None:
        self.refuses = False

    @query
    async def rings(self) -> int:
        return self.rung


B = EntityId("Bell", "b")
PATIENT = replace(QUICK, handler_grace_s=60.0)


class GatedStore(FaultyStore):
    """Answers of reads, and commits that write no entity, can be held."""

    def __init__(self) -> None:
        super().__init__(shards=1)
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.may_note = asyncio.Event()
        self.may_note.set()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.has_come = asyncio.Event()

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        found = await super().load(entities, inbox_max=inbox_max)
        await self._pass(self.may_load)
        return found

    async def commit(self, batch: Batch) -> int:
        await self._pass(self.may_commit if batch.writes else self.may_note)
        return await super().commit(batch)

    async def _pass(self, gate: asyncio.Event) -> None:
        if not gate.is_set():
            self.has_come.set()
            await gate.wait()


async def give_up(store: MemoryStore, engine: Engine, shards: Collection[int] = (0,)) -> None:
    await engine.disown(shards)
    await store.release(engine.incarnation, shards)


async def take(store: MemoryStore, engine: Engine) -> None:
    engine.own(await store.claim(engine.incarnation, [0]))


async def two_hosts(cluster: LocalCluster) -> tuple[Engine, Engine]:
    """The first one owns everything."""
    await cluster.add_host()
    here, there = cluster.engines
    return here, there


async def test_what_was_read_before_a_shard_left_and_came_back_is_not_believed() -> None:
    store = GatedStore()
    async with LocalCluster([Bell], store=store, settings=PATIENT) as cluster:
        here, there = await two_hosts(cluster)
        store.may_load.clear()
        asking = asyncio.create_task(Bell.ref("b").rings())
        await store.has_come.wait()
        store.may_load, held = asyncio.Event(), store.may_load
        store.may_load.set()
        await give_up(store, here)
        await take(store, there)
        assert [await Bell.ref("b").ring() for _ in range(3)] == [1, 2, 3]
        await give_up(store, there)
        await take(store, here)
        again = asyncio.create_task(Bell.ref("b").rings())
        await asyncio.sleep(0)
        held.set()
        assert await again == 3
        assert await asking in range(4)
        await becomes(Bell.ref("b").rings, 3)


async def test_the_release_of_a_shard_does_not_overtake_a_commit_that_only_stores_a_message() -> None:
    store = GatedStore()
    async with LocalCluster([Bell], store=store, settings=PATIENT) as cluster:
        here, there = await two_hosts(cluster)
        refused: list[tuple[Status, bytes]] = []
        deliver = here.deliver

        def listen(envelope: Envelope, respond: Callable[[Reply], None]) -> None:
            def note(reply: Reply) -> None:
                refused.append((reply.status, reply.body))
                respond(reply)

            deliver(envelope, note)

        here.deliver = listen  # type: ignore[method-assign]
        store.may_note.clear()
        sending = asyncio.create_task(Bell.ref("b").refuse.send())
        await store.has_come.wait()
        moving = asyncio.create_task(give_up(store, here))
        await eventually(lambda: not here.owns(B) and B not in here.active)
        assert refused == [(Status.NOT_OWNER, IN_DOUBT)], "it may be stored yet"
        await asyncio.sleep(0.01)  # time to release it, if nothing held that back
        store.may_note.set()
        await moving
        await take(store, there)
        await sending
        assert not here.is_stopped
        await Bell.ref("b").allow()
        await eventually(lambda: not store.waiting_messages())


@pytest.mark.parametrize("lands", [True, False])
async def test_a_call_whose_commit_outlasts_the_move_is_answered_by_the_heir(*, lands: bool) -> None:
    store = GatedStore()
    async with LocalCluster([Bell], store=store, settings=replace(QUICK, handler_grace_s=0.02)) as cluster:
        here, there = await two_hosts(cluster)
        assert await Bell.ref("b").ring() == 1
        store.may_commit.clear()
        ringing = asyncio.create_task(Bell.ref("b").ring())
        await store.has_come.wait()
        store.may_commit, held = asyncio.Event(), store.may_commit
        store.may_commit.set()
        await here.disown([0])
        if lands:
            held.set()
            await eventually(lambda: store.version("Bell/b") == 2)
        await store.release(here.incarnation, [0])
        await take(store, there)
        assert await ringing == 2
        held.set()
        assert await Bell.ref("b").rings() == 2
