"""Queries: answered from committed state only, changing nothing (promise P8).

A query without awaits reads the live state; its answer waits for the commit of what it saw. One that may wait reads a
copy of the last durable state, and so does every query while a handler is under way. Either way the state is compared
afterwards: a query that changed it is undone and refused.
"""

import asyncio
import logging
from typing import Any

from ...context import current
from ...entity import Entity
from ...errors import (
    PerdureError,
    ReadOnlyViolation,
)
from ...ids import EntityId
from ...messages import Status, encode_json
from ...metrics import QUERIES
from ..deliveries import (
    Delivery,
    HandlerContext,
    failure_body,
    refused,
)
from .handlers import HandlerTurns
from .record import NULL

log = logging.getLogger("perdure.engine")

QUERY_TIMEOUT_S = 30.0


class Queries(HandlerTurns):
    """Answering queries."""

    __slots__ = ()

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
        self._trace_query(delivery)
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
        if self._is_changed(self.entity, self.snapshot):
            self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = None
            self.serial += 1
            status, body = Status.ERROR, encode_json(_read_only(self.id, name).body())
        self._answer_query(delivery, status, body)

    def _answer_query(self, delivery: Delivery, status: Status, body: bytes) -> None:
        version = self.version
        self._count_query(delivery, status)
        if delivery.envelope.reply_to:
            self._consume(delivery, ok=status is Status.OK, body=body)
            return
        self._gate(delivery, lambda: delivery.reply(status, body, version))

    def _count_query(self, delivery: Delivery, status: Status) -> None:
        outcome = "ok" if status is Status.OK else "error"
        self.engine.figures.count(QUERIES, self.id.type, delivery.envelope.name, outcome)
        if delivery.span is not None:
            delivery.span.end()

    def _trace_query(self, delivery: Delivery) -> None:
        if self.engine.tracing is not None:
            delivery.span = self.engine.tracing.message(delivery.envelope, is_query=True)

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
        self._trace_query(delivery)
        task = self.engine.run_user_code(
            method.fn(copy, **kwargs), HandlerContext(self.id, "query", self.engine), delivery
        )
        timer = self.engine.call_later(QUERY_TIMEOUT_S, task.cancel)

        def done(task: asyncio.Task[Any]) -> None:
            timer.cancel()
            error = TimeoutError(f"no answer in {QUERY_TIMEOUT_S:g} s") if task.cancelled() else task.exception()
            if error is not None:
                status, body = Status.ERROR, encode_json(failure_body(f"{self.id}.{name}", error))
            elif self._is_changed(copy, before):
                status, body = Status.ERROR, encode_json(_read_only(self.id, name).body())
            else:
                status, body = self._answer(method, task.result())
            self._count_query(delivery, status)
            if not delivery.envelope.reply_to:
                delivery.reply(status, body, version)
            elif not self.is_dead:
                self._consume(delivery, ok=status is Status.OK, body=body)

        if task.done():
            done(task)
        else:
            task.add_done_callback(done)

    def _is_changed(self, entity: Entity, before: bytes) -> bool:
        try:
            return not self.definition.is_same(self.definition.dump(entity), before)
        except PerdureError:
            return True


def _read_only(entity: EntityId, name: str) -> ReadOnlyViolation:
    return ReadOnlyViolation(f"{entity}.{name}: the query changed state; that was undone. Make it a @handler")
