"""What can wait in an activation's mailbox, and small pure helpers of turns."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

from ..context import Mode
from ..errors import (
    Busy,
    DurableAwaitInHandler,
    ErrorBody,
    HandlerFailed,
    JournalTooLong,
    PerdureError,
    ReadOnlyViolation,
    WorkflowCancelled,
    WorkflowFailed,
    error_body,
)
from ..ids import EntityId, fingerprint
from ..messages import IN_DOUBT, Envelope, Kind, Reply, Status, encode_json
from ..store.rows import AttemptRow, JournalRow, ReminderRow, Staged
from ..tracing import TurnSpan
from .effects import Effects
from .journal import Event, EventKind

if TYPE_CHECKING:
    from ..definition import EntityDefinition, Registry
    from .activities import ActivityCall
    from .run import Run

Respond = Callable[[Reply], None]

NOTHING = Event(EventKind.VALUE)

_ONE_WAY = (Kind.SEND, Kind.SIGNAL, Kind.REPLY)


class Delivery:
    """A message in a mailbox."""

    __slots__ = (
        "also", "attempts", "envelope", "fingerprint", "fired", "fired_us", "is_cleared", "is_done", "is_in_doubt",
        "is_one_way", "is_stored", "is_storing", "journal", "needs_lookup", "problem", "respond", "span",
        "waits_until",
    )  # fmt: skip

    def __init__(self, envelope: Envelope, respond: Respond | None, *, is_stored: bool = False) -> None:
        self.envelope = envelope
        self.respond = respond
        self.also: list[Respond] = []
        """Repeats of the same message that wait for the same outcome."""
        self.is_stored = is_stored
        """Its inbox row is durable: it has been acknowledged."""
        self.is_storing = False
        """Its inbox row is being written."""
        self.is_done = False
        """Its turn has consumed it; the commit is to come."""
        self.is_one_way = envelope.kind in _ONE_WAY
        self.needs_lookup = envelope.is_retry
        self.is_in_doubt = False
        """It was in a commit whose outcome is not known, and has not been looked up since (I21)."""
        self.is_cleared = False
        """It may run although it was suspected (see suspects)."""
        self.attempts = 0
        self.fired: ReminderRow | None = None
        self.fired_us = 0
        self.span: TurnSpan | None = None
        self.problem: PerdureError | None = None
        self.waits_until = 0.0
        """Until when it is held back because newer code may know what to do with it (monotonic)."""
        self.journal: list[JournalRow] | None = None
        """What it needs of the store and has been read: the journal of an ended run."""
        self.fingerprint = fingerprint(envelope.name.encode(), envelope.args)

    def reply(self, status: Status, body: bytes, version: int) -> None:
        """Answer everybody who waits for it; later calls do nothing."""
        if status is Status.NOT_OWNER and self.is_in_doubt:
            body = IN_DOUBT
        waiting, self.respond = self.respond, None
        also, self.also = self.also, []
        if waiting is not None:
            waiting(Reply(self.envelope.id, status, body, version))
        for respond in also:
            respond(Reply(self.envelope.id, status, body, version))

    def reply_ok(self, body: bytes, version: int) -> None:
        """Answer with what was asked for."""
        self.reply(Status.OK, body, version)

    def acknowledge(self, version: int) -> None:
        """A one-way message is durable: tell whoever waits for that."""
        if self.is_one_way:
            self.reply(Status.ACCEPTED, b"null", version)


class ActivityDone:
    """An activity has its outcome."""

    __slots__ = ("call", "event")

    def __init__(self, call: "ActivityCall", event: Event) -> None:
        self.call = call
        self.event = event


class ActivityWaits(ActivityDone):
    """An activity has no outcome, but something about it must be durable: it waits for the outside, for a person, or
    for its paused run. As an ActivityDone its event is set only if even that cannot be stored.
    """

    __slots__ = ("row",)

    def __init__(self, call: "ActivityCall", row: AttemptRow) -> None:
        super().__init__(call, NOTHING)
        self.row = row


class Fire:
    """A reminder or timer is due."""

    __slots__ = ("problem", "row")

    def __init__(self, row: ReminderRow) -> None:
        self.row = row
        self.problem: PerdureError | None = None
        """Why it is not to run."""


class CheckConditions:
    """A turn has made a condition of this run true."""

    __slots__ = ("run",)

    def __init__(self, run: "Run") -> None:
        self.run = run


class Begin:
    """A run that continues as new has its turn to begin."""

    __slots__ = ("run",)

    def __init__(self, run: "Run") -> None:
        self.run = run


Item = Delivery | ActivityDone | Fire | CheckConditions | Begin


class HandlerContext:
    """`TurnContext` of a handler or query."""

    __slots__ = ("_host", "effects", "entity", "fired", "fired_us", "is_closed", "mode")

    def __init__(self, entity: EntityId, mode: Mode, host: Any) -> None:
        self.entity = entity
        self.mode: Mode = mode
        self.effects = Effects()
        self.is_closed = False
        self.fired: ReminderRow | None = None
        self.fired_us = 0
        self._host = host

    is_silent = False

    def log_fields(self) -> dict[str, Any]:
        """What log records of its code say."""
        turn_of = getattr(self._host, "turn_of", None)  # the parts of a transaction have no engine
        if turn_of is None:
            return {}
        version, name = turn_of(self.entity)
        if self.mode == "handler":
            version += 1  # that the turn makes
        return {"version": version, self.mode: name} if name else {"version": version}

    @property
    def registry(self) -> "Registry":
        registry: Registry = self._host.registry
        return registry

    def _open(self) -> Effects:
        if self.is_closed:
            raise DurableAwaitInHandler(
                f"{self.entity}: the turn has ended; a task that outlives its handler can neither send nor remind"
            )
        if self.mode == "query":
            raise ReadOnlyViolation(f"{self.entity}: a query cannot send, start or remind")
        return self.effects

    def now_us(self) -> int:
        return int(self._host.now_us())

    def random(self) -> Random:
        return Random()  # noqa: S311 - handlers need no repeatable chance; this is the ordinary one

    def send(
        self,
        target: EntityId,
        kind: Kind,
        name: str,
        args: bytes,
        *,
        delay_us: int,
        message_id: str,
        options: str = "",
    ) -> None:
        self._open().send(target, kind, name, args, delay_us=delay_us, message_id=message_id, options=options)

    def set_reminder(
        self, name: str, *, handler: str, args: bytes, due_us: int, every_us: int, catch_up_all: bool, cron: str = ""
    ) -> None:
        self._open().set_reminder(
            name, handler=handler, args=args, due_us=due_us, every_us=every_us, catch_up_all=catch_up_all, cron=cron
        )

    def cancel_reminder(self, name: str) -> None:
        self._open().cancel_reminder(name)

    def stage(self, staged: Staged) -> None:
        self._open().stage(staged)

    async def call(
        self, target: EntityId, kind: Kind, name: str, args: bytes, *, timeout_us: int, options: str = ""
    ) -> bytes:
        raise self._needs_workflow(f"called {target}.{name}")

    async def activity(self, name: str, fn: Any, signature: Any, args: bytes, options: Any) -> bytes:
        raise self._needs_workflow(f"awaited the activity {name}")

    async def receive(self, mailbox: str) -> bytes:
        raise self._needs_workflow(f"waited for the mailbox {mailbox}")

    async def condition(self, predicate: Callable[[], bool]) -> None:
        raise self._needs_workflow("waited for a condition")

    def patched(self, patch_id: str) -> bool:
        raise self._needs_workflow(f"asked for the patch {patch_id}")

    def continue_as_new(self, workflow: str, args: bytes) -> NoReturn:
        raise self._needs_workflow(f"tried to continue {workflow} as new")

    def _needs_workflow(self, what: str) -> DurableAwaitInHandler:
        return DurableAwaitInHandler(f"{self.entity}: a {self.mode} {what}; only a @workflow can wait durably")


def failure_body(what: str, error: BaseException) -> ErrorBody:
    """What a caller sees of an exception in a handler or query: Perdure's own errors as they are, others wrapped."""
    if isinstance(error, PerdureError):
        return error.body()
    inner = error_body(error)
    name = type(error).__name__
    return ErrorBody(
        HandlerFailed.code,
        f"{what} raised {name}: {inner.message}",
        type=name,
        details={"error_type": name},
        cause=inner,
    )


def workflow_error(what: str, error: BaseException, *, is_cancelled: bool) -> ErrorBody:
    """What a caller sees of a run that did not complete."""
    if is_cancelled:
        return WorkflowCancelled(f"{what} was cancelled", error_type="CancelledError").body()
    if isinstance(error, JournalTooLong):
        return error.body()
    inner = error_body(error)
    name = inner.type or type(error).__name__
    return ErrorBody(
        WorkflowFailed.code, f"{what} failed: {inner.message}", type=name, details={"error_type": name}, cause=inner
    )


def refused(delivery: Delivery, error: PerdureError) -> None:
    """Answer with an error that was found before the message was accepted."""
    delivery.reply(Status.ERROR, encode_json(error.body()), 0)


def mailbox_full(definition: "EntityDefinition", envelope: Envelope) -> Busy:
    """The answer to whoever sends from outside to a full durable mailbox."""
    limit = definition.mailboxes[envelope.name].max_items
    return Busy(
        f"{envelope.entity}: mailbox {envelope.name} holds {limit} items, its limit; nothing was accepted, try later",
        limit=limit,
    )
