"""What stands in front of gateways everywhere, as small as it can be: readiness probes, kept connections, no retries.

It does what every balancer does and nothing more. A backend is out after two failed probes in a row and in after two
good ones; requests go round those that are in; connections are kept, those that their backend has closed or wants to
close are not used again. A request is sent once: whatever happens to it, its caller is told.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from bench.http import Answer, HttpCaller

PROBE_EVERY_S = 1.0
PROBE_S = 3.0
"""How long an answer to a probe may take."""
FAILURES, SUCCESSES = 2, 2
"""So many probes in a row take a backend out, or in."""
UNDER_WAY_MAX = 512
"""More requests wait here."""
HEADERS = b"host: 127.0.0.1\r\n"


class NoBackend(Exception):
    """No backend is in."""


@dataclass
class Backend:
    """A gateway, by its port."""

    port: int
    is_in: bool = False
    streak: int = 0
    """Probes in a row that contradict `is_in`."""
    idle: list[HttpCaller] = field(default_factory=list[HttpCaller])


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A backend went in or out."""

    port: int
    is_in: bool
    at: float


class Balancer:
    """See the module."""

    def __init__(self, ports: list[int]) -> None:
        self._backends = [Backend(port) for port in ports]
        self._round = itertools.count()
        self._slots = asyncio.Semaphore(UNDER_WAY_MAX)
        self.turns: list[Turn] = []

    @asynccontextmanager
    async def probing(self) -> AsyncGenerator[Self]:
        """Probes for the time of the block; begins once every backend is in."""
        tasks = [asyncio.create_task(self._probe(backend)) for backend in self._backends]
        try:
            while not all(backend.is_in for backend in self._backends):
                await asyncio.sleep(0.05)
            yield self
        finally:
            for task in tasks:
                task.cancel()
            for backend in self._backends:
                _close_idle(backend)

    async def ask(self, request: bytes) -> tuple[int, Answer]:
        """The port of the backend that was asked, and its answer. Raises NoBackend, OSError."""
        async with self._slots:
            backend = self._next()
            connection = await self._connection(backend)
            try:
                answer = await connection.ask(request)
            except BaseException:
                connection.close()
                raise
            if answer.is_kept and connection.is_open and backend.is_in:
                backend.idle.append(connection)
            else:
                connection.close()
            return backend.port, answer

    def _next(self) -> Backend:
        backends = [backend for backend in self._backends if backend.is_in]
        if not backends:
            raise NoBackend("no gateway is ready")
        return backends[next(self._round) % len(backends)]

    async def _connection(self, backend: Backend) -> HttpCaller:
        while backend.idle:
            connection = backend.idle.pop()
            if connection.is_open:
                return connection
        return await HttpCaller.open(backend.port)

    async def _probe(self, backend: Backend) -> None:
        while True:
            is_ready = await is_good(backend.port, "/readyz")
            backend.streak = backend.streak + 1 if is_ready != backend.is_in else 0
            if backend.streak >= (FAILURES if backend.is_in else SUCCESSES):
                backend.is_in, backend.streak = is_ready, 0
                self.turns.append(Turn(port=backend.port, is_in=is_ready, at=time.time()))
                if not is_ready:
                    _close_idle(backend)
            await asyncio.sleep(PROBE_EVERY_S)


async def is_good(port: int, path: str) -> bool:
    """Whether a GET on a connection of its own is answered with success."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(PROBE_S):
            connection = await HttpCaller.open(port)
            try:
                answer = await connection.ask(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), HEADERS))
            finally:
                connection.close()
            return 200 <= answer.status < 300
    return False


def _close_idle(backend: Backend) -> None:
    for connection in backend.idle:
        connection.close()
    backend.idle.clear()
