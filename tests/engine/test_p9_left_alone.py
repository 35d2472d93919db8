"""P9, P6, P1: due reminders and messages that nobody can take cost the others nothing, however many they are, and are
taken up once they can be.
"""

import asyncio
import itertools
import logging
from collections.abc import Collection, Sequence
from datetime import timedelta

import pytest

from perdure.entities import Entity, EntityId, EntityParked, RetryPolicy, handler, query, workflow
from perdure.entities.engine import left
from perdure.entities.engine.left import LeftAlone
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.messages import Envelope, Kind
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.port import StoreUnavailable
from perdure.entities.store.rows import Loaded, ReminderKind, ReminderRow
from perdure.entities.testing import LocalCluster

from .waiting import becomes, eventually

FEW = EngineSettings(mail_poll_s=0.01, timer_window_s=0.1, timer_batch=5, load_max=2, handler_grace_s=0.05)
STUCK = 12
"""More than are handed out, and than a page has, at FEW."""


class Bell(Entity):
    rung: int = 0

    @handler
    async def ring(self) -> None:
        self.rung += 1

    @handler(retry=RetryPolicy(initial=timedelta(minutes=1), maximum=timedelta(minutes=1)))
    async def break_down(self) -> None:
        raise RuntimeError("broken")

    @query
    async def rings(self) -> int:
        return self.rung


class Nap(Entity):
    slept: int = 0

    @workflow
    async def run(self) -> str:
        await asyncio.sleep(0.001)
        self.slept += 1
        return "slept"

    @handler
    async def nudge(self) -> None:
        pass


class Rewritten(Nap, name="Nap"):
    @workflow
    async def run(self) -> str:
        await other()
        return "done"


async def other() -> None:
    await Bell.ref("other").ring()


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.loads: list[EntityId] = []
        self.reads = 0
        self.faults = 0

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        self.loads += entities
        return await super().load(entities, inbox_max=inbox_max)

    async def with_mail(self, shards: Collection[int], *, limit: int, after: EntityId | None = None) -> list[EntityId]:
        self.reads += 1
        return await super().with_mail(shards, limit=limit, after=after)

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        if self.faults:
            self.faults -= 1
            raise StoreUnavailable("injected", maybe_applied=False)
        return await super().due_of(entities, until_us=until_us, limit=limit)


def remind(store: MemoryStore, entity: EntityId, *, due_us: int = 1_000, handler: str = "ring") -> None:
    row = ReminderRow(entity, "r", ReminderKind.REMINDER, 0, due_us, handler=handler)
    store._entity(entity).reminders["r"] = row


def send(store: MemoryStore, entity: EntityId) -> None:
    message = Envelope(id="m", type=entity.type, key=entity.key, kind=Kind.SEND, name="ring", args=b"{}", position=1)
    store._entity(entity).inbox[1, "m"] = message


def keys(number: int) -> list[str]:
    return [f"a{n:03}" for n in range(number)]


def left_alone(cluster: LocalCluster) -> int:
    return cluster.engines[0].stats()["reminders_left_alone"]


async def damaged(store: MemoryStore) -> None:
    for key in keys(STUCK):
        entity = EntityId("Bell", key)
        remind(store, entity)
        store._entity(entity).version, store._entity(entity).state = 1, b"damaged"
        store._entity(entity).schema_version = 1


async def of_an_absent_type(store: MemoryStore) -> None:
    for key in keys(STUCK):
        remind(store, EntityId("Absent", key))


async def of_parked_runs(store: MemoryStore) -> None:
    slow = EngineSettings(timer_window_s=0.1, timer_batch=1, mail_poll_s=0.05)
    async with LocalCluster([Nap], store=store, settings=slow) as cluster:
        cluster.engines[0].fire_due = lambda: 1.0  # type: ignore[method-assign]
        for key in keys(STUCK):
            await Nap.ref(key).run.start()


CASES = [damaged, of_an_absent_type, of_parked_runs]


@pytest.mark.parametrize("make", CASES)
async def test_what_nobody_can_take_stops_no_other_reminder(make: object) -> None:
    store = MemoryStore()
    await make(store)  # type: ignore[operator]
    far_us = 1 + max(row.due_us for one in store._entities.values() for row in one.reminders.values())
    remind(store, EntityId("Bell", "good"), due_us=far_us)
    async with LocalCluster([Bell, Rewritten], store=store, settings=FEW) as cluster:
        await becomes(Bell.ref("good").rings, 1)
        await eventually(lambda: left_alone(cluster) == STUCK)
        assert cluster.engines[0].wheel.handed_out == 0
        remind(store, EntityId("Bell", "later"))  # nobody told the host
        await becomes(Bell.ref("later").rings, 1)
        assert sum(len(one.reminders) for one in store._entities.values()) == STUCK, "they are all still there"


