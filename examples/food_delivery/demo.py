"""What only the demo needs: the world outside, and a button that kills the process which holds an order.

A real application has nothing of this. Read `entities.py` and `app.py` first.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, ValidationError

from perdure.api import Settings
from perdure.cluster.addresses import process_of
from perdure.cluster.process import Pulse, pulse
from perdure.cluster.stores import Store, StoreAddress
from perdure.entities.shard import shard_of

from .activities import OUTSIDE_URL
from .outside import Weather

router = APIRouter(tags=["demo"])


@asynccontextmanager
async def stage(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    settings = Settings()
    directory = StoreAddress(dsn=settings.dsn.get_secret_value(), namespace=settings.namespace).open()
    async with httpx.AsyncClient(base_url=OUTSIDE_URL, timeout=5) as outside:
        world = asyncio.create_task(keep_running(outside))
        yield {"directory": directory, "outside": outside}
        world.cancel()
        await asyncio.gather(world, return_exceptions=True)
    await directory.close()


# The world outside


async def keep_running(outside: httpx.AsyncClient) -> None:
    """Have the outside services in a process of their own, unless somebody runs them already."""
    while True:
        with contextlib.suppress(httpx.HTTPError, ValidationError):
            Weather.model_validate_json((await outside.get("/weather")).content)
            await asyncio.sleep(1)
            continue
        module = f"{__package__}.outside"
        command = (sys.executable, "-m", module, "--until-stdin-closes")
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL, start_new_session=True)
        try:
            await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        await asyncio.sleep(0.5)


def outside_of(request: Request) -> httpx.AsyncClient:
    client: httpx.AsyncClient = request.state.outside
    return client


Outside = Annotated[httpx.AsyncClient, Depends(outside_of)]


@router.get("/weather")
async def weather(outside: Outside) -> Weather:
    """How reliable the outside services are."""
    return Weather.model_validate((await ask(outside, "GET", "/weather")).json())


@router.put("/weather")
async def change_weather(wanted: Weather, outside: Outside) -> Weather:
    await ask(outside, "PUT", "/weather", json=wanted.model_dump())
    return wanted


@router.get("/pushes")
async def pushes(customer_id: str, outside: Outside, after: int = 0) -> Any:
    """What the customer's phone has received after push number `after`."""
    return (await ask(outside, "GET", "/pushes", params={"customer_id": customer_id, "after": after})).json()


async def ask(outside: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    try:
        return (await outside.request(method, path, **options)).raise_for_status()
    except httpx.HTTPError as error:
        raise HTTPException(503, f"the outside services do not answer: {error}") from error


# Hosts


def directory_of(request: Request) -> Store:
    store: Store = request.state.directory
    return store


Directory = Annotated[Store, Depends(directory_of)]


class Host(BaseModel):
    pid: int
    shards: int
    status: str


class Hosts(BaseModel):
    hosts: list[Host]
    shards: int
    """Of all of them together."""


@router.get("/hosts")
async def hosts(directory: Directory) -> Hosts:
    """The processes that hold the orders."""
    owners = [owner.owner for owner in await directory.owners()]
    alive = [host for host in await directory.hosts() if host.status in ("active", "draining")]
    return Hosts(
        hosts=[Host(pid=host.pid, shards=owners.count(host.incarnation), status=host.status) for host in alive],
        shards=len(owners),
    )


class Killed(BaseModel):
    pid: int


@router.post("/kill-host")
async def kill_host(directory: Directory, order_id: str | None = None) -> Killed:
    """SIGKILL for the host that holds this order, or for any."""
    candidates = [host for host in await directory.hosts() if pulse(process_of(host)) is Pulse.ALIVE]
    if order_id is not None:
        shard = shard_of("Order", order_id, await directory.shard_count())
        owner = (await directory.owners())[shard].owner
        candidates = [host for host in candidates if host.incarnation == owner]
    if not candidates:
        raise HTTPException(409, "there is no host to kill just now")
    host = random.choice(candidates)
    os.kill(host.pid, signal.SIGKILL)
    return Killed(pid=host.pid)
