"""`perdure serve MODULE`: a gateway on a cluster that runs already. It starts nothing; any number of them are alike."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from ..connection import connection
from ..console.beside import Console
from ..gateway import create_app
from ..interrupts import Interrupts
from ..serve import bind, check_binding, serving
from ..settings import Settings
from ..target import Target, load_target, put_on_path

Say = Callable[[str], None]


def serve_module(settings: Settings, module: str, say: Say) -> None:
    """Serve until SIGINT, or SIGTERM and a drain; open responses finish first. Raises what failure_of() explains."""
    check_binding(settings)
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        put_on_path(Path.cwd())
        uvloop.run(_serve(settings, load_target(module), listener, say))


async def _serve(settings: Settings, target: Target, listener: socket.socket, say: Say) -> None:
    interrupts = Interrupts()
    interrupts.listen()
    draining = asyncio.Event()
    async with gateway(settings, target, listener, draining) as url:
        interrupts.listen()  # Ray has taken SIGTERM over
        say(f"Serving {', '.join(definition.name for definition in target.registry)} on {url}")
        await until_drained(interrupts, draining, settings.drain_s, say)


async def until_drained(interrupts: Interrupts, draining: asyncio.Event, drain_s: float, say: Say) -> None:
    """Until the end is asked for; after SIGTERM, which comes from a manager of processes, drain_s seconds more."""
    await interrupts.wait()
    if interrupts.asked_by is signal.SIGTERM and drain_s > 0:
        draining.set()
        say(f"Draining: for {drain_s:g} s requests are served, and /readyz says that there should be no more of them")
        await asyncio.sleep(drain_s)


@asynccontextmanager
async def gateway(
    settings: Settings, target: Target, listener: socket.socket, draining: asyncio.Event | None = None
) -> AsyncGenerator[str]:
    """The module's application, or one made from its classes, for the time of the block; gives its URL."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            connection(
                settings.dsn.get_secret_value(),
                settings.namespace,
                ray_address=settings.ray_address or "auto",
                codec=settings.codec,
                is_pooled=settings.pooled,
            )
        )
        yield await stack.enter_async_context(
            serving(application(target, settings), settings, listener=listener, draining=draining)
        )


def application(target: Target, settings: Settings) -> Any:
    """What is served for a module: its own application with the console beside it, or a gateway of its classes."""
    if target.app is None:
        return create_app(target.registry, settings=settings)
    return Console(target.app, entities=target.registry, settings=settings) if settings.console else target.app
