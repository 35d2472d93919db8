"""A TCP proxy in front of Postgres with faults on request: `python -m chaos.proxy PORT SOCKET CONTROL_PORT`.

Modes, for everybody or for the connections of some processes
--------------------------------------------------------------
pass    bytes go through
cut     connections are reset, new ones as well
hole    nothing goes through in either direction, connections stay open; when it ends, what waited arrives (as TCP does)
delay   every piece waits `delay_s` in both directions
hold    requests go through, answers do not; when it ends the connections are reset: commits whose answer is lost

Control: one JSON object per line, answered with the counters.
"""

import asyncio
import contextlib
import json
import socket
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHUNK = 64 * 1024
_TCP = Path("/proc/net/tcp")


def sockets_of(pids: list[int]) -> set[int]:
    """Local TCP ports that these processes have connections from."""
    inodes: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(entry.readlink()))
    rows = [line.split() for line in _TCP.read_text(encoding="ascii").splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in inodes}


@dataclass(eq=False)
class Connection:
    """One client, and its own connection with Postgres."""

    port: int
    writers: list[asyncio.StreamWriter]
    swallowed: int = 0

    def reset(self) -> None:
        """End both sides as if a cable had been pulled and the other end rebooted."""
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            writer.transport.abort()


@dataclass
class Proxy:
    """See the module."""

    target: str
    mode: str = "pass"
    pids: list[int] | None = None
    delay_s: float = 0.0
    connections: set[Connection] = field(default_factory=set[Connection])
    hit: set[Connection] = field(default_factory=set[Connection])
    """Those that the present fault is done to."""
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    counters: Counter[str] = field(default_factory=Counter[str])

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, to its end."""
        port = writer.get_extra_info("peername")[1]
        self.counters["accepted"] += 1
        connection = Connection(port, [writer])
        self._consider([connection])
        if self.mode == "cut" and connection in self.hit:
            self.counters["refused"] += 1
            connection.reset()
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.target)
        except OSError:
            connection.reset()
            return
        connection.writers.append(server_writer)
        self.connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, reader, server_writer, is_answer=False),
                self._pump(connection, server_reader, writer, is_answer=True),
            )
        except OSError:
            pass
        finally:
            self.connections.discard(connection)
            self.hit.discard(connection)
            for one in connection.writers:
                one.transport.abort()

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while data := await reader.read(CHUNK):
            if connection in self.hit:
                if self.mode == "hold" and is_answer:
                    connection.swallowed += len(data)
                    self.counters["answers_lost"] += 1
                    continue
                if self.mode == "delay":
                    self.counters["delayed"] += 1
                    await asyncio.sleep(self.delay_s)
                while self.mode == "hole" and connection in self.hit:
                    self.counters["stalled"] += 1
                    await self.healed.wait()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def _consider(self, connections: list[Connection]) -> None:
        """Find out which of them the fault is for."""
        if self.mode == "pass":
            return
        ports = None if self.pids is None else sockets_of(self.pids)
        self.hit |= {one for one in connections if ports is None or one.port in ports}

    def order(self, mode: str, *, pids: list[int] | None = None, delay_s: float = 0.0) -> dict[str, Any]:
        """Begin a fault, or end it (`pass`); the counters since the last order, and how many connections are hit."""
        if self.mode == "hold":
            for connection in list(self.hit):
                if connection.swallowed:
                    connection.reset()
        counters = dict(self.counters)
        self.counters.clear()
        self.hit.clear()
        self.healed.set()
        self.healed = asyncio.Event()
        self.mode, self.pids, self.delay_s = mode, pids, delay_s
        self._consider(list(self.connections))
        if mode == "cut":
            for connection in list(self.hit):
                connection.reset()
        return {"counters": counters, "hit": len(self.hit), "open": len(self.connections)}

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Orders of the campaign."""
        while line := await reader.readline():
            answer = self.order(**json.loads(line))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()


async def serve(port: int, target: str, control_port: int) -> None:
    """Serve for ever."""
    proxy = Proxy(target)
    clients = await asyncio.start_server(proxy.attend, "127.0.0.1", port)
    control = await asyncio.start_server(proxy.control, "127.0.0.1", control_port)
    async with clients, control:
        await asyncio.gather(clients.serve_forever(), control.serve_forever())


class Line:
    """The campaign's end of the control connection."""

    def __init__(self, control_port: int) -> None:
        self._port = control_port

    async def order(self, mode: str, *, pids: list[int] | None = None, delay_s: float = 0.0) -> dict[str, Any]:
        """See Proxy.order."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(json.dumps({"mode": mode, "pids": pids, "delay_s": delay_s}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await reader.readline())
            return answer
        finally:
            writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