async def test_very_many_cost_bounded_memory_and_are_tried_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore()
    for number in range(300):
        remind(store, EntityId("Bell", f"a{number:03}"))
        store._entity(EntityId("Bell", f"a{number:03}")).state = b"damaged"
        store._entity(EntityId("Bell", f"a{number:03}")).version = 1
        store._entity(EntityId("Bell", f"a{number:03}")).schema_version = 1
    remind(store, EntityId("Bell", "good"), due_us=2_000)
    monkeypatch.setattr("perdure.entities.engine.wheel.LeftAlone", lambda: LeftAlone(20))
    monkeypatch.setattr("perdure.entities.engine.arrivals.PARKED_MAX", 20)
    settings = EngineSettings(timer_window_s=0.1, timer_batch=5, rehydrate_per_s=1.0)
    async with LocalCluster([Bell], store=store, settings=settings) as cluster:
        await becomes(Bell.ref("good").rings, 1)
        assert left_alone(cluster) <= 20
        assert len(cluster.engines[0].arrivals._parked_until) <= 20
        remind(store, EntityId("Bell", "next"), due_us=cluster.engines[0].now_us())
        cluster.engines[0].arm(store._entity(EntityId("Bell", "next")).reminders["r"])
        await becomes(Bell.ref("next").rings, 1)
        # The second look brings ten, those forgotten by now among them, and then rests ten seconds.
        assert len(store.loads) < 300 + 50


async def test_what_came_due_while_its_entity_was_parked_fires_after_the_repair() -> None:
    store = CountingStore()
    settings = EngineSettings(timer_window_s=3600.0, mail_poll_s=0.05)
    async with LocalCluster([Bell], store=store, settings=settings) as cluster:
        await Bell.ref("b").ring()
        await cluster.crash()
        stored = store._entity(EntityId("Bell", "b"))
        before, stored.state = stored.state, b"damaged"
        remind(store, EntityId("Bell", "b"))
        cluster.engines[-1].reread_reminders(EntityId("Bell", "b"))
        await eventually(lambda: cluster.engines[-1].wheel.left_alone == 1)
        with pytest.raises(EntityParked):
            await Bell.ref("b").ring()
        stored.state, store.faults = before, 1
        await Bell.ref("b").ring()  # the repair is done: the first call takes it up
        await becomes(Bell.ref("b").rings, 3)
        assert cluster.engines[-1].wheel.left_alone == cluster.engines[-1].wheel.handed_out == 0


async def test_a_parked_entity_is_tried_again_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("left", "arrivals"):
        monkeypatch.setattr(f"perdure.entities.engine.{module}.PARKED_RETRY_S", 0.05)
    assert left.PARKED_RETRY_S == 0.05
    store = MemoryStore()
    await damaged(store)
    async with LocalCluster([Bell], store=store, settings=FEW) as cluster:
        await eventually(lambda: left_alone(cluster) == STUCK)
        for key in keys(STUCK):
            store._entity(EntityId("Bell", key)).version = 0
            store._entity(EntityId("Bell", key)).state = None
        await eventually(lambda: not any(one.reminders for one in store._entities.values()))
        assert await Bell.ref(keys(1)[0]).rings() == 1
        await eventually(lambda: left_alone(cluster) == 0)


async def test_reminders_whose_handlers_fail_do_not_stop_the_others_while_they_wait() -> None:
    store = MemoryStore()
    for key in keys(STUCK):
        remind(store, EntityId("Bell", key), handler="break_down")
    remind(store, EntityId("Bell", "good"), due_us=2_000)
    async with LocalCluster([Bell], store=store, settings=FEW):
        await becomes(Bell.ref("good").rings, 1)


def messages_that_nobody_can_take(store: MemoryStore) -> None:
    for key in keys(50):
        send(store, EntityId("Absent", key))
    for key in keys(50):
        send(store, EntityId("Bell", key))
        one = store._entity(EntityId("Bell", key))
        one.version, one.state, one.schema_version = 1, b"damaged", 1


async def test_messages_that_nobody_can_take_hide_no_others_from_the_poll(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    store = CountingStore()
    messages_that_nobody_can_take(store)
    async with LocalCluster([Bell], store=store, settings=FEW):
        await eventually(lambda: len(store.parked) == 50 and store.reads > 100)  # gained shards have been searched
        send(store, EntityId("Bell", "good"))  # its wake-up was lost; a call would bring it into memory
        await eventually(lambda: not store._entity(EntityId("Bell", "good")).inbox)
    assert not [entity for entity in store.loads if entity.type == "Absent"]
    assert len([record for record in caplog.records if "no type Absent" in record.getMessage()]) == 1
    assert len(list(itertools.chain(*(one.inbox for one in store._entities.values())))) == 100


async def test_messages_that_nobody_can_take_hide_no_others_in_a_gained_shard() -> None:
    store = CountingStore()
    messages_that_nobody_can_take(store)
    send(store, EntityId("Bell", "good"))
    never = EngineSettings(mail_poll_s=3600.0, load_max=2)
    async with LocalCluster([Bell], store=store, settings=never):
        await eventually(lambda: not store._entity(EntityId("Bell", "good")).inbox)
