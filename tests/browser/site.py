"""What the console's tests look at: a gateway on entities in memory, served from a thread of its own.

The engine, the routes and the pages are the real ones; there is no Ray and no Postgres, so a page costs milliseconds.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr

from examples.loan.activities import Mail
from examples.loan.entities import Loan
from perdure.api import Settings, create_app
from perdure.api.exchange import STATE
from perdure.api.health import PROBE
from perdure.api.serve import serving
from perdure.entities import (
    ApplicationError,
    Entity,
    RetryPolicy,
    activity,
    condition,
    decision,
    handler,
    query,
    workflow,
)
from perdure.entities.client import set_default, use
from perdure.entities.testing import LocalCluster

T = TypeVar("T")

START_S = 30.0
SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked = 1'>"

answering: set[str] = set()
"""Places whose gate controller works."""
failures: dict[str, int] = {}


@activity(retry=RetryPolicy(maximum=timedelta(hours=2)))
async def open_gate(place: str) -> str:
    """Fails five times in a row, then once an hour: nobody waits for that in a test."""
    if place in answering:
        return "open"
    failures[place] = failures.get(place, 0) + 1
    wait = timedelta(milliseconds=1) if failures[place] < 5 else timedelta(hours=1)
    raise ApplicationError(f"the gate of {place} does not answer", retry_after=wait) from ConnectionError("refused")


@activity(retry=RetryPolicy(attempts=1))
async def change_fuse(place: str) -> None:
    """Fails for good."""
    raise ApplicationError(f"there is no fuse for {place}")


class Gate(Entity, index=["status"]):
    """A gate with a controller that may be away."""

    status: str = "shut"
    opened: int = 0
    note: str | None = None

    @workflow
    async def run(self, place: str) -> str:
        self.status = "opening"
        self.status = await open_gate(place)
        return self.status

    @workflow
    async def mend(self) -> str:
        try:
            await change_fuse(self.key)
        except ApplicationError:
            self.note = "no fuse"
        return "as it was"

    @handler
    async def shut(self, by: str) -> str:
        """Shut it; returns who did."""
        self.status = "shut"
        return by

    @handler(retry=RetryPolicy(attempts=1))
    async def inspect(self) -> None:
        if "inspector" not in answering:
            raise ApplicationError("no inspector")
        self.note = "inspected"

    @query
    async def state(self) -> str:
        return self.status


class Walk(Entity):
    """Passes gates, one after the other."""

    passed: list[str] = []

    @workflow
    async def go(self, gates: list[str]) -> int:
        for gate in gates:
            who = await Gate.ref(gate).shut(by=self.key)
            self.passed = [*self.passed, who]
        await condition(lambda: len(self.passed) > 100)
        return len(self.passed)


class Verdict(BaseModel):
    is_approved: bool
    remark: str = ""


class Claim(Entity):
    """Somebody has to decide about it."""

    outcome: str = "open"

    @workflow
    async def settle(self, amount: int) -> str:
        verdict = await decision(
            "claims", Verdict, title=f"Claim of {amount}", due=timedelta(days=7), show={"amount": amount}
        )
        self.outcome = "paid" if verdict.is_approved else "refused"
        return self.outcome


TYPES: list[type[Entity]] = [Loan, Mail, Gate, Walk, Claim]


class _Probe:
    """What `/readyz` asks: as the real one says it of Postgres."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    async def missing(self) -> list[str]:
        return [] if self._cluster.engines else ["no host is alive"]


class Site:
    """The gateway while it is served."""

    def __init__(self) -> None:
        self.url = ""
        self.cluster: LocalCluster
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._is_up = threading.Event()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done where the entities live."""

        async def bound() -> T:
            with use(self.cluster):
                return await work

        return asyncio.run_coroutine_threadsafe(bound(), self._loop).result(START_S)

    async def _serve(self, key: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        keys = (SecretStr(key),) if key else ()
        settings = Settings(port=0, api_keys=keys, show_errors=True)
        app = create_app(TYPES, settings=settings)
        async with LocalCluster(TYPES) as self.cluster:

            @asynccontextmanager
            async def connected(_: object) -> AsyncGenerator[dict[str, Any]]:
                yield {STATE: self.cluster, PROBE: _Probe(self.cluster)}

            app.router.lifespan_context = connected
            async with serving(app, settings) as self.url:
                self._is_up.set()
                await self._end.wait()

    @contextmanager
    def served(self, key: str = "", *, beside: "Site | None" = None) -> Generator["Site"]:
        """`beside`: a site that goes on; activities find their entities by the process's client, so it is put back."""
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(key)), daemon=True)
        thread.start()
        assert self._is_up.wait(START_S)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join(START_S)
            assert not thread.is_alive()
            set_default(None if beside is None else beside.cluster)
