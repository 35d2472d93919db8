"""The balancer and the driver of `rolling`: a gateway that drains costs no call, and one that does not costs some."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass

import pytest
from fastapi import FastAPI

from bench.http import HttpCaller
from campaigns import balancer, rolling
from campaigns.balancer import Balancer
from campaigns.driver import METERS, Call, Driven, Driver
from campaigns.releases.second import Meter
from campaigns.verdict import Verdict
from perdure.api import Settings, health_router
from perdure.api.serve import bind, serving
from perdure.entities.client import set_default
from tests.api.fake import FakeCaller

RATE = 100.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setattr(balancer, "PROBE_EVERY_S", 0.02)
    set_default(FakeCaller())
    yield
    set_default(None)


@dataclass
class Gateway:
    """One that can be ended, with or without a drain."""

    port: int
    draining: asyncio.Event
    stack: contextlib.AsyncExitStack


async def start(stack: contextlib.AsyncExitStack) -> Gateway:
    app = FastAPI()
    app.include_router(health_router())
    totals: dict[str, int] = {}

    @app.post("/entities/Meter/{key}/add")
    async def add(key: str) -> dict[str, int | str]:
        totals[key] = totals.get(key, 0) + 1
        return {"total": totals[key], "release": "first"}

    listener = bind("127.0.0.1", 0)
    gateway = Gateway(listener.getsockname()[1], asyncio.Event(), contextlib.AsyncExitStack())
    stack.push_async_callback(gateway.stack.aclose)
    await gateway.stack.enter_async_context(
        serving(app, Settings(port=0), listener=listener, draining=gateway.draining)
    )
    return gateway


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def driven(gateways: list[Gateway]) -> AsyncGenerator[tuple[Balancer, Driven]]:
    async with Balancer([gateway.port for gateway in gateways]).probing() as front:
        driver = Driver(front, RATE)
        driving = asyncio.create_task(driver.drive())
        try:
            yield front, driver.driven
        finally:
            driver.ending.set()
            await driving


async def test_a_gateway_that_drains_costs_no_call() -> None:
    async with contextlib.AsyncExitStack() as stack:
        going, staying = [await start(stack), await start(stack)]
        async with driven([going, staying]) as (front, seen):
            await until(lambda: {call.port for call in seen.calls} == {going.port, staying.port})
            going.draining.set()
            await until(lambda: any(not turn.is_in and turn.port == going.port for turn in front.turns))
            out = len(seen.calls)
            await until(lambda: len(seen.calls) > out + METERS)  # what had been sent there is answered
            await going.stack.aclose()
            ended = len(seen.calls)
            await until(lambda: len(seen.calls) > ended + METERS)
    assert [call.failure for call in seen.calls if call.failure] == []
    assert {call.port for call in seen.calls[ended:]} == {staying.port}


async def test_one_that_ends_without_notice_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async with contextlib.AsyncExitStack() as stack:
        going, staying = [await start(stack), await start(stack)]
        async with driven([going, staying]) as (_, seen):
            monkeypatch.setattr(balancer, "PROBE_EVERY_S", 3_600.0)
            await going.stack.aclose()
            await until(lambda: any(call.failure for call in seen.calls))


async def test_nobody_is_sent_where_nobody_is_ready() -> None:
    async with contextlib.AsyncExitStack() as stack:
        only = await start(stack)
        async with driven([only]) as (front, seen):
            only.draining.set()
            await until(lambda: not all(turn.is_in for turn in front.turns))
            await until(lambda: any("NoBackend" in call.failure for call in seen.calls))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab",
        b"",
    ],
)
async def test_an_answer_that_breaks_off_is_none(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = await HttpCaller.open(server.sockets[0].getsockname()[1])
        with pytest.raises(ConnectionError):
            await connection.ask(b"GET / HTTP/1.1\r\n\r\n")


def call(**changes: object) -> Call:
    values: dict[str, object] = {"meter": 0, "due": 10.0, "late_s": 0.0, "took_s": 0.01, "port": 1, "total": 1}
    return Call(**{**values, "release": "first", **changes})  # type: ignore[arg-type]


def judged(calls: list[Call]) -> Verdict:
    verdict = Verdict("rolling", 1)
    rollout = rolling.Rollout(object(), [1])  # type: ignore[arg-type]
    rollout.phases = [("before", 0.0, 1.0), ("hosts", 1.0, 2.0), ("gateways", 2.0, 3.0), ("after", 3.0, 4.0)]
    rolling._check_calls(verdict, rollout, Driven(calls=calls, began=0.0, ended=4.0), 1.0)
    return verdict


def test_one_failed_call_fails_the_campaign() -> None:
    calls = [call(due=phase + 0.5) for phase in range(4)]
    assert judged(calls).is_ok
    assert not judged([*calls, call(failure="503 no")]).is_ok
    assert not judged(calls[:-1]).is_ok, "nothing was called in one of the phases"


@pytest.mark.parametrize(
    ("value", "totals", "is_ok"),
    [
        (2, [2, 1], True),
        (3, [1, 2], False),
        (1, [1, 2], False),
        (2, [1, 1], False),
        (2, [1, 3], False),
    ],
)
async def test_a_call_that_is_lost_or_doubled_fails_it(
    value: int, totals: list[int], is_ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ref:
        def __init__(self, key: str) -> None:
            self.key = key

        async def read(self) -> int:
            return value if self.key == "m-0" else 0

    monkeypatch.setattr(Meter, "ref", Ref)
    verdict = Verdict("rolling", 1)
    await rolling._check_meters(verdict, [call(total=total) for total in totals])
    assert verdict.is_ok is is_ok
