"""A run continues as new: one commit, nothing lost of what waits for it or what it waits for (P1, P2, P7, P10)."""

import asyncio
import itertools
from collections.abc import AsyncGenerator

import pytest

from perdure.entities import Entity, EntityId, Mailbox, NotInWorkflow, WorkflowCancelled, handler, query, workflow
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Crasher, Fault, FaultyStore
from .programs import charge, slow
from .scenes import Account, world
from .waiting import becomes, eventually

EVICTING = EngineSettings(handler_grace_s=0.05, mail_poll_s=0.05, evict_after_every_turn=True)


class Meter(Entity):
    """Adds readings; begins anew after every few."""

    total: int = 0
    rounds: int = 0
    readings = Mailbox(int)

    @workflow
    async def run(self, left: int, per_run: int = 3) -> int:
        self.rounds += 1
        for _ in range(min(per_run, left)):
            reading = await self.readings.receive()
            self.total += reading
        if left > per_run:
            await self.run.continue_as_new(left - per_run, per_run=per_run)
        return self.total

    @workflow
    async def leaves_things_open(self, is_second: bool = False) -> str:
        if is_second:
            return "second " + await charge(2)
        timer, activity = asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(slow("open"))
        call = asyncio.create_task(Account.ref("a").deposit(5))
        await charge(1)
        async with asyncio.TaskGroup(), asyncio.timeout(60):
            await self.leaves_things_open.continue_as_new(is_second=True)
        return f"? {timer} {activity} {call}"  # type: ignore[unreachable]

    @workflow
    async def never_waits(self, count: int) -> int:
        if count:
            await self.never_waits.continue_as_new(count - 1)
        return 7

    @workflow
    async def does_it_wrongly(self) -> list[str]:
        async def in_a_task() -> None:
            await self.does_it_wrongly.continue_as_new()

        results = await asyncio.gather(in_a_task(), self.run.continue_as_new(1), return_exceptions=True)
        return [type(result).__name__ for result in results]

    @workflow
    async def parent(self, of: str) -> int:
        return await Meter.ref(of).run(6)

    @handler
    async def tries_in_a_handler(self) -> None:
        await self.run.continue_as_new(1)

    @query
    async def seen(self) -> tuple[int, int]:
        return self.total, self.rounds


async def test_what_waits_in_a_mailbox_outlives_the_run(store: FaultyStore) -> None:
    async with LocalCluster([Meter], store=store, settings=QUICK) as cluster:
        meter = Meter.ref("m")
        for reading in range(1, 11):
            await meter.readings.send(reading)
        assert await meter.run(5, per_run=2) == 15, "continued as new twice, each time with mail waiting"
        await cluster.crash()
        assert await meter.run.options(restart=True)(4, per_run=4) == 45, (
            "begun after another had ended with mail waiting"
        )


async def test_nothing_is_lost_over_many_continuations(store: FaultyStore) -> None:
    async with LocalCluster([Meter], store=store, settings=EVICTING) as cluster:
        meter = Meter.ref("m")
        run_id = await meter.run.start(30)
        waiting = asyncio.create_task(meter.run.result(timeout=10))
        for number in range(15):
            await meter.readings.send(number)
        await cluster.crash()
        for number in range(15, 30):
            await meter.readings.send(number)
        assert await waiting == sum(range(30))
        assert await meter.seen() == (sum(range(30)), 10)
        assert await meter.run.start(30) == f"{run_id}.9", "the first input still names it"
    lengths: dict[tuple[str, str], int] = {}
    for workflow_name, run, _ in store._entities[EntityId("Meter", "m")].journal:
        lengths[workflow_name, run] = lengths.get((workflow_name, run), 0) + 1
    assert len(lengths) == 10
    assert max(lengths.values()) <= 4


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
@pytest.mark.parametrize("at", range(14))
async def test_a_crash_at_any_commit_changes_nothing(store: FaultyStore, at: int, fault: Fault) -> None:
    counter = itertools.count()
    store.pick = lambda _number, batch: fault if batch.writes and next(counter) == at else Fault.NONE
    async with LocalCluster([Meter], store=store, settings=EVICTING) as cluster:
        crasher = Crasher(cluster, store)
        await Meter.ref("m").run.start(9)
        for number in range(9):
            await Meter.ref("m").readings.send(number)
        assert await Meter.ref("m").run.result(timeout=10) == 36
        assert await Meter.ref("m").seen() == (36, 3)
        await crasher.settle()


async def test_a_parent_gets_the_last_result(store: FaultyStore) -> None:
    async with LocalCluster([Meter], store=store, hosts=2, settings=EVICTING):
        await Meter.ref("p").parent.start("child")
        for number in range(6):
            await Meter.ref("child").readings.send(number)
        assert await Meter.ref("p").parent.result(timeout=10) == 15


async def test_what_the_old_run_waited_for_is_withdrawn(store: FaultyStore) -> None:
    async with LocalCluster([Meter, Account], store=store, settings=QUICK):
        await Meter.ref("m").leaves_things_open.start()
        assert await Meter.ref("m").leaves_things_open.result(timeout=30) == "second receipt 2"
        await eventually(lambda: world.ran["cancelled open"] == world.ran["slow open"])
        await becomes(Account.ref("a").total, 5)
        await eventually(lambda: not store.waiting_messages())
    assert store.reminder_rows() == []
    assert store.attempt_rows() == []


async def test_one_that_never_waits_holds_up_nobody_and_ends(cluster_of_meters: LocalCluster) -> None:
    meter = Meter.ref("m")
    await meter.never_waits.start(2_000)
    assert await meter.seen() == (0, 0)
    assert await meter.never_waits.result(timeout=20) == 7
    del cluster_of_meters


async def test_elsewhere_it_is_refused(cluster_of_meters: LocalCluster) -> None:
    assert await Meter.ref("m").does_it_wrongly() == ["NotInWorkflow", "NotInWorkflow"]
    with pytest.raises(NotInWorkflow):
        await Meter.ref("m").run.continue_as_new(1)
    with pytest.raises(NotInWorkflow):
        await Meter(key="m").run.continue_as_new(1)
    with pytest.raises(Exception, match="continue run as new; only a @workflow"):
        await Meter.ref("m").tries_in_a_handler()
    del cluster_of_meters


async def test_a_cancellation_between_two_runs_is_not_lost(store: FaultyStore) -> None:
    async with LocalCluster([Meter], store=store, settings=QUICK):
        await Meter.ref("m").run.start(3, per_run=1)
        await Meter.ref("m").readings.send(1)
        await Meter.ref("m").run.cancel()
        with pytest.raises(WorkflowCancelled):
            await Meter.ref("m").run.result(timeout=30)


@pytest.fixture
async def cluster_of_meters(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Meter], store=store, settings=QUICK) as cluster:
        yield cluster
