"""Workflows: plain asyncio that is durable. Every case runs undisturbed, and evicted after every turn."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from perdure.entities import (
    AlreadyStarted,
    ApplicationError,
    CallTimeout,
    InvalidArguments,
    NoSuchRun,
    RunEnded,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore
from .programs import Flow
from .scenes import Account, world
from .waiting import becomes, eventually

F = Flow.ref("f")


@pytest.fixture(params=["kept", "evicted"])
async def flows(request: pytest.FixtureRequest, store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    settings = EngineSettings(handler_grace_s=0.05, evict_after_every_turn=request.param == "evicted")
    async with LocalCluster([Flow, Account], store=store, settings=settings) as cluster:
        yield cluster


# --- Activities ------------------------------------------------------------------------------------------------------


async def test_an_activity_is_executed_and_its_result_arrives(flows: LocalCluster, store: FaultyStore) -> None:
    assert await F.pays(5) == "receipt 5"
    assert await F.lines() == ["paying", "receipt 5"]
    assert world.ran["charge 5"] == 1


async def test_a_failing_activity_is_retried_and_the_notes_about_it_go(flows: LocalCluster, store: FaultyStore) -> None:
    world.failures = 3
    assert await F.tries("x") == "x"
    assert world.ran["activity x"] == 4
    await flows.drained()
    assert store.attempt_rows() == []


async def test_a_users_exception_class_arrives_at_the_await(flows: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="card declined") as caught:
        await F.pays_strictly(13)
    assert caught.value.error_type == "ApplicationError"
    assert await F.lines() == ["programs: card 13 declined"]
    assert world.ran["charge 13"] == 1


async def test_sync_activities_run_in_threads(flows: LocalCluster) -> None:
    assert await F.threads(8) == [0, 2, 4, 6, 8, 10, 12, 14]


async def test_an_activity_that_raises_stop_iteration_fails(flows: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="StopIteration"):
        await F.stop_iteration.options(timeout=3)()


async def test_an_attempt_has_a_time_limit(flows: LocalCluster) -> None:
    assert await F.waits_for_a_hanging_one() == (
        "ActivityTimeout: Flow/f: attempt 2 of activity hangs took longer than 0.02 s"
    )
    assert world.ran["hangs"] == 2


async def test_all_attempts_together_have_a_time_limit(flows: LocalCluster) -> None:
    text = await F.runs_out_of_time()
    assert text.startswith("ActivityTimeout: Flow/f: activity never_works did not succeed within 0:00:00.03")
    assert text.endswith("last error: not today")
    assert world.ran["never works"] > 1


async def test_a_result_that_does_not_fit_is_a_failure(flows: LocalCluster) -> None:
    assert await F.gets_nonsense() == "ResultNotSerialisable"


async def test_the_idempotency_key_is_the_same_in_every_attempt(flows: LocalCluster) -> None:
    entity, attempt, key = await F.asks_who()
    assert (entity, attempt) == ("Flow/f", "3")
    assert world.ran[f"key {key}"] == 3
    assert await Flow.ref("g").asks_who() != [entity, attempt, key]


async def test_an_activity_survives_a_crash_with_its_key(flows: LocalCluster) -> None:
    start = asyncio.create_task(F.holds("x"))
    await eventually(lambda: world.ran["slow x"] == 1)
    await flows.crash()
    await eventually(lambda: world.ran["slow x"] == 2)
    world.gate.set()
    assert await start == "x"
    await flows.crash()
    assert await F.holds.result() == "x"
    assert world.ran["slow x"] == 2, "never again once its result is committed"


# --- Plain asyncio ---------------------------------------------------------------------------------------------------


async def test_sleep_is_durable_and_not_too_short(flows: LocalCluster) -> None:
    assert await F.sleeps(0.02) == "in time"


async def test_a_condition_waits_for_other_handlers(flows: LocalCluster) -> None:
    await F.waits_for_go.start()
    await F.say("a")
    await F.open()
    await F.say("b")
    assert await F.waits_for_go.result() is True
    assert await F.lines() == ["a", "go True", "b"], "the run goes on right after the turn that made it true"


async def test_several_conditions_can_become_true_at_once(flows: LocalCluster) -> None:
    await F.waits_twice_for_go.start()
    await F.set_level(200)
    await F.open()
    assert await F.waits_twice_for_go.result() in ([True, True, True], [True, True, False])


async def test_a_condition_that_is_true_already_does_not_wait(flows: LocalCluster) -> None:
    await F.open()
    assert await F.waits_for_go() is True


async def test_a_condition_can_time_out(flows: LocalCluster, store: FaultyStore) -> None:
    assert await F.waits_for_go(0.02) is False
    assert store.reminder_rows() == []


async def test_a_condition_in_time_withdraws_its_timer(flows: LocalCluster, store: FaultyStore) -> None:
    await F.waits_for_go.start(60.0)
    assert len(store.reminder_rows()) == 1
    await F.open()
    assert await F.waits_for_go.result() is True
    await flows.drained()
    assert store.reminder_rows() == []


async def test_a_predicate_that_raises_raises_at_its_await(flows: LocalCluster) -> None:
    assert await F.has_a_bad_predicate() == "raised integer division or modulo by zero"
    await F.bad_predicate_later.start()
    await F.set_level(3)
    assert await F.bad_predicate_later.result() == "raised three"


async def test_a_condition_survives_a_crash_right_after_it_became_true(flows: LocalCluster, store: FaultyStore) -> None:
    await F.waits_for_go.start()
    await F.say("here")
    await F.open()
    await flows.crash()
    assert await F.waits_for_go.result() is True


async def test_gather_with_exceptions(flows: LocalCluster) -> None:
    assert await F.gathers() == ["receipt 1", "card 13 declined", "x", "None"]


async def test_task_groups(flows: LocalCluster) -> None:
    assert await F.groups() == ["receipt 0", "receipt 1", "receipt 2"]
    assert await F.group_fails() == "done"
    assert await F.lines() == ["sibling cancelled", "card 13 declined"]


async def test_sets_of_tasks_have_a_repeatable_order(flows: LocalCluster) -> None:
    await F.group_cleans_up.start()
    await F.goes_through_a_set.start()
    await eventually(lambda: world.ran["charge 119"] and world.ran["charge 39"])
    for number in range(4):  # a fifth crash in a row within milliseconds would convict the run (P9)
        scattered = [object() for _ in range(number * 7)]  # other addresses in memory
        await flows.crash()
        assert await F.set_level(number) == number
        del scattered
    await F.open()
    order = await F.group_cleans_up.result()
    assert sorted(order) == ["declined", *(f"receipt {number}" for number in range(100, 120))]
    assert sorted(await F.goes_through_a_set.result()) == sorted(f"receipt {number}" for number in range(20, 40))


async def test_wait_for_cancels_the_activity(flows: LocalCluster) -> None:
    assert await F.waits_for() == "timed out"
    await eventually(lambda: not any(engine.attempts.running for engine in flows.engines))
    # On a machine that is busy enough it had not begun by then, and does not any more.
    assert world.ran["cancelled waited for"] == world.ran["slow waited for"] <= 1


@pytest.mark.parametrize(
    ("name", "result"),
    [("under_a_timeout", "timed out"), ("first_of", "quick"), ("as_they_come", ["a", "b", "receipt 1"])],
)
async def test_timeout_wait_and_as_completed(flows: LocalCluster, name: str, result: object) -> None:
    got = await getattr(F, name)()
    assert (sorted(got) if isinstance(got, list) else got) == result


async def test_queue_event_and_lock(flows: LocalCluster) -> None:
    assert await F.coordinates() == [f"receipt {number}" for number in range(5)]


async def test_time_and_chance_are_repeatable(flows: LocalCluster) -> None:
    await F.takes_chances.start()
    await eventually(lambda: True)
    for _ in range(2):
        await flows.crash()
        await F.say("still here")
    await F.open()
    result = await F.takes_chances.result()
    assert (await F.lines())[:5] == result or set(result) <= set(await F.lines())
    assert len(set(result)) == 5


# --- Mailboxes -------------------------------------------------------------------------------------------------------


async def test_items_sent_before_and_after_are_received_in_order(flows: LocalCluster) -> None:
    await F.letters.send("a")
    await F.letters.send("b")
    await F.receives.start(4)
    await F.letters.send("c")
    await F.letters.send("d")
    await F.letters.send("left over")
    assert await F.receives.result() == ["a", "b", "c", "d"]
    assert await F.receives.options(restart=True)(1) == ["left over"]


async def test_items_survive_crashes_and_come_once(flows: LocalCluster) -> None:
    await F.letters.options(idempotency_key="k").send("a")
    await flows.crash()
    await F.letters.options(idempotency_key="k").send("a")
    await F.receives.start(2)
    await flows.crash()
    await F.letters.send("b")
    assert await F.receives.result() == ["a", "b"]


async def test_two_mailboxes_at_once(flows: LocalCluster) -> None:
    await F.receives_both.start()
    await F.parcels.send(5)
    await F.letters.send("x")
    assert await F.receives_both.result() == ["x", "5"]


async def test_a_wrong_item_is_refused_at_the_sender(flows: LocalCluster) -> None:
    with pytest.raises(InvalidArguments, match="mailbox parcels"):
        await F.parcels.send("five")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- Other entities --------------------------------------------------------------------------------------------------


async def test_a_call_from_a_workflow_is_journalled(flows: LocalCluster, store: FaultyStore) -> None:
    assert await F.deposits("a", 5) == 10
    assert world.ran["deposit"] == 1
    await flows.drained()
    assert store.waiting_messages() == []


async def test_the_callees_error_arrives_at_the_await(flows: LocalCluster) -> None:
    assert await F.is_refused("a") == "HandlerFailed: Account/a.fail_after_changing raised Refused: after all"
    assert await Account.ref("a").total() == 0


async def test_a_workflow_may_call_its_own_entity(flows: LocalCluster) -> None:
    assert await F.calls_itself() == 7
    assert await F.how_high() == 7


async def test_a_workflow_can_give_up_waiting_for_a_call(flows: LocalCluster) -> None:
    assert await F.gives_up_calling("a") == "CallTimeout"
    world.gate.set()
    await becomes(Account.ref("a").notes, ["x"])


async def test_a_child_workflow_is_started_and_awaited(flows: LocalCluster) -> None:
    assert await F.parent("c", 5) == "child: receipt 5"
    assert await Flow.ref("c").pays.result() == "receipt 5"
    assert await Flow.ref("g").parent("c", 5) == "child: receipt 5", "joins the run with equal input"
    assert world.ran["charge 5"] == 1


async def test_a_childs_failure_arrives_at_the_await(flows: LocalCluster) -> None:
    assert await F.parent_of_failing("c") == "CardDeclined: Flow/c.fails failed: oops"


async def test_a_child_can_be_started_now_and_awaited_later(flows: LocalCluster) -> None:
    assert await F.starts_and_waits("c") == "receipt 2"


async def test_a_circle_of_waiting_runs_is_refused_with_the_chain_named(flows: LocalCluster) -> None:
    with pytest.raises(
        WorkflowFailed, match=r"would wait for itself: Flow/f#circle → Flow/g#circle_back → Flow/f#circle"
    ):
        await F.circle("g")


async def test_messages_and_reminders_of_a_workflow_leave_once(flows: LocalCluster, store: FaultyStore) -> None:
    await F.sends.start("a")
    await F.sends.result()
    await becomes(F.lines, ["reminded"])
    await becomes(Account.ref("a").notes, ["one", "two"])
    assert await Flow.ref("a").receives(1) == ["letter"]
    await flows.crash()
    await flows.drained()
    assert await Account.ref("a").notes() == ["one", "two"]


# --- Start and result ------------------------------------------------------------------------------------------------


async def test_starting_again_with_equal_input_is_the_same_run(flows: LocalCluster) -> None:
    run_ids = await asyncio.gather(*(F.pays.start(5) for _ in range(5)))
    assert len(set(run_ids)) == 1
    assert run_ids[0]
    assert await F.pays.result() == "receipt 5"
    assert await F.pays.start(5) == run_ids[0]
    assert await F.pays(5) == "receipt 5"
    assert world.ran["charge 5"] == 1


async def test_starting_again_with_other_input_is_refused(flows: LocalCluster) -> None:
    await F.pays(5)
    with pytest.raises(AlreadyStarted, match=r"Flow/f\.pays was started before with other arguments.*restart=True"):
        await F.pays.start(6)


async def test_restart_starts_a_new_run_once_the_last_has_ended(flows: LocalCluster) -> None:
    await F.waits_for_go.start()
    with pytest.raises(AlreadyStarted):
        await F.waits_for_go.options(restart=True).start(60.0)
    await F.open()
    await F.waits_for_go.result()
    first = await F.waits_for_go.start()
    second = await F.waits_for_go.options(restart=True).start(60.0)
    assert first != second
    assert await F.waits_for_go.result() is True


async def test_several_workflows_of_one_entity_run_side_by_side(flows: LocalCluster) -> None:
    results = await asyncio.gather(F.pays(1), F.sleeps(0.01), F.waits_for_go(0.02), F.threads(2), F.tries("x"))
    assert list(results) == ["receipt 1", "in time", False, [0, 2], "x"]


async def test_the_result_can_be_awaited_before_and_after_the_end(flows: LocalCluster) -> None:
    await F.waits_for_go.start()
    waiting = [asyncio.create_task(F.waits_for_go.result()) for _ in range(3)]
    with pytest.raises(CallTimeout):
        await F.waits_for_go.result(timeout=timedelta(milliseconds=5))
    await F.open()
    assert await asyncio.gather(*waiting) == [True] * 3
    await flows.crash()
    assert await F.waits_for_go.result() is True


async def test_waiting_for_a_result_survives_a_crash(flows: LocalCluster) -> None:
    await F.waits_for_go.start()
    waiting = asyncio.create_task(F.waits_for_go.result())
    await flows.crash()
    await F.open()
    assert await waiting is True


async def test_what_was_never_started_says_so(flows: LocalCluster) -> None:
    for call in (F.pays.result(), F.pays.cancel(), F.pays.terminate()):
        with pytest.raises(NoSuchRun, match=r"Flow/f\.pays was never started"):
            await call


async def test_wrong_start_arguments_start_nothing(flows: LocalCluster) -> None:
    with pytest.raises(InvalidArguments, match="amount"):
        await F.pays.start("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(NoSuchRun):
        await F.pays.result()


# --- Failing ---------------------------------------------------------------------------------------------------------


async def test_a_failing_run_says_why_and_keeps_what_was_committed(flows: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match=r"^Flow/f\.fails failed: oops$") as caught:
        await F.fails("oops")
    assert caught.value.error_type == "CardDeclined"
    assert isinstance(caught.value.__cause__, ApplicationError)
    assert await F.lines() == ["before"]
    await F.say("goes on")
    await flows.crash()
    with pytest.raises(WorkflowFailed, match="oops"):
        await F.fails.result()
    assert await F.lines() == ["before", "goes on"]


async def test_a_run_may_fail_at_once(flows: LocalCluster) -> None:
    await F.fails_at_once.start()
    with pytest.raises(WorkflowFailed, match="at once"):
        await F.fails_at_once.result()


async def test_a_resume_that_breaks_the_state_is_undone_with_all_it_asked_for(
    flows: LocalCluster, store: FaultyStore
) -> None:
    with pytest.raises(WorkflowFailed, match=r"level: Input should be greater than or equal to 0"):
        await F.breaks_its_state()
    await flows.drained()
    assert world.ran["broke"] == 1
    assert await F.lines() == ["before"]
    assert await F.how_high() == 0
    assert world.ran["charge 99"] == 0
    assert store.version("Account/leak") == 0
    assert store.waiting_messages() == []
    assert store.reminder_rows() == []


async def test_a_result_of_the_wrong_type_fails_the_run(flows: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="returned str"):
        await F.returns_wrong()


async def test_system_exit_fails_the_run_not_the_host(flows: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed):
        await F.exits()
    assert await F.set_level(1) == 1


@pytest.mark.parametrize(
    "what",
    ["to_thread", "run_in_executor", "open_connection", "unix", "start_server", "subprocess", "shell", "getaddrinfo"],
)
async def test_what_cannot_be_durable_is_refused_with_the_alternative(flows: LocalCluster, what: str) -> None:
    with pytest.raises(WorkflowFailed, match=r"cannot survive a crash; do it in an @activity") as caught:
        await F.uses(what)
    assert caught.value.error_type == "NotDurable"


# --- Cancelling ------------------------------------------------------------------------------------------------------

WAITS = [
    "sleep", "activity", "condition", "timed condition", "mailbox", "call", "child", "gather", "timeout", "future",
]  # fmt: skip


@pytest.mark.parametrize("where", WAITS)
async def test_a_run_can_be_cancelled_in_any_wait_and_cleans_up(
    flows: LocalCluster, store: FaultyStore, where: str
) -> None:
    await F.is_cancelled_in.start(where)
    await F.is_cancelled_in.cancel()
    with pytest.raises(WorkflowCancelled, match=r"Flow/f\.is_cancelled_in was cancelled"):
        await F.is_cancelled_in.result()
    assert await F.lines() == ["waiting", "receipt 7", "cleaned up"]
    await F.is_cancelled_in.cancel()
    world.gate.set()
    await flows.drained()
    await eventually(lambda: not store.reminder_rows())
    if where == "activity" and world.ran["slow in activity"]:
        await eventually(lambda: world.ran["cancelled in activity"])


@pytest.mark.parametrize("where", WAITS)
async def test_cancelling_survives_a_crash(flows: LocalCluster, where: str) -> None:
    await F.is_cancelled_in.start(where)
    await flows.crash()
    await F.is_cancelled_in.cancel()
    await flows.crash()
    with pytest.raises(WorkflowCancelled):
        await F.is_cancelled_in.result()
    assert await F.lines() == ["waiting", "receipt 7", "cleaned up"]
    assert world.ran["charge 7"] in (1, 2)
    world.gate.set()


async def test_cancellation_is_cooperative(flows: LocalCluster) -> None:
    await F.is_stubborn.start()
    await F.is_stubborn.cancel()
    assert await F.is_stubborn.result() == "I go on"


async def test_shield_protects_what_is_inside(flows: LocalCluster) -> None:
    await F.shields.start()
    await F.shields.cancel()
    assert await F.lines() == ["cancelled outside"]
    world.gate.set()
    with pytest.raises(WorkflowCancelled):
        await F.shields.result()
    assert await F.lines() == ["cancelled outside", "shielded"]


async def test_terminating_runs_no_more_of_its_code(flows: LocalCluster, store: FaultyStore) -> None:
    await F.has_finally.start()
    await F.has_finally.terminate("enough")
    with pytest.raises(WorkflowTerminated, match=r"Flow/f\.has_finally was terminated: enough"):
        await F.has_finally.result()
    await no_trace_of_finally(flows, store)
    with pytest.raises(RunEnded, match="has ended already"):
        await F.has_finally.terminate()


async def no_trace_of_finally(flows: LocalCluster, store: FaultyStore) -> None:
    await flows.drained()
    assert await F.lines() == ["waiting"]
    assert world.ran["charge 66"] == 0
    assert world.ran["after finally"] == 0
    assert store.version("Account/leak") == 0
    assert store.waiting_messages() == []


@pytest.mark.parametrize("name", ["has_finally", "has_a_calling_finally"])
async def test_leaving_memory_has_no_effect_whatever_the_finally_blocks_do(
    flows: LocalCluster, store: FaultyStore, name: str
) -> None:
    await getattr(F, name).start()
    await flows.crash()
    await F.set_level(3)
    await flows.crash()
    await F.set_level(4)
    await flows.drained()
    assert await F.lines() == (["waiting"] if name == "has_finally" else [])
    assert world.ran["finally"] > 0
    assert world.ran["charge 66"] == 0
    assert store.version("Account/leak") == 0
    await getattr(F, name).terminate()


# --- Aliases ---------------------------------------------------------------------------------------------------------


async def test_an_alias_keeps_its_value_if_a_handler_ran_in_between(flows: LocalCluster) -> None:
    await F.keeps_an_alias.start()
    assert await F.add_number(10) == [1, 10]
    await F.letters.send("go")
    assert await F.all_numbers() == [1, 10], "the alias is no longer the field"
    assert await F.add_number(20) == [1, 10, 20]
    await F.letters.send("go")
    assert await F.keeps_an_alias.result() == [1, 2, 3]
    assert await F.all_numbers() == [1, 10, 20]


async def test_an_alias_keeps_its_value_after_crashes_alike(flows: LocalCluster) -> None:
    await F.keeps_an_alias.start()
    await flows.crash()
    assert await F.add_number(10) == [1, 10]
    await flows.crash()
    await F.letters.send("go")
    await flows.crash()
    assert await F.all_numbers() == [1, 10]
    await F.letters.send("go")
    assert await F.keeps_an_alias.result() == [1, 2, 3]


async def test_without_a_handler_in_between_an_alias_is_the_field(flows: LocalCluster) -> None:
    await F.letters.send("go")
    await F.letters.send("go")
    assert await F.keeps_an_alias() == [1, 2, 3]
    assert await F.all_numbers() == [1, 2, 3]
