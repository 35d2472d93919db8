"""A request that passes h11 by is answered byte for byte as one that does not, whatever the application does."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest
from uvicorn.server import ServerState

from perdure.api import protocol as protocols
from perdure.api.protocol import BoundedHeadProtocol
from perdure.api.serve import configuration

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

KEEP_ALIVE_S = 5.0
HEAD = b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
REQUEST = HEAD + b"\r\n0123456789"
GET = b"GET /next HTTP/1.1\r\nhost: x\r\nConnection: keep-alive\r\n\r\n"


class Clock:
    """The protocol's loop: real tasks, and timers that fire when told."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, asyncio.get_running_loop())
        self.timers.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args)

    def create_task(self, work: Any) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(work)

    def advance(self, seconds: float) -> None:
        """Fire what becomes due, in order."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled() and timer.when() <= end]:
            first = min(due, key=asyncio.TimerHandle.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when())
            first._run()
        self.timers = [timer for timer in self.timers if not timer.cancelled()]
        self.now = end


class Wire(asyncio.Transport):
    """The transport: keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 1)})
        self.written = b""
        self.is_closed = False
        self._is_paused = False

    def write(self, data: Any) -> None:
        if not self.is_closed:
            self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def is_paused(self) -> bool:
        return self._is_paused

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False


class Peer:
    """One connection to an application."""

    def __init__(self, app: App) -> None:
        self.seen: list[Any] = []
        config = configuration(self._seeing(app))  # each time, for something else may have changed logging meanwhile
        config.load()
        self.clock = Clock()
        self.state = ServerState()
        self.wire = Wire()
        self.protocol = BoundedHeadProtocol(config, self.state, {"s": 1}, _loop=self.clock)
        self.protocol.connection_made(self.wire)

    def _seeing(self, app: App) -> Any:
        async def seeing(scope: dict[str, Any], receive: Receive, send: Send) -> None:
            self.seen.append({**scope, "headers": list(scope["headers"])})

            async def received() -> dict[str, Any]:
                message = await receive()
                self.seen.append(message)
                return message

            try:
                await app(scope, received, send)
            except Exception as error:
                self.seen.append(repr(error))
                raise

        return seeing

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            if part and not self.wire.is_closed:
                self.protocol.data_received(part)
            await settle()

    @property
    def outcome(self) -> Any:
        """All that anybody can see."""
        bodies = [b"".join(one["body"] for one in self.seen if isinstance(one, dict) and "body" in one)]
        others = [one for one in self.seen if not (isinstance(one, dict) and "body" in one)]
        return self.wire.written, self.wire.is_closed, bodies, others, self.state.total_requests


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


# --- applications ----------------------------------------------------------------------------------------------------


async def read(receive: Receive) -> bytes:
    body, is_more = b"", True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message["body"]
        is_more = message["more_body"]
    return body


def answers(
    *chunks: bytes,
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
    length: int | None = None,
    reads: bool = True,
    fails: str = "",
) -> App:
    async def app(_: dict[str, Any], receive: Receive, send: Send) -> None:
        body = await read(receive) if reads else b""
        if fails == "before":
            raise ValueError("before")
        all_headers = [(b"content-type", b"text/plain"), *(headers or [])]
        if length is not None:
            all_headers.append((b"Content-Length", str(length).encode()))
        await send({"type": "http.response.start", "status": status, "headers": all_headers})
        if fails == "between":
            raise ValueError("between")
        for number, chunk in enumerate(chunks, 1):
            more = number < len(chunks)
            await send({"type": "http.response.body", "body": chunk + body[:0], "more_body": more})
        if fails == "after":
            raise ValueError("after")
        if fails == "twice":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    return app


async def says_nothing(scope: dict[str, Any], receive: Receive, send: Send) -> None: ...


async def begins_with_a_body(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"x"})


async def waits_for_the_end(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await read(receive)
    await receive()


async def is_in_doubt(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "nonsense"})


