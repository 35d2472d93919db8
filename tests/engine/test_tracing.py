"""Spans of turns, runs and attempts: one trace for what belongs together, links for what has slept."""

import asyncio
from collections.abc import Generator, Sequence
from datetime import timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.entities import Entity, activity, handler, log_context, otel, query, tracing, workflow
from perdure.entities.errors import HandlerFailed
from perdure.entities.testing import LocalCluster, PerdureTest

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import eventually

HOUR = timedelta(hours=1)


@activity
async def ask_outside(question: str) -> str:
    await Desk.ref("from an activity").note.send(question)
    return str(log_context().get("trace_id"))


class Desk(Entity):
    notes: list[str] = []

    @handler
    async def note(self, text: str) -> str:
        self.notes.append(text)
        return str(log_context().get("trace_id"))

    @handler
    async def pass_on(self, to: str) -> None:
        await asyncio.sleep(0)
        await Desk.ref(to).note.send("passed on")

    @handler
    async def fail(self) -> None:
        raise ValueError("no")

    @query
    async def all(self) -> list[str]:
        return self.notes

    @workflow
    async def errand(self) -> str:
        answer = await ask_outside("why?")
        return f"{answer} {await Desk.ref('other').note('called')}"

    @workflow
    async def sleeper(self) -> None:
        await asyncio.sleep(3600)
        await Desk.ref("later").note.send("awake")


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Generator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start_time or 0)


def only(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = named(exporter.get_finished_spans(), name)
    return span


def parent_of(span: ReadableSpan) -> int:
    return span.parent.span_id if span.parent is not None else 0


def ids(span: ReadableSpan) -> tuple[int, int]:
    found = span.get_span_context()
    assert found is not None
    return found.trace_id, found.span_id


async def test_a_message_is_below_whoever_sent_it(store: FaultyStore, exported: InMemorySpanExporter) -> None:
    async with LocalCluster([Desk], store=store, settings=QUICK):
        with trace.get_tracer("app").start_as_current_span("request") as request:
            await Desk.ref("a").pass_on("b")
            await Desk.ref("a").all()
        await eventually(lambda: named(exported.get_finished_spans(), "Desk.note"))
    trace_id, request_id = request.get_span_context().trace_id, request.get_span_context().span_id
    passing, noting, asking = only(exported, "Desk.pass_on"), only(exported, "Desk.note"), only(exported, "Desk.all")
    assert ids(passing)[0] == ids(noting)[0] == ids(asking)[0] == trace_id
    assert parent_of(passing) == parent_of(asking) == request_id
    assert parent_of(noting) == ids(passing)[1]
    assert dict(noting.attributes or {})["perdure.entity"] == "Desk/b"


async def test_a_run_its_activities_and_calls_are_one_trace(store: FaultyStore, exported: InMemorySpanExporter) -> None:
    async with LocalCluster([Desk], store=store, settings=QUICK):
        answer = await Desk.ref("a").errand()
        await eventually(lambda: len(named(exported.get_finished_spans(), "Desk.note")) == 2)
    spans = exported.get_finished_spans()
    first, *later = named(spans, "Desk.errand")
    attempt = only(exported, "activity ask_outside")
    assert {ids(span)[0] for span in spans if span.name != "Desk.all"} == {ids(first)[0]}
    assert [parent_of(span) for span in (attempt, *later)] == [ids(first)[1]] * 3
    by_entity = {str(dict(span.attributes or {})["perdure.entity"]): span for span in named(spans, "Desk.note")}
    assert parent_of(by_entity["Desk/from an activity"]) == ids(attempt)[1]
    assert parent_of(by_entity["Desk/other"]) == ids(later[0])[1]
    assert answer.split() == [f"{ids(first)[0]:032x}"] * 2  # log records in activities and handlers name the trace


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_run_that_has_slept_links_back(exported: InMemorySpanExporter, *, restarted: bool) -> None:
    async with PerdureTest([Desk]) as world:
        await Desk.ref("a").sleeper.start()
        if restarted:
            await world.restart()
        await world.advance(HOUR + timedelta(minutes=1))
        await Desk.ref("a").sleeper.result()
    before, after = named(exported.get_finished_spans(), "Desk.sleeper")
    assert ids(before)[0] != ids(after)[0]
    assert after.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in after.links] == [ids(before)]
    assert ids(only(exported, "Desk.note"))[0] == ids(after)[0]


async def test_an_error_is_told(store: FaultyStore, exported: InMemorySpanExporter) -> None:
    async with LocalCluster([Desk], store=store, settings=QUICK):
        with pytest.raises(HandlerFailed):
            await Desk.ref("a").fail()
    span = only(exported, "Desk.fail")
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


async def test_without_a_provider_there_is_nothing(store: FaultyStore) -> None:
    async with LocalCluster([Desk], store=store, settings=QUICK) as cluster:
        await Desk.ref("a").pass_on("b")
        assert cluster.engines[0].tracing is None
        await cluster.drained()
    assert not any(envelope.trace for batch in store.commits for write in batch.writes for envelope in write.outbox)
    assert tracing.current_traceparent() == ""


@pytest.mark.parametrize("text", ["", "x", "00-zz-yy-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_caller_may_send_anything_as_its_trace(text: str) -> None:
    assert otel._read(text) is None
