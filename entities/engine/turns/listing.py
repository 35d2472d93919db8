"""What a run waits for, for people: read from the run in memory and the rows of its attempts; changes nothing (P8)."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from ...errors import ErrorBody, NoSuchRun
from ...messages import OperationAddress, Status, encode_json
from ...operate import RunOperations, WaitingOperation
from ...store.rows import AttemptRow, AttemptStatus, RunRow, RunStatus
from ...tokens import make_token
from ..deliveries import Delivery
from ..journal import OperationKind
from ..run import Operation, Run
from .holding import Holding
from .record import NULL

if TYPE_CHECKING:
    from ..activities import ActivityCall

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_errors = msgspec.json.Decoder(ErrorBody | None)


class Listing(Holding):
    """Telling what runs wait for."""

    __slots__ = ()

    def _operations(self, delivery: Delivery) -> None:
        if not self.engine.has_lease():
            self.by_id.pop(delivery.envelope.id, None)
            delivery.reply(Status.NOT_OWNER, NULL, 0)
            return
        name = delivery.envelope.name
        row = self.rows.get(name)
        if row is None:
            self._reject(delivery, NoSuchRun(f"{self.id}.{name} was never started; start it with .{name}.start(...)"))
            return
        body = encode_json(self._run_operations(row))
        version = self.version
        self._gate(delivery, lambda: delivery.reply_ok(body, version))

    def _run_operations(self, row: RunRow) -> RunOperations:
        run = self.runs.get(row.workflow)
        if run is not None:
            held = self._held_operations(run.row) if row.paused else set[int]()
            operations = [self._waiting_operation(run, op, is_held=op.number in held) for op in run.pending.values()]
        else:  # parked: all that is known is in the rows of its attempts
            prefix = f"{row.workflow}/{row.run_id}/"
            operations = [self._from_row(a) for a in self.attempts.values() if a.operation.startswith(prefix)]
        is_good = row.status in (RunStatus.RUNNING, RunStatus.COMPLETED)
        return RunOperations(
            entity=str(self.id),
            workflow=row.workflow,
            run_id=row.run_id,
            status=row.status,
            paused=row.paused,
            started_at=_EPOCH + timedelta(microseconds=row.started_us),
            ended_at=_time(row.ended_us),
            error=None if is_good else _errors.decode(row.outcome),
            operations=operations,
        )

    def _waiting_operation(self, run: Run, operation: Operation, *, is_held: bool) -> WaitingOperation:
        address = run.address(operation.number)
        if operation.kind is not OperationKind.ACTIVITY:
            due_us = operation.detail if operation.kind is OperationKind.TIMER else 0
            return WaitingOperation(
                number=operation.number,
                kind=operation.kind,
                name=operation.name,
                status="held" if is_held else "waiting",
                next_at=_time(due_us),
            )
        call = self.engine.attempts.running_attempt(self.id, address)
        row = self.attempts.get(address)
        if is_held or row is None:
            return WaitingOperation(
                number=operation.number,
                kind=operation.kind,
                name=operation.name,
                status="held" if is_held else "running" if call is not None else "waiting",
                since=_time(call.first_us if call is not None else 0),
                token=make_token(self.id, address),
            )
        return self._from_row(row, call)

    def _from_row(self, row: AttemptRow, call: "ActivityCall | None" = None) -> WaitingOperation:
        is_running = call is not None
        status = "running" if is_running and row.status is AttemptStatus.RETRYING else str(row.status)
        return WaitingOperation(
            number=OperationAddress.parse(row.operation).number,
            kind=OperationKind.ACTIVITY,
            name=row.activity,
            status=status,
            attempts=row.attempt,
            last_error=_errors.decode(row.error),
            next_at=None if is_running or row.status is AttemptStatus.PAUSED else _time(row.next_us),
            since=_time(row.first_us),
            heartbeat=msgspec.json.decode(call.details if call is not None else row.details),
            token=make_token(self.id, row.operation),
        )


def _time(us: int) -> datetime | None:
    return _EPOCH + timedelta(microseconds=us) if us else None
