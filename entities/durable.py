"""Free functions of user code inside turns: time, chance, reminders, conditions."""

import datetime as dt
import random as random_module
import uuid as uuid_module
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .calls import Target
from .context import TurnContext, current
from .descriptors import BoundHandler
from .errors import InvalidReminder, NotInWorkflow, ReadOnlyViolation
from .time_limit import TimeLimit

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
REMINDER_NAME_MAX = 200
EVERY_MIN = dt.timedelta(milliseconds=10)


def now() -> dt.datetime:
    """The time, in UTC. In a workflow: of its present resume, repeatable. Elsewhere: the clock's."""
    turn = current.get()
    if turn is None:
        return dt.datetime.now(dt.UTC)
    return EPOCH + dt.timedelta(microseconds=turn.now_us())


def random() -> random_module.Random:
    """A source of chance; in a workflow seeded by its run, hence repeatable."""
    turn = current.get()
    return random_module.Random() if turn is None else turn.random()  # noqa: S311 - the ordinary one is meant


def uuid4() -> uuid_module.UUID:
    """A random UUID; in a workflow repeatable."""
    turn = current.get()
    if turn is None or turn.mode != "workflow":
        return uuid_module.uuid4()
    return uuid_module.UUID(int=turn.random().getrandbits(128), version=4)


async def condition(predicate: Callable[[], bool], *, timeout: dt.timedelta | float | None = None) -> bool:
    """In a workflow: wait until `predicate()` is true of the entity's state. False if `timeout` passed before.

    The predicate is evaluated after every turn of this entity: it must be quick and must not change anything.
    """
    turn = current.get()
    if turn is None or turn.mode != "workflow":
        raise NotInWorkflow("condition() works only in a workflow")
    if timeout is None:
        await turn.condition(predicate)
        return True
    seconds = timeout.total_seconds() if isinstance(timeout, dt.timedelta) else float(timeout)
    try:
        async with TimeLimit(seconds):
            await turn.condition(predicate)
    except TimeoutError:
        return False
    return True


def remind(
    handler: BoundHandler[..., Any],
    *,
    after: dt.timedelta | float | None = None,
    at: dt.datetime | None = None,
    every: dt.timedelta | float | None = None,
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
    catch_up: Literal["one", "all"] = "one",
) -> None:
    """Set a durable reminder: call one of this entity's own handlers later. Leaves with this turn's commit.

    after: time from now. at: a moment with time zone. every: period of a recurring reminder (first after one period
    unless `after` or `at` says otherwise). Numbers are seconds. name: default the handler's name; a reminder of the
    same name is replaced. catch_up: after downtime fire once ("one") or every missed occurrence ("all").
    It never fires early, fires at least once after it is due, commits once per occurrence.
    Raises InvalidReminder.
    """
    turn = _turn("remind()")
    given: object = handler
    if not isinstance(given, BoundHandler) or Target.of(handler.target).entity_id != turn.entity:
        raise InvalidReminder(
            f"{turn.entity}: remind() takes a handler of this entity, e.g. remind(self.ask, after=60)"
        )
    method = handler.method
    name = name or method.name
    if len(name.encode(errors="replace")) > REMINDER_NAME_MAX or not name.isprintable() or "/" in name:
        raise InvalidReminder(
            f"{turn.entity}: reminder name {name[:40]!r}: at most {REMINDER_NAME_MAX} printable characters, no slash"
        )
    if after is not None and at is not None:
        raise InvalidReminder(f"{turn.entity}: reminder {name}: give `after` or `at`, not both")
    every_us = 0 if every is None else _microseconds(every, f"{turn.entity}: reminder {name}: every")
    if every is not None and every_us < EVERY_MIN / dt.timedelta(microseconds=1):
        raise InvalidReminder(f"{turn.entity}: reminder {name}: every={every} is shorter than {EVERY_MIN}")
    if after is not None:
        due_us = turn.now_us() + _microseconds(after, f"{turn.entity}: reminder {name}: after")
    elif at is not None:
        if at.tzinfo is None:
            raise InvalidReminder(f"{turn.entity}: reminder {name}: `at` needs a time zone, e.g. tzinfo=datetime.UTC")
        due_us = round((at - EPOCH) / dt.timedelta(microseconds=1))
    elif every_us:
        due_us = turn.now_us() + every_us
    else:
        raise InvalidReminder(f"{turn.entity}: reminder {name}: give one of after, at, every")
    args = method.signature.dump_arguments((), dict(arguments or {}))
    turn.set_reminder(
        name, handler=method.name, args=args, due_us=due_us, every_us=every_us, catch_up_all=catch_up == "all"
    )


def cancel_reminder(name: str) -> None:
    """Cancel a reminder of this entity. Once this turn has committed it never fires. No error if there is none."""
    _turn("cancel_reminder()").cancel_reminder(name)


def _microseconds(value: dt.timedelta | float, what: str) -> int:
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else float(value)
    if not 0.0 <= seconds <= 100 * 366 * 86400.0:
        raise InvalidReminder(f"{what}={value} must be between now and 100 years from now")
    return round(seconds * 1e6)


def _turn(what: str) -> TurnContext:
    turn = current.get()
    if turn is None:
        raise NotInWorkflow(f"{what} works only inside a handler or workflow")
    if turn.mode == "query":
        raise ReadOnlyViolation(f"{turn.entity}: a query called {what}")
    return turn
