"""uvicorn's protocol over h11, which an ordinary request passes by; with a time limit for heads.

h11 is strict about what a request is and takes a third of a gateway's time. A request whose head heads.py can read, and
that is answered with a `Content-Length`, is therefore never shown to it: its connection rests in h11's idle state
meanwhile. Whatever is not ordinary goes to h11 from its first byte on (heads in pieces, chunked bodies, several
requests at once, HTTP/1.0, upgrades, everything wrong); and if only the answer turns out not to be (streams, `HEAD`,
"connection: close", one that comes before its request has ended), h11 is told of the request late and goes on from
there.

uvicorn bounds how large a head may be and how long a connection may idle between requests, but not how slowly a head
may arrive: thousands of connections that send a byte now and then would stay for ever (slow loris). Here the first
request must begin, and every head be complete, within `HEAD_TIMEOUT_S`. Bodies have their own limit (see requests.py),
and so have answers (they wait no longer than asked for).
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import h11
from starlette.types import Message
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from .heads import Head, read_head

HEAD_TIMEOUT_S = 10.0
_TOO_SLOW = b'{"type":"/docs/errors#head_timeout","title":"Request Timeout","status":408,"detail":"the head of the \
request did not arrive in time","code":"head_timeout"}'
_STATUS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
    if status >= 200 and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
}
"""Of answers that have a body."""
_FIELDS = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9a-zA-Z]++: (?![ \t])[\t -~\x80-\xff]*+(?<![ \t])\r\n)*+")
_FRAMING = frozenset((b"connection", b"transfer-encoding"))
_NEVER = float("inf")


class BoundedHeadProtocol(H11Protocol):
    """Answers 408 and closes when a head does not arrive in time."""

    head_timeout_s = HEAD_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct: _DirectCycle | None = None
        """Under way, and unknown to h11."""
        self._is_resting = False
        """What is due is no head: the connection may rest for a while between requests."""
        self._due_at = _NEVER
        """By then the head has to be complete, or the next request to begin."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_within(self.head_timeout_s)

    def data_received(self, data: bytes) -> None:
        direct = self._direct
        if direct is not None:
            direct.receive_rest(data)
            return
        is_between = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        is_between = is_between and not self.conn.trailing_data[0]
        head = read_head(data) if is_between else None
        if head is not None and len(data) - len(head.text) <= head.body_bytes:
            self._unset_keepalive_if_required()
            self._is_resting, self._due_at = False, _NEVER
            self._begin(head, data)
            return
        if self._is_resting:
            self._is_resting, self._due_at = False, _NEVER
        super().data_received(data)
        if self._is_answering():
            self._due_at = _NEVER
        elif self._due_at == _NEVER:
            self._expect_within(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._direct = None
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self._is_resting = True
                self._expect_within(self.timeout_keep_alive)
                self.flow.resume_reading()
                if direct.later:
                    self.data_received(bytes(direct.later))
            return
        super().on_response_complete()
        is_rest_awaited = self.conn.their_state is not h11.IDLE  # of a body that nobody needs any more
        if not self._is_answering() and (is_rest_awaited or self.conn.trailing_data[0]):
            self._expect_within(self.head_timeout_s)

    def tell_h11(self, direct: "_DirectCycle") -> None:
        """Bring h11 to where this request is. How much has come of its body matters to it, not what."""
        self._direct = None
        self.conn.receive_data(direct.head.text)
        self.conn.next_event()
        if arrived := direct.head.body_bytes - direct.missing:
            self.conn.receive_data(bytes(arrived))
        while self.conn.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
        if direct.later:
            self.conn.receive_data(bytes(direct.later))

    def _begin(self, head: Head, data: bytes) -> None:
        raw_path, _, query_string = head.target.partition(b"?")
        path = raw_path.decode("ascii")
        self.headers = head.headers
        self.scope = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item] # as uvicorn does
            "method": head.method,
            "root_path": self.root_path,
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query_string,
            "headers": head.headers,
            "state": self.app_state.copy(),
        }
        self.conn.their_http_version = b"1.1"  # h11 frames its answer to what may follow by what came before
        self.cycle = self._direct = cycle = _DirectCycle(self, head)
        if len(data) > len(head.text) or not head.body_bytes:
            cycle.receive_rest(data[len(head.text) :])
        app: Any = self.app  # narrower than uvicorn declares
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        return cycle is not None and not cycle.response_complete

    def _expect_within(self, seconds: float) -> None:
        """One timer looks after a connection: requests only note what is due, which is cheaper than to set it again."""
        self._due_at = self.loop.time() + seconds
        if self._timer is None or self._due_at < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due_at
        self._timer = self.loop.call_at(self._due_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due_at == _NEVER:
            return
        if self.loop.time() < self._due_at:
            self._set_timer()
        else:
            self._on_timeout()

    def _on_timeout(self) -> None:
        self._due_at = _NEVER
        if self.transport.is_closing() or self._is_answering():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
            response = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            for event in (response, h11.Data(data=_TOO_SLOW), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _DirectCycle(RequestResponseCycle):
    """A request that h11 has not seen, and its answer: in one piece, if it is as ordinary."""

    def __init__(self, protocol: BoundedHeadProtocol, head: Head) -> None:
        super().__init__(
            scope=protocol.scope,
            conn=protocol.conn,
            transport=protocol.transport,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=protocol.access_log,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=protocol.on_response_complete,
        )
        self.head = head
        self.missing = head.body_bytes
        """Bytes of the body that have not come."""
        self.later = bytearray()
        """What has come after it: of the next requests."""
        self._protocol = protocol
        self._is_direct = True
        self._start: Message | None = None
        self._answer_head = b""
        self._answer_bytes = 0
        """Of its body, which shall leave together with the head."""

    def receive_rest(self, data: bytes) -> None:
        """More bytes after the head."""
        body = data[: self.missing]
        if len(body) < len(data):
            self.later += data[self.missing :]
            self.flow.pause_reading()
        if self.more_body:
            self.missing -= len(body)
            self.body += body
            self.more_body = self.missing > 0
            self.message_event.set()
            if len(self.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    async def send(self, message: Any) -> None:
        """Of ASGI."""
        if self._is_direct:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if self.disconnected or self._take(message):
                return
            self._is_direct = False
            self._protocol.tell_h11(self)
            if self._start is not None:
                self.response_started = False
                await super().send(self._start)  # type: ignore[arg-type]
        await super().send(message)

    def _take(self, message: Message) -> bool:
        """Send it, if it is ordinary."""
        if not self.keep_alive:
            return False
        if self._start is None:
            if message["type"] != "http.response.start" or self.missing or not self._compose(message):
                return False
            self._start = message
            self.response_started = True
            return True
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or message.get("more_body") or len(body) != self._answer_bytes:
            return False
        self._is_direct = False
        self.transport.write(self._answer_head + body)
        self.response_complete = True
        self.message_event.set()
        self.on_response()
        return True

    def _compose(self, start: Message) -> bool:
        """The head of the answer, exactly as h11 would write it; False: it would do something else."""
        status = _STATUS.get(start["status"])
        if status is None or self.access_log:
            return False
        headers = [*self.default_headers, *start.get("headers", ())]
        lengths: list[bytes] = []
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-length":
                lengths.append(value)
            elif lower in _FRAMING:
                return False
        fields = b"".join([b"%b: %b\r\n" % header for header in headers])
        # A value with a line break would be two fields: h11 refuses it, in its own words.
        if len(lengths) != 1 or not lengths[0].isdigit() or fields.count(b"\n") != len(headers):
            return False
        if _FIELDS.fullmatch(fields) is None:
            return False
        self._answer_bytes = int(lengths[0])
        self._answer_head = status + fields + b"\r\n"
        return True
