"""The proxy does what it says: a fault that is none would prove nothing."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from chaos.proxy import Proxy

WAIT_S = 5.0
BROKEN = (ConnectionError, asyncio.IncompleteReadError)


class Scene:
    """An echo server on a socket, and the proxy in front of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received = bytearray()
        self.proxy = Proxy(str(path))
        self.port = 0
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(1024):
                    self.received += data
                    writer.write(data)
            writer.transport.abort()

        target = await asyncio.start_unix_server(echo, self.path)
        front = await asyncio.start_server(self.proxy.attend, "127.0.0.1", 0)
        self.port = front.sockets[0].getsockname()[1]
        self._servers = [target, front]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def stop(self) -> None:
        for connection in list(self.proxy.connections):
            connection.reset()
        for server in self._servers:
            server.close()
        await asyncio.sleep(0.05)  # both ends of what was reset see it


async def ask(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(WAIT_S):
        return await reader.readexactly(len(data))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncGenerator[Scene]:
    scene = Scene(tmp_path / "echo")
    await scene.start()
    yield scene
    await scene.stop()


async def test_bytes_pass(scene: Scene) -> None:
    streams = await scene.connect()
    assert await ask(streams, b"hello") == b"hello"
    streams[1].close()


async def test_a_cut_resets_connections_and_refuses_new_ones_until_it_ends(scene: Scene) -> None:
    streams = await scene.connect()
    await ask(streams, b"a")
    assert scene.proxy.order("cut")["hit"] == 1
    with pytest.raises(BROKEN):
        await ask(streams, b"b")
    again = await scene.connect()
    with pytest.raises(BROKEN):
        await ask(again, b"c")
    scene.proxy.order("pass")
    healed = await scene.connect()
    assert await ask(healed, b"d") == b"d"
    for one in (streams, again, healed):
        one[1].close()


async def test_what_falls_into_a_hole_arrives_when_it_ends(scene: Scene) -> None:
    streams = await scene.connect()
    await ask(streams, b"a")
    scene.proxy.order("hole")
    asking = asyncio.create_task(ask(streams, b"b"))
    while not scene.proxy.counters["stalled"]:
        await asyncio.sleep(0.005)
    assert not asking.done()
    assert bytes(scene.received) == b"a"
    scene.proxy.order("pass")
    assert await asking == b"b"
    streams[1].close()


async def test_a_held_answer_is_lost_although_the_request_arrived(scene: Scene) -> None:
    streams = await scene.connect()
    await ask(streams, b"a")
    scene.proxy.order("hold")
    asking = asyncio.create_task(ask(streams, b"b"))
    while not scene.proxy.counters["answers_lost"]:
        await asyncio.sleep(0.005)
    assert bytes(scene.received) == b"ab"
    assert scene.proxy.order("pass")["counters"]["answers_lost"] == 1
    with pytest.raises(BROKEN):
        await asking
    streams[1].close()


async def test_a_fault_for_other_processes_leaves_this_one_alone(scene: Scene) -> None:
    streams = await scene.connect()
    await ask(streams, b"a")
    assert scene.proxy.order("cut", pids=[1])["hit"] == 0
    assert await ask(streams, b"b") == b"b"
    scene.proxy.order("pass")
    assert scene.proxy.order("cut", pids=[os.getpid()])["hit"] == 1
    with pytest.raises(BROKEN):
        await ask(streams, b"c")
    streams[1].close()
