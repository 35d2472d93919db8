"""uvicorn's protocol over h11, with a time limit for the head of a request.

uvicorn bounds how large a head may be and how long a connection may idle between requests, but not how slowly a head
may arrive: thousands of connections that send a byte now and then would stay for ever (slow loris). Here the first
request must begin, and every head be complete, within `HEAD_TIMEOUT_S`. Bodies have their own limit (see requests.py),
and so have answers (they wait no longer than asked for). What sends for long to a reader that may have stopped
reading finds `scope["perdure"][ABORT]`: it ends the connection without waiting for what is still to be sent.
"""

import asyncio
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

ABORT = "abort"
"""Under which the protocol leaves in `scope["perdure"]` a function that ends the connection at once."""
HEAD_TIMEOUT_S = 10.0
_TOO_SLOW = b'{"type":"/docs/errors#head_timeout","title":"Request Timeout","status":408,"detail":"the head of the \
request did not arrive in time","code":"head_timeout"}'


class BoundedHeadProtocol(H11Protocol):
    """Answers 408 and closes when a head does not arrive in time."""

    head_timeout_s = HEAD_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._served = self.app
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("perdure", {})[ABORT] = self.transport.abort
        await self._served(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._disarm()
        elif self._head_timer is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        is_rest_awaited = self.conn.their_state is not h11.IDLE  # of a body that nobody needs any more
        if not self._is_answering() and (is_rest_awaited or self.conn.trailing_data[0]):
            self._arm()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        return cycle is not None and not cycle.response_complete

    def _arm(self) -> None:
        self._disarm()
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._on_head_timeout)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or self._is_answering():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
            response = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            for event in (response, h11.Data(data=_TOO_SLOW), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
