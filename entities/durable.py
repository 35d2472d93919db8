"""Free functions of user code inside turns: time, chance, reminders, conditions."""

import datetime as dt
import random as random_module
import uuid as uuid_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from .calls import Target
from .context import HandlerTurn, TurnContext, current
from .descriptors import BoundHandler
from .errors import InvalidReminder, NotInWorkflow, ReadOnlyViolation
from .recurrence import EPOCH, cron_text, following, from_us, occurrences, to_us
from .sources import sources
from .time_limit import TimeLimit

REMINDER_NAME_MAX = 200
EVERY_MIN = dt.timedelta(milliseconds=10)


def now() -> dt.datetime:
    """The time, in UTC. In a workflow: of its present resume, repeatable. Elsewhere: the clock's."""
    turn = current.get()
    if turn is None:
        return EPOCH + dt.timedelta(microseconds=sources.time_ns() // 1_000)
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
    cron: str = "",
    tz: str = "UTC",
    name: str = "",
    arguments: Mapping[str, Any] | None = None,
    catch_up: Literal["one", "all"] = "one",
) -> None:
    """Set a durable reminder: call one of this entity's own handlers later. Leaves with this turn's commit.

    after: time from now. at: a moment with time zone. every: period of a recurring reminder (first after one period
    unless `after` or `at` says otherwise). cron: `minute hour day month weekday` in the time zone `tz` (an IANA name);
    first after now, or not before `after` or `at`. Numbers are seconds. name: default the handler's name; a reminder
    of the same name is replaced. catch_up: after downtime fire once ("one"; `reminder_info().missed` tells for how
    many others) or once for every missed occurrence ("all").
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
    if cron and every is not None:
        raise InvalidReminder(f"{turn.entity}: reminder {name}: give `every` or `cron`, not both")
    if after is not None:
        due_us = turn.now_us() + _microseconds(after, f"{turn.entity}: reminder {name}: after")
    elif at is not None:
        if at.tzinfo is None:
            raise InvalidReminder(f"{turn.entity}: reminder {name}: `at` needs a time zone, e.g. tzinfo=datetime.UTC")
        due_us = to_us(at)
    elif every_us or cron:
        due_us = turn.now_us() + every_us
    else:
        raise InvalidReminder(f"{turn.entity}: reminder {name}: give one of after, at, every, cron")
    if cron:
        cron, due_us = _first_of(cron, tz, due_us, f"{turn.entity}: reminder {name}")
    args = method.signature.dump_arguments((), dict(arguments or {}))
    turn.set_reminder(
        name,
        handler=method.name,
        args=args,
        due_us=due_us,
        every_us=every_us,
        catch_up_all=catch_up == "all",
        cron=cron,
    )


def cancel_reminder(name: str) -> None:
    """Cancel a reminder of this entity. Once this turn has committed it never fires. No error if there is none."""
    _turn("cancel_reminder()").cancel_reminder(name)


@dataclass(frozen=True, kw_only=True)
class ReminderInfo:
    """The reminder that made this handler run."""

    name: str
    due_at: dt.datetime
    """When this occurrence was due; the handler runs at that time or later, never earlier."""
    missed: int
    """How many further occurrences it stands for, because nothing was running when they were due (`catch_up="one"`)."""
    next_at: dt.datetime | None
    """When the next one is due, unless the handler decides otherwise; None: there is none."""


def reminder_info() -> ReminderInfo | None:
    """In a handler: the reminder that is firing; None if it was called or sent to by somebody."""
    turn = current.get()
    if turn is None or turn.mode != "handler":
        return None
    handler_turn = cast("HandlerTurn", turn)
    row = handler_turn.fired
    if row is None:
        return None
    missed, next_us = 0, None
    if row.is_recurring:
        missed, next_us = following(
            row.due_us, handler_turn.fired_us, every_us=row.every_us, cron=row.cron, catch_up_all=row.catch_up_all
        )
    next_at = None if next_us is None else from_us(next_us)
    return ReminderInfo(name=row.name, due_at=from_us(row.due_us), missed=missed, next_at=next_at)


def _first_of(cron: str, tz: str, after_us: int, what: str) -> tuple[str, int]:
    """(cron text, first occurrence at or after a time). Raises InvalidReminder."""
    try:
        text = cron_text(cron, tz)
    except ValueError as error:
        raise InvalidReminder(f"{what}: {error}") from None
    due_us = next(occurrences(text, after_us - 1), None)
    if due_us is None:
        raise InvalidReminder(f"{what}: {cron!r} does not occur any more after that")
    return text, due_us


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
