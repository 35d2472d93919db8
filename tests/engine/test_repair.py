"""Repair of runs and operations by people (P9): exactly once, recorded, and nothing lost (P1, P7)."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from perdure.entities import (
    AlreadyStarted,
    ApplicationError,
    Conflict,
    InvalidArguments,
    NoSuchOperation,
    NoSuchRun,
    OperationSettled,
    RunEnded,
    RunParked,
    UnknownHandler,
    WorkflowFailed,
    WorkflowTerminated,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .chores import Job, Outside, outside
from .faults import Crasher, Fault, FaultyStore
from .scenes import world
from .waiting import eventually

J = Job.ref("j")


@pytest.fixture(params=["kept", "evicted"])
async def jobs(request: pytest.FixtureRequest, store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    outside.__dict__.update(Outside().__dict__)
    settings = EngineSettings(evict_after_every_turn=request.param == "evicted")
    async with LocalCluster([Job], store=store, settings=settings) as cluster:
        yield cluster


def statuses(store: FaultyStore) -> list[str]:
    return [row.status for stored in store._entities.values() for row in stored.attempts.values()]


def in_flight(store: FaultyStore) -> bool:
    return any(run.in_flight for stored in store._entities.values() for run in stored.runs.values())


# --- Operations ------------------------------------------------------------------------------------------------------


async def test_an_exhausted_activity_waits_for_a_person_who_retries_it(jobs: LocalCluster, store: FaultyStore) -> None:
    world.failures = 5
    await J.transfer.start(10)
    await eventually(lambda: statuses(store) == ["paused"])
    assert world.ran["deposit"] == 2
    (operation,) = (await J.transfer.operations()).operations
    for _ in range(2):
        await jobs.crash()
        assert not in_flight(store), "nobody has to take it up"
        (operation,) = (await J.transfer.operations()).operations
        assert (operation.status, operation.name, operation.attempts) == ("paused", "deposit", 2)
        assert operation.last_error is not None
        assert operation.last_error.message == "deposit: not now"
    assert world.ran["deposit"] == 2, "no restart executes it"
    await J.transfer.retry(operation.number, reason="account unlocked", operator="ann")
    await eventually(lambda: world.ran["deposit"] == 4 and statuses(store) == ["paused"])  # a whole new round
    await J.transfer.retry(operation.number)
    assert await J.transfer.result() == "done"
    assert await J.lines() == ["withdrew 10", "deposited 10"]
    assert (world.ran["withdraw"], world.ran["deposit"]) == (1, 6)
    await jobs.drained()
    assert store.attempt_rows() == []


async def test_a_person_can_complete_or_fail_what_is_paused(jobs: LocalCluster, store: FaultyStore) -> None:
    world.failures = 2
    await J.transfer.start(10)
    await eventually(lambda: statuses(store) == ["paused"])
    with pytest.raises(InvalidArguments, match="does not fit the result of activity deposit"):
        await J.transfer.complete(1, 5)
    await J.transfer.complete(1, "by hand", reason="paid in cash", operator="ann")
    assert await J.transfer.result() == "done"
    assert await J.lines() == ["withdrew 10", "by hand"]
    acts = [json.loads(row.args) for row in store.history("Job/j") if row.kind == "operate"]
    assert [(act["action"], act["operator"], act["reason"]) for act in acts] == [("complete", "ann", "paid in cash")]

    other = Job.ref("k")
    world.failures = 2
    await other.transfer.start(10)
    await eventually(lambda: statuses(store) == ["paused"])
    await other.transfer.fail(1, ApplicationError("account closed"), operator="bob")
    with pytest.raises(WorkflowFailed, match="account closed"):
        await other.transfer.result()
    assert store.attempt_rows() == []


async def test_retry_now_cuts_a_back_off_short(jobs: LocalCluster, store: FaultyStore) -> None:
    world.failures = 1
    await J.backing_off.start("x")
    await eventually(lambda: statuses(store) == ["retrying"])
    (operation,) = (await J.backing_off.operations()).operations
    assert operation.status == "retrying"
    assert operation.next_at is not None
    await J.backing_off.retry(operation.number)
    assert await J.backing_off.result() == "x"
    assert world.ran["backs off"] == 2


async def test_completing_an_activity_that_is_executed_cancels_the_attempt(jobs: LocalCluster) -> None:
    await J.waiting.start("t")
    await eventually(lambda: world.ran["waits"] == 1)
    with pytest.raises(Conflict, match="being executed"):
        await J.waiting.retry(0)
    await J.waiting.complete(0, "by hand")
    assert await J.waiting.result() == "t by hand"
    await eventually(lambda: not any(engine.attempts.running for engine in jobs.engines))


async def test_what_cannot_be_applied_is_refused_with_a_definite_error(jobs: LocalCluster) -> None:
    with pytest.raises(NoSuchRun):
        await J.waiting.complete(0, "x")
    with pytest.raises(NoSuchRun):
        await J.waiting.operations()
    await J.sleeping.start()
    with pytest.raises(InvalidArguments, match="is a timer"):
        await J.sleeping.complete(0, "x")
    with pytest.raises(NoSuchOperation, match="never been asked for"):
        await J.sleeping.retry(7)
    with pytest.raises(InvalidArguments, match="cannot be written"):
        await J.sleeping.complete(0, object())
    await J.sleeping.terminate("enough")
    for attempt in (J.sleeping.retry(0), J.sleeping.fail(0, "x"), J.sleeping.complete(0)):
        with pytest.raises(OperationSettled):
            await attempt
    for attempt in (J.sleeping.pause(), J.sleeping.resume()):
        with pytest.raises(RunEnded):
            await attempt
    view = await J.sleeping.operations()
    assert (view.status, view.operations) == ("terminated", [])
    assert view.error is not None
    assert "enough" in view.error.message


async def test_an_action_on_a_workflow_that_is_not_there_is_refused(jobs: LocalCluster) -> None:
    from perdure.entities.calls import Target
    from perdure.entities.ids import EntityId
    from perdure.entities.operate import Act, Action, operate

    with pytest.raises(UnknownHandler):
        await operate(Target(Job, EntityId("Job", "j")), "nothing", Act(Action.PAUSE))
    with pytest.raises(InvalidArguments, match="number of an operation"):
        await operate(Target(Job, EntityId("Job", "j")), "waiting", Act(Action.RETRY))


# --- Pausing a run ---------------------------------------------------------------------------------------------------


async def test_a_paused_run_executes_nothing_and_loses_nothing(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.everything.start()
    await eventually(lambda: world.ran["waits"] == 1)
    await J.everything.pause(reason="looking into it", operator="ann")
    await J.everything.pause(reason="looking into it", operator="ann")
    world.gate.set()
    await J.words.send("hello")
    await J.open()
    await eventually(lambda: not store.reminder_rows())  # the timer has fired
    await eventually(lambda: held(store) == 2)
    assert await J.say("handlers go on") == 1
    assert await J.lines() == ["handlers go on"]
    view = await J.everything.operations()
    for _ in range(2):
        await jobs.crash()
        view = await J.everything.operations()
        assert view.paused == "ann: looking into it"
        assert {op.kind: op.status for op in view.operations} == {
            "activity": "held",
            "timer": "held",
            "receive": "waiting",
            "condition": "waiting",
        }
        assert not in_flight(store)
    with pytest.raises(OperationSettled, match="takes it when it is resumed"):
        await J.everything.complete(next(op.number for op in view.operations if op.kind == "activity"), "again")
    await J.everything.resume(operator="ann")
    assert await J.everything.result() == ["waited", "slept", "hello", "opened"]
    assert world.ran["waits"] == 1
    assert held(store) == 0
    await jobs.crash()
    assert await J.everything.result() == ["waited", "slept", "hello", "opened"]


def held(store: FaultyStore) -> int:
    return sum(len(stored.items) for stored in store._entities.values()) - sum(
        item.mailbox == "words" for stored in store._entities.values() for item in stored.items.values()
    )


async def test_retries_wait_for_the_resumption(jobs: LocalCluster, store: FaultyStore) -> None:
    world.failures = 1
    await J.backing_off.start("x")
    await eventually(lambda: statuses(store) == ["retrying"])
    await J.backing_off.pause()
    await J.backing_off.retry(0)
    await jobs.drained()
    assert world.ran["backs off"] == 1, "also a retry by hand waits"
    await jobs.crash()
    await J.backing_off.resume()
    assert await J.backing_off.result() == "x"
    assert world.ran["backs off"] == 2


async def test_a_paused_run_can_be_terminated_and_leaves_nothing(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.everything.start()
    await eventually(lambda: world.ran["waits"] == 1)
    await J.everything.pause()
    world.gate.set()
    await eventually(lambda: held(store) >= 1)
    await J.everything.terminate("enough")
    with pytest.raises(WorkflowTerminated):
        await J.everything.result()
    await jobs.drained()
    assert held(store) == 0
    assert store.attempt_rows() == []


async def test_cancelling_a_paused_run_takes_effect_when_it_is_resumed(jobs: LocalCluster) -> None:
    await J.sleeping.start()
    await J.sleeping.pause()
    await J.sleeping.cancel()
    assert (await J.sleeping.operations()).status == "running"
    await J.sleeping.resume()
    with pytest.raises(WorkflowFailed) as caught:
        await J.sleeping.result()
    assert caught.value.code == "workflow_cancelled"


@pytest.mark.parametrize("action", ["cancel", "terminate"])
async def test_a_run_that_is_asleep_on_no_host_can_be_ended(jobs: LocalCluster, action: str) -> None:
    await J.sleeping.start()
    await jobs.crash()
    assert not any(engine.active for engine in jobs.engines)
    await getattr(J.sleeping, action)()
    with pytest.raises(WorkflowFailed) as caught:
        await J.sleeping.result()
    assert caught.value.code == {"cancel": "workflow_cancelled", "terminate": "workflow_terminated"}[action]


async def test_a_parked_run_that_was_paused_stays_paused_and_resumes_when_its_code_fits(store: FaultyStore) -> None:
    async with LocalCluster([Job], store=store):
        await J.waiting.start("a")
        await eventually(lambda: world.ran["waits"] == 1)
        await J.waiting.pause(reason="audit")
        world.gate.set()
        await eventually(lambda: held(store) == 1)

    class Changed(Job, name="Job"):
        @workflow
        async def waiting(self, tag: str) -> str:
            await asyncio.sleep(1)
            return tag

    async with LocalCluster([Changed], store=store):
        view = await Changed.ref("j").waiting.operations()
        assert (view.status, view.paused) == ("parked", "audit")
        with pytest.raises(RunParked):
            await Changed.ref("j").waiting.complete(0, "x")
        await Changed.ref("j").waiting.resume()
        assert (await Changed.ref("j").waiting.operations()).status == "parked", "the code has not changed"
    async with LocalCluster([Job], store=store):
        view = await J.waiting.operations()
        assert (view.status, view.paused, view.operations[0].status) == ("running", "audit", "held")
        await J.waiting.resume()
        assert await J.waiting.result() == "a waited"
    assert world.ran["waits"] == 1


# --- New runs --------------------------------------------------------------------------------------------------------


@pytest.mark.unfit("lease", reason="whoever has to ask again asks for the latest run")
async def test_restarting_a_live_run_is_one_step(jobs: LocalCluster, store: FaultyStore) -> None:
    first = await J.waiting.start("a")
    await eventually(lambda: world.ran["waits"] == 1)
    with pytest.raises(AlreadyStarted):
        await J.waiting.options(restart=True).start("b")
    waiter = asyncio.create_task(J.waiting.result())
    await asyncio.sleep(0.01)
    second = await J.waiting.restart("b")
    assert second != first
    with pytest.raises(WorkflowTerminated, match=f"restarted as {second}"):
        await waiter
    world.gate.set()
    assert await J.waiting.result() == "b waited"
    third = await J.waiting.rerun(reason="once more", operator="ann")
    assert third not in (first, second)
    await eventually(lambda: world.ran["waits"] == 3)
    assert await J.waiting.result() == "b waited"
    assert await J.lines() == ["b waited", "b waited"]
    assert store.attempt_rows() == []


async def test_a_failed_run_goes_on_from_a_chosen_operation(jobs: LocalCluster, store: FaultyStore) -> None:
    world.failures = 2
    with pytest.raises(WorkflowFailed, match="fragile: not now"):
        await J.fragile_transfer(10)
    old = (await J.fragile_transfer.operations()).run_id
    with pytest.raises(NoSuchOperation, match="'nothing'"):
        await J.fragile_transfer.rerun(from_operation="nothing")
    new = await J.fragile_transfer.rerun(from_operation="fragile", reason="the bank is up", operator="ann")
    assert new != old
    assert await J.fragile_transfer.result() == ["withdrew 10", "fragile 10", "True"]
    assert (world.ran["withdraw"], world.ran["fragile"]) == (1, 3)
    assert await J.lines() == ["withdrew 10", "fragile 10"]
    await jobs.crash()
    assert await J.fragile_transfer.result() == ["withdrew 10", "fragile 10", "True"]


async def test_a_rerun_survives_a_crash_before_its_end(jobs: LocalCluster, store: FaultyStore) -> None:
    world.failures = 4
    with pytest.raises(WorkflowFailed):
        await J.fragile_transfer(10)
    await J.fragile_transfer.rerun(from_operation=1)
    with pytest.raises(WorkflowFailed):
        await J.fragile_transfer.result()
    await jobs.crash()
    await J.fragile_transfer.rerun(from_operation=1)
    await jobs.crash()
    assert await J.fragile_transfer.result() == ["withdrew 10", "fragile 10", "True"]
    assert world.ran["withdraw"] == 1


async def test_state_that_others_have_changed_is_not_put_back(jobs: LocalCluster) -> None:
    world.failures = 2
    with pytest.raises(WorkflowFailed):
        await J.fragile_transfer(10)
    await J.say("meanwhile")
    with pytest.raises(Conflict, match="keep_state"):
        await J.fragile_transfer.rerun(from_operation="fragile")
    assert await J.lines() == ["withdrew 10", "meanwhile"]
    await J.fragile_transfer.rerun(from_operation="fragile", keep_state=True)
    assert await J.fragile_transfer.result() == ["withdrew 10", "fragile 10", "True"]
    assert await J.lines() == ["withdrew 10", "meanwhile", "fragile 10"]


async def test_a_live_run_is_not_run_again_from_the_middle(jobs: LocalCluster) -> None:
    await J.waiting.start("a")
    with pytest.raises(Conflict, match="only an ended run"):
        await J.waiting.rerun(from_operation=0)
    assert (await J.waiting.operations()).status == "running"


# --- Crashes ---------------------------------------------------------------------------------------------------------


async def repaired(store: FaultyStore, at: int | None, fault: Fault) -> dict[str, object]:
    """Pause, retry, resume, complete, rerun: the same end wherever the host dies."""
    world.reset()
    world.failures = 1_000_000  # a crash may lose the note of an attempt
    store.pick = lambda number, _: fault if number == at else Fault.NONE
    async with LocalCluster([Job], store=store) as cluster:
        crasher = Crasher(cluster, store)
        await J.transfer.start(10)
        await eventually(lambda: statuses(store) == ["paused"])
        world.failures = 0
        await J.transfer.pause(reason="audit")
        await J.transfer.complete(1, "by hand")
        assert (await J.transfer.operations()).paused == "audit"
        await J.transfer.resume()
        assert await J.transfer.result() == "done"
        await J.transfer.restart(20)
        assert await J.transfer.result() == "done"
        await crasher.settle()
        await cluster.drained()
        lines = await J.lines()
    assert store.attempt_rows() == []
    assert held(store) == 0
    acts = [json.loads(row.args)["action"] for row in store.history("Job/j") if row.kind == "operate" and row.ok]
    return {"lines": lines, "acts": acts, "status": [r.status for r in store._entities[("Job", "j")].runs.values()]}  # type: ignore[index]


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.BEFORE, Fault.AFTER])
async def test_every_crash_point_of_a_repair_leads_to_the_same_end(fault: Fault) -> None:
    store = FaultyStore()
    undisturbed = await repaired(store, None, fault)
    assert undisturbed["lines"] == ["withdrew 10", "by hand", "withdrew 20", "deposited 20"]
    for at in range(len(store.commits)):
        again = FaultyStore()
        try:
            assert await repaired(again, at, fault) == undisturbed
        except Exception as error:
            raise AssertionError(f"{fault.value} at commit {at}: {error!r}") from error
