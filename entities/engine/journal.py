"""What a run's journal holds: one entry per resume, enough to rebuild the coroutine by running its code again.

An entry says when the resume was (`now_us`), which events it fed in (in order), which operations the code then asked
for, and how the entity's state had changed since the run last looked. Replaying all entries in order, executing
nothing, gives the same coroutine, waiting for the same operations.

Not in the journal because it follows from it: conditions that the run's own step made true, cancelled operations,
time, chance, and messages sent (they have numbers, so that a change of code is noticed, but are not sent again).
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

import msgspec


class EventKind(StrEnum):
    """What happened to a run."""

    START = "start"
    CANCEL = "cancel"
    VALUE = "value"
    """The operation has this result (JSON)."""
    ERROR = "error"
    """The operation failed with this ErrorBody."""
    FIRED = "fired"
    """The timer is due."""
    TRUE = "true"
    """The condition became true through another turn."""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One thing fed into a run; `operation` is -1 for START and CANCEL."""

    kind: EventKind
    operation: int = -1
    value: msgspec.Raw = msgspec.Raw(b"null")


class OperationKind(StrEnum):
    """What a run can ask for. SEND and REMIND are done with their turn; the others have an outcome."""

    ACTIVITY = "activity"
    TIMER = "timer"
    CONDITION = "condition"
    RECEIVE = "receive"
    CALL = "call"
    SEND = "send"
    REMIND = "remind"
    CONTINUE = "continue_as_new"
    """The last one of a journal: the run goes on in another."""
    PATCH = "patch"
    """A marker, number -1: the run has taken the new branch of this patch."""


class Scheduled(msgspec.Struct, frozen=True, array_like=True):
    """An operation that the code asked for: what replay compares."""

    number: int
    kind: OperationKind
    name: str

    def __str__(self) -> str:
        number = f"#{self.number} " if self.number >= 0 else ""
        return f"{number}{self.kind} {self.name}".rstrip()


class Tried(msgspec.Struct, frozen=True, array_like=True):
    """Failed attempts of an activity, once it has its outcome."""

    attempts: int
    error: msgspec.Raw
    """ErrorBody of the last one."""
    first_us: int
    """When the first one started."""


class Entry(msgspec.Struct, omit_defaults=True):
    """One resume."""

    now_us: int
    events: list[Event]
    operations: list[Scheduled] = []
    detached: bool = False
    """Another turn of the entity ran since the run's last resume: its fields are fresh copies from here on."""
    state: msgspec.Raw = msgspec.Raw(b"")
    """State as of this resume: of the first one, and where it differs from what the run saw last."""
    schema: int = 1
    """Schema version of `state`."""
    inputs: dict[str, msgspec.Raw] = {}
    """Arguments of the activities and calls asked for, by number: for people; replay does not look at them."""
    targets: dict[str, str] = {}
    """`Type/key` of the entities called and sent to, by number: for people as well."""
    own_ids: dict[str, str] = {}
    """Ids of messages sent under an idempotency key, by number: for people. Without one it is `run_id:number`."""
    trace: str = ""
    """W3C traceparent of the stretch of the run that this resume begins; for traces only."""
    tried: dict[str, Tried] = {}
    """Failed attempts of the activities whose outcome this is, by number: for people as well."""


class ReplayMismatch(Exception):
    """The code does not ask for what the journal recorded."""

    def __init__(self, recorded: str, expected: str, number: int) -> None:
        super().__init__(f"journal entry {number}: recorded {recorded}, but the current code asks for {expected}")
        self.recorded = recorded
        self.expected = expected


def sent_id(run_id: str, number: int) -> str:
    """Id of the message that an operation of a run sends, unless it has an idempotency key."""
    return f"{run_id}:{number}"


def numbered(operations: Iterable[Scheduled]) -> list[Scheduled]:
    """Without markers: they decide a branch, and what that asks for is compared."""
    return [operation for operation in operations if operation.kind is not OperationKind.PATCH]


def difference(recorded: list[Scheduled], asked: list[Scheduled], entry: int) -> ReplayMismatch:
    """Where the operations of a journal entry and those that the code asks for part."""
    recorded, asked = numbered(recorded), numbered(asked)
    for index in range(max(len(recorded), len(asked))):
        was: Scheduled | Literal["nothing more"] = recorded[index] if index < len(recorded) else "nothing more"
        now: Scheduled | Literal["nothing more"] = asked[index] if index < len(asked) else "nothing more"
        if was != now:
            return ReplayMismatch(str(was), str(now), entry)
    raise AssertionError("equal lists")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """JSON of an entry."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """Inverse of encode_entry. Raises msgspec.DecodeError."""
    try:
        return _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:  # the two that msgspec itself lets through
        raise msgspec.DecodeError(f"not a journal entry: {error}") from None
