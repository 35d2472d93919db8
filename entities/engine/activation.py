"""One entity in memory: its mailbox, and the turns that lead from one version to the next.

Protocol
--------
* Turns run one after the other, each on the state that the previous one left, whether or not that one is durable yet
  (*pipelining*). Everything a turn produces goes into `write`, which the committer takes (`take`) and makes durable;
  replies and all other outputs wait in `turns` until then (*output gate*: `committed`).
* If the commit fails, nothing derived from it has been seen by anybody. The activation is dropped; `unfinished`
  returns its messages in order, and a fresh activation runs them again on what the store holds, after looking up
  which of them have an outcome.
* Between the resumes of a run any other turn may change the state. `_enter` *detaches* the state before a turn that
  is not that run's: the run's local aliases keep the values they had at its await, live and in replay alike.
* At most one handler can be in a real await (`busy`); messages wait meanwhile, queries are answered from the last
  durable snapshot.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from ..context import current
from ..errors import (
    AlreadyStarted,
    Busy,
    ErrorBody,
    HandlerTimeout,
    IdempotencyMismatch,
    NoSuchRun,
    PerdureError,
    ReadOnlyViolation,
    Rejected,
    RunEnded,
    RunParked,
    WorkflowTerminated,
)
from ..ids import EntityId, SendClock, new_message_id
from ..messages import (
    Envelope,
    Kind,
    OperationAddress,
    Outcome,
    Status,
    decode_outcome,
    encode_json,
)
from ..store.rows import (
    DeadLetter,
    EntityWrite,
    HistoryRow,
    JournalRow,
    Loaded,
    MailboxItem,
    ReminderKey,
    ReminderKind,
    ReminderRow,
    RunRow,
    RunStatus,
)
from .deliveries import (
    ActivityDone,
    CheckConditions,
    Delivery,
    Fire,
    HandlerContext,
    Item,
    failure_body,
    occurrence_after,
    refused,
    workflow_error,
)
from .effects import Effects
from .journal import Entry, Event, EventKind, OperationKind, ReplayMismatch, decode_entry, encode_entry
from .loop import SpinningWorkflow
from .run import Run

if TYPE_CHECKING:
    from ..definition import EntityDefinition
    from ..descriptors import Handler
    from .engine import Engine

log = logging.getLogger("perdure.engine")

Output = Callable[[], None]
NULL = b"null"
PERSIST_AFTER_S = 0.005
"""A handler that waits for longer than this lets the one-way messages behind it be acknowledged first."""
QUERY_TIMEOUT_S = 30.0


class Activation:
    """The in-memory life of one entity on this host. Owned by the host's loop; nothing here is thread-safe."""

    __slots__ = (
        "attempts", "blocked", "busy", "by_id", "clock", "definition", "durable", "durable_state", "engine", "entity",
        "id", "inflight", "is_dead", "is_persisting", "is_queued", "is_retiring", "is_waiting", "items", "just_consumed", "last_executor", "last_used", "mail_wanted",
        "mailbox", "reminders", "rows", "runs", "schema_version", "serial", "shard", "snapshot", "turns", "version",
        "write",
    )  # fmt: skip

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
        self.version = self.durable = loaded.version
        self.clock = SendClock(loaded.clock)
        self.mailbox: deque[Item] = deque()
        self.by_id: dict[str, Delivery] = {}
        self.blocked: dict[str, deque[Delivery]] = {}
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
        self.busy: asyncio.Task[Any] | None = None
        self.is_waiting = False
        self.is_queued = False
        self.is_dead = False
        self.is_persisting = False
        self.is_retiring = False
        self.mail_wanted = False
        self.just_consumed: tuple[str, ...] = ()
        self.last_executor: Run | None = None
        self.last_used = engine.monotonic()
        self.serial = 0
        self._rebuild_runs(loaded)

    # --- activation ---

    def _rebuild_runs(self, loaded: Loaded) -> None:
        """Replay the journals of unfinished runs. The run that had the last turn comes last: its aliases stay live."""
        live = [row for row in loaded.runs if not row.status.is_terminal]
        journals = {
            row.workflow: [j for j in loaded.journal if (j.workflow, j.run_id) == (row.workflow, row.run_id)]
            for row in live
        }
        live.sort(key=lambda row: journals[row.workflow][-1].version if journals[row.workflow] else 0)
        last_version = 0
        for row in live:
            run = self._replay(row, journals[row.workflow])
            if run is not None and journals[row.workflow]:
                last_version = journals[row.workflow][-1].version
                self.last_executor = run
        if self.last_executor is None:
            return
        if last_version != self.version:
            self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = None
        else:
            rebuilt = self.definition.dump(self.entity)
            if rebuilt != self.snapshot:
                run = self.last_executor
                self.last_executor = None
                self.definition.replace_fields(self.entity, self.snapshot)
                self._park(run, ReplayMismatch(self.snapshot.decode()[:500], rebuilt.decode()[:500], run.entries))

    def _replay(self, row: RunRow, journal: list[JournalRow]) -> Run | None:
        if row.workflow not in self.definition.workflows:
            self._park_row(row, f"the class has no workflow `{row.workflow}` any more")
            return None
        if row.status is RunStatus.PARKED:
            # The code may be fixed by now: try; if it still does not fit, the run stays parked.
            row = row._replace(status=RunStatus.RUNNING, outcome=NULL)
        run = Run(self.definition, self.entity, self.id, row)

        def replace_fields(state: bytes | None) -> None:
            self.definition.replace_fields(self.entity, self.definition.dump(self.entity) if state is None else state)

        self.definition.replace_fields(self.entity, self.definition.default_state)
        try:
            run.replay((decode_entry(entry.entry) for entry in journal), replace_fields)
        except (ReplayMismatch, PerdureError, SpinningWorkflow, msgspec.DecodeError) as problem:
            self._park(run, problem)
            self.definition.replace_fields(self.entity, self.snapshot)
            return None
        run.seen = self.definition.dump(self.entity)
        if not journal or journal[-1].version != self.version:
            run.last_turn = -1
        else:
            run.last_turn = self.serial
        if self.rows[row.workflow].status is RunStatus.PARKED:
            self.rows[row.workflow] = row
            self._writing().runs.append(row)
            self._output(None, None)
        self.runs[row.workflow] = run
        return run

    def start_pending(self) -> None:
        """After activation: start again the activities whose outcome is not known."""
        queued = {(i.call.operation) for i in self.mailbox if isinstance(i, ActivityDone)}
        for run in self.runs.values():
            for operation in run.pending.values():
                if operation.kind is OperationKind.ACTIVITY and run.address(operation.number) not in queued:
                    self.engine.start_activity(self, run, operation)
            if run.true_conditions():
                self.push_front(CheckConditions(run))

    def _park(self, run: Run, problem: Exception) -> None:
        run.close()
        self._park_row(run.row, str(problem))

    def _park_row(self, row: RunRow, reason: str) -> None:
        log.error("%s.%s is parked: %s", self.id, row.workflow, reason)
        body = RunParked(
            f"{self.id}.{row.workflow} is parked: {reason}. Handlers and queries go on; deploy code that fits its journal",
        ).body()
        self.runs.pop(row.workflow, None)
        before = self.rows.get(row.workflow)
        self.rows[row.workflow] = row = row._replace(
            status=RunStatus.PARKED, outcome=encode_json(body), in_flight=False, waiting=""
        )
        if before is None or before.status is not RunStatus.PARKED or before.outcome != row.outcome:
            self._writing().runs.append(row)
            self._output(None, None)

    # --- the mailbox ---

    def deliver(self, delivery: Delivery) -> None:
        """Accept a message (or refuse it at once)."""
        envelope = delivery.envelope
        known = self.by_id.get(envelope.id)
        if known is not None:
            if known.fingerprint != delivery.fingerprint:
                refused(delivery, _mismatch(self.id, envelope))
            elif known.is_stored and known.is_one_way:
                delivery.reply(Status.ACCEPTED, NULL, self.durable)
            elif delivery.respond is not None:
                known.also.append(delivery.respond)
            return
        # A repeat may have been applied already: to refuse it as "not accepted" could be a lie.
        is_bounded = not (delivery.is_stored or delivery.needs_lookup)
        if is_bounded and len(self.mailbox) >= self.engine.settings.mailbox_max:
            delivery.reply(
                Status.BUSY,
                encode_json(
                    Busy(
                        f"{self.id}: {len(self.mailbox)} messages are waiting, the limit; nothing was accepted, try later",
                        limit=self.engine.settings.mailbox_max,
                    ).body()
                ),
                0,
            )
            return
        problem = self._check(envelope)
        if problem is not None:
            if not delivery.is_stored:
                refused(delivery, problem)
                return
            delivery.problem = problem
        if envelope.kind is Kind.QUERY and self.busy is not None and not envelope.reply_to:
            self._query_durable(delivery)
            return
        self.by_id[envelope.id] = delivery
        if delivery.is_one_way and envelope.sender in self.blocked:
            self.blocked[envelope.sender].append(delivery)
            self.engine.persist(self, delivery)
            return
        if delivery.needs_lookup:
            self.engine.look_up(self, delivery)
        self.mailbox.append(delivery)
        if self.busy is not None and delivery.is_one_way:
            self._persist_soon()
        self.engine.ready(self)

    def _persist_soon(self) -> None:
        """While a handler waits for something: acknowledge one-way messages by their inbox rows."""
        if not self.is_persisting:
            self.is_persisting = True
            self.engine.call_later(PERSIST_AFTER_S, self._persist_waiting)

    def _persist_waiting(self) -> None:
        self.is_persisting = False
        if self.busy is not None and not self.is_dead:
            for item in self.mailbox:
                if isinstance(item, Delivery) and item.is_one_way:
                    self.engine.persist(self, item)

    def _check(self, envelope: Envelope) -> PerdureError | None:
        """What is wrong with the message, before anything is acknowledged."""
        definition = self.definition
        try:
            match envelope.kind:
                case Kind.CALL | Kind.SEND:
                    if envelope.name not in definition.handlers:
                        raise definition.unknown(envelope.name)
                case Kind.QUERY:
                    if envelope.name not in definition.queries:
                        raise definition.unknown(envelope.name)
                case Kind.START | Kind.RESULT | Kind.CANCEL | Kind.TERMINATE:
                    if envelope.name not in definition.workflows:
                        raise definition.unknown(envelope.name)
                    if envelope.kind is Kind.START:
                        definition.workflows[envelope.name].signature.load_arguments(envelope.args)
                case Kind.SIGNAL:
                    mailbox = definition.mailboxes.get(envelope.name)
                    if mailbox is None:
                        raise definition.unknown(envelope.name)
                    mailbox.load(envelope.args)
                case Kind.REPLY:
                    pass
        except PerdureError as error:
            return error
        return None

    def push_front(self, item: Item) -> None:
        """Do this before what waits."""
        self.mailbox.appendleft(item)
        self.engine.ready(self)

    def push(self, item: Item) -> None:
        """Do this after what waits."""
        self.mailbox.append(item)
        self.engine.ready(self)

    def pump(self, budget: int) -> int:
        """Run turns until there is nothing to do, or something must be waited for. Returns the turns left."""
        mailbox = self.mailbox
        self.is_waiting = False
        while mailbox and budget and self.busy is None and not self.is_dead and not self.is_retiring:
            item = mailbox[0]
            if isinstance(item, Delivery) and item.needs_lookup:
                self.is_waiting = True
                break
            mailbox.popleft()
            budget -= 1
            self._process(item)
        self.last_used = self.engine.monotonic()
        return budget

    def _process(self, item: Item) -> None:
        match item:
            case Delivery():
                self._process_delivery(item)
            case ActivityDone():
                address = OperationAddress.parse(item.call.operation)
                self._resume_operation(item, address, item.event)
            case Fire():
                self._fire(item)
            case CheckConditions():
                if self.runs.get(item.run.row.workflow) is item.run:
                    events = item.run.true_conditions()
                    if events:
                        self._resume(item.run, events, item)

    def _process_delivery(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        if delivery.problem is not None:
            self._refuse_stored(delivery, delivery.problem)
            return
        match envelope.kind:
            case Kind.CALL | Kind.SEND:
                if delivery.fired is not None and not self._is_current(delivery.fired):
                    self.engine.wheel.drop_stale(delivery.fired)
                elif envelope.delay_us:
                    self._delay(delivery)
                else:
                    self._handle(delivery)
            case Kind.QUERY:
                self._query(delivery)
            case Kind.START:
                self._start(delivery)
            case Kind.RESULT:
                self._result(delivery)
            case Kind.SIGNAL:
                self._signal(delivery)
            case Kind.CANCEL | Kind.TERMINATE:
                self._end_by_request(delivery)
            case Kind.REPLY:
                self._reply(delivery)

    # --- recording turns ---

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
            )
        )
        if delivery.is_stored or delivery.is_storing:
            write.consumed.append((envelope.position, envelope.id))
        if envelope.reply_to and envelope.kind is not Kind.RESULT and (envelope.kind is not Kind.START or not ok):
            self._send_reply(write, envelope.reply_to, ok=ok, body=body)
        status = (Status.ACCEPTED if delivery.is_one_way else Status.OK) if ok else Status.ERROR
        version = self.version
        self._output(delivery, lambda: delivery.reply(status, body, version))
        return write

    def _send_reply(self, write: EntityWrite, reply_to: str, *, ok: bool, body: bytes) -> None:
        target, _, operation = reply_to.rpartition("#")
        outcome = (
            Outcome(ok=ok, value=msgspec.Raw(body))
            if ok
            else Outcome(ok=False, error=msgspec.json.decode(body, type=ErrorBody))
        )
        entity = EntityId.parse(target)
        self._post(
            write,
            Envelope(
                id=f"{operation}:reply",
                type=entity.type,
                key=entity.key,
                kind=Kind.REPLY,
                name=operation,
                args=encode_json(outcome),
                sender=str(self.id),
                position=self.clock.next(self.engine.now_us()),
            ),
        )

    def _post(self, write: EntityWrite, envelope: Envelope) -> None:
        write.outbox.append(envelope)
        self._output(None, lambda: self.engine.hint(envelope.entity))

    def _perform(self, write: EntityWrite, effects: Effects, run: Run | None = None) -> None:
        """Put what a turn asked for into its write."""
        for target, kind, name, args, delay_us, message_id in effects.outgoing:
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
                    chain=(*run.row.chain, f"{self.id}#{run.row.workflow}") if run is not None else (),
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

    # --- handlers ---

    def _enter(self, executor: Run | None) -> None:
        """Make the state this executor's: see the module's protocol on detaching."""
        if self.last_executor is not executor:
            if self.last_executor is not None:
                self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = executor
        self.serial += 1

    def _handle(self, delivery: Delivery) -> None:
        name = delivery.envelope.name
        method = self.definition.handlers[name]
        try:
            kwargs = method.signature.load_arguments(delivery.envelope.args)
        except PerdureError as error:
            self._refuse_stored(delivery, error)
            return
        self._enter(None)
        context = HandlerContext(self.id, "handler", self.engine)
        if name in self.definition.suspending:
            self._handle_in_task(delivery, method, kwargs, context)
            return
        value: Any = None
        error: BaseException | None = None
        token = current.set(context)
        try:
            method.fn(self.entity, **kwargs).send(None)
            error = RuntimeError("suspended without an await")
        except StopIteration as stop:
            value = stop.value
        except BaseException as raised:  # noqa: BLE001 - user code
            error = raised
        finally:
            current.reset(token)
        self._handled(delivery, method, context, value, error)

    def _handle_in_task(
        self, delivery: Delivery, method: "Handler[Any, Any]", kwargs: dict[str, Any], context: HandlerContext
    ) -> None:
        """Run a handler that may wait for something. Messages wait meanwhile; the time limit bounds it."""
        task = self.engine.run_user_code(method.fn(self.entity, **kwargs), context)
        if task.done():
            self._finish_task(task, delivery, method, context, is_late=False)
            return
        self.busy = task
        late: list[bool] = []

        def cancel() -> None:
            late.append(True)
            task.cancel()
            timer[0] = self.engine.call_later(self.engine.settings.handler_grace_s, abandon)

        def abandon() -> None:
            log.error("%s.%s ignores its cancellation; abandoned", self.id, method.name)
            task.remove_done_callback(done)
            context.is_closed = True
            self.busy = None
            # The abandoned code still holds the entity object: nothing runs on it any more, and after this commit a
            # fresh activation takes over.
            self.is_retiring = True
            self._handled(delivery, method, context, None, self._timeout_error(method))
            self._output(None, lambda: self.engine.drop(self))

        def done(task: asyncio.Task[Any]) -> None:
            timer[0].cancel()
            if self.is_dead:
                task.cancelled() or task.exception()  # looked at, so that asyncio does not complain
                return
            self.busy = None
            self._finish_task(task, delivery, method, context, is_late=bool(late))
            self.engine.ready(self)

        timer = [self.engine.call_later(method.timeout_s, cancel)]
        task.add_done_callback(done)
        if self.mailbox:
            self._persist_soon()

    def _timeout_error(self, method: "Handler[Any, Any]") -> HandlerTimeout:
        return HandlerTimeout(
            f"{self.id}.{method.name} ran longer than its limit of {method.timeout_s:g} s and was cancelled; it changed "
            "nothing. Long work belongs in a @workflow with activities",
            error_type="TimeoutError",
        )

    def _finish_task(
        self,
        task: asyncio.Task[Any],
        delivery: Delivery,
        method: "Handler[Any, Any]",
        context: HandlerContext,
        *,
        is_late: bool,
    ) -> None:
        error: BaseException | None
        if task.cancelled():
            error = self._timeout_error(method) if is_late else RuntimeError("the handler cancelled itself")
        else:
            error = task.exception()
        value = None if error is not None else task.result()
        self._handled(delivery, method, context, value, error)

    def _handled(
        self,
        delivery: Delivery,
        method: "Handler[Any, Any]",
        context: HandlerContext,
        value: Any,
        error: BaseException | None,
    ) -> None:
        """The handler has returned or raised: commit its turn, or restore the state and record the error."""
        context.is_closed = True
        body = NULL
        if error is None:
            try:
                body = method.signature.dump_result(value)
                snapshot = self.definition.dump(self.entity)
                if snapshot != self.snapshot:
                    self.definition.check_loads(self.id.key, snapshot)
                    self.snapshot = snapshot
            except PerdureError as problem:
                error = problem
        if error is not None:
            self.definition.replace_fields(self.entity, self.snapshot)
            self._failed(delivery, method, error)
            return
        write = self._consume(delivery, ok=True, body=body)
        if delivery.fired is not None:
            self._fired(write, delivery.fired, context.effects)
        if context.effects.outgoing or context.effects.reminders:
            self._perform(write, context.effects)
        self._changed()

    def _failed(self, delivery: Delivery, method: "Handler[Any, Any]", error: BaseException) -> None:
        """Consumed with its error (call), tried again, or given up (one-way)."""
        body = failure_body(f"{self.id}.{method.name}", error)
        if not delivery.is_one_way:
            self._consume(delivery, ok=False, body=encode_json(body))
            return
        delivery.attempts += 1
        wrapped = error if isinstance(error, Exception) else RuntimeError(repr(error))
        if method.retry.is_final(wrapped, delivery.attempts) or isinstance(error, Rejected):
            log.error("%s.%s failed %d times, dead-lettered: %s", self.id, method.name, delivery.attempts, body.message)
            write = self._consume(delivery, ok=False, body=encode_json(body))
            write.dead_letters.append(DeadLetter(delivery.envelope, delivery.attempts, encode_json(body)))
            if delivery.fired is not None:
                self._fired(write, delivery.fired, Effects())
            return
        log.warning("%s.%s failed (attempt %d): %s", self.id, method.name, delivery.attempts, body.message)
        sender = delivery.envelope.sender
        held = self.blocked.setdefault(sender, deque())
        held.appendleft(delivery)
        # Order per sender: what it sent later waits for this one.
        for item in [i for i in self.mailbox if isinstance(i, Delivery) and i.is_one_way]:
            if item.envelope.sender == sender:
                self.mailbox.remove(item)
                held.append(item)
        if delivery.fired is None:
            self.engine.persist(self, delivery)
        self.engine.call_later(method.retry.delay_s(delivery.attempts), lambda: self._unblock(sender))

    def _unblock(self, sender: str) -> None:
        held = self.blocked.pop(sender, None)
        if held and not self.is_dead:
            self.mailbox.extendleft(reversed(held))
            self.engine.ready(self)

    def _refuse_stored(self, delivery: Delivery, error: PerdureError) -> None:
        """A message that cannot be applied: answered; if it was accepted before, also kept as a dead letter."""
        if not delivery.is_stored and not delivery.is_storing and delivery.fired is None:
            self._gate(delivery, lambda: refused(delivery, error))
            return
        body = encode_json(error.body())
        write = self._consume(delivery, ok=False, body=body)
        write.dead_letters.append(DeadLetter(delivery.envelope, delivery.attempts + 1, body))
        if delivery.fired is not None:
            self._fired(write, delivery.fired, Effects())

    def _delay(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        write = self._consume(delivery, ok=True, body=NULL)
        self._put_reminder(
            write,
            ReminderRow(
                self.id,
                envelope.id,
                ReminderKind.MESSAGE,
                self.version,
                self.engine.now_us() + envelope.delay_us,
                handler=envelope.name,
                args=envelope.args,
            ),
        )

    # --- queries ---

    def _query(self, delivery: Delivery) -> None:
        name = delivery.envelope.name
        if not self.engine.has_lease():
            self.by_id.pop(delivery.envelope.id, None)
            delivery.reply(Status.NOT_OWNER, NULL, 0)
            return
        if name in self.definition.suspending:
            self._gate(delivery, lambda: self._query_durable(delivery))
            return
        method = self.definition.queries[name]
        token = current.set(HandlerContext(self.id, "query", self.engine))
        try:
            kwargs = method.signature.load_arguments(delivery.envelope.args)
            method.fn(self.entity, **kwargs).send(None)
            raise RuntimeError("suspended without an await")
        except StopIteration as stop:
            status, body = self._answer(method, stop.value)
        except BaseException as error:  # noqa: BLE001 - user code
            status, body = Status.ERROR, encode_json(failure_body(f"{self.id}.{name}", error))
        finally:
            current.reset(token)
        try:
            changed = self.definition.dump(self.entity) != self.snapshot
        except PerdureError:
            changed = True
        if changed:
            self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = None
            self.serial += 1
            status, body = Status.ERROR, encode_json(_read_only(self.id, name).body())
        self._answer_query(delivery, status, body)

    def _answer_query(self, delivery: Delivery, status: Status, body: bytes) -> None:
        version = self.version
        if delivery.envelope.reply_to:
            self._consume(delivery, ok=status is Status.OK, body=body)
            return
        self._gate(delivery, lambda: delivery.reply(status, body, version))

    def _answer(self, method: Any, value: Any) -> tuple[Status, bytes]:
        try:
            return Status.OK, method.signature.dump_result(value)
        except PerdureError as error:
            return Status.ERROR, encode_json(error.body())

    def _query_durable(self, delivery: Delivery) -> None:
        """Answer from a copy of the last durable state: for queries that wait, and while a handler is under way."""
        name = delivery.envelope.name
        method = self.definition.queries[name]
        version = self.durable
        if not self.engine.has_lease():
            delivery.reply(Status.NOT_OWNER, NULL, 0)
            return
        try:
            copy = self.definition.load(self.id.key, self.durable_state)
            before = self.durable_state
            kwargs = method.signature.load_arguments(delivery.envelope.args)
        except PerdureError as error:
            refused(delivery, error)
            return
        task = self.engine.run_user_code(method.fn(copy, **kwargs), HandlerContext(self.id, "query", self.engine))
        timer = self.engine.call_later(QUERY_TIMEOUT_S, task.cancel)

        def done(task: asyncio.Task[Any]) -> None:
            timer.cancel()
            error = TimeoutError(f"no answer in {QUERY_TIMEOUT_S:g} s") if task.cancelled() else task.exception()
            if error is not None:
                status, body = Status.ERROR, encode_json(failure_body(f"{self.id}.{name}", error))
            elif self.definition.dump(copy) != before:
                status, body = Status.ERROR, encode_json(_read_only(self.id, name).body())
            else:
                status, body = self._answer(method, task.result())
            if not delivery.envelope.reply_to:
                delivery.reply(status, body, version)
            elif not self.is_dead:
                self._consume(delivery, ok=status is Status.OK, body=body)

        if task.done():
            done(task)
        else:
            task.add_done_callback(done)

    # --- workflow messages ---

    def _start(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        row = self.rows.get(envelope.name)
        if row is not None and not (row.status.is_terminal and envelope.options == "restart"):
            if row.fingerprint != delivery.fingerprint:
                self._reject(
                    delivery,
                    AlreadyStarted(
                        f"{self.id}.{envelope.name} was started before with other arguments (run {row.run_id}, "
                        f"{row.status}); to start it anew once it has ended use .options(restart=True)",
                        run_id=row.run_id,
                        status=row.status,
                    ),
                )
                return
            self._join(delivery, row)
            return
        row = RunRow(
            workflow=envelope.name,
            run_id=new_message_id(),
            status=RunStatus.RUNNING,
            args=envelope.args,
            fingerprint=delivery.fingerprint,
            started_us=self.engine.now_us(),
            reply_to=(envelope.reply_to,) if envelope.reply_to else (),
            chain=envelope.chain,
        )
        self.rows[envelope.name] = row
        run = Run(self.definition, self.entity, self.id, row)
        self.runs[envelope.name] = run
        self._consume(delivery, ok=True, body=encode_json(row.run_id), by_run=True)
        self._resume(run, [Event(EventKind.START)], None, is_same_turn=True)

    def _join(self, delivery: Delivery, row: RunRow) -> None:
        """Started again with equal input: the same run."""
        body = encode_json(row.run_id)
        if not delivery.envelope.reply_to:
            if delivery.is_stored or delivery.is_storing:
                self._consume(delivery, ok=True, body=body)
            else:
                version = self.version
                self._gate(delivery, lambda: delivery.reply(Status.OK, body, version))
            return
        self._await_run(delivery, row)

    def _await_run(self, delivery: Delivery, row: RunRow) -> None:
        """Another entity's workflow waits for this run: answer now, or note it with the run."""
        envelope = delivery.envelope
        write = self._consume(delivery, ok=True, body=encode_json(row.run_id))
        if row.status.is_terminal:
            self._send_reply(write, envelope.reply_to, ok=row.status is RunStatus.COMPLETED, body=row.outcome)
        else:
            self._set_row(write, row._replace(reply_to=(*row.reply_to, envelope.reply_to)))

    def _set_row(self, write: EntityWrite, row: RunRow) -> None:
        self.rows[row.workflow] = row
        run = self.runs.get(row.workflow)
        if run is not None and run.row.run_id == row.run_id:
            run.row = row
        write.runs = [r for r in write.runs if r.workflow != row.workflow]
        write.runs.append(row)

    def _reject(self, delivery: Delivery, error: PerdureError) -> None:
        """Refuse with an error that depends on the state: recorded if the message was accepted or somebody waits."""
        if delivery.is_stored or delivery.is_storing or delivery.envelope.reply_to:
            self._consume(delivery, ok=False, body=encode_json(error.body()))
        else:
            self._gate(delivery, lambda: refused(delivery, error))

    def _result(self, delivery: Delivery) -> None:
        name = delivery.envelope.name
        row = self.rows.get(name)
        if row is None:
            self._reject(delivery, NoSuchRun(f"{self.id}.{name} was never started; start it with .{name}.start(...)"))
        elif delivery.envelope.reply_to:
            self._await_run(delivery, row)
        elif row.status is RunStatus.RUNNING:
            self.by_id.pop(delivery.envelope.id, None)
            self.engine.wait_for_run(self.id, name, delivery)
        else:
            self._gate(delivery, lambda: self._tell_result(delivery, row))

    def _tell_result(self, delivery: Delivery, row: RunRow) -> None:
        if not self.engine.has_lease():
            delivery.reply(Status.NOT_OWNER, NULL, 0)
        else:
            ok = row.status is RunStatus.COMPLETED
            delivery.reply(Status.OK if ok else Status.ERROR, row.outcome, self.durable)

    def _signal(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        queue = self.items.setdefault(envelope.name, deque())
        takers = (run for run in self.runs.values() if any(op.name == envelope.name for op in run.receivers()))
        taker = next(takers, None)
        write = self._consume(delivery, ok=True, body=NULL, by_run=taker is not None)
        item = MailboxItem(envelope.name, self.version, envelope.id, envelope.args)
        queue.append(item)
        write.items_put.append(item)
        if taker is not None:
            self._resume(taker, [], None, is_same_turn=True)

    def _end_by_request(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        row = self.rows.get(envelope.name)
        if row is None:
            self._reject(delivery, NoSuchRun(f"{self.id}.{envelope.name} was never started"))
            return
        if row.status.is_terminal:
            if envelope.kind is Kind.TERMINATE:
                self._reject(delivery, RunEnded(f"{self.id}.{envelope.name} has ended already ({row.status})"))
            else:
                self._consume(delivery, ok=True, body=NULL)
            return
        run = self.runs.get(envelope.name)
        is_cancel = envelope.kind is Kind.CANCEL and run is not None
        write = self._consume(delivery, ok=True, body=NULL, by_run=is_cancel)
        if is_cancel and run is not None:
            self._resume(run, [Event(EventKind.CANCEL)], None, is_same_turn=True)
            return
        reason = msgspec.json.decode(envelope.args, type=dict[str, str]).get("reason", "")
        error = WorkflowTerminated(f"{self.id}.{envelope.name} was terminated{': ' + reason if reason else ''}")
        if run is not None:
            self._withdraw(write, run, list(run.pending.values()))
        self._close_run(write, row, RunStatus.TERMINATED, encode_json(error.body()))

    def _reply(self, delivery: Delivery) -> None:
        """The answer to a call of one of this entity's workflows."""
        address = OperationAddress.parse(delivery.envelope.name)
        outcome = decode_outcome(delivery.envelope.args)
        event = (
            Event(EventKind.VALUE, address.number, outcome.value)
            if outcome.ok
            else Event(EventKind.ERROR, address.number, msgspec.Raw(encode_json(outcome.error)))
        )
        run = self._waiting_run(address)
        if run is None:
            self._enter(None)
        write = self._turn()
        write.consumed.append((delivery.envelope.position, delivery.envelope.id))
        self._output(delivery, None)
        if run is not None:
            self._resume(run, [event], None, is_same_turn=True)

    def _waiting_run(self, address: OperationAddress) -> Run | None:
        """The live run that waits for this operation; None if it does not (any more)."""
        run = self.runs.get(address.workflow)
        is_waiting = run is not None and run.row.run_id == address.run_id and address.number in run.pending
        return run if is_waiting else None

    # --- resuming runs ---

    def _resume_operation(self, item: Item, address: OperationAddress, event: Event) -> None:
        run = self._waiting_run(address)
        if run is not None:
            self._resume(run, [event], item)

    def _resume(self, run: Run, events: list[Event], item: Item | None, *, is_same_turn: bool = False) -> None:
        """A turn of a run: feed events in, then mailbox items for what it receives, until it waits or has ended."""
        self._enter(run)
        entry = Entry(now_us=max(self.engine.now_us(), run.now), events=[])
        entry.detached = run.last_turn != self.serial - 1
        state = run.seen or self.definition.default_state
        if self.snapshot != state:
            entry.state = msgspec.Raw(self.snapshot)
            entry.detached = True
        write = self._writing() if is_same_turn else self._turn()
        problem: BaseException | None = None
        run.begin(entry.now_us)
        try:
            for event in events:
                entry.events.append(event)
                run.apply(event)
            self._feed_items(write, run, entry)
            snapshot = self.definition.dump(self.entity)
            if snapshot != self.snapshot:
                self.definition.check_loads(self.id.key, snapshot)
        except (PerdureError, SpinningWorkflow, ReplayMismatch) as error:
            problem = error
            snapshot = self.snapshot
            self.definition.replace_fields(self.entity, snapshot)
            self.last_executor = None
        self.snapshot = snapshot
        self._record_resume(write, run, entry)
        self._output(item, None)
        if problem is not None or run.ended:
            self._finish(write, run, problem)
        self._changed(run)

    def _feed_items(self, write: EntityWrite, run: Run, entry: Entry) -> None:
        while not run.ended:
            for operation in run.receivers():
                queue = self.items.get(operation.name)
                if queue:
                    item = queue.popleft()
                    if item in write.items_put:
                        write.items_put.remove(item)
                    else:
                        write.items_taken.append((item.mailbox, item.position))
                    event = Event(EventKind.VALUE, operation.number, msgspec.Raw(item.item))
                    entry.events.append(event)
                    run.apply(event)
                    break
            else:
                return

    def _record_resume(self, write: EntityWrite, run: Run, entry: Entry) -> None:
        entry.operations = run.asked
        write.journal.append(
            JournalRow(run.row.workflow, run.row.run_id, run.entries, self.version, encode_entry(entry))
        )
        run.entries += 1
        run.last_turn = self.serial
        run.seen = self.snapshot
        self._perform(write, run.effects, run)
        new = [op for op in run.new if op.number in run.pending]
        known = [op for op in run.withdrawn if op not in run.new]
        self._withdraw(write, run, known)
        for event in entry.events:
            if event.operation >= 0:
                self._settle(write, run, event)
        for operation in new:
            self._schedule(write, run, operation)
        in_flight = any(op.kind is OperationKind.ACTIVITY for op in run.pending.values())
        self._set_row(write, run.row._replace(in_flight=in_flight, waiting=run.waiting_for()))

    def _settle(self, write: EntityWrite, run: Run, event: Event) -> None:
        operation = run.address(event.operation)
        if self.attempts.pop(operation, None) is not None:
            write.attempts_gone.append(operation)

    def _schedule(self, write: EntityWrite, run: Run, operation: Any) -> None:
        """What a new operation needs done: durably with this turn, or after its commit."""
        match operation.kind:
            case OperationKind.ACTIVITY:
                self._output(None, lambda: self.engine.start_activity(self, run, operation))
            case OperationKind.TIMER:
                row = ReminderRow(
                    self.id, run.address(operation.number), ReminderKind.TIMER, self.version, operation.detail
                )
                self._put_reminder(write, row)
            case OperationKind.CALL:
                detail = operation.detail
                self._post(
                    write,
                    Envelope(
                        id=f"{run.row.run_id}:{operation.number}",
                        type=detail.target.type,
                        key=detail.target.key,
                        kind=detail.kind,
                        name=detail.name,
                        args=detail.args,
                        sender=str(self.id),
                        position=self.clock.next(self.engine.now_us()),
                        reply_to=f"{self.id}#{run.address(operation.number)}",
                        chain=(*run.row.chain, f"{self.id}#{run.row.workflow}"),
                    ),
                )
            case _:
                pass

    def _withdraw(self, write: EntityWrite, run: Run, operations: Iterable[Any]) -> None:
        """Operations that the run does not wait for any more."""
        for operation in operations:
            address = run.address(operation.number)
            match operation.kind:
                case OperationKind.TIMER:
                    self._drop_reminder(write, address)
                case OperationKind.ACTIVITY:
                    if self.attempts.pop(address, None) is not None:
                        write.attempts_gone.append(address)
                    self._output(None, lambda address=address: self.engine.cancel_activity(self.id, address))
                case _:
                    pass

    def _finish(self, write: EntityWrite, run: Run, problem: BaseException | None) -> None:
        """The run has ended: its outcome, and the end of everything it still waits for."""
        body, error = (None, problem) if problem is not None else run.outcome()
        if error is None:
            status, outcome = RunStatus.COMPLETED, body or NULL
        else:
            is_cancelled = isinstance(error, asyncio.CancelledError) and run.cancel_requested
            status = RunStatus.CANCELLED if is_cancelled else RunStatus.FAILED
            outcome = encode_json(workflow_error(f"{self.id}.{run.row.workflow}", error, is_cancelled=is_cancelled))
        new = {op.number for op in run.new}
        self._withdraw(
            write, run, [op for op in run.pending.values() if op.number not in new or op.kind is OperationKind.TIMER]
        )
        # Activities asked for in this very turn have outputs queued to start them: the run is closed by then.
        self._close_run(write, run.row, status, outcome)

    def _close_run(self, write: EntityWrite, row: RunRow, status: RunStatus, outcome: bytes) -> None:
        row = row._replace(status=status, ended_us=self.engine.now_us(), outcome=outcome, in_flight=False, waiting="")
        run = self.runs.pop(row.workflow, None)
        self._set_row(write, row)
        if run is not None:
            run.close()
            # `finally` blocks of a closed coroutine may have touched the fields.
            self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = None
            self.serial += 1
        for reply_to in row.reply_to:
            self._send_reply(write, reply_to, ok=status is RunStatus.COMPLETED, body=outcome)
        self._output(None, lambda: self.engine.run_ended(self.id, row, lambda d: self._tell_result(d, row)))

    def _changed(self, by: Run | None = None) -> None:
        """After a turn that may have changed the state: runs whose condition became true go next."""
        for run in self.runs.values():
            if run is not by and run.true_conditions():
                self.push_front(CheckConditions(run))

    # --- reminders and timers ---

    def _fire(self, item: Fire) -> None:
        row = item.row
        if not self._is_current(row):
            self.engine.wheel.drop_stale(row)
            return
        if row.kind is ReminderKind.TIMER:
            self._fire_timer(item)
            return
        envelope = Envelope(
            id=f"{row.name}:due" if row.kind is ReminderKind.MESSAGE else f"{row.name}:{row.generation}:{row.due_us}",
            type=self.id.type,
            key=self.id.key,
            kind=Kind.SEND,
            name=row.handler,
            args=row.args,
            sender=f"reminder:{row.name}",
        )
        delivery = Delivery(envelope, None)
        delivery.fired = row
        problem = self._check(envelope)
        if problem is not None:
            self._refuse_stored(delivery, problem)
        else:
            self._handle(delivery)

    def _is_current(self, row: ReminderRow) -> bool:
        """Whether no turn since this activation began has cancelled, replaced or fired it."""
        return self.reminders.get(row.name, (row.generation, row.due_us)) == (row.generation, row.due_us)

    def _fire_timer(self, item: Fire) -> None:
        row = item.row
        address = OperationAddress.parse(row.name)
        run = self._waiting_run(address)
        if run is None:
            self._enter(None)
        write = self._turn()
        write.reminders_gone.append(ReminderKey(row.name, row.generation, row.due_us, is_fired=True))
        self.reminders[row.name] = None
        self._output(item, lambda: self.engine.wheel.drop_stale(row))
        if run is not None:
            self._resume(run, [Event(EventKind.FIRED, address.number)], None, is_same_turn=True)

    def _fired(self, write: EntityWrite, row: ReminderRow, effects: Effects) -> None:
        """The occurrence is done: deleted, and armed again if it recurs and the handler did not decide otherwise."""
        write.reminders_gone.append(ReminderKey(row.name, row.generation, row.due_us, is_fired=True))
        self.reminders[row.name] = None
        self._output(None, lambda: self.engine.wheel.drop_stale(row))
        if row.every_us and row.name not in effects.reminders:
            due_us = occurrence_after(row, self.engine.now_us())
            self._put_reminder(write, row._replace(due_us=due_us))

    # --- commit ---

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

    def unfinished(self) -> list[Item]:
        """Everything that has no durable outcome, in the order in which it came. Fires are found again in the store."""
        items: list[Item] = []
        for _, turns in [self.inflight] if self.inflight else []:
            items.extend(item for item, _ in turns if item is not None)
        items.extend(item for item, _ in self.turns if item is not None)
        items.extend(delivery for held in self.blocked.values() for delivery in held)
        items.extend(self.mailbox)
        kept: list[Item] = []
        for item in items:
            if isinstance(item, Delivery):
                if item.fired is None:
                    item.needs_lookup = True
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
            or self.write is not None
            or self.inflight is not None
            or self.busy is not None
            or self.is_queued
            or any(run.row.in_flight for run in self.runs.values())
        )


def _mismatch(entity: EntityId, envelope: Envelope) -> IdempotencyMismatch:
    return IdempotencyMismatch(
        f"{entity}.{envelope.name}: the idempotency key was used before with another payload; use a new key for a new "
        "request"
    )


def _read_only(entity: EntityId, name: str) -> ReadOnlyViolation:
    return ReadOnlyViolation(f"{entity}.{name}: the query changed state; that was undone. Make it a @handler")
