"""P1, P2: a dedicated actor's commit whose answer was lost is settled by its host before anybody reads the entity."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from perdure.cluster.dedicated import wire
from perdure.cluster.dedicated.parent import DedicatedActors
from perdure.cluster.dedicated.remote_store import RemoteStore
from perdure.cluster.exchange import Exchange
from perdure.cluster.settings import ExchangeSettings
from perdure.entities import Dedicated, Entity, handler
from perdure.entities.definition import EntityDefinition
from perdure.entities.engine.engine import Engine, Outlets
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.ids import EntityId
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .late_store import LateStore


class Meter(Entity, hosting=Dedicated()):
    total: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.total += amount
        return self.total


class Shared(Entity):
    total: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.total += amount
        return self.total


class Actor:
    """A dedicated actor without Ray: the same engine, link and remote store, in this process."""

    def __init__(self, engine: Engine, entity: EntityId) -> None:
        self.is_killed = False
        self._engine = engine
        self._entity = entity
        self._exchange = Exchange(engine.deliver, ExchangeSettings())

    def exchange(self, data: bytes) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(self._exchange.exchange(data))

    def control(self, data: bytes) -> asyncio.Future[None]:
        assert not wire.CONTROL.decode(data).fires
        self._engine.wake([self._entity])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def kill(self) -> None:
        self.is_killed = True
        self._engine.kill()
        self._exchange.release()


class Actors:
    """Spawns them and keeps them in sight."""

    def __init__(self, cluster: LocalCluster, store: LateStore) -> None:
        self.made: list[Actor] = []
        self._store = store
        [self._host] = cluster.engines
        self.parent = DedicatedActors(self._host, store, self._spawn, ExchangeSettings())
        self._host.host_elsewhere(self.parent)
        self._engines: list[Engine] = []

    async def _spawn(self, definition: EntityDefinition, entity: EntityId, shard: int, epoch: int) -> Actor:
        del definition
        engine = Engine(
            registry=self._host.registry,
            store=RemoteStore(lambda operation, argument: self.parent.serve(entity, operation, argument)),
            incarnation=f"dedicated:{entity}",
            shard_count=await self._store.shard_count(),
            settings=EngineSettings(),
            outlets=Outlets(hint=lambda _entities: None, fenced=lambda _reason: None),
            only=entity,
        )
        await engine.start()
        engine.own({shard: epoch})
        self._engines.append(engine)
        self.made.append(Actor(engine, entity))
        return self.made[-1]

    async def close(self) -> None:
        for engine in self._engines:
            engine.kill()
            await engine.stop()


@asynccontextmanager
async def actors_of(store: LateStore) -> AsyncGenerator[Actors]:
    async with LocalCluster([Meter, Shared], store=store) as cluster:
        actors = Actors(cluster, store)
        yield actors
        await actors.close()


async def test_what_a_late_commit_of_an_actor_held_is_done_once() -> None:
    store = LateStore()
    async with actors_of(store) as actors:
        assert await Meter.ref("m").add(1) == 1
        store.loses_answer, store.lost_settlements = True, 2
        assert await Meter.ref("m").add(10) == 11
        assert len(actors.made) == 1
    assert store.applied_late == [False]


class SlowSettling(LateStore):
    """A raise of epochs waits for `may_settle`. Commits and raises must not overlap."""

    def __init__(self) -> None:
        super().__init__(shards=1)
        self.is_settling = asyncio.Event()
        self.may_settle = asyncio.Event()
        self.commits_meanwhile = 0

    async def commit(self, batch: Batch) -> int:
        self.commits_meanwhile += self.is_settling.is_set() and not self.may_settle.is_set()
        return await super().commit(batch)

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        self.is_settling.set()
        await self.may_settle.wait()
        return await super().settle(incarnation, epochs)


async def test_a_successor_of_the_actor_reads_nothing_before_the_commit_is_settled() -> None:
    store = SlowSettling()
    async with actors_of(store) as actors:
        assert await Meter.ref("m").add(1) == 1
        store.loses_answer = True
        adding = asyncio.create_task(Meter.ref("m").add(10))
        await store.is_settling.wait()
        link = actors.parent._children[Meter.ref("m").entity_id].link  # type: ignore[attr-defined]
        actors.parent.lost(link, ConnectionError("the actor was killed"))
        while len(actors.made) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # time to read, if nothing held it back
        assert store.applied_late == []
        store.may_settle.set()
        assert await adding == 11
        assert [actor.is_killed for actor in actors.made] == [True, False]
    assert store.applied_late == [False]


async def test_the_hosts_own_commits_wait_while_an_actors_commit_is_settled() -> None:
    """They would name the old epoch, and the host would take itself for fenced."""
    store = SlowSettling()
    async with actors_of(store):
        assert [await Meter.ref("m").add(1), await Shared.ref("s").add(1)] == [1, 1]
        store.loses_answer = True
        adding = asyncio.create_task(Meter.ref("m").add(10))
        await store.is_settling.wait()
        beside = asyncio.create_task(Shared.ref("s").add(1))
        await asyncio.sleep(0.05)  # time to commit, if nothing held it back
        assert not beside.done()
        store.may_settle.set()
        assert [await adding, await beside] == [11, 2]
    assert store.commits_meanwhile == 0
    assert store.applied_late == [False]
