"""Attempts of activities (P7, P9): heartbeats, chosen delays, threads that hang, limits of a host, large results."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from perdure.entities import DefinitionError, InvalidArguments, NotInWorkflow, WorkflowFailed, activity, heartbeat
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.heartbeat import DETAILS_BYTES_MAX, dump_details
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .chores import Job, Outside, outside
from .faults import Fault, FaultyStore
from .scenes import world
from .waiting import becomes, eventually

J = Job.ref("j")


@pytest.fixture(params=["kept", "evicted"])
async def jobs(request: pytest.FixtureRequest, store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    outside.__dict__.update(Outside().__dict__)
    settings = EngineSettings(evict_after_every_turn=request.param == "evicted", heartbeat_note_s=0.01)
    async with LocalCluster([Job], store=store, settings=settings) as cluster:
        yield cluster


# --- Heartbeats ------------------------------------------------------------------------------------------------------


async def test_silence_ends_the_attempt_and_the_next_one_gets_the_details(
    jobs: LocalCluster, store: FaultyStore
) -> None:
    assert await J.silent(3) == 3
    assert world.ran["falls silent"] == 2
    assert outside.details == [None, {"done": 3}]
    await jobs.drained()
    assert store.attempt_rows() == []


async def test_heartbeats_keep_an_attempt_alive_in_a_thread(jobs: LocalCluster) -> None:
    assert await J.thread_beats(15) == 15
    assert world.ran["thread beats"] == 1, "300 ms of work under a limit of 200 ms of silence"


async def test_an_attempt_goes_on_where_the_last_one_failed(jobs: LocalCluster) -> None:
    assert await J.counting(5) == 5
    assert outside.details == [0, 2]
    assert world.ran["counted"] == 5


async def test_details_survive_a_crash_of_the_host(jobs: LocalCluster, store: FaultyStore) -> None:
    run = asyncio.create_task(J.beats_and_waits())
    await becomes(lambda: is_noted(store, b'"here"'), wanted=True)
    await jobs.crash()
    await eventually(lambda: world.ran["beats then waits"] == 2)
    world.gate.set()
    assert await run == "through"
    assert outside.details == [None, "here"]
    await jobs.drained()
    assert store.attempt_rows() == []


async def test_heartbeats_are_noted_seldom(store: FaultyStore) -> None:
    outside.__dict__.update(Outside().__dict__)
    async with LocalCluster([Job], store=store) as cluster:
        began = time.monotonic()
        assert await J.thread_beats(20) == 20
        await cluster.drained()
        noted = sum(len(batch.attempts) for batch in store.commits)
        assert noted <= 2 + time.monotonic() - began, "one a second, and there were 20 in 0.4 s"


async def is_noted(store: FaultyStore, details: bytes) -> bool:
    return any(details in row.details for loaded in await store.load(list(store._entities)) for row in loaded.attempts)


def test_heartbeat_outside_an_activity_is_refused() -> None:
    with pytest.raises(NotInWorkflow):
        heartbeat()


@pytest.mark.parametrize("details", [object(), "a\x00b", "\ud800", "x" * (DETAILS_BYTES_MAX + 1)])
def test_details_that_cannot_be_stored_are_refused(details: object) -> None:
    with (
        pytest.raises(InvalidArguments)
        if not isinstance(details, str) or len(details) < 9
        else pytest.raises(Exception, match="limit is 65536")
    ):
        dump_details(details)


# --- Retries ---------------------------------------------------------------------------------------------------------


async def test_the_raised_error_chooses_the_delay(jobs: LocalCluster) -> None:
    async with asyncio.timeout(30):
        assert await J.soon() == 3, "the policy would have waited for hours"


async def test_a_non_retryable_error_fails_at_once_even_where_exhaustion_would_pause(jobs: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="never"):
        await J.forbids()
    assert world.ran["forbidden"] == 1


# --- Threads that cannot be stopped ----------------------------------------------------------------------------------


async def test_a_thread_out_of_time_is_left_behind_and_learns_of_it(jobs: LocalCluster) -> None:
    assert await J.hanging_thread() == "second"
    assert world.ran["thread hangs"] == 2
    assert await asyncio.to_thread(outside.noticed.wait, 5), "its heartbeat raised CancelledError"


async def test_cancellation_reaches_a_thread(jobs: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed) as caught:
        await J.waiting_thread()
    assert caught.value.error_type == "TimeoutError"
    assert await asyncio.to_thread(outside.noticed.wait, 5)
    assert world.ran["thread waits"] == 1


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("exit", "3"),
        ("interrupt", "KeyboardInterrupt"),
        ("strange", "Strange 7 odd"),
        ("stop", ""),
        ("many", "many (2 sub-exceptions)"),
        ("nul", "a\N{REPLACEMENT CHARACTER}b ?"),
    ],
)
async def test_whatever_a_thread_raises_is_its_outcome_and_harms_nobody(
    jobs: LocalCluster, what: str, seen: str
) -> None:
    assert await J.sees.options(timeout=30)(what) == seen
    assert await Job.ref("other").thread_beats(1) == 1, "threads and loop go on"


# --- Limits of a host ------------------------------------------------------------------------------------------------


async def test_no_more_than_max_concurrent_at_once(jobs: LocalCluster) -> None:
    await J.crowd(8)
    assert outside.most_together == 2


async def test_waiting_for_a_slot_is_not_part_of_the_attempt(jobs: LocalCluster) -> None:
    await J.queue(5)
    assert world.ran["one at once"] == 5, "the last one waited 240 ms, its limit is 200"


async def test_a_rate_spaces_attempts(jobs: LocalCluster) -> None:
    await J.parade(6)
    gaps = [later - earlier for earlier, later in zip(outside.started, outside.started[1:], strict=False)]
    assert len(gaps) == 5
    assert outside.started[-1] - outside.started[0] >= 0.045, gaps


@pytest.mark.parametrize(
    "options",
    [
        {"rate": "fast"},
        {"rate": "0/s"},
        {"rate": "5/y"},
        {"max_concurrent": 0},
        {"heartbeat_timeout": timedelta(0)},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    async def nothing() -> None: ...

    with pytest.raises(DefinitionError):
        activity(**options)(nothing)  # type: ignore[call-overload]


# --- Large results ---------------------------------------------------------------------------------------------------


async def test_a_result_of_a_megabyte_travels_and_one_beyond_the_limit_names_activity_and_sizes(
    jobs: LocalCluster,
) -> None:
    assert await J.bulk(1_000_000) == 1_000_000
    with pytest.raises(WorkflowFailed, match=r"large.*3000002.*2097152"):
        await Job.ref("big").bulk(3_000_000)


async def test_a_result_that_cannot_be_stored_is_not_tried_again(jobs: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="too_large"):
        await J.bulk_retried.options(timeout=30)()
    assert world.ran["too large"] == 1


async def test_an_error_that_cannot_be_stored_does_not_hold_up_its_host(store: FaultyStore) -> None:
    """As Postgres does it: the note is refused for good, and must not come again with every commit."""
    outside.__dict__.update(Outside().__dict__)
    world.failures = 1
    refused: list[int] = []

    def pick(number: int, batch: Batch) -> Fault:
        if batch.attempts and not refused:
            refused.append(number)
            return Fault.NOT_STORABLE_NOTES
        return Fault.NONE

    store.pick = pick
    async with LocalCluster([Job], store=store) as cluster:
        await J.backing_off.start("x")
        await eventually(lambda: refused)
        assert await Job.ref("other").say("goes on") == 1
        await cluster.drained()
        assert sum(len(batch.attempts) for batch in store.commits) == 1


def test_a_policy_for_exhaustion_is_one_of_two() -> None:
    from perdure.entities import RetryPolicy

    with pytest.raises(DefinitionError, match="on_exhausted"):
        RetryPolicy(on_exhausted="sulk")  # type: ignore[arg-type]
    assert json.loads(dump_details({"a": 1})) == {"a": 1}
