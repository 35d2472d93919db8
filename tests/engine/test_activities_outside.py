"""Activities that are completed from outside, by their token (P1, P7): exactly once, within limits, across restarts."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from perdure.entities import (
    ApplicationError,
    InvalidArguments,
    NoSuchOperation,
    OperationSettled,
    WorkflowFailed,
    complete_activity,
    fail_activity,
    heartbeat_activity,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.ids import EntityId
from perdure.entities.messages import OperationAddress
from perdure.entities.testing import LocalCluster
from perdure.entities.tokens import make_token, read_token

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


async def waiting(store: FaultyStore) -> str:
    """The token, once it is durable that the operation waits."""
    await eventually(lambda: "outside" in statuses(store))
    return outside.tokens[-1]


def statuses(store: FaultyStore) -> list[str]:
    return [row.status for stored in store._entities.values() for row in stored.attempts.values()]


def in_flight(store: FaultyStore) -> bool:
    return any(run.in_flight for stored in store._entities.values() for run in stored.runs.values())


async def test_a_value_from_outside_is_the_result_once(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.outside.start(5)
    token = await waiting(store)
    assert not in_flight(store), "it costs nothing while it waits"
    (operation,) = (await J.outside.operations()).operations
    assert (operation.status, operation.name, operation.attempts, operation.token) == (
        "outside",
        "asks_outside",
        1,
        token,
    )
    with pytest.raises(InvalidArguments, match="does not fit the result of activity asks_outside"):
        await complete_activity(token, "five")
    await complete_activity(token, 50)
    assert await J.outside.result() == 50
    with pytest.raises(OperationSettled):
        await complete_activity(token, 51)
    assert await J.lines() == ["got 50"]
    assert world.ran["asks outside"] == 1
    await jobs.drained()
    assert store.attempt_rows() == []


async def test_it_is_not_executed_again_after_a_crash(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.outside.start(5)
    token = await waiting(store)
    for _ in range(3):
        await jobs.crash()
        assert (await J.outside.operations()).operations[0].status == "outside"
    await complete_activity(token, 7)
    assert await J.outside.result() == 7
    assert world.ran["asks outside"] == 1


async def test_a_value_may_come_before_the_activity_has_ended(jobs: LocalCluster) -> None:
    await J.waiting.start("x")
    await eventually(lambda: world.ran["waits"] == 1)
    (operation,) = (await J.waiting.operations()).operations
    assert operation.status == "running"
    await complete_activity(operation.token, "early")
    assert await J.waiting.result() == "x early"


async def test_of_many_completions_at_once_one_counts(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.outside.start(5)
    token = await waiting(store)
    outcomes = await asyncio.gather(*(complete_activity(token, n) for n in range(20)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, OperationSettled) for outcome in outcomes) == 19
    assert await J.outside.result() == outcomes.index(None)


async def test_a_failure_from_outside_goes_through_the_policy(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.outside.start(5)
    await fail_activity(await waiting(store), "come again")
    await eventually(lambda: world.ran["asks outside"] == 2)
    token = await waiting(store)
    assert token == outside.tokens[0], "the same in every attempt"
    await eventually(lambda: statuses(store) == ["outside"])
    await fail_activity(token, ApplicationError("no more", non_retryable=True))
    with pytest.raises(WorkflowFailed, match="no more"):
        await J.outside.result()
    with pytest.raises(OperationSettled):
        await heartbeat_activity(token)


async def test_its_time_limit_holds_while_it_sleeps_and_the_policy_decides(
    jobs: LocalCluster, store: FaultyStore
) -> None:
    with pytest.raises(WorkflowFailed, match=r"attempt 2 of activity asks_outside.*took longer than 0\.03 s"):
        await J.outside_briefly(5)
    assert world.ran["asks outside"] == 2
    assert store.reminder_rows() == []
    assert store.attempt_rows() == []


async def test_its_time_limit_survives_a_crash(jobs: LocalCluster, store: FaultyStore) -> None:
    run = asyncio.create_task(J.outside_briefly(5))
    await waiting(store)
    await jobs.crash()
    with pytest.raises(WorkflowFailed, match="took longer"):
        await run
    assert world.ran["asks outside"] == 2


async def test_heartbeats_from_outside_keep_it_alive(jobs: LocalCluster, store: FaultyStore) -> None:
    await J.outside_lively.start(5)
    token = await waiting(store)
    for number in range(6):
        await asyncio.sleep(0.04)
        await heartbeat_activity(token, {"done": number})
    assert (await J.outside_lively.operations()).operations[0].heartbeat == {"done": 5}
    with pytest.raises(WorkflowFailed, match=r"sent no heartbeat for 0\.2 s"):
        await J.outside_lively.result()
    assert world.ran["asks outside"] == 1
    assert not [row for row in store.history("Job/j") if b"heartbeat" in row.args], "a heartbeat is no turn"


async def test_tokens_of_nothing_are_refused(jobs: LocalCluster, store: FaultyStore) -> None:
    for token in ("", "x", "é", "AAAA", "x" * 5_000):
        with pytest.raises(NoSuchOperation):
            await complete_activity(token, 1)
    await J.outside.start(5)
    entity, address = read_token(await waiting(store))
    with pytest.raises(NoSuchOperation, match="never been asked for"):
        await complete_activity(make_token(entity, str(address._replace(number=9))), 1)
    with pytest.raises(OperationSettled, match="nothing waits"):
        await complete_activity(make_token(entity, str(address._replace(run_id="0" * 32))), 1)
    assert (await J.outside.operations()).operations[0].status == "outside"


def test_a_token_holds_the_address_and_nothing_readable_by_chance() -> None:
    entity, address = EntityId("Job", "a/b c"), OperationAddress("run", "r" * 32, 3)
    token = make_token(entity, str(address))
    assert read_token(token) == (entity, address)
    assert token.isascii()
    assert token.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.BEFORE, Fault.AFTER])
async def test_every_crash_point_leads_to_the_same_end(fault: Fault) -> None:
    async def once(at: int | None) -> int:
        outside.__dict__.update(Outside().__dict__)
        store = FaultyStore()
        store.pick = lambda number, _: fault if number == at else Fault.NONE
        async with LocalCluster([Job], store=store) as cluster:
            crasher = Crasher(cluster, store)
            await J.outside.options(idempotency_key="start").start(5)
            token = await waiting(store)
            await complete_activity(token, 50)  # if the answer is lost with the host, the repeat finds the outcome
            assert await J.outside.result() == 50
            await crasher.settle()
            await cluster.drained()
            assert await J.lines() == ["got 50"]
        assert store.attempt_rows() == []
        assert store.reminder_rows() == []
        return len(store.commits)

    commits = await once(None)
    assert commits >= 3
    for at in range(commits):
        await once(at)
