"""What people and the outside world do to runs and their operations: each action is a turn of its own.

Promises P1, P2 and P9 rest here: an action is applied exactly once, whole, and recorded in the history with its
operator and reason (the message's arguments); one that cannot be applied changes nothing and is answered with a
definite error. Heartbeats and the list of operations are no turns.

An operation is settled here exactly as by its own outcome: an event fed to its run in the same commit. Whatever an
attempt still under way comes to finds nobody waiting.
"""

from functools import partial
from typing import Any

import msgspec

from ...errors import (
    ActivityTimeout,
    Conflict,
    InvalidArguments,
    NoSuchOperation,
    NoSuchRun,
    OperationSettled,
    PerdureError,
    RunEnded,
    RunParked,
    WorkflowTerminated,
    error_from_body,
)
from ...ids import fingerprint, new_run_id
from ...messages import Kind, OperationAddress, encode_json
from ...operate import BY_TOKEN, Act, Action, read_act
from ...store.rows import AttemptRow, AttemptStatus, EntityWrite, ReminderKey, RunRow, RunStatus
from ...store.survey import DECISION
from ..activities import encode_error
from ..deliveries import Delivery, Fire
from ..journal import Event, EventKind, OperationKind
from ..run import ActivityDetail, Operation, Run
from ..verdicts import Fail, Pause, judge
from .record import NULL
from .reruns import Reruns


