"""Turns of handlers: run, then commit everything or restore everything.

A handler without awaits is driven in place; one with awaits gets a task and a time limit. A call's error is its
outcome; a one-way message is tried again with back-off, then dead-lettered. While it waits for its next attempt, later
one-way messages of the same sender wait behind it (promise P5), everybody else goes on.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from ...context import current
from ...errors import (
    HandlerTimeout,
    HostKilled,
    PerdureError,
    Rejected,
)
from ...messages import Kind, encode_json
from ...metrics import HANDLER_RETRIES
from ...recurrence import following
from ...store.rows import (
    DeadLetter,
    EntityWrite,
    ReminderKey,
    ReminderKind,
    ReminderRow,
)
from ..deliveries import (
    Delivery,
    HandlerContext,
    failure_body,
    refused,
)
from ..effects import Effects
from ..loops import check_hops, hops_of
from .rebuild import Rebuild
from .record import NULL

if TYPE_CHECKING:
    from ...descriptors import Handler

log = logging.getLogger("perdure.engine")


class HandlerTurns(Rebuild):
    """Running handlers."""

    __slots__ = ()

    def _handle(self, delivery: Delivery) -> None:
        tracing = self.engine.tracing
        if tracing is None:
            self._run_handler(delivery)
            return
        delivery.span = span = tracing.message(delivery.envelope)
        with tracing.use(span):
            self._run_handler(delivery)
        if self.busy is None:
            span.end()  # also of what never ran

    def _run_handler(self, delivery: Delivery) -> None:
        name = delivery.envelope.name
        method = self.definition.handlers[name]
        try:
            kwargs = method.signature.load_arguments(delivery.envelope.args)
        except PerdureError as problem:
            self._refuse_stored(delivery, problem)
            return
        self._enter(None)
        context = HandlerContext(self.id, "handler", self.engine)
        if delivery.fired is not None:
            context.fired, context.fired_us = delivery.fired, delivery.fired_us
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
        task = self.engine.run_user_code(method.fn(self.entity, **kwargs), context, delivery)
        if task.done():
            self._finish_task(task, delivery, method, context, is_late=False)
            return
        self.busy = task
        late: list[bool] = []

        def cancel() -> None:
            if not task.cancel():
                return  # it is done, just in time
            late.append(True)
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
                if not task.cancelled():
                    task.exception()  # looked at, so that asyncio does not complain
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
            f"{self.id}.{method.name} ran longer than its limit of {method.timeout_s:g} s and was cancelled; it "
            "changed nothing. Long work belongs in a @workflow with activities",
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
        if is_late:
            error = self._timeout_error(method)  # also if it has swallowed its cancellation
            if not task.cancelled():
                error.__cause__ = task.exception()
        elif task.cancelled():
            error = RuntimeError("the handler cancelled itself")
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
        span = delivery.span
        if span is None:
            self._conclude(delivery, method, context, value, error)
            return
        self.trace = span.traceparent
        try:
            self._conclude(delivery, method, context, value, error)
        finally:
            self.trace = ""
            span.end(error)

    def _conclude(
        self,
        delivery: Delivery,
        method: "Handler[Any, Any]",
        context: HandlerContext,
        value: Any,
        error: BaseException | None,
    ) -> None:
        context.is_closed = True
        staged = context.effects.staged
        if staged is not None and error is None and not self._may_stage(delivery):
            return
        body, hops = NULL, 0
        if error is None:
            try:
                if context.effects.outgoing:
                    hops = hops_of(delivery)
                    check_hops(self.id, method.name, hops, self.engine.settings.hops_max)
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
            self._fired(write, delivery, delivery.fired, context.effects)
        if context.effects.outgoing or context.effects.reminders:
            self._perform(write, context.effects, hops=hops)
        if staged is not None:
            self._stage(write, staged)
        self._changed()

    def _failed(self, delivery: Delivery, method: "Handler[Any, Any]", error: BaseException) -> None:
        """Consumed with its error (call), tried again, or given up (one-way)."""
        body = failure_body(f"{self.id}.{method.name}", error)
        if not delivery.is_one_way:
            self._consume(delivery, ok=False, body=encode_json(body))
            return
        delivery.attempts += 1
        text = self.engine.log_text(error, body.message)
        wrapped = error if isinstance(error, Exception) else RuntimeError(repr(error))
        if method.retry.is_final(wrapped, delivery.attempts) or isinstance(error, Rejected):
            log.error("%s.%s failed %d times, dead-lettered: %s", self.id, method.name, delivery.attempts, text)
            write = self._consume(delivery, ok=False, body=encode_json(body))
            told = msgspec.structs.replace(body, traceback=self.engine.trace_of(error))
            write.dead_letters.append(DeadLetter(delivery.envelope, delivery.attempts, encode_json(told)))
            if delivery.fired is not None:
                self._fired(write, delivery, delivery.fired, Effects())
            return
        self.engine.figures.count(HANDLER_RETRIES, self.id.type, method.name)
        log.warning("%s.%s failed (attempt %d): %s", self.id, method.name, delivery.attempts, text)
        sender = delivery.envelope.sender
        self._hold_back(delivery)
        if delivery.fired is not None:
            self.engine.wheel.set_aside(delivery.fired)
        self.engine.call_later(method.retry.delay_s(delivery.attempts), lambda: self._unblock(sender))

    def _refuse_stored(self, delivery: Delivery, error: PerdureError) -> None:
        """A message that cannot be applied: answered; if it was accepted before, also kept as a dead letter."""
        body = encode_json(error.body())
        if not delivery.is_stored and not delivery.is_storing and delivery.fired is None:
            if isinstance(error, HostKilled) and delivery.envelope.kind is not Kind.QUERY:
                self._consume(delivery, ok=False, body=body)  # for good: a repeat gets the same answer
            else:
                self._gate(delivery, lambda: refused(delivery, error))
            return
        write = self._consume(delivery, ok=False, body=body)
        write.dead_letters.append(DeadLetter(delivery.envelope, delivery.attempts + 1, body))
        if delivery.fired is not None:
            self._fired(write, delivery, delivery.fired, Effects())

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

    def _fired(self, write: EntityWrite, delivery: Delivery, row: ReminderRow, effects: Effects) -> None:
        """The occurrence is done: deleted, and armed again if it recurs and the handler did not decide otherwise."""
        write.reminders_gone.append(ReminderKey(row.name, row.generation, row.due_us, is_fired=True))
        self.reminders[row.name] = None
        self._output(None, lambda: self.engine.wheel.drop_stale(row))
        if row.is_recurring and row.name not in effects.reminders:
            _, due_us = following(
                row.due_us, delivery.fired_us, every_us=row.every_us, cron=row.cron, catch_up_all=row.catch_up_all
            )
            if due_us is not None:
                self._put_reminder(write, row._replace(due_us=due_us))

    def _is_current(self, row: ReminderRow) -> bool:
        """Whether no turn since this activation began has cancelled, replaced or fired it."""
        return self.reminders.get(row.name, (row.generation, row.due_us)) == (row.generation, row.due_us)
