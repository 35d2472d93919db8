"""Bounds of durable mailboxes: refused outside before acceptance; entities' messages wait, in order (P1, P5, P9)."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

import pytest

from perdure.entities import (
    Busy,
    DefinitionError,
    Entity,
    EntityId,
    Mailbox,
    RetryPolicy,
    WorkflowCancelled,
    WorkflowTerminated,
    condition,
    handler,
    query,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import becomes, eventually

MAX = 3


class Desk(Entity):
    letters = Mailbox(str, max_items=MAX)
    notes = Mailbox(str)
    taken: list[str] = []
    marks: list[str] = []
    may_leave: bool = False

    @workflow
    async def reads(self, count: int) -> list[str]:
        for _ in range(count):
            letter = await self.letters.receive()
            self.taken.append(letter)
        return self.taken

    @workflow
    async def reads_and_stays(self, count: int) -> None:
        for _ in range(count):
            letter = await self.letters.receive()
            self.taken.append(letter)
        await condition(lambda: self.may_leave)

    @handler
    async def leave(self) -> None:
        self.may_leave = True

    @handler
    async def mark(self, text: str) -> None:
        self.marks.append(text)

    @query
    async def seen(self) -> list[str]:
        return self.taken

    @query
    async def marked(self) -> list[str]:
        return self.marks


class Writer(Entity):
    @handler
    async def write(self, count: int, mark: str = "") -> None:
        for number in range(count):
            await D.letters.send(f"{self.key}{number}")
        if mark:
            await D.mark.send(mark)


D = Desk.ref("d")


@pytest.fixture(params=[QUICK, EngineSettings(evict_after_every_turn=True, mail_poll_s=0.05)], ids=["stays", "evicted"])
async def desks(store: FaultyStore, request: pytest.FixtureRequest) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Desk, Writer], store=store, settings=request.param) as cluster:
        yield cluster


async def test_a_full_mailbox_refuses_senders_from_outside_before_acceptance(
    desks: LocalCluster, store: FaultyStore
) -> None:
    for number in range(MAX):
        await D.letters.send(f"o{number}")
    with pytest.raises(Busy, match=r"Desk/d: mailbox letters holds 3 items, its limit; nothing was accepted"):
        await D.letters.options(timeout=0.01).send("too many")
    await desks.crash()
    with pytest.raises(Busy):
        await D.letters.options(timeout=0.01, idempotency_key="k").send("too many")
    await D.notes.send("another mailbox has room")
    assert store.waiting_messages() == []
    patient = asyncio.create_task(D.letters.options(idempotency_key="k").send("patient"))
    assert await D.reads(MAX + 1) == ["o0", "o1", "o2", "patient"]
    await patient


async def test_a_repeat_of_an_accepted_item_is_not_refused(desks: LocalCluster) -> None:
    for number in range(MAX):
        await D.letters.options(idempotency_key=f"k{number}").send(f"o{number}")
    await D.letters.options(idempotency_key="k1", timeout=1).send("o1")
    assert await D.reads(MAX) == ["o0", "o1", "o2"]


async def test_messages_of_entities_wait_in_the_inbox_and_lose_neither_themselves_nor_their_order(
    desks: LocalCluster, store: FaultyStore
) -> None:
    await Writer.ref("a").write(10, "a is through")
    await Writer.ref("b").write(10)
    await eventually(lambda: len(store.waiting_messages()) == 18)
    assert len(store._entities[EntityId("Desk", "d")].items) == MAX
    await D.mark("others go on")
    assert await D.marked() == ["others go on"]
    await desks.crash()
    await D.reads.start(20)
    await desks.crash()
    taken = await D.reads.result()
    assert [letter for letter in taken if letter[0] == "a"] == [f"a{number}" for number in range(10)]
    assert [letter for letter in taken if letter[0] == "b"] == [f"b{number}" for number in range(10)]
    await becomes(D.marked, ["others go on", "a is through"])
    await desks.drained()
    assert store.waiting_messages() == []


async def test_what_waits_for_room_does_not_hide_what_came_after_it(store: FaultyStore) -> None:
    settings = EngineSettings(inbox_max=5, mail_poll_s=0.02)
    async with LocalCluster([Desk, Writer], store=store, settings=settings) as desks:
        await Writer.ref("a").write(40)
        await desks.drained()
        await desks.crash()
        await Writer.ref("b").write(0, "b was heard")
        await becomes(D.marked, ["b was heard"])
        assert await D.reads(40) == [f"a{number}" for number in range(40)]


@pytest.mark.parametrize("end", ["end", "cancel", "terminate"])
async def test_however_the_reader_ends_everything_that_waits_is_kept(
    desks: LocalCluster, store: FaultyStore, end: str
) -> None:
    await Writer.ref("a").write(6)
    await D.reads_and_stays.start(2)
    await becomes(D.seen, ["a0", "a1"])
    await eventually(lambda: len(store.waiting_messages()) == 1)
    match end:
        case "cancel":
            await D.reads_and_stays.cancel()
            with pytest.raises(WorkflowCancelled):
                await D.reads_and_stays.result()
        case "terminate":
            await D.reads_and_stays.terminate()
            with pytest.raises(WorkflowTerminated):
                await D.reads_and_stays.result()
        case _:
            await D.leave()
            await D.reads_and_stays.result()
    assert await D.reads(4) == [f"a{number}" for number in range(6)]


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, 2.5])
def test_an_impossible_bound_is_a_mistake_at_definition(limit: int) -> None:
    with pytest.raises(DefinitionError, match="a mailbox holds 1 to 10000 items"):
        Mailbox(str, max_items=limit)


class Sulky(Entity):
    @handler(retry=RetryPolicy(initial=timedelta(minutes=1)))
    async def sulk(self) -> None:
        raise RuntimeError("not today")


async def test_what_waits_behind_a_retry_counts_as_waiting() -> None:
    settings = replace(QUICK, mailbox_max=5)
    async with LocalCluster([Sulky], store=FaultyStore(), settings=settings) as cluster:
        for _ in range(5):
            await Sulky.ref("s").sulk.send()
        with pytest.raises(Busy, match="5 messages are waiting"):
            await Sulky.ref("s").sulk.send()
        assert next(iter(cluster.engines[0].active.values())).held_back == 5
