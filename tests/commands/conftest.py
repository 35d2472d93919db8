"""The command line against a gateway with real entities (in memory), over a real socket."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from perdure.api import Settings, create_app
from perdure.api.cli import app as command
from perdure.entities.testing import LocalCluster

from .shop import Parcel, broken

Perdure = Callable[..., Result]
T = TypeVar("T")


class Site(NamedTuple):
    """A gateway, and what is behind it."""

    url: str
    cluster: LocalCluster
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Have it done where the cluster is."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


async def _serve(listener: socket.socket, server: uvicorn.Server, ready: "Future[Site]") -> None:
    async with LocalCluster([Parcel]) as cluster:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready.set_result(Site(url, cluster, asyncio.get_running_loop()))
        await server.serve(sockets=[listener])


@pytest.fixture(scope="module")
def site() -> Generator[Site]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app([Parcel], settings=Settings()), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    ready: Future[Site] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(listener, server, ready)))
    thread.start()
    try:
        yield ready.result(30)
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def gateway(site: Site) -> str:
    """Its URL."""
    return site.url


@pytest.fixture
def perdure(gateway: str, monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """Runs a command line and returns what came of it; it must end with `exit_code`."""
    broken.clear()
    monkeypatch.setenv("PERDURE_URL", gateway)

    def run(*words: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(command, words)
        assert result.exit_code == exit_code, (words, result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return run


def told(result: Result) -> Any:
    """What was printed, as JSON."""
    return json.loads(result.stdout)
