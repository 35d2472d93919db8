"""What people and the outside world do to runs and their operations, as values; and the clients of both.

Operators use the methods of a workflow (`Order.ref(k).run.pause(reason=…)`); the outside world has a token only
(`complete_activity(token, value)`). Either way it is a message to the entity: applied exactly once in a turn of its own
(P1, P2), recorded in the history with who did it and why, and refused with a definite error if it cannot be applied.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from pydantic_core import PydanticSerializationError, to_json

from .calls import NO_OPTIONS, CallOptions, Target, request
from .context import current
from .errors import ApplicationError, DurableAwaitInHandler, ErrorBody, InvalidArguments, PayloadTooLarge, error_body
from .heartbeat import dump_details
from .ids import EntityId
from .messages import Kind, encode_json
from .signature import PAYLOAD_BYTES_MAX, has_nul
from .tokens import read_token

TEXT_CHARS_MAX = 1_000
BY_TOKEN = "token"  # noqa: S105 - a word
"""Stands for the operator where an activity's token was shown."""


class Action(StrEnum):
    """What to do."""

    PAUSE = "pause"
    RESUME = "resume"
    RESTART = "restart"
    RERUN = "rerun"
    RETRY = "retry"
    COMPLETE = "complete"
    FAIL = "fail"
    """The operation fails, whatever its policy says."""
    FAIL_ATTEMPT = "fail_attempt"
    """The attempt has failed; the policy decides what follows."""
    HEARTBEAT = "heartbeat"
    DECIDE = "decide"
    """COMPLETE, by a person to whom a decision was put."""


