"""Bad clients over real sockets: slow, greedy, lying about lengths, or gone (rows B10, B12, B47, B52; S25, S29).

Nothing here leaves a task behind in the server, and nothing that is refused reaches an entity.
"""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import httpx
import pytest

from perdure.api import Settings, create_app
from perdure.api.limits import HEADER_BYTES_MAX
from perdure.api.protocol import BoundedHeadProtocol
from perdure.api.serve import serving

from .fake import FakeCaller
from .shop import Customer, Order
from .wire import Answer, connected, exchange, read_all, read_one, talk

KEY = "a-key-of-sixteen-or-more"
LIMITS = Settings(port=0, body_timeout_s=0.4, requests_max=3, call_wait_max_s=30)
HERE = "Host: localhost\r\n"
PICK_UP = f"POST /entities/Order/o-1/pick_up HTTP/1.1\r\n{HERE}".encode()
ADD = f"POST /entities/Order/o-1/add HTTP/1.1\r\n{HERE}Content-Type: application/json\r\n".encode()
BODY = b'{"item":{"name":"x"}}'


@pytest.fixture
async def url(caller: FakeCaller) -> AsyncGenerator[str]:
    app = create_app([Order, Customer], settings=LIMITS)
    app.router.lifespan_context = _no_lifespan
    async with serving(app, LIMITS) as address:
        yield address


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads must be quick."""
    monkeypatch.setattr(BoundedHeadProtocol, "head_timeout_s", 1.0)


@contextlib.asynccontextmanager
async def _no_lifespan(_: object) -> AsyncGenerator[None]:
    yield  # a fake caller answers


def requests_under_way() -> int:
    return sum(
        task.get_coro().__qualname__ == "RequestResponseCycle.run_asgi"  # type: ignore[union-attr]
        for task in asyncio.all_tasks()
    )


async def no_request_is_left() -> None:
    async with asyncio.timeout(10):
        while requests_under_way():
            await asyncio.sleep(0.005)


# --- Slow ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
async def test_a_slow_head_is_refused_after_a_while(url: str, caller: FakeCaller) -> None:
    """Slow loris: a byte now and then does not put the end off."""
    answer = await talk(url, *[bytes([byte]) for byte in PICK_UP], pause_s=0.05)
    assert (answer.status, answer.code, answer.headers["connection"]) == (408, "head_timeout", "close")
    assert caller.envelopes == []


@pytest.mark.usefixtures("hurried")
async def test_a_connection_that_says_nothing_is_closed(url: str) -> None:
    assert await exchange(url) == b""


@pytest.mark.usefixtures("hurried")
async def test_a_slow_second_head_is_refused_too(url: str, caller: FakeCaller) -> None:
    async with asyncio.timeout(10), connected(url) as (reader, writer):
        writer.write(PICK_UP + b"\r\n" + PICK_UP[:20])
        assert (await read_one(reader))[0] == 200
        rest = Answer(await read_all(reader))
    assert rest.status == 408
    assert len(caller.envelopes) == 1


@pytest.mark.usefixtures("hurried")
async def test_a_slow_rest_of_a_body_that_nobody_needs_is_not_waited_for(url: str, caller: FakeCaller) -> None:
    head = f"POST /entities/Order/o-1/unknown HTTP/1.1\r\n{HERE}Content-Length: 100000\r\n\r\n".encode()
    async with asyncio.timeout(10), connected(url) as (reader, writer):
        writer.write(head)
        assert (await read_one(reader))[0] == 404
        dripping = asyncio.create_task(_drip(writer))
        assert await read_all(reader) == b""
        await dripping
    assert caller.envelopes == []


async def _drip(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)
            if writer.is_closing():
                return


@pytest.mark.usefixtures("hurried")
async def test_a_connection_may_rest_between_requests(url: str, caller: FakeCaller) -> None:
    async with asyncio.timeout(10), connected(url) as (reader, writer):
        for _ in range(2):
            writer.write(PICK_UP + b"\r\n")
            assert (await read_one(reader))[0] == 200
            await asyncio.sleep(1.3)  # longer than a head may take, shorter than a connection may rest
    assert len(caller.envelopes) == 2


# --- Greedy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [b"X-Large: " + b"x" * 100_000, b"\r\n".join(b"X-%d: y" % number for number in range(10_000))],
    ids=["one", "many"],
)
async def test_a_hundred_kilobytes_of_headers_are_refused(url: str, caller: FakeCaller, header: bytes) -> None:
    answer = await talk(url, PICK_UP + header + b"\r\n\r\n")
    assert answer.status in {400, 431}
    assert caller.envelopes == []


async def test_headers_just_over_the_limit_are_refused_with_the_limit(url: str, caller: FakeCaller) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        fits = await http.post("/entities/Order/o-1/pick_up", headers={"X-Large": "x" * (HEADER_BYTES_MAX - 1_000)})
    assert fits.status_code == 200
    answer = await talk(url, PICK_UP + b"X-Large: " + b"x" * HEADER_BYTES_MAX + b"\r\n\r\n")
    assert answer.status in {400, 431}  # 431 with the limit if it came in one piece
    if answer.status == 431:
        assert (answer.code, json.loads(answer.body)["limit"]) == ("headers_too_large", HEADER_BYTES_MAX)
    assert len(caller.envelopes) == 1


async def test_as_many_requests_wait_as_may_and_no_more(url: str, caller: FakeCaller) -> None:
    """B48, B50: long polls are requests like others. What is refused is refused definitely, and health is not."""
    caller.hangs = True
    async with AsyncExitStack() as stack:
        for _ in range(LIMITS.requests_max):
            _, writer = await stack.enter_async_context(connected(url))
            writer.write(f"GET /entities/Order/o-1/run/result?timeout=30 HTTP/1.1\r\n{HERE}\r\n".encode())
        async with asyncio.timeout(10):
            while len(caller.envelopes) < LIMITS.requests_max:
                await asyncio.sleep(0.005)
        async with httpx.AsyncClient(base_url=url) as http:
            refused = await http.post("/entities/Order/o-1/pick_up")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert refused.headers["retry-after"] == "1"
            assert (await http.get("/livez")).status_code == 200
    caller.hangs = False
    await no_request_is_left()
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/entities/Order/o-1/pick_up")).status_code == 200
    assert len(caller.envelopes) == LIMITS.requests_max + 1


# --- Lying -----------------------------------------------------------------------------------------------------------

HIDDEN = b"POST /entities/Order/hidden/pick_up HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        ADD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        ADD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n" + HIDDEN,
        ADD + b"Content-Length: 0\r\nContent-Length: 70\r\n\r\n" + HIDDEN,
        ADD + b"Content-Length: 0, 70\r\n\r\n" + HIDDEN,
        ADD + b"Content-Length: -1\r\n\r\n" + HIDDEN,
        ADD + b"Content-Length: +0\r\n\r\n" + HIDDEN,
        ADD + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
        ADD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        ADD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        ADD + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        ADD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        ADD + b"Transfer-Encoding: chunked\r\n\r\nZ\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN,
        b"POST /entities/Order/o-1/pick_up HTTP/1.1\r\n\r\n" + HIDDEN,
        PICK_UP + b"Host: other\r\n\r\n" + HIDDEN,
        PICK_UP + b"X: a\x00b\r\n\r\n" + HIDDEN,
        PICK_UP + b"X y: z\r\n\r\n" + HIDDEN,
        b"POST /entities/Order/o 1/pick_up HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
        b"POST /entities/Order/o\r\nX: 1/pick_up HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
        b"\x00" * 1_000 + HIDDEN,
    ],
)
async def test_what_could_be_read_as_two_requests_is_none(url: str, caller: FakeCaller, request_: bytes) -> None:
    """Request smuggling: a proxy in front might have read another length. Nothing of it may be executed."""
    answer = await talk(url, request_)
    assert answer.status in {400, 403, 501}, answer.body
    assert [envelope.key for envelope in caller.envelopes] == []


async def test_pipelined_requests_are_answered_in_order_until_one_is_garbage(url: str, caller: FakeCaller) -> None:
    received = await exchange(url, (PICK_UP + b"\r\n") * 3 + b"\x01garbage\r\n\r\n" + HIDDEN)
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"HTTP/1.1 400") == 1
    assert [envelope.key for envelope in caller.envelopes] == ["o-1"] * 3


@pytest.mark.parametrize(
    "head",
    [
        "GET http://evil.example/entities HTTP/1.1\r\nHost: localhost\r\n",
        "GET /entities HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\n",
        "GET /entities HTTP/1.1\r\nHost: evil.example\r\nForwarded: for=127.0.0.1;host=localhost\r\n",
        "GET /entities HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n",
    ],
)
async def test_names_that_the_caller_made_up_open_nothing(url: str, head: str) -> None:
    """B52. The target's own name is not even looked at: only the path of an absolute target could match a route."""
    answer = await talk(url, f"{head}Connection: close\r\n\r\n".encode())
    assert answer.status in {403, 404}, answer.body


