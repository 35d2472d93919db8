"""A lean HTTP/1.1 client: one connection per caller, kept open, one request at a time.

The ready-made clients use more CPU per request than the gateway, and would be what is measured.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple, Self, cast


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    is_kept: bool
    """Whether the connection may be used again."""


class HttpCaller(asyncio.Protocol):
    """One connection. Only answers with a Content-Length, as the gateway and the echo make them."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._buffer = b""
        self._answer: asyncio.Future[Answer] | None = None
        self.is_open = True

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to this machine's port. Raises OSError."""
        _, caller = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or self._answer is None:
            return
        length, is_kept = 0, True
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
            elif line.startswith(b"connection:"):
                is_kept = b"close" not in line
        if len(body) < length:
            return
        self._buffer = body[length:]
        if not self._answer.done():
            self._answer.set_result(Answer(int(head[9:12]), body[:length], is_kept))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server has closed the connection"))

    async def ask(self, request: bytes) -> Answer:
        """Send a request and await its answer. Raises OSError if the connection ends before that."""
        if not self.is_open:
            raise ConnectionResetError("the connection was closed before the request was sent")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer. Raises RuntimeError if it is none of success."""
        status, answer, _ = await self.ask(
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        if not 200 <= status < 300:
            raise RuntimeError(f"{path}: {status} {answer[:500]!r}")
        return answer

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


@contextlib.asynccontextmanager
async def http_callers(port: int, number: int) -> AsyncGenerator[list[HttpCaller]]:
    """So many connections."""
    callers = [await HttpCaller.open(port) for _ in range(number)]
    try:
        yield callers
    finally:
        for caller in callers:
            caller.close()
