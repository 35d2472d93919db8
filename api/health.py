"""`/livez`: this process answers. `/readyz`: a request would be served now; if not, what is missing.

Without a valid API key (where keys are configured) the answer names nothing: only the status code counts.
"""

import asyncio
from typing import Any, Protocol, runtime_checkable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ..entities.errors import PerdureError
from .exchange import caller_of

CHECK_TIMEOUT_S = 3.0


@runtime_checkable
class Readiness(Protocol):
    """What a client can tell beyond being there."""

    async def missing(self) -> list[str]:
        """What keeps requests from being served, for people: the store, shards without owner. Empty: nothing."""
        ...


def health_router() -> APIRouter:
    """The two routes. Put them where a load balancer finds them; they need no authentication."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Alive?")
    async def livez() -> dict[str, str]:
        """This process answers; nothing else is looked at."""
        return {"status": "ok"}

    @router.get("/readyz", summary="Ready?", responses={503: {"description": "Not ready"}})
    async def readyz(request: Request) -> Response:
        """A request would be served now: the store answers and every shard has an owner."""
        missing = await what_is_missing(request)
        body: dict[str, Any] = {"status": "not ready" if missing else "ready"}
        if missing and request.scope.get("perdure", {}).get("is_trusted", False):
            body["missing"] = missing
        return JSONResponse(body, 503 if missing else 200, headers={"Cache-Control": "no-store"})

    return router


async def what_is_missing(request: Request) -> list[str]:
    """What keeps requests from being served; empty if nothing does."""
    try:
        client = caller_of(request)
        if not isinstance(client, Readiness):
            return []
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await client.missing()
    except TimeoutError:
        return [f"the check itself: no answer within {CHECK_TIMEOUT_S:g} s"]
    except PerdureError as error:
        return [str(error)]
