"""Applications under examination, each with entities that really run (in memory) and with something in them."""

import asyncio
import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.food_delivery import activities
from examples.food_delivery.app import app as delivery_app
from examples.food_delivery.entities import Board, Customer, Order
from perdure.api import Settings, create_app
from perdure.entities import ApplicationError, Entity
from perdure.entities.testing import LocalCluster

from .bridge import Bridge, loop_in_a_thread, on
from .laboratory import Bench, Sample, tokens

API_KEY = "examined-by-a-machine-with-this-key"
WAIT_S = 0.3
EXISTING = tuple(f"existing {number}/ü" for number in range(3))


@dataclass(frozen=True)
class World:
    """What is examined, and what there is in it."""

    app: Bridge
    headers: Mapping[str, str]
    type_name: str
    """Stands for `{type}` in most requests."""
    tokens: list[str] = field(default_factory=list[str])
    """Of activities that wait for the outside."""
    excluded: str = "^$"
    """Paths that are not examined, as a regular expression."""


@contextlib.contextmanager
def gateway() -> Generator[World]:
    """A gateway with API keys, and every kind of route."""
    settings = Settings(api_keys=API_KEY, call_wait_s=WAIT_S, call_wait_max_s=WAIT_S)  # type: ignore[arg-type]
    with _running([Bench]) as loop:
        on(loop, _fill())
        app = Bridge(create_app([Bench], settings=settings), loop)
        # a stream has no end that a generated request could wait for
        yield World(app, {"Authorization": f"Bearer {API_KEY}"}, "Bench", tokens=list(tokens), excluded="/-/events$")


async def _fill() -> None:
    tokens.clear()
    for key in EXISTING:
        bench = Bench.ref(key)
        await bench.put(Sample(name="first"))
        await bench.run.start(Sample(name="second"))
        await bench.outside.start()
        with contextlib.suppress(ApplicationError):
            await bench.fall.send()
    while len(tokens) < len(EXISTING):
        await asyncio.sleep(0.001)


@contextlib.contextmanager
def delivery() -> Generator[World]:
    """The example's own application: entity routers, and routes of its own beside them."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"payment": "pay-1"})

    real = activities.outside
    activities.outside = httpx.Client(base_url="http://outside", transport=httpx.MockTransport(answer))
    try:
        with _running([Order, Customer, Board]) as loop:
            # what the demo adds kills processes and talks to services
            yield World(Bridge(delivery_app, loop), {"Host": "localhost"}, "Order", excluded="^/demo")
    finally:
        activities.outside = real


@contextlib.contextmanager
def _running(entities: list[type[Entity]]) -> Generator[asyncio.AbstractEventLoop]:
    with loop_in_a_thread() as loop:
        cluster = on(loop, _enter(LocalCluster(entities)))
        try:
            yield loop
        finally:
            on(loop, cluster.__aexit__(None, None, None))


async def _enter(cluster: LocalCluster) -> Any:
    return await cluster.__aenter__()