class Operate(Reruns):
    """Actions on runs and operations."""

    __slots__ = ()

    def _about_run(self, delivery: Delivery) -> None:
        match delivery.envelope.kind:
            case Kind.OPERATIONS:
                self._operations(delivery)
            case Kind.OPERATE:
                self._operate(delivery)
            case _:
                self._end_by_request(delivery)

    def _operate(self, delivery: Delivery) -> None:
        try:
            act = read_act(delivery.envelope.args)
            row = self._row_for(delivery.envelope.name, act)
            match act.action:
                case Action.PAUSE:
                    self._pause(delivery, act, row)
                case Action.RESUME:
                    self._resume_by_request(delivery, row)
                case Action.RESTART:
                    args = row.args if bytes(act.value) == NULL else bytes(act.value)
                    self._restart(delivery, row, args)
                case Action.RERUN:
                    if act.operation is None:
                        self._restart(delivery, row, row.args)
                    else:
                        self._rerun_from(delivery, act, row)
                case _:
                    self._operate_on(delivery, act, row)
        except PerdureError as error:
            self._reject(delivery, error)
        else:
            if act.operator != BY_TOKEN:
                self._audit(delivery)

    def _end_by_request(self, delivery: Delivery) -> None:
        super()._end_by_request(delivery)
        # A cancellation is everyday business, unless a gateway says which operator asks for it.
        if delivery.envelope.kind is Kind.TERMINATE or b'"operator"' in delivery.envelope.args:
            self._audit(delivery)

    def _row_for(self, workflow: str, act: Act) -> RunRow:
        row = self.rows.get(workflow)
        if row is None:
            raise NoSuchRun(f"{self.id}.{workflow} was never started")
        if act.run_id and act.run_id != row.run_id:
            raise OperationSettled(
                f"{self.id}.{workflow}: the latest run is {row.run_id}; nothing waits for run {act.run_id} any more"
            )
        return row

    # --- runs ---

    def _pause(self, delivery: Delivery, act: Act, row: RunRow) -> None:
        if row.status.is_terminal:
            raise RunEnded(f"{self.id}.{row.workflow} has ended already ({row.status}); there is nothing to pause")
        write = self._consume(delivery, ok=True, body=NULL)
        paused = ": ".join(text for text in (act.operator, act.reason) if text) or "by request"
        self._set_row(write, row._replace(paused=paused))
        run = self.runs.get(row.workflow)
        if run is not None:
            self._update_in_flight(write, run)
            self._output(None, partial(self.engine.attempts.hold, self.id, run))

    def _resume_by_request(self, delivery: Delivery, row: RunRow) -> None:
        if row.status.is_terminal:
            raise RunEnded(f"{self.id}.{row.workflow} has ended already ({row.status}); there is nothing to resume")
        if row.status is RunStatus.PARKED:
            if self.engine.suspects.is_held_against(self.id, row):
                self._after(delivery, self.engine.suspects.pardon(self.id, row))
                return
            # Its code may fit by now: begin again from the store, as after a deploy.
            self._consume(delivery, ok=True, body=NULL)
            self._output(None, lambda: self.engine.drop(self))
            return
        run = self.runs.get(row.workflow)
        if run is None or not row.paused:
            self._consume(delivery, ok=True, body=NULL)
            return
        write = self._consume(delivery, ok=True, body=NULL, by_run=True)
        events = self._release_held(write, row)
        if not run.has_begun and not any(event.kind is EventKind.START for event in events):
            events.insert(0, Event(EventKind.START))  # it was paused between two runs that continue each other
        self._set_row(write, row._replace(paused=""))
        self._resume(run, events, None, is_same_turn=True)
        for operation in run.pending.values() if self.runs.get(row.workflow) is run else ():
            if operation.kind is OperationKind.ACTIVITY and operation not in run.new:
                self._output(None, partial(self._begin_again, run, operation))
        self._changed()

    def _restart(self, delivery: Delivery, row: RunRow, args: bytes) -> None:
        """A new run from the beginning; the last one is terminated in the same commit if it lives."""
        self.definition.workflows[row.workflow].signature.load_arguments(args)
        new = RunRow(
            workflow=row.workflow,
            run_id=new_run_id(),
            status=RunStatus.RUNNING,
            args=args,
            fingerprint=fingerprint(row.workflow.encode(), args),
            started_us=self.engine.now_us(),
        )
        write = self._consume(delivery, ok=True, body=encode_json(new.run_id))
        if not row.status.is_terminal:
            self._terminate(write, row, f"restarted as {new.run_id}")
        self.rows[row.workflow] = new
        run = Run(self.definition, self.entity, self.id, new)
        self.runs[row.workflow] = run
        self._resume(run, [Event(EventKind.START)], None, is_same_turn=True)

    def _terminate(self, write: EntityWrite, row: RunRow, why: str) -> None:
        run = self.runs.get(row.workflow)
        if run is not None:
            self._withdraw(write, run, list(run.pending.values()))
        for address in [a for a in self.attempts if a.startswith(f"{row.workflow}/{row.run_id}/")]:
            self._forget_attempts(write, address)
        error = WorkflowTerminated(f"{self.id}.{row.workflow} was terminated: {why}")
        self._close_run(write, row, RunStatus.TERMINATED, encode_json(error.body()))

    # --- operations ---

    def _operate_on(self, delivery: Delivery, act: Act, row: RunRow) -> None:
        run, operation = self._waiting_activity(row, act)
        address = run.address(operation.number)
        match act.action:
            case Action.RETRY:
                self._retry(delivery, run, operation, address)
            case Action.COMPLETE | Action.DECIDE:
                value = self._checked(operation, bytes(act.value))
                self._consume(delivery, ok=True, body=NULL, by_run=True)
                self._settle_from_outside(run, Event(EventKind.VALUE, operation.number, msgspec.Raw(value)), address)
            case Action.FAIL:
                self._consume(delivery, ok=True, body=NULL, by_run=True)
                event = Event(EventKind.ERROR, operation.number, msgspec.Raw(encode_json(act.error)))
                self._settle_from_outside(run, event, address)
            case Action.FAIL_ATTEMPT:
                assert act.error is not None
                known = self._attempt_under_way(operation, address)
                write = self._consume(delivery, ok=True, body=NULL, by_run=True)
                self._attempt_failed(write, run, operation, known, error_from_body(act.error))
            case _:
                self._heartbeat(delivery, operation, address, bytes(act.value))

    def _waiting_activity(self, row: RunRow, act: Act) -> tuple[Run, Operation]:
        assert isinstance(act.operation, int)
        number, run = act.operation, self.runs.get(row.workflow)
        what = f"{self.id}.{row.workflow}: operation #{number}"
        if row.status.is_terminal:
            raise OperationSettled(f"{what}: the run has ended ({row.status})")
        if run is None:
            raise RunParked(f"{what}: the run is parked; deploy code that fits its journal, then try again")
        operation = run.pending.get(number)
        if operation is None:
            if not 0 <= number < run.next_number:
                raise NoSuchOperation(f"{what} has never been asked for; `operations` lists those that wait")
            raise OperationSettled(f"{what} has its outcome already, or the run does not wait for it any more")
        is_decision = operation.name.startswith(DECISION)
        if is_decision and act.operator == BY_TOKEN:
            raise NoSuchOperation(f"{what} is a decision: who may call the workflow may not take it, see the work list")
        if act.action is Action.DECIDE and not is_decision:
            raise NoSuchOperation(f"{what} is not a decision")
        if operation.kind is not OperationKind.ACTIVITY:
            raise InvalidArguments(
                f"{what} is a {operation.kind} {operation.name}; this is for activities only", errors=[]
            )
        if run.row.paused and number in self._held_operations(run.row):
            raise OperationSettled(f"{what} has its outcome already; the run is paused and takes it when it is resumed")
        return run, operation

    def _checked(self, operation: Operation, value: bytes) -> bytes:
        """The value as the activity itself would have returned it."""
        detail: ActivityDetail = operation.detail
        try:
            return bytes(detail.signature.dump_result(detail.signature.load_result(value)))
        except PerdureError as error:
            raise InvalidArguments(
                f"{self.id}: the value does not fit the result of activity {operation.name}: {error.message}", errors=[]
            ) from None

    def _settle_from_outside(self, run: Run, event: Event, address: str) -> None:
        self._resume(run, [event], None, is_same_turn=True)
        self._output(None, partial(self.engine.attempts.cancel, self.id, address))

    def _retry(self, delivery: Delivery, run: Run, operation: Operation, address: str) -> None:
        row = self.attempts.get(address)
        if row is None or self.engine.attempts.running_attempt(self.id, address) is not None:
            raise Conflict(f"{self.id}: an attempt of activity {operation.name} is being executed; nothing was changed")
        now_us = self.engine.now_us()
        write = self._consume(delivery, ok=True, body=NULL)
        if row.status is AttemptStatus.OUTSIDE and row.next_us:
            self._drop_reminder(write, address)
        if row.status is AttemptStatus.PAUSED:  # what had been used up is there anew
            row = row._replace(attempt=0, first_us=now_us)
        self._set_attempt(write, row._replace(status=AttemptStatus.RETRYING, next_us=now_us))
        self._update_in_flight(write, run)
        self._output(None, partial(self._begin_again, run, operation, at_once=True))

    def _attempt_under_way(self, operation: Operation, address: str) -> AttemptRow:
        """What there is to say about the attempt that is being made, here or outside."""
        row = self.attempts.get(address)
        if row is not None and row.status is AttemptStatus.OUTSIDE:
            return row
        call = self.engine.attempts.running_attempt(self.id, address)
        if call is None:
            raise Conflict(f"{self.id}: no attempt of activity {operation.name} is under way now; it is to be retried")
        return AttemptRow(
            address, call.name, call.attempt, NULL, 0, call.first_us, details=call.details, started_us=call.started_us
        )

    def _attempt_failed(
        self, write: EntityWrite, run: Run, operation: Operation, row: AttemptRow, error: BaseException
    ) -> None:
        """In a turn whose version is made: the policy decides."""
        detail: ActivityDetail = operation.detail
        now_us = self.engine.now_us()
        what = f"{self.id}: activity {operation.name}"
        verdict = judge(detail.options, error, what=what, attempt=row.attempt, first_us=row.first_us, now_us=now_us)
        if isinstance(verdict, Fail):
            body = msgspec.Raw(encode_error(verdict.error))
            self._settle_from_outside(run, Event(EventKind.ERROR, operation.number, body), row.operation)
            return
        self._enter(None)
        if row.status is AttemptStatus.OUTSIDE and row.next_us:
            self._drop_reminder(write, row.operation)
        if isinstance(verdict, Pause):
            row = row._replace(status=AttemptStatus.PAUSED, next_us=now_us, error=encode_error(verdict.error))
        else:
            next_us = now_us + round(verdict.wait_s * 1e6)
            row = row._replace(status=AttemptStatus.RETRYING, next_us=next_us, error=encode_error(error))
        self._set_attempt(write, row)
        self._update_in_flight(write, run)
        self._output(None, partial(self.engine.attempts.cancel, self.id, row.operation))
        self._output(None, partial(self._begin_again, run, operation))

    def _heartbeat(self, delivery: Delivery, operation: Operation, address: str, details: bytes) -> None:
        row = self._attempt_under_way(operation, address)
        call = self.engine.attempts.running_attempt(self.id, address)
        if call is not None:
            call.details = details
        else:
            write = self._writing()
            self._set_outside(write, operation.detail, row._replace(details=details), now_us=self.engine.now_us())
        version = self.version
        self._gate(delivery, lambda: delivery.reply_ok(NULL, version))

    def _fire_limit(self, item: Fire) -> bool:
        """The time of an activity that waits for the outside is up. False if the timer is not one of those."""
        address = OperationAddress.parse(item.row.name)
        run = self._waiting_run(address)
        if run is None or run.pending[address.number].kind is not OperationKind.ACTIVITY:
            return False
        operation, timer = run.pending[address.number], item.row
        row = self.attempts.get(timer.name)
        write = self._turn()
        write.reminders_gone.append(ReminderKey(timer.name, timer.generation, timer.due_us, is_fired=True))
        self.reminders[timer.name] = None
        self._output(item, lambda: self.engine.wheel.drop_stale(timer))
        if row is None or row.status is not AttemptStatus.OUTSIDE:
            self._enter(None)
            return True
        self._attempt_failed(write, run, operation, row._replace(next_us=0), self._late(operation, row))
        return True

    def _late(self, operation: Operation, row: AttemptRow) -> ActivityTimeout:
        options: Any = operation.detail.options
        now_us = self.engine.now_us()
        what = f"{self.id}: attempt {row.attempt} of activity {operation.name}, completed from outside,"
        for limit, start_us, kind in (
            (options.timeout, row.started_us, "attempt"),
            (options.total_timeout, row.first_us, "total"),
        ):
            if limit is not None and now_us - start_us >= limit.total_seconds() * 1e6:
                return ActivityTimeout(f"{what} took longer than {limit.total_seconds():g} s", timeout=kind)
        silence_s = options.heartbeat_timeout.total_seconds() if options.heartbeat_timeout else 0.0
        return ActivityTimeout(f"{what} sent no heartbeat for {silence_s:g} s", timeout="heartbeat")
