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

import logging
from typing import TYPE_CHECKING

from ..errors import (
    Busy,
    IdempotencyMismatch,
    PerdureError,
)
from ..ids import EntityId
from ..messages import Envelope, Kind, OperationAddress, Reply, Status, encode_json
from ..operate import read_act
from ..recurrence import cannot_recur
from ..store.rows import (
    Loaded,
    ReminderKind,
    ReminderRow,
)
from .deliveries import (
    ActivityDone,
    ActivityWaits,
    Begin,
    CheckConditions,
    Delivery,
    Fire,
    Item,
    mailbox_full,
    refused,
)
from .journal import Event, EventKind
from .left import PARKED_RETRY_S
from .quarantine import LOSSES_MIN
from .subjects import occurrence_id
from .turns.holding import EntityHold, HoldDelivery
from .turns.maintenance import Maintenance
from .turns.record import NULL

if TYPE_CHECKING:
    from ..definition import EntityDefinition
    from .engine import Engine

log = logging.getLogger("perdure.engine")


class Activation(Maintenance):
    """The in-memory life of one entity on this host. Owned by the host's loop; nothing here is thread-safe."""

    __slots__ = ()

    def __init__(self, engine: "Engine", definition: "EntityDefinition", shard: int, loaded: Loaded) -> None:
        """Raises EntityParked if the stored state does not fit the class."""
        super().__init__(engine, definition, shard, loaded)
        self._rebuild_runs(loaded)

    def deliver(self, delivery: Delivery) -> None:
        """Accept a message (or refuse it at once)."""
        envelope = delivery.envelope
        known = self.by_id.get(envelope.id)
        if known is not None:
            if known.fingerprint != delivery.fingerprint:
                self._refuse_rival(known, delivery)
            elif delivery.is_stored and known.envelope.id in self.late:
                self.take_in(self.late.pop(known.envelope.id))  # read, after what was stored before it
            elif known.is_stored and known.is_one_way:
                delivery.reply(Status.ACCEPTED, NULL, self.durable)
            elif delivery.respond is not None:
                known.also.append(delivery.respond)
            return
        full = self._full(delivery)
        if full is not None:
            delivery.reply(Status.BUSY, encode_json(full.body()), 0)
            return
        problem = self._check(envelope)
        if problem is not None:
            if not delivery.is_stored and not delivery.needs_lookup:
                refused(delivery, problem)
                return
            delivery.problem = problem  # a repeat may have been applied already, by other code
        is_query = envelope.kind is Kind.QUERY and not envelope.reply_to
        is_handling = self.busy is not None and not isinstance(self.busy, EntityHold)
        if is_query and is_handling and envelope.losses < LOSSES_MIN:
            self._query_durable(delivery)
            return
        self.by_id[envelope.id] = delivery
        if delivery.needs_lookup:
            self.engine.look_up(self, delivery)
        if self.has_more_mail and delivery.is_one_way and not delivery.is_stored:
            self.late[envelope.id] = delivery
            self.engine.persist(self, delivery)
            return
        self.take_in(delivery)

    def _full(self, delivery: Delivery) -> Busy | None:
        """Which bound forbids to accept this message; None if it may come in."""
        if delivery.is_stored or delivery.needs_lookup:
            return None  # a repeat may have been applied already: to refuse it as "not accepted" could be a lie
        limit = self.engine.settings.mailbox_max
        waiting = len(self.mailbox) + self.held_back + len(self.late)
        if waiting >= limit:
            return Busy(
                f"{self.id}: {waiting} messages are waiting, the limit; nothing was accepted, try later",
                limit=limit,
            )
        envelope = delivery.envelope
        is_signal = envelope.kind is Kind.SIGNAL and envelope.name in self.definition.mailboxes
        return mailbox_full(self.definition, envelope) if is_signal and self.is_full(envelope.name) else None

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
                case Kind.START | Kind.RESULT | Kind.CANCEL | Kind.TERMINATE | Kind.OPERATE | Kind.OPERATIONS:
                    self._check_about_run(envelope)
                case Kind.SIGNAL:
                    mailbox = definition.mailboxes.get(envelope.name)
                    if mailbox is None:
                        raise definition.unknown(envelope.name)
                    mailbox.load(envelope.args)
                case Kind.MAINTAIN | Kind.REPLY | Kind.TRANSACTION:
                    self.check_maintenance(envelope)
        except PerdureError as error:
            return error
        return None

    def _check_about_run(self, envelope: Envelope) -> None:
        if envelope.name not in self.definition.workflows:
            raise self.definition.unknown(envelope.name)
        if envelope.kind is Kind.START:
            self.definition.workflows[envelope.name].signature.load_arguments(envelope.args)
        elif envelope.kind is Kind.OPERATE:
            read_act(envelope.args)

    def pump(self, budget: int) -> int:
        """Run turns until there is nothing to do, or something must be waited for. Returns the turns left."""
        mailbox = self.mailbox
        engine = self.engine
        engine.running_in = self
        self.is_waiting = False
        while mailbox and budget and self.busy is None and not self.is_dead and not self.is_retiring:
            item = mailbox[0]
            if isinstance(item, Delivery) and item.needs_lookup:
                self.is_waiting = True
                break
            mailbox.popleft()
            budget -= 1
            engine.running = item
            try:
                self._process(item)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and answered
                self._engine_failed(item, error)
                break
        engine.running = None
        self.last_used = engine.monotonic()
        return budget

    def _engine_failed(self, item: Item, error: Exception) -> None:
        """A bug of ours: answer, count (a stored message is given up after a few times), begin again from the store."""
        log.error("%s: the engine failed in a turn; the entity starts again", self.id, exc_info=error)
        # Whatever the turn had got to is dropped, so it must not run again: its sender is told that it failed.
        self.turns = [(other, output) for other, output in self.turns if other is not item]
        if isinstance(item, Delivery):
            self.engine.arrivals.note_crash(self.id, item.envelope.id)
            body = PerdureError(
                f"{self.id}.{item.envelope.name}: the engine failed ({error!r}); nothing was changed"
            ).body()
            item.reply(Status.ERROR, encode_json(body), 0)
        elif isinstance(item, Fire):
            self.engine.arrivals.note_crash(self.id, occurrence_id(item.row))
        self.engine.drop(self)

    def _process(self, item: Item) -> None:
        match item:
            case Delivery():
                self._process_delivery(item)
            case ActivityWaits():
                event = self._activity_waits(item)
                if event is not None:
                    self._resume_operation(item, OperationAddress.parse(item.call.operation), event)
            case ActivityDone():
                address = OperationAddress.parse(item.call.operation)
                self.know_attempts(item.call)
                self._resume_operation(item, address, item.event)
            case Fire():
                self._fire(item)
            case Begin():
                if self.runs.get(item.run.row.workflow) is item.run and not item.run.has_begun:
                    self._resume(item.run, [Event(EventKind.START)], item)
            case CheckConditions():
                if self.runs.get(item.run.row.workflow) is item.run and not item.run.row.paused:
                    self._look_again(item)

    def _process_delivery(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        if delivery.fired is not None and not self._is_current(delivery.fired):
            self.engine.wheel.drop_stale(delivery.fired)
            return
        if delivery.problem is not None:
            if not self._awaits_code(delivery, delivery.problem):
                self._refuse_stored(delivery, delivery.problem)
            return
        match envelope.kind:
            case Kind.CALL | Kind.SEND:
                if envelope.delay_us:
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
            case Kind.CANCEL | Kind.TERMINATE | Kind.OPERATE | Kind.OPERATIONS:
                self._about_run(delivery)
            case _:
                self._process_inner(delivery)

    def _refuse_rival(self, known: Delivery, rival: Delivery) -> None:
        """The same key with another payload: refused once it is durable that the first one has used it (P3)."""
        problem = _mismatch(self.id, rival.envelope)
        if known.is_stored:
            refused(rival, problem)
            return

        def answer(reply: Reply) -> None:
            if reply.status in (Status.OK, Status.ACCEPTED) or (reply.status is Status.ERROR and reply.version):
                refused(rival, problem)
            else:
                rival.reply(Status.NOT_OWNER, NULL, 0)  # the first one came to nothing: once more

        known.also.append(answer)

    def _process_inner(self, delivery: Delivery) -> None:
        """What no member of a class is called by."""
        match delivery.envelope.kind:
            case Kind.MAINTAIN:
                self._maintain(delivery)
            case Kind.REPLY:
                self._reply(delivery)
            case _:
                assert isinstance(delivery, HoldDelivery), "other steps do not wait in mailboxes"
                self._begin_hold(delivery)

    def _fire(self, item: Fire) -> None:
        row = item.row
        if not self._is_current(row):
            self.engine.wheel.drop_stale(row)
            return
        if self._cannot_fire(row):
            return
        if row.kind is ReminderKind.TIMER:
            if not self._fire_limit(item):
                self._fire_timer(item)
            return
        envelope = Envelope(
            id=occurrence_id(row),
            type=self.id.type,
            key=self.id.key,
            kind=Kind.SEND,
            name=row.handler,
            args=row.args,
            sender=f"reminder:{row.name}",
        )
        delivery = Delivery(envelope, None)
        delivery.fired, delivery.fired_us = row, self.engine.now_us()
        delivery.problem = item.problem or self._check(envelope)
        self._process_delivery(delivery)

    def _cannot_fire(self, row: ReminderRow) -> bool:
        """Whether it means nothing here and could not be armed again. It stays in the store."""
        problem = cannot_recur(row.every_us, row.cron) if row.is_recurring else ""
        if self.engine.arrivals.has_given_up(self.id, occurrence_id(row)):
            problem = "the engine failed on it"
        if problem:
            self.engine.leave_alone(row, PARKED_RETRY_S)
            self.engine.readers.note_parked(self.id, f"{self.id}: its reminder {row.name!r} does not fire: {problem}")
        return bool(problem)


def _mismatch(entity: EntityId, envelope: Envelope) -> IdempotencyMismatch:
    return IdempotencyMismatch(
        f"{entity}.{envelope.name}: the idempotency key was used before with another payload; use a new key for a new "
        "request"
    )
