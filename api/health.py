"""`/livez`: this process answers. `/readyz`: a request would be served now; if not, what is missing.

Without a valid API key (where keys are configured) the answer names nothing: only the status code counts.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ..cluster.routes import RouteTable
from ..cluster.stores import Store, StoreAddress
from ..entities.errors import PerdureError
from .authorise import IS_TRUSTED
from .draining import is_draining
from .exchange import caller_of

CHECK_TIMEOUT_S = 3.0
PROBE = "perdure_probe"
"""Under which the lifespan puts the probe into the state of requests."""


class Probe:
    """Asks the store itself whether requests could be served; a session of its own, opened at the first question."""

    def __init__(self, dsn: str, namespace: str, *, is_pooled: bool = False) -> None:
        self._address = StoreAddress(dsn=dsn, namespace=namespace, is_pooled=is_pooled)
        self._store: Store | None = None

    async def missing(self) -> list[str]:
        """What keeps requests from being served, for people; empty if nothing does."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                table = await self._look()
        except TimeoutError:
            return [f"the database: no answer within {CHECK_TIMEOUT_S:g} s"]
        except PerdureError as error:
            return [f"the database: {error}"]
        without = sum(not owner for owner in table.owners)
        missing = [f"{without} of {len(table.owners)} shards have no owner"] if without else []
        return missing if table.actors else ["no host is alive", *missing]

    async def _look(self) -> RouteTable:
        if self._store is None:
            self._store = self._address.open()
        owners = await self._store.owners()
        now_us = await self._store.clock_us()
        # A host whose lease has ended answers nobody, also if no supervisor is left that would fence it.
        return RouteTable.of(owners, [host for host in await self._store.hosts() if host.lease_us > now_us])

    async def close(self) -> None:
        """Close the session."""
        if self._store is not None:
            await self._store.close()


def health_router() -> APIRouter:
    """The two routes. Put them where a load balancer finds them; they need no authentication."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Alive?")
    async def livez() -> dict[str, str]:
        """This process answers; nothing else is looked at."""
        return {"status": "ok"}

    @router.get("/readyz", summary="Ready?", responses={503: {"description": "Not ready"}})
    async def readyz(request: Request) -> Response:
        """A request would be served now: the store answers, every shard has an owner, this process does not end."""
        missing = await what_is_missing(request)
        body: dict[str, Any] = {"status": "not ready" if missing else "ready"}
        if missing and request.scope.get("perdure", {}).get(IS_TRUSTED, False):
            body["missing"] = missing
        return JSONResponse(body, 503 if missing else 200, headers={"Cache-Control": "no-store"})

    return router


async def what_is_missing(request: Request) -> list[str]:
    """What keeps requests from being served, or will in a moment; empty if nothing does."""
    if is_draining(request.scope):
        return ["this gateway is about to end"]
    try:
        caller_of(request)
    except PerdureError as error:
        return [str(error)]
    state: dict[str, Any] = request.scope.get("state") or {}
    probe: Probe | None = state.get(PROBE)
    return [] if probe is None else await probe.missing()
