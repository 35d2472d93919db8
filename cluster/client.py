"""The way in for this process: implements `perdure.entities.client.Caller` on a router."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from ..entities import tracing
from ..entities.ids import new_message_id
from ..entities.messages import Envelope, Reply
from ..entities.metrics import Reading
from ..entities.store.archive import Archive
from ..entities.store.survey import Survey
from .readings import AskHost, gather_readings
from .router import Router
from .routes import Routes

DEFAULT_TIMEOUT_S = 30.0


class Client:
    """Carries requests of this process to entities. May be used from any thread that runs an event loop."""

    def __init__(self, router: Router, *, session: str = "", default_timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.session = session or f"client-{new_message_id()}"
        self.default_timeout_s = default_timeout_s
        self._router = router
        self._loop = asyncio.get_running_loop()
        tracing.look()

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """See Caller."""
        if asyncio.get_running_loop() is self._loop:
            return await self._router.request(envelope, timeout_s=timeout_s)
        elsewhere = asyncio.run_coroutine_threadsafe(self._router.request(envelope, timeout_s=timeout_s), self._loop)
        return await asyncio.wrap_future(elsewhere)

    def stats(self) -> dict[str, int]:
        """Gauges of the router."""
        return self._router.stats()

    def add_to(self, reading: Reading) -> None:
        """Metrics of the router."""
        self._router.add_to(reading)


class Connection(Client):
    """A client that joined a cluster by itself, and leaves it again."""

    def __init__(
        self,
        router: Router,
        routes: Routes,
        *,
        archive: Archive,
        survey: Survey,
        on_close: Callable[[], Awaitable[None]],
        ask_metrics: AskHost,
        poke_supervisor: Callable[[float], Awaitable[bool]],
        default_timeout_s: float,
    ) -> None:
        super().__init__(router, default_timeout_s=default_timeout_s)
        self.routes = routes
        self.archive = archive
        """The read side of the store; belongs to the event loop that connected."""
        self.survey = survey
        """The same, of the whole namespace."""
        self._on_close = on_close
        self._ask_metrics = ask_metrics
        self._poke_supervisor = poke_supervisor

    async def readings(self, *, timeout_s: float) -> dict[str, Reading | None]:
        """Metrics of every host that this process knows, by incarnation; None: it did not answer in time."""
        return await gather_readings(self.routes.table.actors, self._ask_metrics, timeout_s=timeout_s)

    async def poke_supervisor(self, *, timeout_s: float) -> bool:
        """Tell the supervisor that something has changed. False: none answered within that time, in s."""
        return await self._poke_supervisor(timeout_s)

    async def close(self) -> None:
        """End: requests under way fail. Idempotent."""
        await self._router.close()
        await self.routes.close()
        await self._on_close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
