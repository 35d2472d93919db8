"""What the turns of one entity write, and what they let out once that is durable (promises P2 and P3).

Everything that turns produce goes into `write` until the committer takes it; replies and all other outputs wait in
`turns` beside the message they belong to. `take` hands both over, `committed` lets the outputs go, `unfinished` tells
what has to run again if the commit never happened.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ...errors import (
    ErrorBody,
    PerdureError,
    ResultNotSerialisable,
    StagedSqlFailed,
    StateNotSerialisable,
)
from ...ids import EntityId, SendClock, new_message_id
from ...messages import Envelope, Kind, Outcome, Status, encode_json
from ...store.port import NotStorable, StagedRefused
from ...store.rows import (
    STATE_NOT_KEPT,
    STATE_UNCHANGED,
    AttemptRow,
    EntityWrite,
    HistoryRow,
    Loaded,
    MailboxItem,
    ReminderKind,
    ReminderRow,
)
from ..activities import ActivityCall, failure
from ..children import NOTIFY, reply_address
from ..deliveries import (
    ActivityDone,
    Delivery,
    Item,
    refused,
)
from ..effects import Effects
from ..loops import RELAY_MAX, with_hops
from ..run import Run

if TYPE_CHECKING:
    from ...definition import EntityDefinition
    from ..engine import Engine
    from .holding import EntityHold
    from .staging import StagingBarrier

log = logging.getLogger("perdure.engine")

Output = Callable[[], None]
NULL = b"null"
PERSIST_AFTER_S = 0.005
"""A handler that waits for longer than this lets the one-way messages behind it be acknowledged first."""


class Record:
    """State, mailbox and pending write of one activation. Not thread-safe."""

    __slots__ = (
        "attempts",
        "blocked",
        "busy",
        "by_id",
        "clock",
        "crowded",
        "definition",
        "durable",
        "durable_state",
        "engine",
        "entity",
        "has_more_mail",
        "id",
        "inflight",
        "is_dead",
        "is_persisting",
        "is_queued",
        "is_retiring",
        "is_waiting",
        "items",
        "just_consumed",
        "kept",
        "kept_large_at",
        "last_executor",
        "last_used",
        "late",
        "mailbox",
        "reminders",
        "rows",
        "runs",
        "serial",
        "shard",
        "snapshot",
        "trace",
        "turns",
        "version",
        "write",
    )

    def __init__(self, engine: "Engine", definition: "EntityDefinition", shard: int, loaded: Loaded) -> None:
        """Raises EntityParked if the stored state does not fit the class."""
        self.engine = engine
        self.definition = definition
        self.id = loaded.entity
        self.shard = shard
        self.entity = definition.load(
            self.id.key, loaded.state if loaded.version else None, version=loaded.schema_version
        )
        # Canonical bytes: jsonb has its own order and spacing, and comparisons below are by bytes.
        self.snapshot = definition.dump(self.entity) if loaded.version else definition.default_state
        self.durable_state = self.snapshot
        self.kept: bytes | None = self.snapshot if loaded.version else None
        self.kept_large_at = float("-inf")
        self.version = self.durable = loaded.version
        self.trace = ""
        """Of the turn that is running, where turns are traced."""
        self.clock = SendClock(loaded.clock)
        self.mailbox: deque[Item] = deque()
        self.by_id: dict[str, Delivery] = {}
        self.blocked: dict[str, deque[Delivery]] = {}
        self.crowded: dict[str, dict[str, None]] = {}
        """By full durable mailbox: the senders of `blocked` that wait for room in it."""
        self.rows = {row.workflow: row for row in loaded.runs}
        self.runs: dict[str, Run] = {}
        self.items: dict[str, deque[MailboxItem]] = {}
        for item in loaded.items:
            self.items.setdefault(item.mailbox, deque()).append(item)
        self.attempts = {row.operation: row for row in loaded.attempts}
        self.reminders: dict[str, tuple[int, int] | None] = {}
        self.write: EntityWrite | None = None
        self.turns: list[tuple[Item | None, Output | None]] = []
        self.inflight: tuple[EntityWrite, list[tuple[Item | None, Output | None]]] | None = None
        self.busy: asyncio.Task[Any] | EntityHold | StagingBarrier | None = None
        self.is_waiting = False
        self.is_queued = False
        self.is_dead = False
        self.is_persisting = False
        self.is_retiring = False
        self.has_more_mail = False
        """The inbox holds messages that have not been read: what comes from outside meanwhile is `late`."""
        self.late: dict[str, Delivery] = {}
        self.just_consumed: tuple[str, ...] = ()
        self.last_executor: Run | None = None
        self.last_used = engine.monotonic()
        self.serial = 0

    def know_attempts(self, call: ActivityCall) -> None:
        """Attempts may have been noted in the store while this entity was not in memory."""
        if (call.attempt > 1 or call.details != NULL) and call.operation not in self.attempts:
            self.attempts[call.operation] = AttemptRow(
                call.operation,
                call.name,
                call.attempt - 1,
                NULL,
                self.engine.now_us(),
                call.first_us,
                details=call.details,
            )

    def push_front(self, item: Item) -> None:
        """Do this before what waits."""
        self.mailbox.appendleft(item)
        self.engine.ready(self)

    def push(self, item: Item) -> None:
        """Do this after what waits."""
        self.mailbox.append(item)
        self.engine.ready(self)

    def _persist_soon(self) -> None:
        """While a handler waits for something: acknowledge one-way messages by their inbox rows."""
        if not self.is_persisting:
            self.is_persisting = True
            self.engine.call_later(PERSIST_AFTER_S, self._persist_waiting)

    def _persist_waiting(self) -> None:
        self.is_persisting = False
        if self.busy is None or self.is_dead:
            return
        waiting = [item for item in self.mailbox if isinstance(item, Delivery) and item.is_one_way]
        running = self._running()
        if running is not None and running.is_one_way and running.fired is None:
            sender = running.envelope.sender
            if any(item.envelope.sender == sender for item in waiting):
                waiting.insert(0, running)  # first, since its sender sent it first (P5)
        for item in waiting:
            self.engine.persist(self, item)

    def _running(self) -> Delivery | None:
        """The message whose handler is waiting for something."""
        known = self.engine.user_tasks.get(self.busy) if isinstance(self.busy, asyncio.Task) else None
        item = known[1] if known is not None else None
        return item if isinstance(item, Delivery) else None

    def pump(self, budget: int) -> int:
        """Run turns until there is nothing to do, or something must be waited for. Returns the turns left."""
        raise NotImplementedError

    def outcomes_waiting(self) -> set[str]:
        """Addresses of activities whose outcome has come and waits for its turn, here or under suspicion."""
        queued = {item.call.operation for item in self.mailbox if isinstance(item, ActivityDone)}
        return queued | self.engine.suspects.outcomes_of(self.id)

    def note_lost_attempt(self, row: AttemptRow, then: Output) -> None:
        """Write down an attempt that died with its host; once that is durable, go on."""
        self._writing().attempts_set.append(row)
        self._output(None, then)

    def _writing(self) -> EntityWrite:
        write = self.write
        if write is None:
            self.write = write = EntityWrite(
                entity=self.id,
                shard=self.shard,
                expected_version=self.version,
                version=self.version,
                state=b"",
                schema_version=self.definition.version,
            )
            self.engine.dirty(self)
        return write

    def _turn(self) -> EntityWrite:
        """One more version."""
        write = self._writing()
        self.version += 1
        write.version = self.version
        return write

    def _output(self, item: Item | None, output: Output | None) -> None:
        """What to do once the present write is durable; `item` is run again if it never is."""
        self.turns.append((item, output))

    def _gate(self, item: Item, output: Output) -> None:
        """Let something out that shows the present state: at once if that is durable, else with its commit."""
        if self.write is not None:
            self.turns.append((item, output))
        elif self.inflight is not None:
            self.inflight[1].append((item, output))
        else:
            output()
            self._forget(item)

    def _forget(self, item: Item | None) -> None:
        if isinstance(item, Delivery):
            self.by_id.pop(item.envelope.id, None)

    def _enter(self, executor: Run | None) -> None:
        """Make the state this executor's: see the module's protocol on detaching."""
        if self.last_executor is not executor:
            if self.last_executor is not None:
                self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = executor
        self.serial += 1

    def _consume(self, delivery: Delivery, *, ok: bool, body: bytes, by_run: bool = False) -> EntityWrite:
        """A turn that consumes a message with this outcome; `by_run`: the resume of a run follows in the same turn."""
        envelope = delivery.envelope
        if not by_run:
            self._enter(None)
        write = self._turn()
        write.history.append(
            HistoryRow(
                envelope.id,
                self.version,
                envelope.kind,
                envelope.name,
                envelope.sender,
                delivery.fingerprint,
                envelope.args,
                ok,
                body,
                STATE_UNCHANGED if self.snapshot is self.kept else self._state_to_keep(),
            )
        )
        delivery.is_done = True
        if delivery.is_stored or delivery.is_storing:
            write.consumed.append((envelope.position, envelope.id))
        # A start or await that was accepted is answered when the run ends.
        if envelope.reply_to and not (ok and envelope.kind in (Kind.START, Kind.RESULT)):
            self._send_reply(write, envelope.reply_to, ok=ok, body=body)
        status = (Status.ACCEPTED if delivery.is_one_way else Status.OK) if ok else Status.ERROR
        version = self.version
        self._output(delivery, lambda: delivery.reply(status, body, version))
        return write

    def _state_to_keep(self) -> bytes:
        """What the row of a turn says of the state that it left, for time travel. Large ones are kept rarely."""
        if not self.definition.keep_states:
            return STATE_NOT_KEPT
        snapshot, before = self.snapshot, self.kept
        self.kept = snapshot
        if snapshot == before:
            return STATE_UNCHANGED
        settings = self.engine.settings
        if len(snapshot) > settings.keep_state_bytes:
            now = self.engine.monotonic()
            if now - self.kept_large_at < settings.keep_large_state_every_s:
                return STATE_NOT_KEPT
            self.kept_large_at = now
        return snapshot

    def discard(self, delivery: Delivery) -> None:
        """An inbox row (if it is still there) whose message has an outcome already: delete it. That is no turn."""
        self._writing().consumed.append((delivery.envelope.position, delivery.envelope.id))
        self._output(None, None)

    def _send_reply(self, write: EntityWrite, reply_to: str, *, ok: bool, body: bytes) -> None:
        target, _, operation = reply_to.rpartition("#")
        outcome = (
            Outcome(ok=ok, value=msgspec.Raw(body))
            if ok
            else Outcome(ok=False, error=msgspec.json.decode(body, type=ErrorBody))
        )
        entity = EntityId.parse(target)
        is_told, token = operation.startswith(NOTIFY), operation.partition("/")[2]
        self._post(
            write,
            Envelope(
                id=f"{operation}:reply",
                type=entity.type,
                key=entity.key,
                kind=Kind.SEND if is_told else Kind.REPLY,
                name=operation[1:].partition("/")[0] if is_told else operation,
                args=encode_json({"token": token, "outcome": outcome}) if is_told else encode_json(outcome),
                sender=str(self.id),
                position=self.clock.next(self.engine.now_us()),
            ),
        )

    def _post(self, write: EntityWrite, envelope: Envelope) -> None:
        if self.trace:
            envelope = msgspec.structs.replace(envelope, trace=self.trace)
        write.outbox.append(envelope)
        self._output(None, lambda: self.engine.hint(envelope.entity))

    def _perform(self, write: EntityWrite, effects: Effects, run: Run | None = None, *, hops: int = 0) -> None:
        """Put what a turn asked for into its write."""
        for target, kind, name, args, delay_us, message_id, options in effects.outgoing:
            self._post(
                write,
                Envelope(
                    id=message_id or new_message_id(),
                    type=target.type,
                    key=target.key,
                    kind=kind,
                    name=name,
                    args=args,
                    sender=str(self.id),
                    position=self.clock.next(self.engine.now_us()),
                    delay_us=delay_us,
                    options=with_hops(options, hops),
                    chain=(*run.row.chain[-RELAY_MAX:], f"{self.id}#{run.row.workflow}") if run is not None else (),
                    reply_to=reply_address(self.id, options) if options else "",
                ),
            )
        for name, wanted in effects.reminders.items():
            if wanted is None:
                self._drop_reminder(write, name)
            else:
                row = ReminderRow(
                    self.id,
                    name,
                    ReminderKind.REMINDER,
                    self.version,
                    wanted.due_us,
                    wanted.every_us,
                    wanted.catch_up_all,
                    wanted.handler,
                    wanted.args,
                    wanted.cron,
                )
                self._put_reminder(write, row)

    def _put_reminder(self, write: EntityWrite, row: ReminderRow) -> None:
        write.reminders_set = [r for r in write.reminders_set if r.name != row.name]
        write.reminders_set.append(row)
        self.reminders[row.name] = (row.generation, row.due_us)
        self._output(None, lambda: self.engine.arm(row))

    def _drop_reminder(self, write: EntityWrite, name: str) -> None:
        write.reminders_set = [r for r in write.reminders_set if r.name != name]
        write.reminders_cancelled.append(name)
        self.reminders[name] = None
        self._output(None, lambda: self.engine.wheel.drop(self.id, name))

    def _reject(self, delivery: Delivery, error: PerdureError) -> None:
        """Refuse with an error that depends on the state: recorded if the message was accepted or somebody waits."""
        if delivery.is_stored or delivery.is_storing or delivery.envelope.reply_to:
            self._consume(delivery, ok=False, body=encode_json(error.body()))
        else:
            self._gate(delivery, lambda: refused(delivery, error))

    def _audit(self, delivery: Delivery) -> None:
        """If this message has made a turn: it is kept in the audit, too."""
        write = self.write
        if write is not None and any(row.message_id == delivery.envelope.id for row in write.history):
            write.audited += (delivery.envelope.id,)

    def take(self) -> EntityWrite:
        """Hand everything since the last commit to the committer."""
        write = self.write
        assert write is not None
        assert self.inflight is None, "one commit of an entity at a time"
        write.state = self.snapshot
        write.clock = self.clock.last
        self.inflight = (write, self.turns)
        self.write = None
        self.turns = []
        return write

    def committed(self) -> None:
        """The write in flight is durable: let its outputs go."""
        assert self.inflight is not None
        write, turns = self.inflight
        self.inflight = None
        self.durable = write.version
        self.durable_state = write.state
        self.just_consumed = tuple(message_id for _, message_id in write.consumed)
        for item, output in turns:
            self._forget(item)
            if output is not None:
                output()
        if self.write is None:
            self.reminders.clear()  # the wheel has been told of all of it
        self.last_used = self.engine.monotonic()

    def undo_take(self) -> None:
        """The batch was not written, through no fault of this entity: its write goes into the next one."""
        assert self.inflight is not None
        earlier, turns = self.inflight
        self.inflight = None
        if self.write is not None:
            earlier.merge(self.write)
        self.write = earlier
        self.turns = turns + self.turns

    def condemn(self, problem: NotStorable) -> None:
        """The database refuses what these turns wrote, for ever: their messages must not run again."""
        assert self.inflight is not None
        _, turns = self.inflight
        for item, _ in turns:
            if isinstance(item, Delivery):
                what = StagedSqlFailed if isinstance(problem, StagedRefused) else StateNotSerialisable
                item.problem = what(f"{self.id}.{item.envelope.name}: {problem.message}; the turn changed nothing")
            elif isinstance(item, ActivityDone):
                item.event = failure(item.call, ResultNotSerialisable(f"{self.id}: {problem.message}"))

    def unfinished(self) -> list[Item]:
        """Everything that has no durable outcome, in the order in which it came. Fires are found again in the store."""
        items: list[Item] = []
        for _, turns in [self.inflight] if self.inflight else []:
            items.extend(item for item, _ in turns if item is not None)
        in_flight = len(items)
        items.extend(item for item, _ in self.turns if item is not None)
        running = self._running()
        if running is not None:
            items.append(running)
        items.extend(delivery for held in self.blocked.values() for delivery in held)
        items.extend(self.mailbox)
        items.extend(delivery for delivery in self.late.values() if not delivery.is_stored)  # those are read in time
        kept: list[Item] = []
        for place, item in enumerate(items):
            if isinstance(item, Delivery):
                item.is_in_doubt = item.is_in_doubt or place < in_flight or item.is_storing
                if item.is_stored and item.envelope.kind is Kind.REPLY:
                    continue  # leaves no outcome to look up: found again in the inbox, unless it was consumed
                if item.fired is None or item.problem is not None:
                    item.needs_lookup = True
                    item.is_storing = item.is_done = False
                    kept.append(item)
            elif isinstance(item, ActivityDone):
                kept.append(item)
        return kept

    def close(self) -> None:
        """Leave memory: no turn runs any more."""
        self.is_dead = True
        if self.busy is not None:
            self.busy.cancel()
        for run in self.runs.values():
            run.close()

    def is_idle(self) -> bool:
        """Whether nothing is under way and it may leave memory."""
        return not (
            self.mailbox
            or self.blocked
            or self.late
            or self.write is not None
            or self.inflight is not None
            or self.busy is not None
            or self.is_queued
            or any(run.row.in_flight for run in self.runs.values())
        )
