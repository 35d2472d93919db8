"""Decorated functions stay ordinary functions in a unit test, and context rules say what is wrong."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.entities import (
    Entity,
    InvalidArguments,
    InvalidReminder,
    Mailbox,
    NotConnected,
    NotInWorkflow,
    activity,
    activity_info,
    cancel_reminder,
    condition,
    handler,
    now,
    query,
    random,
    remind,
    uuid4,
    workflow,
)
from perdure.entities.activity import ActivityInfo, running_as
from perdure.entities.calls import CallOptions
from perdure.entities.context import current
from perdure.entities.engine.deliveries import HandlerContext
from perdure.entities.engine.effects import OUTBOX_MAX, REMINDERS_MAX, OutboxLimit
from perdure.entities.errors import DurableAwaitInHandler, ReadOnlyViolation
from perdure.entities.ids import EntityId


@activity
async def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


@activity
def pay_by_hand(amount: int) -> str:
    return f"paid {amount} by hand"


class Order(Entity):
    status: str = "New"
    decision = Mailbox(bool)

    @handler
    async def pick_up(self) -> str:
        """Picks up."""
        self.status = "Picked up"
        return self.status

    @handler
    async def remind_me(self) -> None:
        remind(self.pick_up, after=60)

    @query
    async def state(self) -> str:
        return self.status

    @workflow
    async def run(self, amount: int) -> str:
        self.status = await pay(amount)
        await asyncio.sleep(0)
        return self.status


class Other(Entity):
    @handler
    async def pick_up(self) -> None: ...


# --- Without any machinery -------------------------------------------------------------------------------------------


async def test_methods_of_an_instance_are_plain_methods() -> None:
    order = Order(key="o-1", status="Paid")
    assert await order.pick_up() == "Picked up"
    assert await order.state() == order.status == "Picked up"
    assert await order.run(5) == "paid 5"


async def test_activities_are_plain_functions_outside_workflows() -> None:
    assert await pay(1) == "paid 1"
    assert await pay_by_hand(2) == "paid 2 by hand"
    assert await pay.options(timeout=timedelta(seconds=1))(3) == "paid 3"
    assert pay.__doc__ == "Pays."
    assert Order.pick_up.__doc__ == "Picks up."


def test_the_key_is_frozen() -> None:
    order = Order(key="o-1")
    with pytest.raises(ValueError, match="frozen"):
        order.key = "o-2"


async def test_refs_need_a_client_and_say_how_to_get_one() -> None:
    with pytest.raises(NotConnected, match=r"lifespan.*connect"):
        await Order.ref("o-1").pick_up()
    with pytest.raises(NotConnected):
        await Order.ref("o-1").pick_up.send()
    with pytest.raises(NotConnected):
        await Order.ref("o-1").run.start(1)


async def test_arguments_are_refused_before_a_client_is_needed() -> None:
    with pytest.raises(InvalidArguments, match=r"Order\.run.*amount"):
        await Order.ref("o-1").run.start("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidArguments, match="mailbox decision"):
        await Order.ref("o-1").decision.send("yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_outside_workflows_time_and_chance_are_the_ordinary_ones() -> None:
    assert abs((now() - datetime.now(UTC)).total_seconds()) < 5
    assert now().tzinfo is UTC
    assert isinstance(uuid4(), uuid.UUID)
    assert random().random() != random().random()


async def test_what_needs_a_turn_or_workflow_says_so() -> None:
    order = Order(key="o-1")
    with pytest.raises(NotInWorkflow, match=r"remind\(\) works only inside"):
        await order.remind_me()
    with pytest.raises(NotInWorkflow, match="cancel_reminder"):
        cancel_reminder("x")
    with pytest.raises(NotInWorkflow, match="condition"):
        await condition(lambda: True)
    with pytest.raises(NotInWorkflow, match="decision"):
        await order.decision.receive()
    with pytest.raises(NotInWorkflow, match="decision"):
        await Order.ref("o-1").decision.receive()
    with pytest.raises(NotInWorkflow, match="activity_info"):
        activity_info()


async def test_activity_info_can_be_set_for_tests() -> None:
    info = ActivityInfo(
        entity=EntityId("Order", "o-1"), activity="pay", operation="run/r/1", attempt=2, idempotency_key="k"
    )

    async def ask() -> ActivityInfo:
        running_as(info)
        return activity_info()

    assert await asyncio.create_task(ask()) is info


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"idempotency_key": "k" * 256},
        {"idempotency_key": "new\nline"},
        {"idempotency_key": "nul\x00"},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"delay": timedelta(days=-1)},
        {"delay": float("inf")},
        {"delay": timedelta(days=366 * 101)},
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments):
        Order.ref("o-1").pick_up.options(**options)


def test_options_are_kept() -> None:
    assert CallOptions.of(timeout=1.5, delay=timedelta(seconds=2), idempotency_key="k") == CallOptions(
        timeout_s=1.5, delay_us=2_000_000, idempotency_key="k"
    )


def test_a_key_given_first_survives_later_options() -> None:
    ref = Order.ref("o-1").pick_up.options(idempotency_key="k")
    assert ref.options_.idempotency_key == "k"


async def test_a_call_takes_no_delay() -> None:
    with pytest.raises(InvalidArguments, match=r"a delay is for `\.send"):
        await Order.ref("o-1").pick_up.options(delay=5)()


# --- The context of a handler ----------------------------------------------------------------------------------------


class Clock:
    def now_us(self) -> int:
        return 1_000_000_000


def handler_context(mode: Any = "handler") -> HandlerContext:
    return HandlerContext(EntityId("Order", "o-1"), mode, Clock())


@pytest.fixture
def turn() -> Any:
    context = handler_context()
    token = current.set(context)
    yield context
    current.reset(token)


async def test_effects_are_recorded_not_performed(turn: HandlerContext) -> None:
    await Other.ref("x").pick_up.send()
    await Other.ref("x").pick_up.options(delay=1, idempotency_key="k").send()
    await Order.ref("o-2").run.start(3)
    remind(Order(key="o-1").pick_up, after=timedelta(seconds=5), name="soon")
    cancel_reminder("late")
    sent = turn.effects.outgoing
    assert [(str(one.target), one.kind.value, one.name, one.args) for one in sent] == [
        ("Other/x", "send", "pick_up", b"{}"),
        ("Other/x", "send", "pick_up", b"{}"),
        ("Order/o-2", "start", "run", b'{"amount":3}'),
    ]
    assert (sent[1].delay_us, sent[1].message_id) == (1_000_000, "pick_up:k")
    soon = turn.effects.reminders["soon"]
    assert soon is not None
    assert (soon.handler, soon.due_us) == ("pick_up", 1_005_000_000)
    assert turn.effects.reminders["late"] is None


async def test_options_of_a_start_are_kept_in_a_turn(turn: HandlerContext) -> None:
    await Order.ref("o-2").run.options(restart=True).start(3)
    assert turn.effects.outgoing[0].options == "restart"


async def test_a_handler_cannot_wait_durably(turn: HandlerContext) -> None:
    with pytest.raises(DurableAwaitInHandler, match=r"Order/o-1: a handler awaited Other/x\.pick_up.*\.send"):
        await Other.ref("x").pick_up()
    with pytest.raises(DurableAwaitInHandler, match="Order/o-1"):
        await Order.ref("o-1").pick_up()
    with pytest.raises(DurableAwaitInHandler, match="activity pay"):
        await pay(1)
    with pytest.raises(DurableAwaitInHandler):
        await Order.ref("o-2").run(1)
    with pytest.raises(DurableAwaitInHandler):
        await Order.ref("o-2").run.result()
    with pytest.raises(NotInWorkflow):
        await condition(lambda: True)


async def test_a_query_can_neither_send_nor_remind() -> None:
    token = current.set(handler_context("query"))
    try:
        with pytest.raises(ReadOnlyViolation):
            await Other.ref("x").pick_up.send()
        with pytest.raises(ReadOnlyViolation):
            await Order.ref("o-1").run.start(1)
        with pytest.raises(ReadOnlyViolation):
            remind(Order(key="o-1").pick_up, after=1)
        with pytest.raises(ReadOnlyViolation):
            cancel_reminder("x")
        with pytest.raises(ReadOnlyViolation):
            await Other.ref("x").pick_up()
    finally:
        current.reset(token)


async def test_a_turn_that_has_ended_takes_no_more(turn: HandlerContext) -> None:
    turn.is_closed = True
    with pytest.raises(DurableAwaitInHandler, match="the turn has ended"):
        await Other.ref("x").pick_up.send()


async def test_one_turn_sends_a_bounded_number_of_messages(turn: HandlerContext) -> None:
    for _ in range(OUTBOX_MAX):
        await Other.ref("x").pick_up.send()
    with pytest.raises(OutboxLimit, match=str(OUTBOX_MAX)):
        await Other.ref("x").pick_up.send()


def test_one_turn_sets_a_bounded_number_of_reminders(turn: HandlerContext) -> None:
    order = Order(key="o-1")
    for number in range(REMINDERS_MAX):
        remind(order.pick_up, after=1, name=f"r{number}")
    with pytest.raises(OutboxLimit, match=str(REMINDERS_MAX)):
        remind(order.pick_up, after=1, name="one more")


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
ORDER = Order(key="o-1")


@pytest.mark.parametrize(
    ("target", "options", "reason"),
    [
        (ORDER.pick_up, {}, "give one of after, at, every"),
        (ORDER.pick_up, {"after": 1, "at": NOON}, "not both"),
        (ORDER.pick_up, {"at": NOON.replace(tzinfo=None)}, "time zone"),
        (ORDER.pick_up, {"after": -1}, "between now and 100 years"),
        (ORDER.pick_up, {"after": float("nan")}, "between now and 100 years"),
        (ORDER.pick_up, {"after": timedelta(days=366 * 101)}, "between now and 100 years"),
        (ORDER.pick_up, {"every": 0}, "shorter than"),
        (ORDER.pick_up, {"every": timedelta(microseconds=5)}, "shorter than"),
        (ORDER.pick_up, {"after": 1, "name": "x" * 201}, "at most 200"),
        (ORDER.pick_up, {"after": 1, "name": "a/b"}, "no slash"),
        (ORDER.pick_up, {"after": 1, "name": "nul\x00"}, "printable"),
        (ORDER.run, {"after": 1}, "takes a handler of this entity"),
        (ORDER.state, {"after": 1}, "takes a handler of this entity"),
        (Order.pick_up, {"after": 1}, "takes a handler of this entity"),
        (Order.ref("o-2").pick_up, {"after": 1}, "takes a handler of this entity"),
        (Other.ref("o-1").pick_up, {"after": 1}, "takes a handler of this entity"),
        (print, {"after": 1}, "takes a handler of this entity"),
    ],
)
def test_a_wrong_reminder_is_refused_when_it_is_set(
    turn: HandlerContext, target: Any, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidReminder, match=reason) as caught:
        remind(target, **options)
    assert "Order/o-1" in str(caught.value)
    assert not turn.effects.reminders


def test_a_reminders_arguments_are_checked_when_it_is_set(turn: HandlerContext) -> None:
    with pytest.raises(InvalidArguments, match="amount"):
        remind(ORDER.pick_up, after=1, arguments={"amount": 5})
    assert not turn.effects.reminders


def test_a_reminder_of_a_ref_to_this_entity_is_its_own(turn: HandlerContext) -> None:
    remind(Order.ref("o-1").pick_up, at=NOON)
    wanted = turn.effects.reminders["pick_up"]
    assert wanted is not None
    assert wanted.due_us == round(NOON.timestamp() * 1e6)
