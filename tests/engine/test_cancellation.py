"""Cancelling: in every wait, awake or asleep on no host; shields; clean-up that itself awaits durably (P1, P7)."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure.entities import (
    Entity,
    Mailbox,
    RetryPolicy,
    WorkflowCancelled,
    WorkflowTerminated,
    activity,
    condition,
    handler,
    query,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Refused, world
from .waiting import becomes, eventually


@activity
async def hang(what: str) -> str:
    world.ran[f"began {what}"] += 1
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        world.ran[f"stopped {what}"] += 1
        raise
    return what


@activity(retry=RetryPolicy(initial=timedelta(hours=1), maximum=timedelta(hours=1)))
async def fails() -> None:
    world.ran["fails"] += 1
    raise Refused("not now")


@activity
async def receipt(number: int) -> int:
    world.ran[f"receipt {number}"] += 1
    return number


class Sleeper(Entity):
    log: list[str] = []
    open: bool = False
    letters = Mailbox(str)

    @workflow
    async def waits(self, where: str) -> str:
        self.log.append("waiting")
        try:
            await WAITS[where](self)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0.001))
                number = group.create_task(receipt(7))
            self.log.append(f"receipt {number.result()}")
            told = await Sleeper.ref("other").tell("cleaned up")
            self.log.append(f"told {told}")
            raise
        return "not cancelled"

    @workflow
    async def is_slow_to_end(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.log.append("ending")
            await condition(lambda: self.open)
            self.log.append("ended")

    @workflow
    async def shields_an_activity(self) -> str:
        inner = asyncio.ensure_future(self._transfer())
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            done = await inner
            self.log.append(done)
            raise
        return "not cancelled"

    async def _transfer(self) -> str:
        await condition(lambda: self.open)
        return f"transferred {await receipt(8)}"

    @workflow
    async def goes_on(self) -> str:
        for _ in range(2):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.log.append("no")
        return "went on"

    @workflow
    async def holds(self) -> None:
        await asyncio.sleep(3600)

    @workflow
    async def fails_in_cleanup(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise Refused("in clean-up")

    @handler
    async def tell(self, text: str) -> int:
        self.log.append(text)
        return len(self.log)

    @handler
    async def let_go(self) -> None:
        self.open = True

    @handler(timeout=timedelta(seconds=60))
    async def is_busy(self) -> None:
        await world.gate.wait()

    @query
    async def lines(self) -> list[str]:
        return self.log


async def _locked(_entity: Sleeper) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    async with lock:
        pass


async def _no_permit(_entity: Sleeper) -> None:
    async with asyncio.Semaphore(0):
        pass


async def _grouped(entity: Sleeper) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))
        group.create_task(hang("in group"))
        group.create_task(entity.letters.receive())


async def _nested(entity: Sleeper) -> None:
    async with asyncio.timeout(3600):
        await asyncio.wait_for(asyncio.gather(entity.letters.receive(), hang("nested")), 3600)


async def _first_of(entity: Sleeper) -> None:
    tasks = [asyncio.ensure_future(entity.letters.receive()), asyncio.ensure_future(asyncio.sleep(3600))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


WAITS: dict[str, Callable[[Sleeper], Awaitable[Any]]] = {
    "timer": lambda _: asyncio.sleep(3600),
    "activity": lambda _: hang("alone"),
    "retrying activity": lambda _: fails(),
    "condition": lambda _: condition(lambda: False),
    "timed condition": lambda _: condition(lambda: False, timeout=3600),
    "receive": lambda entity: entity.letters.receive(),
    "timed receive": lambda entity: asyncio.wait_for(entity.letters.receive(), 3600),
    "call": lambda _: Sleeper.ref("busy").is_busy(),
    "timed call": lambda _: Sleeper.ref("busy").is_busy.options(timeout=3600)(),
    "child": lambda _: Sleeper.ref("child").holds(),
    "child that ends with it": lambda _: Sleeper.ref("child").holds.options(parent_close="cancel")(),
    "lock": _locked,
    "semaphore": _no_permit,
    "queue": lambda _: asyncio.Queue[str]().get(),
    "full queue": lambda _: _full_queue(),
    "event": lambda _: asyncio.Event().wait(),
    "barrier": lambda _: asyncio.Barrier(2).wait(),
    "condition variable": lambda _: _condition_variable(),
    "future": lambda _: asyncio.get_running_loop().create_future(),
    "group": _grouped,
    "nested": _nested,
    "first of several": _first_of,
}


async def _full_queue() -> None:
    queue = asyncio.Queue[int](1)
    await queue.put(1)
    await queue.put(2)


async def _condition_variable() -> None:
    variable = asyncio.Condition()
    async with variable:
        await variable.wait()


S = Sleeper.ref("s")
CLEANED = ["waiting", "cancelled", "receipt 7", "told 1"]


@pytest.fixture
async def sleepers(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Sleeper], store=store, hosts=2, settings=QUICK) as cluster:
        yield cluster


async def cancelled(store: FaultyStore, where: str) -> None:
    """It has ended as cancelled, has cleaned up once, and has left nothing behind."""
    with pytest.raises(WorkflowCancelled, match=r"Sleeper/s\.waits was cancelled"):
        await S.waits.result(timeout=10)
    assert await S.lines() == CLEANED
    assert await Sleeper.ref("other").lines() == ["cleaned up"]
    world.gate.set()
    await eventually(lambda: not [row for row in store.reminder_rows() if row.entity.key == "s"])
    if where == "child that ends with it":
        with pytest.raises(WorkflowCancelled):
            await Sleeper.ref("child").holds.result()


@pytest.mark.parametrize("where", WAITS)
async def test_in_every_wait_it_is_cancelled_and_cleans_up_durably(
    sleepers: LocalCluster, store: FaultyStore, where: str
) -> None:
    await S.waits.start(where)
    await becomes(S.lines, ["waiting"])
    await S.waits.cancel()
    await cancelled(store, where)
    await S.waits.cancel()  # an ended run: nothing happens
    await eventually(lambda: all(world.ran[f"began {w}"] == world.ran[f"stopped {w}"] for w in ("alone", "in group")))


@pytest.mark.parametrize("where", WAITS)
async def test_asleep_on_no_host_it_is_cancelled_when_a_host_is_back(store: FaultyStore, where: str) -> None:
    """The run is evicted after each turn, its cluster ends; another one cancels it, and dies in between as well."""
    evicting = EngineSettings(evict_after_every_turn=True, mail_poll_s=0.05)
    async with LocalCluster([Sleeper], store=store, settings=evicting):
        await S.waits.start(where)
        await becomes(S.lines, ["waiting"])
    async with LocalCluster([Sleeper], store=store, settings=evicting) as cluster:
        await S.waits.cancel()
        await cluster.crash()
        await cancelled(store, where)


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
@pytest.mark.parametrize("where", ["timer", "activity", "receive", "child that ends with it"])
async def test_lost_commits_neither_lose_nor_repeat_a_cancellation(
    sleepers: LocalCluster, store: FaultyStore, where: str, fault: Fault
) -> None:
    await S.waits.start(where)
    await becomes(S.lines, ["waiting"])
    store.faults.extend([fault, Fault.NONE, fault, Fault.NONE, fault])
    await S.waits.cancel()
    await cancelled(store, where)
    assert len([row for row in store.history("Sleeper/s") if row.kind == "cancel"]) == 1


async def test_a_second_cancel_reaches_the_clean_up_and_termination_ends_it_at_once(sleepers: LocalCluster) -> None:
    await S.is_slow_to_end.start()
    await S.is_slow_to_end.cancel()
    await becomes(S.lines, ["ending"])
    await S.is_slow_to_end.cancel()
    with pytest.raises(WorkflowCancelled):
        await S.is_slow_to_end.result()
    assert await S.lines() == ["ending"], "its own wait was cancelled too"
    other = Sleeper.ref("t")
    await other.is_slow_to_end.start()
    await other.is_slow_to_end.cancel()
    await becomes(other.lines, ["ending"])
    await sleepers.crash()
    await other.is_slow_to_end.terminate("enough")
    with pytest.raises(WorkflowTerminated):
        await other.is_slow_to_end.result()
    assert await other.lines() == ["ending"]


async def test_clean_up_may_wait_for_others(sleepers: LocalCluster) -> None:
    await S.is_slow_to_end.start()
    await S.is_slow_to_end.cancel()
    await sleepers.crash()
    await S.let_go()
    with pytest.raises(WorkflowCancelled):
        await S.is_slow_to_end.result()
    assert await S.lines() == ["ending", "ended"]


async def test_what_is_shielded_goes_on_across_a_crash(sleepers: LocalCluster) -> None:
    await S.shields_an_activity.start()
    await S.shields_an_activity.cancel()
    await becomes(S.lines, ["cancelled"])
    await sleepers.crash()
    await S.let_go()
    with pytest.raises(WorkflowCancelled):
        await S.shields_an_activity.result()
    assert await S.lines() == ["cancelled", "transferred 8"]


async def test_a_run_may_decline_and_each_request_counts_once(sleepers: LocalCluster, store: FaultyStore) -> None:
    await S.goes_on.start()
    await S.goes_on.cancel()
    await becomes(S.lines, ["no"])
    store.faults.append(Fault.AFTER)
    await S.goes_on.cancel()
    assert await S.goes_on.result() == "went on"
    assert await S.lines() == ["no", "no"]


async def test_an_error_in_the_clean_up_is_the_outcome(sleepers: LocalCluster) -> None:
    await S.fails_in_cleanup.start()
    await S.fails_in_cleanup.cancel()
    with pytest.raises(Exception, match="in clean-up") as failed:
        await S.fails_in_cleanup.result()
    assert not isinstance(failed.value, WorkflowCancelled)


async def test_cancelling_before_anything_has_run(sleepers: LocalCluster, store: FaultyStore) -> None:
    """Start and cancel in one group commit."""
    await asyncio.gather(S.waits.start("timer"), S.waits.cancel())
    await cancelled(store, "timer")
