"""Decisions of people that workflows wait for: `verdict = await decision("underwriting", Verdict, due=…, show={…})`.

A decision is an activity whose result comes from outside, with what there is to decide in its row (engine.attempts): so
it survives everything, costs no memory while it waits, and is listed from the store alone.

Promises: the question is durable once its row is committed, and asked again after a crash before that (P7); an answer
is applied exactly once, and a second one is told so (P1); `due` passes by the database's clock (P6). The answer is
checked against its type by the owner of the entity. Who knows the token of the operation may not take the decision:
whoever may call a workflow could else approve what it asks for.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import msgspec
from pydantic import TypeAdapter

from .activity import Activity, ActivityOptions
from .archive import ambient_survey
from .calls import Target
from .context import current
from .errors import (
    ActivityTimeout,
    CompleteLater,
    DefinitionError,
    InvalidArguments,
    NotInWorkflow,
    OperationSettled,
    PerdureError,
)
from .heartbeat import dump_details, heartbeat
from .ids import EntityId
from .operate import Act, Action, dump_value, operate
from .recurrence import from_us
from .store.rows import AttemptRow
from .store.survey import DECISION, DueCursor, Survey, due_of
from .tokens import make_token, read_token

T = TypeVar("T")

GROUP_CHARS_MAX = 100
LIMIT_MAX = 1_000


class DecisionOverdue(PerdureError):
    """Nobody has decided in time; raised in the workflow that waits."""

    code = "decision_overdue"


class OpenDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that a workflow waits for."""

    id: str
    """For `decide`."""
    entity: EntityId
    group: str
    workflow: str
    run_id: str
    operation: int
    asked_at: datetime
    due_at: datetime | None
    title: str
    show: dict[str, Any]
    schema: dict[str, Any] | None
    """JSON schema of an answer."""


class _Question(msgspec.Struct):
    """What a row says of it."""

    title: str = ""
    show: dict[str, Any] = {}
    schema: dict[str, Any] | None = None


async def decision(
    group: str,
    answer: type[T],
    *,
    title: str = "",
    due: timedelta | float | None = None,
    show: Mapping[str, Any] | None = None,
) -> T:
    """In a workflow: have a person of a group decide, and wait for it. Returns the answer.

    group: who; a name such as "underwriting". answer: its type, anything that pydantic knows. title: the question, in a
    line. due: after this time (seconds, or a timedelta) DecisionOverdue is raised; None: wait without limit. show: what
    whoever decides has to see; JSON, with the rest up to 64 KiB.

    Raises DecisionOverdue, NotInWorkflow, InvalidArguments, PayloadTooLarge, DefinitionError.
    """
    turn = current.get()
    if turn is None or turn.mode != "workflow":
        raise NotInWorkflow(f"decision({group!r}) works only in a workflow")
    if not group or not group.isidentifier() or len(group) > GROUP_CHARS_MAX:
        raise InvalidArguments(f"{turn.entity}: {group[:40]!r} is no group; write a name such as 'underwriting'")
    limit = timedelta(seconds=due) if isinstance(due, int | float) else due
    if limit is not None and limit <= timedelta(0):
        raise InvalidArguments(f"{turn.entity}: decision({group!r}): due={due} must be longer than zero")
    shape: Any = answer  # an annotation is hashable
    asked = _asking(group, shape).options(total_timeout=limit)
    question = {"title": title, "show": dict(show or {}), "schema": _schema_of(shape)}
    dump_details(question)  # here, where the workflow hears of it, and not attempt after attempt
    try:
        return await asked(question)  # type: ignore[no-any-return]
    except ActivityTimeout as late:
        raise DecisionOverdue(f"{turn.entity}: nobody of {group} has decided within {limit}", group=group) from late


