"""Serving over real sockets: what only shows there."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from perdure.api import Settings, entity_router, install
from perdure.api.serve import AddressRefused, InsecureBind, bind, serving

from .fake import FakeCaller
from .shop import Order
from .wire import talk

SETTINGS = Settings(port=0, body_bytes_max=100_000, body_timeout_s=0.5)
ADD = "POST /orders/o-1/add HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def url(caller: FakeCaller) -> AsyncGenerator[str]:
    app = FastAPI()
    install(app, every_error=True)
    app.include_router(entity_router(Order, settings=SETTINGS), prefix="/orders")
    async with serving(app, SETTINGS) as address:
        yield address


async def test_keys_with_slashes_reach_the_entity(url: str, caller: FakeCaller) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        for path in ("a%2Fb", "a%252Fb", "caf%C3%A9", "%2F"):
            assert (await http.post(f"/orders/{path}/pick_up")).status_code == 200
        assert (await http.post("/orders/a/b/pick_up")).status_code == 404
        assert (await http.post("/orders/%FF/pick_up")).json()["code"] == "bad_encoding"
    assert [envelope.key for envelope in caller.envelopes] == ["a/b", "a%2Fb", "café", "/"]


@pytest.mark.parametrize("segment", ["..", ".", "%2e%2e"])
async def test_dot_segments_reach_nobody(url: str, caller: FakeCaller, segment: str) -> None:
    request = f"POST /orders/{segment}/pick_up HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await talk(url, request.encode())
    assert (answer.status, answer.code) == (400, "bad_key")
    assert caller.envelopes == []


async def test_a_large_body_is_refused_before_it_is_sent(url: str, caller: FakeCaller) -> None:
    answer = await talk(url, f"{ADD}Content-Length: 1000000000\r\n\r\n".encode())
    assert (answer.status, answer.code, answer.headers["connection"]) == (413, "payload_too_large", "close")


async def test_a_large_chunked_body_is_refused_on_the_way(url: str, caller: FakeCaller) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    answer = await talk(url, f"{ADD}Transfer-Encoding: chunked\r\n\r\n".encode(), *[chunk] * 200)
    assert (answer.status, answer.code) == (413, "payload_too_large")
    assert caller.envelopes == []


async def test_a_slow_body_is_refused_after_a_while(url: str, caller: FakeCaller) -> None:
    parts = [f"{ADD}Content-Length: 50\r\n\r\n".encode(), *[b" "] * 10]
    answer = await talk(url, *parts, pause_s=0.1)
    assert (answer.status, answer.code) == (408, "body_timeout")
    assert caller.envelopes == []


async def test_what_follows_a_refused_body_is_no_request(url: str, caller: FakeCaller) -> None:
    hidden = b"POST /orders/o-1/pick_up HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"{ADD}Content-Encoding: gzip\r\nContent-Length: {len(hidden)}\r\n\r\n".encode()
    assert (await talk(url, head + hidden)).status == 415
    assert caller.envelopes == []


async def test_foreign_hosts_are_refused(url: str, caller: FakeCaller) -> None:
    request = "POST /orders/o-1/pick_up HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    answer = await talk(url, request.encode())
    assert (answer.status, answer.code) == (403, "forbidden_host")


async def test_absurd_headers_are_refused(url: str, caller: FakeCaller) -> None:
    request = f"POST /orders/o-1/pick_up HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 200_000}\r\n\r\n"
    assert (await talk(url, request.encode())).status in {400, 431}
    assert caller.envelopes == []


async def test_requests_under_way_are_finished_at_the_end(caller: FakeCaller) -> None:
    app = FastAPI()
    is_asked = asyncio.Event()

    @app.get("/slow")
    async def slow() -> str:
        is_asked.set()
        await asyncio.sleep(0.3)
        return "done"

    async with httpx.AsyncClient() as http:
        async with serving(app, SETTINGS) as url:
            request = asyncio.create_task(http.get(f"{url}/slow"))
            await is_asked.wait()
        assert (await request).json() == "done"
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{url}/slow")


async def test_a_start_that_fails_is_told_as_it_is() -> None:
    @asynccontextmanager
    async def fail(app: FastAPI) -> AsyncGenerator[None]:
        if app.title:
            raise LookupError("no such thing")
        yield

    with pytest.raises(LookupError, match="no such thing"):
        async with serving(FastAPI(lifespan=fail), SETTINGS):
            raise AssertionError("must not start")


async def test_the_address_is_checked_first() -> None:
    with pytest.raises(InsecureBind):
        async with serving(FastAPI(), Settings(host="0.0.0.0", port=0)):
            raise AssertionError("must not start")
    with bind("127.0.0.1", 0) as taken:
        settings = Settings(port=taken.getsockname()[1])
        with pytest.raises(AddressRefused):
            async with serving(FastAPI(), settings):
                raise AssertionError("must not start")


async def test_it_ends_when_whoever_serves_is_cancelled() -> None:
    ends: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[None]:
        yield
        ends.append("end")

    async def serve() -> None:
        async with serving(FastAPI(lifespan=own), SETTINGS):
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends == ["end"]