APPS: dict[str, App] = {
    "ordinary": answers(b"ok", length=2),
    "ordinary error": answers(b"no", length=2, status=404),
    "empty": answers(b"", length=0),
    "status without a phrase": answers(b"ok", length=2, status=499),
    "headers of all kinds": answers(
        b"ok",
        length=2,
        headers=[(b"ETag", b'"v7"'), (b"x", b"a\tb  c"), (b"x", b"\xe9")],
    ),
    "chunked": answers(b"a", b"", b"bc"),
    "in parts": answers(b"a", b"b", length=2),
    "no content": answers(b"", status=204),
    "not modified": answers(b"", status=304, headers=[(b"etag", b"x")]),
    "says close": answers(b"ok", length=2, headers=[(b"connection", b"close")]),
    "says chunked": answers(b"ok", headers=[(b"transfer-encoding", b"chunked")]),
    "too short": answers(b"o", length=2),
    "too long": answers(b"oka", length=2),
    "two lengths": answers(b"ok", length=2, headers=[(b"content-length", b"3")]),
    "the same length twice": answers(b"ok", length=2, headers=[(b"content-length", b"2")]),
    "length of words": answers(b"ok", headers=[(b"content-length", b"two")]),
    "header injection": answers(b"ok", length=2, headers=[(b"x", b"y\r\nset-cookie: z")]),
    "line feed": answers(b"ok", length=2, headers=[(b"x", b"y\nset-cookie: z")]),
    "nul": answers(b"ok", length=2, headers=[(b"x", b"\x00")]),
    "blank at the end": answers(b"ok", length=2, headers=[(b"x", b"y ")]),
    "empty value": answers(b"ok", length=2, headers=[(b"x", b"")]),
    "wrong name": answers(b"ok", length=2, headers=[(b"x y", b"z")]),
    "empty name": answers(b"ok", length=2, headers=[(b"", b"z")]),
    "answers early": answers(b"ok", length=2, reads=False),
    "answers early and closes": answers(b"ok", length=2, reads=False, headers=[(b"connection", b"close")]),
    "fails before": answers(b"ok", length=2, fails="before"),
    "fails after": answers(b"ok", length=2, fails="after"),
    "answers twice": answers(b"ok", length=2, fails="twice"),
    "says nothing": says_nothing,
    "begins with a body": begins_with_a_body,
    "is in doubt": is_in_doubt,
    "waits": waits_for_the_end,
}
NEXT = [GET, GET + REQUEST, b"\x01\r\n\r\n", GET[:9]]


async def outcome_of(app: App, parts: list[bytes]) -> Any:
    peer = Peer(app)
    await peer.send(*parts)
    if not peer.wire.is_closed:
        peer.protocol.shutdown()  # what it does shows the state that the connection is in
    found = peer.outcome
    peer.protocol.connection_lost(None)
    await settle()
    assert not peer.state.tasks
    return found


