"""Traces of OpenTelemetry, where the process has it: what the rest of the engine sees of it (they uphold no promise).

Perdure makes spans only in a process in which somebody has configured a tracer provider before the engine or the client
begins (in hosts the modules of the entity classes are the place: they are imported first). Nothing of OpenTelemetry is
imported before somebody else did; without it a turn costs one comparison more.

The context travels as a W3C `traceparent` in `Envelope.trace`: from HTTP, from whatever span is current where an entity
is called, from turns to what they send, from runs to their activities. It is stored with a run's journal, so it is
known after months. But a run that has slept (more than `SPLIT_US`, or by continuing as new) goes on in a new trace that
*links* to the old one: a span that is open for months is none that any tool shows.
"""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from .ids import EntityId

if TYPE_CHECKING:
    from .engine.activities import ActivityCall
    from .messages import Envelope

SPLIT_US = 60_000_000
"""A run that goes on later than this after its last resume begins a new trace."""


class TurnSpan(Protocol):
    """The span of one turn or attempt."""

    traceparent: str
    """Under which what it causes is to be found."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over. Idempotent."""
        ...


class Tracing(Protocol):
    """Makes spans."""

    def message(self, envelope: "Envelope", *, is_query: bool = False) -> TurnSpan:
        """A handler or query, below whoever sent the message."""
        ...

    def resume(self, entity: EntityId, workflow: str, run_id: str, *, parent: str, is_linked: bool) -> TurnSpan:
        """A workflow goes on: below `parent`, or in a trace of its own that links to it."""
        ...

    def attempt(self, call: "ActivityCall") -> AbstractContextManager[None]:
        """An attempt of an activity, as the current span."""
        ...

    def current(self) -> str:
        """The traceparent of the current span; empty if there is none."""
        ...

    def use(self, span: TurnSpan) -> AbstractContextManager[None]:
        """As the current span of what runs inside; does not end it."""
        ...


_found: list[Tracing] = []


def look() -> Tracing | None:
    """What makes spans in this process; None if nobody has configured OpenTelemetry up to now.

    Asked when an engine or a client begins, and remembered, so that nothing looks again for each message.
    """
    _found.clear()
    if sys.modules.get("opentelemetry.trace") is not None:
        from .otel import configured  # noqa: PLC0415 - an extra, which need not be there

        _found.extend(configured())
    return _found[0] if _found else None


def current_traceparent() -> str:
    """Of the current span of this process; empty if there is none."""
    return _found[0].current() if _found else ""


def trace_id_of(traceparent: str) -> str:
    """Which trace it belongs to; empty of an empty one."""
    return traceparent.split("-")[1] if traceparent else ""
