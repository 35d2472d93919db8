"""Turns of workflow runs: feed events in, record what the code asks for, end the run when it has ended.

Promise P7 rests here: an operation's outcome and the state after the resume are one write. Before a run goes on, its
journal entry notes how other turns have changed the state since it last looked (see `journal`).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from ...errors import (
    PerdureError,
)
from ...messages import Envelope, Kind, OperationAddress, Status, encode_json
from ...store.rows import (
    STATE_UNCHANGED,
    Child,
    EntityWrite,
    JournalRow,
    ReminderKey,
    ReminderKind,
    ReminderRow,
    RunRow,
    RunStatus,
)
from ...tracing import SPLIT_US, TurnSpan
from ..children import closing
from ..deliveries import (
    Begin,
    CheckConditions,
    Delivery,
    Fire,
    Item,
    workflow_error,
)
from ..journal import Entry, Event, EventKind, OperationKind, ReplayMismatch, encode_entry
from ..left import PARKED_RUN_RETRY_S
from ..limits import check_journal, journal_note, next_run_id
from ..loop import SpinningWorkflow
from ..rings import waiters
from ..run import Run, inputs_of, sent_of, targets_of
from .record import NULL
from .waits import Waits

log = logging.getLogger("perdure.engine")


class Resumes(Waits):
    """Resuming and ending runs."""

    __slots__ = ()

    def _resume_operation(self, item: Item, address: OperationAddress, event: Event) -> None:
        run = self._waiting_run(address)
        if run is not None:
            self._resume(run, [event], item)

    def _resume(self, run: Run, events: list[Event], item: Item | None, *, is_same_turn: bool = False) -> None:
        """A turn of a run: feed events in, then mailbox items for what it receives, until it waits or has ended."""
        if run.row.paused:
            self._hold(run, events, item, is_same_turn=is_same_turn)
            return
        self._enter(run)
        entry = Entry(now_us=max(self.engine.now_us(), run.now), events=[])
        entry.detached = run.last_turn != self.serial - 1
        state = run.seen or self.definition.default_state
        if self.snapshot != state or not run.entries:  # a changed class may have another default state
            entry.state = msgspec.Raw(self.snapshot)
            entry.schema = self.definition.version
            entry.detached = True
        write = self._writing() if is_same_turn else self._turn()
        span = self._trace_resume(run, entry, item) if self.engine.tracing is not None else None
        problem: BaseException | None = None
        run.version = self.version
        run.begin(entry.now_us)
        try:
            check_journal(run, self.engine.settings)
            for event in events:
                if event.operation >= 0 and event.operation not in run.pending:
                    continue  # settled or withdrawn by an event before it
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
            run.forget_asked()
        self.snapshot = snapshot
        self._record_resume(write, run, entry)
        self._output(item, None)
        if problem is not None or run.ended:
            self._finish(write, run, problem)
        if span is not None:
            self.trace = ""
            has_failed = run.ended and run.continuation() is None
            span.end(problem or (run.outcome()[1] if has_failed else None))
        self._changed(run)

    def _trace_resume(self, run: Run, entry: Entry, item: Item | None) -> TurnSpan:
        """The span of this resume. A run that has slept goes on in a new trace that links to the one before."""
        tracing = self.engine.tracing
        assert tracing is not None
        has_slept = run.entries > 0 and entry.now_us - run.now > SPLIT_US
        is_linked = has_slept or isinstance(item, Begin)
        row = run.row
        span = tracing.resume(self.id, row.workflow, row.run_id, parent=run.trace, is_linked=is_linked)
        if is_linked or not run.entries:
            run.trace = entry.trace = span.traceparent
        self.trace = span.traceparent
        return span

    def _look_again(self, item: CheckConditions) -> None:
        """Whether the run can go on: with what was held while it was parked, or because a condition has become true."""
        run = item.run
        if self.is_holding(run.row):
            self._resume(run, self._release_held(self._writing(), run.row), item)  # settles conditions as well
        elif events := run.true_conditions():
            self._resume(run, events, item)
        else:
            self._note_true_conditions(run, are_true=False)

    def _feed_items(self, write: EntityWrite, run: Run, entry: Entry) -> None:
        while not run.ended:
            for operation in run.receivers():
                queue = self.items.get(operation.name)
                if queue:
                    item = queue.popleft()
                    if self.crowded:
                        self._let_in(operation.name)
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
        settings = self.engine.settings
        entry.operations = run.asked
        if run.new:
            entry.inputs = inputs_of(run.new, bytes_max=settings.keep_input_bytes)
            entry.targets = targets_of(run.new)
        if run.effects.outgoing:
            receivers, entry.own_ids = sent_of(run)
            entry.targets = entry.targets | receivers
        if self.attempts:
            entry.tried = self._tried(run, entry.events)
        encoded = encode_entry(entry)
        left = STATE_UNCHANGED if self.snapshot is self.kept else self._state_to_keep()
        write.journal.append(JournalRow(run.row.workflow, run.row.run_id, run.entries, self.version, encoded, left))
        run.entries += 1
        run.journal_bytes += len(encoded)
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
        row = run.row._replace(in_flight=self._in_flight(run), waiting=run.waiting_for())
        if run.adopted:
            row = row._replace(children=(*row.children, *run.adopted))
        self._set_row(write, row)
        if run.entries > settings.journal_warn_entries or run.journal_bytes > settings.journal_warn_bytes:
            self._set_row(write, run.row._replace(waiting=journal_note(run, settings)))

    def _settle(self, write: EntityWrite, run: Run, event: Event) -> None:
        operation = run.address(event.operation)
        if self.attempts:
            self._forget_attempts(write, operation)
        if run.row.children:
            self._child_ended(write, run.row, operation)

    def _child_ended(self, write: EntityWrite, row: RunRow, operation: str) -> None:
        """The outcome of a child has come: its parent's end does not concern it any more."""
        if any(child.operation == operation for child in row.children):
            self._set_row(write, row._replace(children=tuple(c for c in row.children if c.operation != operation)))

    def _schedule(self, write: EntityWrite, run: Run, operation: Any) -> None:
        """What a new operation needs done: durably with this turn, or after its commit."""
        match operation.kind:
            case OperationKind.ACTIVITY:
                self._output(None, lambda: self.engine.attempts.begin(self, run, operation))
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
                        id=run.message_id(operation.number),
                        type=detail.target.type,
                        key=detail.target.key,
                        kind=detail.kind,
                        name=detail.name,
                        args=detail.args,
                        options=detail.options,
                        sender=str(self.id),
                        position=self.clock.next(self.engine.now_us()),
                        reply_to=f"{self.id}#{run.address(operation.number)}",
                        chain=waiters(run) if detail.kind in (Kind.START, Kind.RESULT) else (),
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
                    self._forget_attempts(write, address)
                    self._output(None, partial(self.engine.attempts.cancel, self.id, address))
                case _:
                    pass

    def _finish(self, write: EntityWrite, run: Run, problem: BaseException | None) -> None:
        """The run has ended: its outcome, and the end of everything it still waits for."""
        arguments = run.continuation() if problem is None else None
        if arguments is not None:
            self._continue_as_new(write, run, arguments)
            return
        body, error = (None, problem) if problem is not None else run.outcome()
        if error is None:
            status, outcome = RunStatus.COMPLETED, body or NULL
        else:
            is_cancelled = isinstance(error, asyncio.CancelledError) and run.cancel_requested
            status = RunStatus.CANCELLED if is_cancelled else RunStatus.FAILED
            outcome = encode_json(workflow_error(f"{self.id}.{run.row.workflow}", error, is_cancelled=is_cancelled))
        self._withdraw_pending(write, run)
        self._close_run(write, run.row, status, outcome)

    def _withdraw_pending(self, write: EntityWrite, run: Run) -> None:
        # Activities asked for in this very turn have outputs queued to start them: the run is closed by then.
        new = {op.number for op in run.new}
        self._withdraw(
            write, run, [op for op in run.pending.values() if op.number not in new or op.kind is OperationKind.TIMER]
        )

    def _continue_as_new(self, write: EntityWrite, run: Run, arguments: bytes) -> None:
        """The run's journal ends here and its next one begins, in one write; its code starts in the turn after this.

        In flight until then: if this host dies in between, the next one begins it. A turn of its own, so that code
        that continues without ever waiting holds up nobody. The row keeps the fingerprint of the first input (starting
        again with that joins), and whoever waits for the result.
        """
        self._withdraw_pending(write, run)
        row = run.row._replace(
            run_id=next_run_id(run.row.run_id),
            args=arguments,
            started_us=self.engine.now_us(),
            in_flight=True,
            waiting="its turn to continue as new",
        )
        self._leave(run)
        self._set_row(write, row)
        fresh = Run(self.definition, self.entity, self.id, row)
        fresh.trace = run.trace
        self.runs[row.workflow] = fresh
        self.push_front(Begin(fresh))

    def _close_run(self, write: EntityWrite, row: RunRow, status: RunStatus, outcome: bytes) -> None:
        if self.is_holding(row):
            self._release_held(write, row)
        children, waiting = row.children, row.reply_to
        row = row._replace(
            status=status,
            ended_us=self.engine.now_us(),
            outcome=outcome,
            in_flight=False,
            waiting="",
            paused="",
            children=(),
            reply_to=(),
        )
        run = self.runs.pop(row.workflow, None)
        self._set_row(write, row)
        if run is not None:
            self._leave(run)
        for child in children:
            self._close_child(write, child)
        for reply_to in waiting:
            self._send_reply(write, reply_to, ok=status is RunStatus.COMPLETED, body=outcome)
        self._output(None, lambda: self.engine.figures.run_ended(self.id.type, row))
        self._output(None, lambda: self.engine.results.ended(self.id, row, self.tell_result_of(row)))

    def _leave(self, run: Run) -> None:
        """The run's code is over."""
        run.close()
        # `finally` blocks of a closed coroutine may have touched the fields.
        self.definition.replace_fields(self.entity, self.snapshot)
        self.last_executor = None
        self.serial += 1

    def _close_child(self, write: EntityWrite, child: Child) -> None:
        target, kind, workflow, message_id, args = closing(self.id, child)
        self._post(
            write,
            Envelope(
                id=message_id,
                type=target.type,
                key=target.key,
                kind=kind,
                name=workflow,
                args=args,
                sender=str(self.id),
                position=self.clock.next(self.engine.now_us()),
            ),
        )

    def _changed(self, by: Run | None = None) -> None:
        """After a turn that may have changed the state: runs whose condition became true go next."""
        for run in self.runs.values():
            if run is not by and not run.row.paused and run.true_conditions():
                self._note_true_conditions(run, are_true=True)
                self.push_front(CheckConditions(run))

    def _note_true_conditions(self, run: Run, *, are_true: bool) -> None:
        """A run that can go on counts as in flight: if this host dies before it does, the next one wakes it."""
        in_flight = (are_true and not run.row.paused) or self._in_flight(run)
        if run.row.in_flight != in_flight:
            self._set_row(self._writing(), run.row._replace(in_flight=in_flight))
            self._output(None, None)

    def _fire_timer(self, item: Fire) -> None:
        row = item.row
        address = OperationAddress.parse(row.name)
        run = self._waiting_run(address)
        stored = self.rows.get(address.workflow)
        if stored is not None and stored.run_id == address.run_id and stored.status is RunStatus.PARKED:
            self.engine.leave_alone(row, PARKED_RUN_RETRY_S)  # read again once the run goes on
            return
        if run is None:
            self._enter(None)
        write = self._turn()
        write.reminders_gone.append(ReminderKey(row.name, row.generation, row.due_us, is_fired=True))
        self.reminders[row.name] = None
        self._output(item, lambda: self.engine.wheel.drop_stale(row))
        if run is not None:
            self._resume(run, [Event(EventKind.FIRED, address.number)], None, is_same_turn=True)

    def _set_row(self, write: EntityWrite, row: RunRow) -> None:
        self.rows[row.workflow] = row
        run = self.runs.get(row.workflow)
        if run is not None and run.row.run_id == row.run_id:
            run.row = row
        write.runs = [r for r in write.runs if r.workflow != row.workflow]
        write.runs.append(row)

    def _waiting_run(self, address: OperationAddress) -> Run | None:
        """The live run that waits for this operation; None if it does not (any more)."""
        run = self.runs.get(address.workflow)
        is_waiting = run is not None and run.row.run_id == address.run_id and address.number in run.pending
        return run if is_waiting else None

    def waits_for(self, operation: str) -> bool:
        """Whether a run waits for the operation of this address."""
        return self._waiting_run(OperationAddress.parse(operation)) is not None

    def tell_result_of(self, row: RunRow) -> Callable[[Delivery], None]:
        """How to answer those who wait for this ended run."""
        return lambda delivery: self._tell_result(delivery, row)

    def _tell_result(self, delivery: Delivery, row: RunRow) -> None:
        if not self.engine.has_lease():
            delivery.reply(Status.NOT_OWNER, NULL, 0)
        else:
            ok = row.status is RunStatus.COMPLETED
            delivery.reply(Status.OK if ok else Status.ERROR, row.outcome, self.durable)
