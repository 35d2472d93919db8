"""Spans by the API of OpenTelemetry (`perdure[otel]`). Imported by `tracing` only, and only where the API is loaded."""

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.trace import Link, NonRecordingSpan, ProxyTracerProvider, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from .engine.activities import ActivityCall
from .ids import EntityId
from .messages import Envelope, Kind
from .tracing import TurnSpan


def _written(found: SpanContext) -> str:
    if not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"


def _read(text: str) -> SpanContext | None:
    """None of what is none: a caller may send anything."""
    parts = text.split("-")
    try:
        _, trace_id, span_id, flags = parts
        found = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return found if found.is_valid else None


class _TurnSpan:
    """See tracing.TurnSpan."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span: Span | None = span
        self.traceparent = _written(span.get_span_context())

    def end(self, error: BaseException | None = None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        if error is not None:
            _note(span, error)
        span.end()

    @property
    def span(self) -> Span:
        """To be the current one."""
        return self._span if self._span is not None else trace.INVALID_SPAN


class OtelTracing:
    """See tracing.Tracing."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("perdure")

    def message(self, envelope: Envelope, *, is_query: bool = False) -> _TurnSpan:
        attributes: dict[str, str | int] = {"perdure.entity": str(envelope.entity), "perdure.message_id": envelope.id}
        kind = SpanKind.SERVER if is_query or envelope.kind is Kind.CALL else SpanKind.CONSUMER
        return self._begin(f"{envelope.type}.{envelope.name}", kind, envelope.trace, attributes)

    def resume(self, entity: EntityId, workflow: str, run_id: str, *, parent: str, is_linked: bool) -> _TurnSpan:
        attributes: dict[str, str | int] = {"perdure.entity": str(entity), "perdure.run": run_id}
        name = f"{entity.type}.{workflow}"
        if not is_linked:
            return self._begin(name, SpanKind.INTERNAL, parent, attributes)
        before = _read(parent)
        links = [Link(before, {"perdure.link": "earlier"})] if before is not None else []
        return _TurnSpan(self._tracer.start_span(name, context.Context(), SpanKind.INTERNAL, attributes, links))

    def _begin(self, name: str, kind: SpanKind, parent: str, attributes: dict[str, str | int]) -> _TurnSpan:
        return _TurnSpan(self._tracer.start_span(name, _below(parent), kind, attributes))

    @contextmanager
    def attempt(self, call: ActivityCall) -> Generator[None]:
        attributes: dict[str, str | int] = {
            "perdure.entity": str(call.entity),
            "perdure.operation": call.operation,
            "perdure.attempt": call.attempt,
        }
        span = self._tracer.start_span(f"activity {call.name}", _below(call.trace), SpanKind.INTERNAL, attributes)
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield
        except BaseException as error:
            _note(span, error)
            raise
        finally:
            context.detach(token)
            span.end()

    def current(self) -> str:
        return _written(trace.get_current_span().get_span_context())

    @contextmanager
    def use(self, span: TurnSpan) -> Generator[None]:
        assert isinstance(span, _TurnSpan)
        token = context.attach(trace.set_span_in_context(span.span))
        try:
            yield
        finally:
            context.detach(token)


def configured() -> list[OtelTracing]:
    """Empty if there is the API and no provider behind it."""
    return [] if isinstance(trace.get_tracer_provider(), ProxyTracerProvider) else [OtelTracing()]


def _below(parent: str) -> context.Context:
    """Never below whatever happens to be current on the host's loop."""
    found = _read(parent)
    empty = context.Context()
    return empty if found is None else trace.set_span_in_context(NonRecordingSpan(found), empty)


def _note(span: Span, error: BaseException) -> None:
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:500]))
