"""The end of a gateway as a balancer and kept connections see it: nobody's request meets it."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from perdure.api import Settings, entity_router, health_router
from perdure.api.commands.serving import until_drained
from perdure.api.interrupts import Interrupts
from perdure.api.serve import KEEP_ALIVE_S, _Server, bind, configuration, serving

from .fake import FakeCaller
from .shop import Order
from .wire import Answer, connected

SETTINGS = Settings(port=0)
PICK_UP = b"POST /orders/o-1/pick_up HTTP/1.1\r\nHost: localhost\r\n\r\n"
BALANCERS_IDLE_S = 60
"""How long nginx and the load balancers of large clouds keep idle connections to those behind them."""


@dataclass
class Site:
    """An application that is served."""

    url: str
    draining: asyncio.Event
    is_asked: asyncio.Event
    """Set by a request for /slow, which is answered after `may_answer`."""
    may_answer: asyncio.Event


def slow_app(site: Site) -> FastAPI:
    app = FastAPI()
    app.include_router(health_router())
    app.include_router(entity_router(Order), prefix="/orders")

    @app.get("/slow")
    async def slow() -> str:
        site.is_asked.set()
        await site.may_answer.wait()
        return "done"

    return app


@pytest.fixture
async def site(caller: FakeCaller) -> AsyncGenerator[Site]:
    site = Site("", asyncio.Event(), asyncio.Event(), asyncio.Event())
    async with serving(slow_app(site), SETTINGS, draining=site.draining) as site.url:
        yield site


async def test_before_the_end_nothing_is_said_of_it(site: Site) -> None:
    async with httpx.AsyncClient(base_url=site.url) as http:
        for answer in (await http.get("/readyz"), await http.post("/orders/o-1/pick_up")):
            assert answer.status_code == 200
            assert "connection" not in answer.headers


async def test_a_draining_gateway_is_not_ready_but_serves_whoever_comes(site: Site, caller: FakeCaller) -> None:
    site.draining.set()
    for _ in range(2):
        async with httpx.AsyncClient(base_url=site.url) as http:  # a connection of its own
            assert (await http.post("/orders/o-1/pick_up")).status_code == 200
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["missing"]) == (503, ["this gateway is about to end"])
            assert (await http.get("/livez")).status_code == 200, "nobody should end it by force"
    assert len(caller.envelopes) == 2


async def test_a_kept_connection_is_given_up_with_its_next_answer(site: Site) -> None:
    async with asyncio.timeout(20), connected(site.url) as (reader, writer):
        writer.write(PICK_UP)
        first = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(Answer(first).headers["content-length"]))
        site.draining.set()
        assert not reader.at_eof(), "closing it now could meet a request"
        writer.write(PICK_UP)
        second = Answer(await reader.read())
    assert (second.status, second.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("is_drained", [True, False])
async def test_who_waits_for_an_answer_gets_it_and_is_told_to_reconnect(caller: FakeCaller, is_drained: bool) -> None:
    site = Site("", asyncio.Event(), asyncio.Event(), asyncio.Event())
    async with httpx.AsyncClient() as http:
        async with serving(slow_app(site), SETTINGS, draining=site.draining) as url:
            request = asyncio.create_task(http.get(f"{url}/slow"))
            await site.is_asked.wait()
            if is_drained:
                site.draining.set()
                site.may_answer.set()
                await request
            else:  # the end comes without notice, as at Ctrl-C
                asyncio.get_running_loop().call_later(0.2, site.may_answer.set)
        answer = await request
    assert (answer.json(), answer.headers["connection"]) == ("done", "close")


async def test_an_answer_says_so_once(caller: FakeCaller) -> None:
    site = Site("", asyncio.Event(), asyncio.Event(), asyncio.Event())
    settings = Settings(port=0, body_bytes_max=1_024)
    app = FastAPI()
    app.include_router(entity_router(Order, settings=settings), prefix="/orders")
    async with serving(app, settings, draining=site.draining) as url, httpx.AsyncClient(base_url=url) as http:
        refused = await http.post("/orders/o-1/add", content=b"x" * 2_000)
        site.draining.set()
        again = await http.post("/orders/o-1/add", content=b"x" * 2_000)
    assert refused.headers.get_list("connection") == again.headers.get_list("connection") == ["close"]


async def test_what_has_come_while_the_loop_was_busy_is_answered(caller: FakeCaller) -> None:
    app = FastAPI()
    app.include_router(entity_router(Order), prefix="/orders")
    config = configuration(app)
    config.load()
    server = _Server(config)
    server.lifespan = config.lifespan_class(config)
    with bind("127.0.0.1", 0) as listener:
        await server.startup(sockets=[listener])
        with socket.create_connection(listener.getsockname()) as client:  # blocking: nobody has accepted it
            client.sendall(PICK_UP.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await server.shutdown(sockets=[listener])
            assert Answer(client.recv(65_536)).status == 200
    assert len(caller.envelopes) == 1


@pytest.mark.parametrize(("number", "is_drained"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
async def test_sigterm_drains_and_ctrl_c_does_not(number: signal.Signals, is_drained: bool) -> None:
    interrupts, draining, said = Interrupts(), asyncio.Event(), list[str]()
    interrupts.listen()
    try:
        waiting = asyncio.create_task(until_drained(interrupts, draining, 0.01, said.append))
        os.kill(os.getpid(), number)
        async with asyncio.timeout(20):
            await waiting
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(one)
    assert (draining.is_set(), bool(said)) == (is_drained, is_drained)


async def test_a_drain_lasts_as_long_as_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts, draining = Interrupts(), asyncio.Event()
    waited: list[tuple[float, bool]] = []

    async def wait(seconds: float) -> None:
        waited.append((seconds, draining.is_set()))

    monkeypatch.setattr("perdure.api.commands.serving.asyncio.sleep", wait)
    interrupts.listen()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await until_drained(interrupts, draining, 7.5, lambda _: None)
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(one)
    assert waited == [(7.5, True)]


def test_idle_connections_are_kept_for_longer_than_balancers_do() -> None:
    assert configuration(FastAPI()).timeout_keep_alive == KEEP_ALIVE_S > BALANCERS_IDLE_S