async def test_a_spoofed_address_is_no_key(caller: FakeCaller) -> None:
    settings = Settings(port=0, api_keys=KEY)  # type: ignore[arg-type]
    app = create_app([Order], settings=settings)
    app.router.lifespan_context = _no_lifespan
    async with serving(app, settings) as url:
        spoofed = f"{HERE}X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-User: root\r\nConnection: close\r\n\r\n"
        answer = await talk(url, f"POST /entities/Order/o-1/pick_up HTTP/1.1\r\n{spoofed}".encode())
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert caller.envelopes == []


@pytest.mark.parametrize("value", ["x\r\nSet-Cookie: y", "x\nSet-Cookie: y", "\x00", "é" * 50, "x" * 300])
async def test_nothing_of_the_callers_gets_into_our_headers(url: str, value: str) -> None:
    """B47: values that could split a header are either no request at all or not repeated."""
    head = f"GET /entities/Nothing/x HTTP/1.1\r\n{HERE}X-Request-Id: {value}\r\nConnection: close\r\n\r\n"
    answer = await talk(url, head.encode())
    assert "set-cookie" not in answer.headers
    assert answer.headers.get("x-request-id") != value


# --- Gone ------------------------------------------------------------------------------------------------------------


async def test_a_caller_who_leaves_in_the_middle_of_a_body_is_forgotten(url: str, caller: FakeCaller) -> None:
    for head in (b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n"):
        async with connected(url) as (_, writer):
            writer.write(ADD + head + BODY)
            await writer.drain()
            async with asyncio.timeout(10):
                while not requests_under_way():
                    await asyncio.sleep(0.005)
    await no_request_is_left()
    assert caller.envelopes == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "run/result?timeout=30"), ("POST", "pick_up?timeout=31"), ("GET", "state?timeout=31")],
)
async def test_nobody_waits_for_a_caller_who_left(
    caller: FakeCaller, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message was sent: what becomes of it is what would have become of it. Only the waiting ends."""
    caller.hangs = True
    settings = Settings(port=0, call_wait_s=30, call_wait_max_s=60)
    app = create_app([Order], settings=settings)
    app.router.lifespan_context = _no_lifespan
    async with serving(app, settings) as url:
        async with connected(url) as (_, writer):
            writer.write(f"{method} /entities/Order/o-1/{path} HTTP/1.1\r\n{HERE}\r\n".encode())
            async with asyncio.timeout(10):
                while not caller.envelopes:
                    await asyncio.sleep(0.005)
        await no_request_is_left()
    gc.collect()
    assert len(caller.envelopes) == 1
    assert "never retrieved" not in caplog.text
