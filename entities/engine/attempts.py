"""Activities under way on a host, from the commit that asked for each to its outcome: attempts, retries, notes of them.

An attempt begins only once the commit that asked for it is durable (P3), or a journal says that it was. Its outcome is
offered to the entity; while attempts fail, each is noted in the store for people and for the next host, and so are the
details of heartbeats, at most once a second.

What a lost note costs is known: an attempt more, or a second of heartbeat details. What must not be lost (that an
activity was executed and waits for the outside, that it waits for a person) is a turn of its entity instead
(`ActivityWaits`).
"""

import inspect
import logging
import time
from typing import TYPE_CHECKING

from ..errors import CompleteLater
from ..ids import EntityId
from ..metrics import ATTEMPTS
from ..store.rows import AttemptRow, AttemptStatus
from ..tracing import Tracing
from ..transactional import StepTransactions
from .activities import ActivityCall, ActivityPool, MakeRunner, encode_error, failure, success
from .deliveries import ActivityDone, ActivityWaits
from .run import ActivityDetail, Operation, Run
from .verdicts import Fail, Pause, judge

if TYPE_CHECKING:
    from .engine import Engine
    from .turns.record import Record

log = logging.getLogger("perdure.engine")

NO_ERROR = b"null"


class Attempts:
    """Owned by the engine; everything on the host's loop."""

    def __init__(
        self, engine: "Engine", pool: ActivityPool | None, runner: MakeRunner, steps: StepTransactions | None
    ) -> None:
        self._engine = engine
        self._runner = runner(engine.settings, self._finished, pool, steps)
        self._runner.on_beat = self._beat
        self._runner.has_lease = engine.has_lease
        self._under_way: dict[str, ActivityCall] = {}

    def trace_with(self, tracing: Tracing | None) -> None:
        """What makes the spans of attempts."""
        self._runner.tracing = tracing

    def open(self) -> None:
        """Be ready to run attempts."""
        self._runner.open()

    def kill(self) -> None:
        """No attempt begins from now on, as if the process had ended; what is being executed is cancelled."""
        for key in list(self._under_way):
            self._drop(key)

    def close(self) -> None:
        """Cancel every attempt; their outcomes interest nobody any more."""
        self.kill()
        self._runner.close()

    @property
    def running(self) -> int:
        """Attempts under way."""
        return self._runner.running

    def abandon(self, entity: EntityId) -> None:
        """This entity has left the host: whoever owns it now begins its attempts anew."""
        for key in [key for key, call in self._under_way.items() if call.entity == entity]:
            self._drop(key)

    def begin(
        self,
        activation: "Record",
        run: Run,
        operation: Operation,
        *,
        at_once: bool = False,
        error: BaseException | None = None,
    ) -> None:
        """The commit that asked for it is durable (or a journal says so): run it until it has an outcome.

        If it may have been begun before, the caller has seen to it that no outcome of it waits for its turn (P7).
        at_once: a person has asked for the next attempt now. error: there is no further attempt, for this reason.
        """
        if activation.runs.get(run.row.workflow) is not run or operation.number not in run.pending or run.row.paused:
            return
        address = run.address(operation.number)
        key = f"{activation.id}#{address}"
        known = self._under_way.get(key)
        if known is not None and (known.is_running or not at_once):
            known.is_held = False
            activation.know_attempts(known)
            return
        before = activation.attempts.get(address)
        if before is not None and before.status is not AttemptStatus.RETRYING:
            return
        if known is not None:
            self._drop(key)
        call = self._call(activation, run, operation, before)
        if error is not None:
            self._engine.arrivals.offer(call.entity, ActivityDone(call, failure(call, error)))
            return
        self._under_way[key] = call
        delay_s = max(0.0, (before.next_us - self._engine.now_us()) / 1e6) if before and not at_once else 0.0
        self._next(call, delay_s)

    def _call(self, activation: "Record", run: Run, operation: Operation, before: AttemptRow | None) -> ActivityCall:
        detail: ActivityDetail = operation.detail
        return ActivityCall(
            entity=activation.id,
            shard=activation.shard,
            operation=run.address(operation.number),
            number=operation.number,
            name=operation.name,
            fn=detail.fn,
            is_async=inspect.iscoroutinefunction(detail.fn),
            signature=detail.signature,
            args=detail.args,
            options=detail.options,
            attempt=before.attempt + 1 if before else 1,
            first_us=before.first_us if before else self._engine.now_us(),
            details=before.details if before else b"null",
            trace=run.trace,
        )

    def _next(self, call: ActivityCall, delay_s: float) -> None:
        def begin() -> None:
            call.waiting = None
            if self._under_way.get(call.key) is call:
                if self._is_wanted(call):
                    self._start(call)
                else:
                    del self._under_way[call.key]

        if delay_s > 0.0:
            call.waiting = self._engine.call_later(delay_s, begin)
        else:
            begin()

    def _is_wanted(self, call: ActivityCall) -> bool:
        """Whether a further attempt may begin: its outcome has not come meanwhile, as far as this host knows.

        If the commit of that outcome fails, the entity is loaded again, and the activity begun again by that.
        """
        activation = self._engine.active.get(call.entity)
        return activation is None or (
            activation.waits_for(call.operation) and call.operation not in activation.outcomes_waiting()
        )

    def _start(self, call: ActivityCall) -> None:
        call.is_running = True
        call.started_us = self._engine.now_us()
        limit = call.options.total_timeout
        if limit is not None:
            left_s = limit.total_seconds() - (call.started_us - call.first_us) / 1e6
            call.give_up_at = time.monotonic() + max(0.001, left_s)
        self._runner.start(call)

    def is_under_way(self, entity: EntityId, address: str) -> bool:
        """Whether this activity has no outcome yet."""
        return f"{entity}#{address}" in self._under_way

    def running_attempt(self, entity: EntityId, address: str) -> ActivityCall | None:
        """The attempt of this operation that is being executed right now, or None."""
        call = self._under_way.get(f"{entity}#{address}")
        return call if call is not None and call.is_running else None

    def cancel(self, entity: EntityId, address: str) -> None:
        """The run does not want it any more."""
        self._drop(f"{entity}#{address}")

    def _drop(self, key: str) -> None:
        call = self._under_way.pop(key, None)
        if call is None:
            return
        call.is_void = True
        if call.waiting is not None:
            call.waiting.cancel()
        if call.is_running:
            self._runner.cancel(key)

    def hold(self, entity: EntityId, run: Run) -> None:
        """The run is paused: what is being executed may end, but nothing begins."""
        for number in run.pending:
            call = self._under_way.get(f"{entity}#{run.address(number)}")
            if call is not None:
                call.is_held = True
                if not call.is_running:
                    self._drop(call.key)  # its row in the store, if it has one, says when it goes on

    # --- ends of attempts ---

    def _finished(self, call: ActivityCall, result: bytes | None, error: BaseException | None) -> None:
        call.is_running = False
        if self._under_way.get(call.key) is not call or call.shard not in self._engine.epochs_held:
            return
        if error is None:
            self._count(call, "ok")
            self._end(ActivityDone(call, success(call, result or b"null")))
            return
        now_us = self._engine.now_us()
        if isinstance(error, CompleteLater):
            self._count(call, "outside")
            self._end(ActivityWaits(call, self._row(call, None, 0, AttemptStatus.OUTSIDE)))
            return
        verdict = judge(
            call.options, error, what=call.what, attempt=call.attempt, first_us=call.first_us, now_us=now_us
        )
        if isinstance(verdict, Fail):
            self._count(call, "failed")
            self._end(ActivityDone(call, failure(call, verdict.error, self._engine.trace_of(verdict.error))))
            return
        if isinstance(verdict, Pause):
            self._count(call, "paused")
            text = self._engine.log_text(verdict.error, str(verdict.error))
            log.warning("%s has used up its attempts and waits for a person: %s", call.what, text)
            self._end(ActivityWaits(call, self._row(call, verdict.error, now_us, AttemptStatus.PAUSED)))
            return
        self._count(call, "retry")
        text = self._engine.log_text(error, str(error))
        log.info("%s failed (attempt %d): %s; next try in %.1f s", call.what, call.attempt, text, verdict.wait_s)
        row = self._row(call, error, now_us + round(verdict.wait_s * 1e6), AttemptStatus.RETRYING)
        if call.is_held:
            self._end(ActivityWaits(call, row))
            return
        self._note(call, row)
        call.attempt += 1
        self._next(call, verdict.wait_s)

    def _count(self, call: ActivityCall, outcome: str) -> None:
        self._engine.figures.count(ATTEMPTS, call.entity.type, call.name, outcome)

    def _end(self, item: ActivityDone) -> None:
        del self._under_way[item.call.key]
        self._engine.arrivals.offer(item.call.entity, item)

    # --- notes ---

    def _beat(self, call: ActivityCall) -> None:
        """The attempt has sent a heartbeat: note its details, unless that was done a moment ago."""
        wait_s = call.noted_at + self._engine.settings.heartbeat_note_s - self._engine.monotonic()
        if wait_s > 0.0:
            self._engine.call_later(wait_s, lambda: self._note_beat(call))
        else:
            self._note_beat(call)

    def _note_beat(self, call: ActivityCall) -> None:
        call.is_beat_told = False
        call.noted_at = self._engine.monotonic()
        if call.details == b"null":
            return  # there is nothing to hand on
        if not call.is_running or self._under_way.get(call.key) is not call or self._engine.is_stopped:
            return
        activation = self._engine.active.get(call.entity)
        before = activation.attempts.get(call.operation) if activation is not None else None
        row = AttemptRow(
            call.operation,
            call.name,
            call.attempt - 1,
            before.error if before is not None else NO_ERROR,
            call.started_us,
            call.first_us,
            details=call.details,
            started_us=call.started_us,
        )
        self._note(call, row)

    def _row(self, call: ActivityCall, error: BaseException | None, next_us: int, status: AttemptStatus) -> AttemptRow:
        return AttemptRow(
            call.operation,
            call.name,
            call.attempt,
            NO_ERROR if error is None else encode_error(error, self._engine.trace_of(error)),
            next_us,
            call.first_us,
            status,
            call.details,
            call.started_us,
        )

    def _note(self, call: ActivityCall, row: AttemptRow) -> None:
        activation = self._engine.active.get(call.entity)
        if activation is not None:
            if not activation.waits_for(call.operation):
                return  # withdrawn by a turn whose commit is to come: nobody would delete the note
            activation.attempts[call.operation] = row
        self._engine.note_attempt(call.entity, call.shard, row)
