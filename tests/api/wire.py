"""Talking to a server byte by byte."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit


class Answer:
    """One response, as it came."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines[1:]}

    @property
    def code(self) -> str:
        """Of a problem."""
        return str(json.loads(self.body)["code"])


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, closed at the end."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Until the server closes."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):  # it closes while we are still sending
        while data := await reader.read(65_536):
            received.extend(data)
    return bytes(received)


async def talk(url: str, *parts: bytes, pause_s: float = 0.0) -> Answer:
    """Send bytes as they are until an answer comes; read until the server closes."""
    return Answer(await exchange(url, *parts, pause_s=pause_s))


async def exchange(url: str, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """The same; everything that came, which may be several responses or nothing."""
    async with asyncio.timeout(20), connected(url) as (reader, writer):
        reading: asyncio.Task[bytes] = asyncio.create_task(read_all(reader))
        with contextlib.suppress(ConnectionError):
            for part in parts:
                if reading.done():
                    break
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
        return await reading


async def read_one(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """One response with a Content-Length: its status and its JSON."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(next(line for line in head.split("\r\n") if line.lower().startswith("content-length")).split(":")[1])
    body = await reader.readexactly(length)
    return int(head.split()[1]), json.loads(body or b"null")
