"""Activities under way on a host, from the commit that asked for each to its outcome: attempts, retries, notes of them.

An attempt begins only once the commit that asked for it is durable (P3), or a journal says that it was. Its outcome is
offered to the entity; while attempts fail, each is noted in the store for people and for the next host.
"""

import inspect
import logging
from typing import TYPE_CHECKING

from ..errors import ActivityTimeout, error_body
from ..ids import EntityId
from ..messages import encode_json
from ..store.rows import AttemptRow
from ..transactional import StepTransactions
from .activities import ActivityCall, ActivityPool, MakeRunner, failure, success
from .deliveries import ActivityDone
from .run import ActivityDetail, Operation, Run

if TYPE_CHECKING:
    from .engine import Engine
    from .turns.record import Record

log = logging.getLogger("perdure.engine")


class Attempts:
    """Owned by the engine; everything on the host's loop."""

    def __init__(
        self, engine: "Engine", pool: ActivityPool | None, runner: MakeRunner, steps: StepTransactions | None
    ) -> None:
        self._engine = engine
        self._runner = runner(engine.settings, self._finished, pool, steps)
        self._under_way: dict[str, ActivityCall] = {}

    def open(self) -> None:
        """Be ready to run attempts."""
        self._runner.open()

    def close(self) -> None:
        """Cancel every attempt; their outcomes interest nobody any more."""
        self._under_way.clear()
        self._runner.close()

    @property
    def running(self) -> int:
        """Attempts under way."""
        return self._runner.running

    def abandon(self, entity: EntityId) -> None:
        """This entity has left the host: whoever owns it now begins its attempts anew."""
        prefix = f"{entity}#"
        for key in [k for k in self._under_way if k.startswith(prefix)]:
            self._under_way.pop(key)
            self._runner.cancel(key)

    def begin(
        self, activation: "Record", run: Run, operation: Operation, *, error: BaseException | None = None
    ) -> None:
        """The commit that asked for it is durable (or a journal says so): run it until it has an outcome.

        `error`: there is no further attempt, for this reason.
        """
        if activation.runs.get(run.row.workflow) is not run or operation.number not in run.pending:
            return
        address = run.address(operation.number)
        key = f"{activation.id}#{address}"
        known = self._under_way.get(key)
        if known is not None:
            activation.know_attempts(known)
            return
        detail: ActivityDetail = operation.detail
        before = activation.attempts.get(address)
        call = ActivityCall(
            entity=activation.id,
            shard=activation.shard,
            operation=address,
            number=operation.number,
            name=operation.name,
            fn=detail.fn,
            is_async=inspect.iscoroutinefunction(detail.fn),
            signature=detail.signature,
            args=detail.args,
            options=detail.options,
            attempt=before.attempt + 1 if before else 1,
            first_us=before.first_us if before else self._engine.now_us(),
        )
        if error is not None:
            self._engine.arrivals.offer(call.entity, ActivityDone(call, failure(call, error)))
            return
        self._under_way[key] = call
        delay_s = max(0.0, (before.next_us - self._engine.now_us()) / 1e6) if before else 0.0
        self._next(key, call, delay_s)

    def _next(self, key: str, call: ActivityCall, delay_s: float) -> None:
        def begin() -> None:
            if self._under_way.get(key) is call:
                self._runner.start(call)

        if delay_s > 0.0:
            self._engine.call_later(delay_s, begin)
        else:
            begin()

    def is_under_way(self, entity: EntityId, address: str) -> bool:
        """Whether this activity has no outcome yet."""
        return f"{entity}#{address}" in self._under_way

    def cancel(self, entity: EntityId, address: str) -> None:
        """The run does not want it any more."""
        key = f"{entity}#{address}"
        if self._under_way.pop(key, None) is not None:
            self._runner.cancel(key)

    def _finished(self, call: ActivityCall, result: bytes | None, error: BaseException | None) -> None:
        key = f"{call.entity}#{call.operation}"
        if self._under_way.get(key) is not call or call.shard not in self._engine.epochs_held:
            return
        if error is None:
            del self._under_way[key]
            self._engine.arrivals.offer(call.entity, ActivityDone(call, success(call, result or b"null")))
            return
        wait_s = call.options.retry.delay_s(call.attempt)
        limit = call.options.total_timeout
        out_of_time = (
            limit is not None and self._engine.now_us() + wait_s * 1e6 - call.first_us >= limit.total_seconds() * 1e6
        )
        if out_of_time or call.options.retry.is_final(error, call.attempt):
            if out_of_time and not isinstance(error, ActivityTimeout):
                timeout = ActivityTimeout(
                    f"{call.entity}: activity {call.name} did not succeed within {limit}; last error: {error}",
                    attempts=call.attempt,
                )
                timeout.__cause__ = error
                error = timeout
            del self._under_way[key]
            self._engine.arrivals.offer(call.entity, ActivityDone(call, failure(call, error)))
            return
        log.info(
            "%s: activity %s failed (attempt %d): %s; next try in %.1f s",
            call.entity,
            call.name,
            call.attempt,
            error,
            wait_s,
        )
        self._note(call, error, wait_s)
        call.attempt += 1
        self._next(key, call, wait_s)

    def _note(self, call: ActivityCall, error: BaseException, wait_s: float) -> None:
        row = AttemptRow(
            call.operation,
            call.name,
            call.attempt,
            encode_json(error_body(error)),
            self._engine.now_us() + round(wait_s * 1e6),
            call.first_us,
        )
        activation = self._engine.active.get(call.entity)
        if activation is not None:
            if not activation.waits_for(call.operation):
                return  # withdrawn by a turn whose commit is to come: nobody would delete the note
            activation.attempts[call.operation] = row
        self._engine.note_attempt(call.entity, call.shard, row)
