"""Dedicated actors, without Ray: what they were to commit, and what they were to run.

P1, P2: a commit whose answer was lost is settled by the host before anybody reads the entity. P6: what the host has
handed to an actor, and that did not run, is handed out again.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

import pytest

from perdure.cluster import engine_factory
from perdure.cluster.dedicated import actor as actor_module
from perdure.cluster.dedicated import parent, wire
from perdure.cluster.dedicated.parent import DedicatedActors
from perdure.cluster.dedicated.remote_store import RemoteStore
from perdure.cluster.exchange import Exchange
from perdure.cluster.hosted import EngineRequest
from perdure.cluster.settings import ExchangeSettings
from perdure.entities import Dedicated, Entity, handler, query, remind
from perdure.entities.definition import EntityDefinition
from perdure.entities.engine import arrivals
from perdure.entities.engine.deliveries import Fire
from perdure.entities.engine.engine import Engine, Outlets
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.ids import EntityId
from perdure.entities.steady import steady_clock
from perdure.entities.store.rows import Batch, ReminderRow
from perdure.entities.testing import FakeSteps, LocalCluster

from .late_store import LateStore
from .waiting import becomes, eventually


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


class Bell(Entity, hosting=Dedicated()):
    rings: int = 0

    @handler
    async def set(self) -> None:
        remind(self.ring, after=timedelta(0))

    @handler
    async def ring(self) -> int:
        self.rings += 1
        return self.rings

    @query
    async def get(self) -> int:
        return self.rings


class Actor:
    """A dedicated actor without Ray: the same engine, link and remote store, in this process."""

    def __init__(self, engine: Engine, entity: EntityId) -> None:
        self.is_killed = False
        self.loses_fires = False
        self.lost: list[ReminderRow] = []
        self.engine = engine
        self._entity = entity
        self._exchange = Exchange(engine.deliver, ExchangeSettings())

    def exchange(self, data: bytes) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(self._exchange.exchange(data))

    def control(self, data: bytes) -> asyncio.Future[None]:
        control = wire.CONTROL.decode(data)
        if self.loses_fires:
            self.lost += control.fires
        else:
            for row in control.fires:
                self.engine.arrivals.offer(self._entity, Fire(row))
        if control.wake:
            self.engine.wake([self._entity])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def kill(self) -> None:
        self.is_killed = True
        self.engine.kill()
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
            outlets=Outlets(
                hint=lambda _entities: None,
                fenced=lambda _reason: None,
                reminders_lost=lambda lost: engine.background(self._ask_for_reminders(lost)),
            ),
            only=entity,
        )
        await engine.start()
        engine.own({shard: epoch})
        self._engines.append(engine)
        self.made.append(Actor(engine, entity))
        return self.made[-1]

    async def _ask_for_reminders(self, entity: EntityId) -> None:
        await self.parent.serve(entity, "reminders", b"")

    async def close(self) -> None:
        for engine in self._engines:
            engine.kill()
            await engine.stop()


@asynccontextmanager
async def actors_of(store: LateStore) -> AsyncGenerator[Actors]:
    async with LocalCluster([Meter, Shared, Bell], store=store) as cluster:
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


# --- P6 ---------------------------------------------------------------------------------------------------------------


THE_BELL = EntityId("Bell", "b")


@asynccontextmanager
async def told_in_vain(store: LateStore) -> AsyncGenerator[tuple[Actors, Actor]]:
    """A reminder is due; the actor has been told, and will never run it."""
    async with actors_of(store) as actors:
        assert await Bell.ref("b").get() == 0
        [actor] = actors.made
        actor.loses_fires = True
        await Bell.ref("b").set()
        await eventually(lambda: actor.lost)
        yield actors, actor


async def test_a_reminder_that_meets_the_actors_leave_is_fired_by_the_next_one() -> None:
    async with told_in_vain(LateStore()) as (actors, first):
        await actors.parent.serve(THE_BELL, "idle", b"")
        await eventually(lambda: first.is_killed)
        await becomes(Bell.ref("b").get, 1)


async def test_an_actor_that_was_told_something_after_it_had_offered_to_go_stays() -> None:
    async with actors_of(LateStore()) as actors:
        assert await Bell.ref("b").get() == 0
        [actor] = actors.made
        going = asyncio.ensure_future(actors.parent.serve(THE_BELL, "idle", b""))
        ringing = asyncio.ensure_future(Bell.ref("b").ring())
        await going
        assert await ringing == 1
        assert not actor.is_killed


async def test_what_an_actor_could_not_run_yet_is_handed_to_it_again() -> None:
    """A timer of a parked run is left in the store; when the run goes on, its engine asks for it."""
    async with told_in_vain(LateStore()) as (_, actor):
        actor.loses_fires = False
        actor.engine.reread_reminders(THE_BELL)
        await becomes(Bell.ref("b").get, 1)


@pytest.mark.parametrize("is_called", [True, False])
async def test_what_came_due_while_an_actors_entity_was_parked_fires_after_the_repair(
    is_called: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next call, and by itself after a while."""
    if not is_called:
        monkeypatch.setattr(parent, "PARKED_LOOK_S", 0.05)
        monkeypatch.setattr(arrivals, "PARKED_RETRY_S", 0.0)
    store = LateStore()
    entity = THE_BELL
    async with told_in_vain(store) as (actors, first):
        intact = store._entities[entity].state
        store._entities[entity].state = b"{}"
        await actors.parent.serve(entity, "idle", b"")
        await eventually(lambda: first.is_killed)
        await eventually(lambda: entity in store.parked)
        store._entities[entity].state = intact
        if is_called:
            assert await Bell.ref("b").get() == 0
        await eventually(lambda: not store._entities[entity].reminders)
        assert await Bell.ref("b").get() == 1


async def test_an_actor_keeps_the_bounds_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the targets to the engine in the actor; Ray is all that is missing."""
    async with LocalCluster([Bell]) as cluster:
        [engine] = cluster.engines

        async def clock(*_: Any) -> bytes:
            return wire.encode(wire.Answer(wire.encode(await engine.store.clock_us())))

        def submit(handle: Any, method: str, *args: Any, **named: Any) -> asyncio.Future[Any]:
            return asyncio.ensure_future(clock() if handle == "the host" else getattr(handle, method)(*args, **named))

        monkeypatch.setattr(actor_module, "submit", submit)
        monkeypatch.setattr(actor_module, "spawn", lambda made, **_: made())
        monkeypatch.setattr(actor_module, "kill", lambda _: None)
        monkeypatch.setattr(engine_factory, "this_actor", lambda: "the host")
        request = EngineRequest(
            entities=(f"{Bell.__module__}:Bell",),
            store=engine.store,
            incarnation=engine.incarnation,
            shard_count=engine._shard_count,
            settings={"mailbox_max": 7, "history_retention_s": 60.0},
            hint=lambda _: None,
            fenced=lambda _: None,
            steps=FakeSteps(nullcontext),
            serve=lambda _: None,
        )
        host = engine_factory.perdure_engine(request)
        assert isinstance(host, Engine)
        assert isinstance(host.dedicated, DedicatedActors)
        started = await host.dedicated._spawn(host.registry.get("Bell"), EntityId("Bell", "b"), 0, 1)
        assert isinstance(started, actor_module.StartedActor)
        made: Any = started._handle
        assert host.monotonic is steady_clock, "leases run out while the machine sleeps, too"
        assert made._engine.settings == host.settings == EngineSettings(mailbox_max=7, history_retention_s=60.0)
        made._idle.cancel()
        await made._engine.stop()