@cache
def _asking(group: str, answer: Any) -> Activity[[dict[str, Any]], Any]:
    """The activity that puts the question; its signature checks the answer."""

    async def ask(question: dict[str, Any]) -> Any:
        heartbeat(question)
        raise CompleteLater

    ask.__annotations__["return"] = answer
    found: Activity[[dict[str, Any]], Any] = Activity(ask, ActivityOptions(), DECISION + group)
    found.signature.compile()
    return found


@cache
def _schema_of(answer: Any) -> dict[str, Any] | None:
    try:
        return TypeAdapter(answer).json_schema()
    except Exception as error:
        raise DefinitionError(f"decision: an answer of {answer!r} cannot be described: {error}") from error


# --- For people -------------------------------------------------------------------------------------------------------


class WorkListPage(msgspec.Struct, frozen=True):
    """A piece of the work list."""

    decisions: list[OpenDecision]
    next: str | None
    """Pass it as `after` for the next piece; None at the end."""


async def open_decisions(
    group: str, *, type: str = "", after: str | None = None, limit: int = 100, survey: Survey | None = None
) -> WorkListPage:
    """What people of a group have to decide, by due time. Works while no host runs. Raises StoreUnavailable."""
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidArguments(f"limit is 1 to {LIMIT_MAX}, not {limit}")
    reading = survey or ambient_survey()
    cursor = None if after is None else _read_cursor(after)
    found = await reading.decisions(group, type=type, after=cursor, limit=limit + 1)
    page = found[:limit]
    following = None
    if len(found) > limit:
        entity, row = page[-1]
        following = msgspec.json.encode(DueCursor(due_of(row), *entity, row.operation)).decode()
    return WorkListPage([described(entity, row) for entity, row in page], following)


def _read_cursor(text: str) -> DueCursor:
    try:
        return DueCursor(*msgspec.json.decode(text, type=tuple[int, str, str, str]))
    except (msgspec.DecodeError, UnicodeError):
        raise InvalidArguments(f"`after` is not a place in the work list: {text[:80]!r}", errors=[]) from None


def described(entity: EntityId, row: AttemptRow) -> OpenDecision:
    """A decision from its row. What cannot be read (an encrypted one, without the key) is left out."""
    try:
        question = msgspec.json.decode(row.details, type=_Question)
    except msgspec.DecodeError:
        question = _Question()
    workflow, run_id, number = row.operation.split("/")
    return OpenDecision(
        id=make_token(entity, row.operation),
        entity=entity,
        group=row.activity.removeprefix(DECISION),
        workflow=workflow,
        run_id=run_id,
        operation=int(number),
        asked_at=from_us(row.first_us),
        due_at=from_us(row.next_us) if row.next_us else None,
        title=question.title,
        show=question.show,
        schema=question.schema,
    )


async def find_decision(decision_id: str, *, survey: Survey | None = None) -> OpenDecision:
    """An open decision by its id. Raises NoSuchOperation; OperationSettled if it is not open (any more)."""
    entity, address = read_token(decision_id)
    row = await (survey or ambient_survey()).decision(entity, str(address))
    if row is None:
        raise OperationSettled(
            f"{entity}.{address.workflow}: decision #{address.number} is not open: it was taken, is overdue, or its run"
            " has ended"
        )
    return described(entity, row)


async def decide(decision_id: str, value: object, *, operator: str = "", reason: str = "") -> None:
    """Take a decision. Returns once that is durable; applied exactly once.

    Raises NoSuchOperation, OperationSettled (somebody else has, or it is overdue), InvalidArguments (the answer does
    not fit its type).
    """
    entity, address = read_token(decision_id)
    act = decision_act(decision_id, msgspec.Raw(dump_value(value)), operator=operator, reason=reason)
    await operate(Target(None, entity), address.workflow, act)


def decision_act(decision_id: str, value: msgspec.Raw, *, operator: str, reason: str) -> Act:
    """What is sent to the owner of the entity. Raises NoSuchOperation."""
    _, address = read_token(decision_id)
    return Act(
        Action.DECIDE, operator=operator, reason=reason, run_id=address.run_id, operation=address.number, value=value
    )