@pytest.mark.parametrize("name", APPS)
async def test_the_answer_is_the_same_byte_for_byte(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the request comes in pieces, and whatever follows it, at once or later."""
    splits = [0, len(HEAD), len(HEAD) + 2, len(HEAD) + 5]
    follows = [(b"", True), *itertools.product(NEXT, (True, False))]
    for split, (following, is_at_once) in itertools.product(splits, follows):
        parts = [REQUEST[:split], REQUEST[split:]]
        if is_at_once:
            parts[1] += following
        else:
            parts.append(following)
        direct = await outcome_of(APPS[name], parts)
        with monkeypatch.context() as patch:
            patch.setattr(protocols, "read_head", lambda _: None)
            by_h11 = await outcome_of(APPS[name], parts)
        if name == "is in doubt":  # the head of the answer waits for its body, which never comes
            direct, by_h11 = direct[1:], by_h11[1:]
        assert direct == by_h11, parts


async def test_ordinary_requests_do_pass_h11_by(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("h11 was asked")

    monkeypatch.setattr(h11.Connection, "receive_data", refuse)
    monkeypatch.setattr(h11.Connection, "send", refuse)
    peer = Peer(answers(b"ok", length=2))
    await peer.send(REQUEST, GET, REQUEST[:-3], REQUEST[-3:], HEAD + b"\r\n", b"0123456789")
    assert peer.wire.written.count(b"HTTP/1.1 200 OK") == 4
    assert peer.state.total_requests == 4


async def test_one_that_ends_an_answer_in_two_is_one_write() -> None:
    peer = Peer(answers(b"ok", length=2))
    await peer.send(REQUEST)
    assert peer.wire.written == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 2\r\n\r\nok"


async def test_a_large_body_is_not_taken_faster_than_it_is_read() -> None:
    reading = asyncio.Event()

    async def app(_: dict[str, Any], receive: Receive, send: Send) -> None:
        await reading.wait()
        body = await read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"%6d" % len(body)})

    peer = Peer(app)
    await peer.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n", b"x" * 100_000)
    assert peer.wire.is_paused()
    reading.set()
    await settle()
    assert not peer.wire.is_paused()
    await peer.send(b"x" * 100_000)
    assert peer.wire.written.endswith(b"200000")


async def test_what_comes_while_a_request_is_answered_is_not_read_without_end() -> None:
    peer = Peer(waits_for_the_end)
    await peer.send(REQUEST)
    await peer.send(GET)
    assert peer.wire.is_paused()


async def test_what_is_answered_while_the_server_ends_is_the_last_of_its_connection() -> None:
    ending = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await ending.wait()
        await answers(b"ok", length=2)(scope, receive, send)

    peer = Peer(app)
    await peer.send(REQUEST)
    peer.protocol.shutdown()
    assert not peer.wire.is_closing()
    ending.set()
    await settle()
    assert peer.wire.written.endswith(b"ok")
    assert peer.wire.is_closing()


async def test_callers_that_leave_are_noticed() -> None:
    peer = Peer(waits_for_the_end)
    await peer.send(REQUEST)
    peer.protocol.connection_lost(None)
    await settle()
    assert peer.seen[-1] == {"type": "http.disconnect"}
    assert not peer.state.tasks


# --- time ------------------------------------------------------------------------------------------------------------


async def test_a_connection_that_says_nothing_is_closed_in_time_and_not_before() -> None:
    peer = Peer(answers(b"ok", length=2))
    peer.clock.advance(protocols.HEAD_TIMEOUT_S - 0.001)
    assert not peer.wire.is_closing()
    peer.clock.advance(0.001)
    assert peer.wire.is_closing()
    assert peer.wire.written == b""


async def test_the_first_head_has_its_time_from_the_beginning_of_the_connection() -> None:
    peer = Peer(answers(b"ok", length=2))
    peer.clock.advance(protocols.HEAD_TIMEOUT_S - 1)
    await peer.send(REQUEST[:20])
    peer.clock.advance(0.999)
    assert not peer.wire.is_closing()
    peer.clock.advance(0.001)
    assert peer.wire.written.startswith(b"HTTP/1.1 408")


async def test_connections_rest_between_requests_as_long_as_they_may() -> None:
    peer = Peer(answers(b"ok", length=2))
    for _ in range(5):
        await peer.send(REQUEST)
        peer.clock.advance(KEEP_ALIVE_S - 0.001)
        assert not peer.wire.is_closing()
    peer.clock.advance(0.001)
    assert peer.wire.is_closing()


async def test_the_first_rest_is_no_longer_than_others() -> None:
    """Although the timer was set for the first head, which may take longer."""
    peer = Peer(answers(b"ok", length=2))
    await peer.send(REQUEST)
    peer.clock.advance(KEEP_ALIVE_S)
    assert peer.wire.is_closing()


async def test_requests_leave_no_timers_behind() -> None:
    peer = Peer(answers(b"ok", length=2))
    for _ in range(100):
        await peer.send(REQUEST)
        peer.clock.now += 0.01
    assert len(peer.clock.timers) <= 2
    peer.protocol.connection_lost(None)
    assert all(timer.cancelled() for timer in peer.clock.timers)


async def test_the_next_head_has_its_time_from_its_first_byte() -> None:
    peer = Peer(answers(b"ok", length=2))
    await peer.send(REQUEST)
    peer.clock.advance(KEEP_ALIVE_S - 1)
    await peer.send(REQUEST[:5])
    for byte in REQUEST[5:14]:  # a byte now and then does not put the end off
        peer.clock.advance(1)
        await peer.send(bytes([byte]))
    peer.clock.advance(0.999)
    assert not peer.wire.is_closing()
    peer.clock.advance(0.001)
    assert peer.wire.written.count(b"HTTP/1.1 408") == 1
    assert peer.wire.is_closing()


async def test_answers_and_bodies_have_limits_of_their_own() -> None:
    peer = Peer(waits_for_the_end)
    await peer.send(HEAD + b"\r\n012")
    peer.clock.advance(3_600)
    await peer.send(b"3456789")
    peer.clock.advance(3_600)
    assert not peer.wire.is_closing()


async def test_a_timer_that_fires_too_early_is_set_again() -> None:
    """Loops round to their ticks."""
    peer = Peer(answers(b"ok", length=2))
    [timer] = peer.clock.timers
    peer.clock.now = timer.when() - 0.0004
    peer.clock.timers = []
    timer._run()
    assert not peer.wire.is_closing()
    peer.clock.advance(0.0004)
    assert peer.wire.is_closing()


async def test_who_has_an_answer_but_keeps_sending_the_body_is_not_waited_for() -> None:
    peer = Peer(answers(b"ok", length=2, reads=False))
    await peer.send(HEAD + b"\r\n0")
    assert peer.wire.written.startswith(b"HTTP/1.1 200")
    for _ in range(9):
        peer.clock.advance(1)
        await peer.send(b"1" if peer.clock.now < 1_005 else b"")
    assert not peer.wire.is_closing()
    peer.clock.advance(1)
    assert peer.wire.is_closing()
