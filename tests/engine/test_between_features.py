"""Where features meet: what each promises must hold while another is at work (P1, P2, P5, P9, P10)."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from perdure.entities import (
    Entity,
    InvalidTransaction,
    Mailbox,
    WorkflowCancelled,
    activity,
    condition,
    handler,
    publish,
    query,
    transaction,
    workflow,
)
from perdure.entities.engine.children import TooManyChildren
from perdure.entities.history import history
from perdure.entities.testing import LocalCluster
from perdure.entities.timetravel import state_at, state_json

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import becomes, eventually


@activity
async def quick(text: str) -> str:
    return text


class Desk(Entity):
    letters = Mailbox(str, max_items=1)
    taken: list[str] = []
    ready: bool = False
    rounds: int = 0

    @workflow
    async def delegates(self) -> list[str]:
        """Awaits a child that sends it more than its mailbox holds; reads afterwards."""
        await Clerk.ref("c").reports(self.key, 3)
        for _ in range(3):
            self.taken.append(await self.letters.receive())
        return self.taken

    @workflow
    async def until_ready(self) -> str:
        await condition(lambda: self.ready)
        return "ready"

    @workflow
    async def sleeps(self) -> str:
        await asyncio.sleep(3600)
        return "slept"

    @workflow
    async def takes_one(self) -> str:
        return await self.letters.receive()

    @workflow
    async def in_steps(self) -> None:
        for _ in range(3):
            await quick("step")
            self.rounds += 1

    @workflow
    async def naps(self) -> str:
        await asyncio.sleep(0.02)
        return "napped"

    @workflow
    async def awaits_child(self) -> str:
        await quick("before")
        self.rounds += 1
        return await Clerk.ref("child").idles.options(parent_close="terminate", restart=True)()

    @workflow
    async def has_children(self, how: str) -> int:
        refused, tasks = 0, []
        for number in range(4):
            idles = Clerk.ref(f"child-{number}").idles.options(parent_close="cancel")
            try:
                if how == "started":
                    await idles.start()
                else:
                    tasks.append(asyncio.create_task(idles()))
                    await asyncio.sleep(0)
                    if tasks[-1].done():
                        await tasks[-1]
            except TooManyChildren:
                refused += 1
            self.rounds += 1
        await condition(lambda: self.ready)
        return refused

    @query
    async def how_many_rounds(self) -> int:
        return self.rounds

    @handler
    async def set_ready(self) -> None:
        self.ready = True

    @handler
    async def announce(self) -> int:
        return await publish("desk.opened")

    @query
    async def is_ready(self) -> bool:
        return self.ready


class Clerk(Entity):
    done: int = 0

    @handler(on_event="desk.opened", key=lambda _: "listens")
    async def heard(self) -> None:
        self.done += 1

    @workflow
    async def reports(self, to: str, count: int) -> int:
        for number in range(count):
            await Desk.ref(to).letters.send(f"report {number}")
        return count

    @workflow
    async def idles(self) -> str:
        await asyncio.sleep(3600)
        return "idle"

    @query
    async def how_many(self) -> int:
        return self.done


@pytest.fixture
async def cluster(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Desk, Clerk], store=store, settings=QUICK) as cluster:
        yield cluster


def flights(store: FaultyStore) -> list[bool]:
    return [run.in_flight for stored in store._entities.values() for run in stored.runs.values()]


async def test_an_answer_does_not_wait_behind_a_full_mailbox_that_its_receiver_would_empty(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    desk = Desk.ref("d")
    await desk.delegates.start()
    expected = ["report 0", "report 1", "report 2"]
    assert await desk.delegates.result(timeout=timedelta(seconds=3)) == expected
    await eventually(lambda: not store.waiting_messages())


@pytest.mark.parametrize("how", ["sleeps", "takes_one", "until_ready"])
async def test_an_entity_with_a_waiting_run_can_leave_memory_after_a_transaction(
    cluster: LocalCluster, store: FaultyStore, how: str
) -> None:
    desk = Desk.ref("d")
    await getattr(desk, how).start()
    await cluster.drained()
    assert flights(store) == [False]
    async with transaction(desk, Clerk.ref("x")) as (d, _):
        d.rounds += 1
    assert not await desk.is_ready()
    await cluster.drained()
    assert flights(store) == [False], "it waits for nothing that this host has to do"
    (engine,) = cluster.engines
    await eventually(lambda: all(a.is_idle() for a in engine.active.values()), within_s=1)


async def test_a_paused_run_rests_after_a_transaction(cluster: LocalCluster, store: FaultyStore) -> None:
    desk = Desk.ref("d")
    await desk.until_ready.start()
    await desk.until_ready.pause(reason="look")
    async with transaction(desk) as (d,):
        d.ready = True
    assert await desk.is_ready()
    await cluster.drained()
    assert flights(store) == [False]
    await cluster.crash()
    assert await desk.is_ready()
    await cluster.drained()
    assert flights(store) == [False]
    await desk.until_ready.resume()
    assert await desk.until_ready.result(timeout=timedelta(seconds=3)) == "ready"


@pytest.mark.parametrize("crash", [False, True])
async def test_what_is_held_for_a_paused_run_may_end_it_before_its_cancellation(
    cluster: LocalCluster, store: FaultyStore, crash: bool
) -> None:
    desk = Desk.ref("d")
    await desk.naps.start()
    await desk.naps.pause()
    await eventually(lambda: not store.reminder_rows())
    await desk.naps.cancel()
    await desk.naps.cancel()
    if crash:
        await cluster.crash()
    await desk.naps.resume()
    assert await desk.naps.result(timeout=timedelta(seconds=3)) == "napped"


async def test_a_cancelled_paused_run_is_cancelled_when_it_goes_on(cluster: LocalCluster) -> None:
    desk = Desk.ref("d")
    await desk.sleeps.start()
    await desk.sleeps.pause()
    await desk.sleeps.cancel()
    await desk.sleeps.resume()
    with pytest.raises(WorkflowCancelled):
        await desk.sleeps.result(timeout=timedelta(seconds=3))


async def test_the_child_of_a_run_that_was_run_again_ends_with_it(cluster: LocalCluster, store: FaultyStore) -> None:
    desk = Desk.ref("d")

    async def lives() -> bool:
        await cluster.drained()
        (row,) = [s.runs["idles"] for s in store._entities.values() if "idles" in s.runs]
        return not row.status.is_terminal

    await desk.awaits_child.start()
    await eventually(lambda: any("idles" in s.runs for s in store._entities.values()))
    await desk.awaits_child.terminate()
    await becomes(lives, False)
    await desk.awaits_child.rerun(from_operation="Clerk.idles")
    await becomes(lives, True)
    await desk.awaits_child.terminate()
    await becomes(lives, False)


@pytest.mark.parametrize("how", ["awaited", "started"])
async def test_as_many_children_as_there_may_be_survive_a_crash(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("perdure.entities.engine.run.CHILDREN_MAX", 3)
    desk = Desk.ref("d")
    await desk.has_children.start(how)
    await becomes(desk.how_many_rounds, 4)
    await cluster.crash()
    await desk.set_ready()
    assert await desk.has_children.result(timeout=timedelta(seconds=3)) == 1


async def test_running_again_from_an_operation_leaves_the_past_as_it_was(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    """The new run's journal begins with a copy of the old one's: no event, and no state of any version."""
    desk = Desk.ref("d")
    await desk.in_steps()
    await cluster.drained()
    past = (await history(desk)).version
    states = [await state_json(desk, version) for version in range(1, past + 1)]
    events = Counter((event.version, event.kind) for event in (await history(desk)).events)
    assert [json.loads(state)["rounds"] for state in states] == [0, 1, 2, 3]
    await desk.in_steps.rerun(from_operation=1)
    await desk.in_steps.result()
    await cluster.drained()
    assert [await state_json(desk, version) for version in range(1, past + 1)] == states
    assert (await state_at(desk, past + 1)).rounds == 1, "put back by the rerun's own turn"
    assert (await state_at(desk)).rounds == 3
    forwards = await history(desk)
    assert Counter((e.version, e.kind) for e in forwards.events if e.version <= past) <= events
    backwards = await history(desk, newest_first=True)
    assert min(event.version for event in backwards.events) == 1
    assert len(backwards.events) == len(forwards.events)


async def test_publishing_in_a_transaction_is_refused_and_possible_through_a_message(cluster: LocalCluster) -> None:
    desk = Desk.ref("d")
    with pytest.raises(InvalidTransaction, match=r"Desk/d: a handler published an event.*`\.send`"):
        async with transaction(desk) as (d,):
            await d.announce()
    with pytest.raises(InvalidTransaction):
        async with transaction(desk):
            await publish("desk.opened")
    async with transaction(desk) as (d,):
        d.rounds += 1
        await desk.announce.send()
    await becomes(Clerk.ref("listens").how_many, 1)