class Act(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One action, as it travels and is recorded: the arguments of an OPERATE message."""

    action: Action
    operator: str = ""
    reason: str = ""
    run_id: str = ""
    """Only if this is the latest run; empty: whichever is."""
    operation: int | str | None = None
    """Number of an operation. RERUN also takes a name: the last operation of that name."""
    value: msgspec.Raw = msgspec.Raw(b"null")
    """COMPLETE, DECIDE: the result. RESTART: the arguments, or null for those of the last run. HEARTBEAT: details."""
    error: ErrorBody | None = None
    keep_state: bool = False


class WaitingOperation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a run waits for."""

    number: int
    kind: str
    """`activity`, `timer`, `condition`, `receive` or `call`."""
    name: str
    """Of the activity, mailbox, or `Type.member` called."""
    status: str
    """`running`, `retrying` (backs off), `paused` (waits for a person), `outside` (waits for completion by its token),
    `held` (has its outcome, its run is paused) or `waiting`."""
    attempts: int = 0
    """Attempts made and ended (`outside`: also the one that handed it out)."""
    last_error: ErrorBody | None = None
    next_at: datetime | None = None
    """When the next attempt, the timer or the limit is due."""
    since: datetime | None = None
    """When its first attempt began."""
    heartbeat: Any = None
    """Details of the last heartbeat that was stored."""
    token: str = ""
    """Of an activity."""


class RunOperations(msgspec.Struct, frozen=True, kw_only=True):
    """A run, and what it waits for."""

    entity: str
    workflow: str
    run_id: str
    status: str
    """`running`, `parked`, or how it ended."""
    paused: str
    """Who has paused it, and why; empty: it is not paused."""
    started_at: datetime
    ended_at: datetime | None
    error: ErrorBody | None
    """Why it is parked, or how it failed."""
    operations: list[WaitingOperation]


_decode_act = msgspec.json.Decoder(Act).decode
_decode_operations = msgspec.json.Decoder(RunOperations).decode
_decode_text = msgspec.json.Decoder(str).decode


def read_act(data: bytes) -> Act:
    """An action from its message. Raises InvalidArguments."""
    try:
        act = _decode_act(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArguments(f"not an action on a run: {error}") from None
    if has_nul(data):
        raise InvalidArguments(f"{act.action}: a string holds a NUL character, which cannot be stored")
    needs_number = act.action not in (Action.PAUSE, Action.RESUME, Action.RESTART, Action.RERUN)
    if needs_number and not isinstance(act.operation, int):
        raise InvalidArguments(f"{act.action} needs the number of an operation, not {act.operation!r}")
    if act.action in (Action.FAIL, Action.FAIL_ATTEMPT) and act.error is None:
        raise InvalidArguments(f"{act.action} needs an error")
    return act


def dump_value(value: object) -> bytes:
    """A result from outside as JSON. Raises InvalidArguments, PayloadTooLarge."""
    try:
        data = to_json(value)
    except (PydanticSerializationError, UnicodeError, ValueError, TypeError) as error:
        raise InvalidArguments(f"the value cannot be written as JSON: {error}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"the value is {len(data)} bytes of JSON; the limit is {PAYLOAD_BYTES_MAX}",
            limit=PAYLOAD_BYTES_MAX,
            got=len(data),
        )
    if has_nul(data):
        raise InvalidArguments("the value holds a NUL character, which cannot be stored")
    return data


def outside_error(error: BaseException | str) -> ErrorBody:
    """An error that comes from outside: a text is an ApplicationError."""
    return error_body(ApplicationError(error) if isinstance(error, str) else error)


async def operate(target: Target, workflow: str, act: Act, options: CallOptions = NO_OPTIONS) -> str:
    """Send an action; returns what it answers (the new run's id, else an empty string)."""
    clipped = msgspec.structs.replace(act, reason=act.reason[:TEXT_CHARS_MAX], operator=act.operator[:TEXT_CHARS_MAX])
    _outside_only(f"{act.action} of {target.entity_id}.{workflow}")
    try:
        data = encode_json(clipped)
    except (TypeError, ValueError) as error:
        raise InvalidArguments(f"{act.action}: it cannot be written as JSON: {error}") from None
    reply = await request(target, Kind.OPERATE, workflow, data, options)
    return "" if reply.body == b"null" else _decode_text(reply.body)


async def read_operations(target: Target, workflow: str, options: CallOptions = NO_OPTIONS) -> RunOperations:
    """What the latest run waits for."""
    _outside_only(f"operations of {target.entity_id}.{workflow}")
    return _decode_operations((await request(target, Kind.OPERATIONS, workflow, b"{}", options)).body)


def _outside_only(what: str) -> None:
    turn = current.get()
    if turn is not None:
        raise DurableAwaitInHandler(f"{turn.entity}: {what} from a {turn.mode}; do it from outside or in an @activity")


def act_on(token: str, action: Action, **more: Any) -> tuple[EntityId, str, Act]:
    """(entity, workflow, action) for whoever holds a token. Raises NoSuchOperation."""
    entity, address = read_token(token)
    act = Act(action, operator=BY_TOKEN, run_id=address.run_id, operation=address.number, **more)
    return entity, address.workflow, act


async def complete_activity(token: str, value: object = None) -> None:
    """Give an activity its result from outside. Returns once that is durable; applied exactly once.

    `value` must fit the activity's declared result: it is checked where the activity is known.
    Raises NoSuchOperation (no such token), OperationSettled (it has its outcome), InvalidArguments, PayloadTooLarge.
    """
    await _by_token(*act_on(token, Action.COMPLETE, value=msgspec.Raw(dump_value(value))))


async def fail_activity(token: str, error: Exception | str) -> None:
    """Say from outside that the attempt has failed: the retry policy decides what follows, as if it had raised `error`.

    `ApplicationError(…, non_retryable=True)` fails it for good. Raises NoSuchOperation, OperationSettled; Conflict if
    it is between two attempts.
    """
    await _by_token(*act_on(token, Action.FAIL_ATTEMPT, error=outside_error(error)))


async def heartbeat_activity(token: str, details: object = None) -> None:
    """Say from outside that the work goes on: its heartbeat limit counts from now, the details are kept.

    Raises NoSuchOperation, OperationSettled: then nobody wants the work any more. Not recorded in the history.
    """
    await _by_token(*act_on(token, Action.HEARTBEAT, value=msgspec.Raw(dump_details(details))))


async def _by_token(entity: EntityId, workflow: str, act: Act) -> None:
    await operate(Target(None, entity), workflow, act)
