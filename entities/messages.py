"""What travels: envelopes to entities and replies back, as small MessagePack frames.

Arguments and results inside them are JSON text (bytes) that is validated at both ends; frames themselves are decoded
against these types. Nothing here is ever unpickled.
"""

from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from .errors import ErrorBody
from .ids import EntityId


class Kind(StrEnum):
    """What a message asks of an entity."""

    CALL = "call"
    """Run a handler; the reply carries its result once the turn is durable."""
    SEND = "send"
    """Run a handler some time; the reply says that the message is durable."""
    QUERY = "query"
    """Read committed state; changes nothing."""
    START = "start"
    """Start a workflow run; the reply carries the run id once the start is durable."""
    RESULT = "result"
    """Wait for the outcome of a workflow run; not a turn."""
    SIGNAL = "signal"
    """Put an item into a durable mailbox."""
    CANCEL = "cancel"
    """Ask a workflow run to end: raises CancelledError at its await."""
    TERMINATE = "terminate"
    """End a workflow run without running any more of its code."""
    OPERATE = "operate"
    """What a person, or the outside world, does to a run or to one of its operations (see `operate.Act`)."""
    OPERATIONS = "operations"
    """Read what a workflow run waits for; not a turn."""
    MAINTAIN = "maintain"
    """What an operator does to an entity's data; `name` says what: see engine.turns.maintenance."""
    REPLY = "reply"
    """Answer to a call that a workflow of this entity made; `name` is the address of the operation."""
    TRANSACTION = "transaction"
    """A step of a transaction over several entities; `name` says which (transaction_messages.py)."""


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """One message to one entity."""

    id: str
    """Unique per receiver; a repeat with the same id gets the first outcome."""
    type: str
    key: str
    kind: Kind
    name: str
    """Handler, query, workflow or mailbox; for a REPLY the operation that waits (`workflow/run_id/number`)."""
    args: bytes = b"{}"
    """JSON: an object of arguments; for a SIGNAL the item; for a REPLY an `Outcome`."""
    sender: str = ""
    """Who sent it: a client session or `Type/key`. Messages of one sender are applied in the order of `position`."""
    position: int = 0
    """The sender's logical clock (see ids.SendClock)."""
    is_retry: bool = False
    """The sender may have sent this id before: look for an outcome first."""
    reply_to: str = ""
    """`Type/key#workflow/run_id/number` of the workflow operation that waits for the outcome, or empty."""
    delay_us: int = 0
    """Deliver not before this many microseconds after acceptance (SEND only)."""
    chain: tuple[str, ...] = ()
    """Workflow runs (`Type/key#workflow`) that wait for this message, outermost first."""
    trace: str = ""
    """W3C traceparent of the caller."""
    timeout_us: int = 0
    """How long the caller waits, in microseconds; 0 = the host's default."""
    options: str = ""
    """Comma-separated options of the kind (`restart` for START)."""
    losses: int = 0
    """How many hosts were lost while they had this message, as its sender's link counts; not stored."""

    @property
    def entity(self) -> EntityId:
        """The address."""
        return EntityId(self.type, self.key)


class Status(StrEnum):
    """What a reply says. Only OK, ACCEPTED and ERROR are final."""

    OK = "ok"
    ACCEPTED = "accepted"
    """A one-way message is durable."""
    ERROR = "error"
    """`body` is an ErrorBody."""
    NOT_OWNER = "not_owner"
    """This host does not own the entity's shard, or has no room for a repeat: refresh the route and send again. Not
    applied, unless `body` is IN_DOUBT."""
    BUSY = "busy"
    """A bound was reached: this attempt was refused before it was accepted. `body` is an ErrorBody."""


IN_DOUBT = b'"in doubt"'
"""Of a NOT_OWNER: the message's turn was in a commit whose outcome the host does not know, or an earlier attempt may
have been applied. Only who asks again, with the same id, learns it."""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """Answer to one envelope."""

    id: str
    status: Status
    body: bytes = b"null"
    version: int = 0
    """Entity version that the answer reflects."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How something ended, as stored: exactly one of `value` (JSON) and `error` is meaningful."""

    ok: bool
    value: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorBody | None = None


class OperationAddress(NamedTuple):
    """Which operation of which run: `workflow/run_id/number` (a workflow's name holds no slash)."""

    workflow: str
    run_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.workflow}/{self.run_id}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> "OperationAddress":
        """Inverse of str()."""
        workflow, run_id, number = text.split("/")
        return cls(workflow, run_id, int(number))


T = TypeVar("T")

_outcomes = msgspec.json.Decoder(Outcome)
_errors = msgspec.json.Decoder(ErrorBody)


def encode_json(value: object) -> bytes:
    """JSON of a plain value or of a struct of this package."""
    return msgspec.json.encode(value)


def decode_outcome(data: bytes) -> Outcome:
    """A stored outcome. Raises msgspec.DecodeError if it is not one."""
    return decode(_outcomes, data)


def decode_error(data: bytes) -> ErrorBody:
    """A stored error. Raises msgspec.DecodeError if it is not one."""
    return decode(_errors, data)


def decode(decoder: "msgspec.msgpack.Decoder[T] | msgspec.json.Decoder[T]", data: bytes) -> T:
    """What these bytes hold. Raises msgspec.DecodeError, and nothing else, if that is not what the decoder expects."""
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:  # the two that msgspec itself lets through
        raise msgspec.DecodeError(f"not a frame of ours: {error}") from None
