"""An application as its HTTP clients see it, on a test world's time."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """Talks to the application in this process; refs in its routes lead into the world. Errors are raised."""

    async def check(response: httpx.Response) -> None:
        if response.is_error:
            await response.aread()
            raise AssertionError(f"{response.status_code}: {response.text}")

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://app", event_hooks={"response": [check]}
    ) as client:
        yield client
