"""The lifespan connects, composes, and lets go."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from perdure.api import entity_router, lifespan
from perdure.cluster import connect as connecting
from perdure.entities.client import ambient, set_default
from perdure.entities.errors import NotConnected, StartRefused

from .conftest import HERE
from .fake import FakeCaller
from .shop import Order


class Connection(FakeCaller):
    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True
        set_default(None)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
    """The application started, as a server does it; its state."""
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        yield state


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []

    async def connect(**options: Any) -> Connection:
        connection = Connection()
        set_default(connection)
        made.append(options | {"connection": connection})
        return connection

    monkeypatch.setattr(connecting, "connect", connect)
    return made


async def test_refs_work_while_the_application_runs(connections: list[dict[str, Any]]) -> None:
    app = FastAPI(lifespan=lifespan([Order], dsn="postgresql://x", namespace="shop"))
    async with running(app) as state:
        assert state["perdure"] is connections[0]["connection"]
        assert not connections[0]["connection"].is_closed
        await Order.ref("o-1").pick_up()
    assert connections[0]["connection"].is_closed
    assert (connections[0]["dsn"], connections[0]["namespace"]) == ("postgresql://x", "shop")
    with pytest.raises(NotConnected):
        ambient()


async def test_the_users_own_lifespan_runs_inside(connections: list[dict[str, Any]]) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        await Order.ref("o-1").pick_up()
        seen.append("start")
        yield {"mine": "kept"}
        await Order.ref("o-1").pick_up()
        seen.append("end")

    app = FastAPI(lifespan=lifespan([Order], dsn="postgresql://x", inner=own))
    async with running(app) as state:
        assert state["mine"] == "kept"
        assert "perdure" in state
    assert seen == ["start", "end"]
    assert len(connections[0]["connection"].envelopes) == 2


async def test_it_disconnects_if_the_users_lifespan_fails(connections: list[dict[str, Any]]) -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[None]:
        if app.title:
            raise RuntimeError("no")
        yield

    app = FastAPI(lifespan=lifespan([Order], dsn="postgresql://x", inner=own))
    with pytest.raises(RuntimeError, match="no"):
        async with running(app):
            pass
    assert connections[0]["connection"].is_closed


async def test_the_environment_names_the_database_when_it_starts(
    connections: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI(lifespan=lifespan([Order]))
    monkeypatch.setenv("PERDURE_DSN", "postgresql://later")
    monkeypatch.setenv("PERDURE_NAMESPACE", "other")
    async with running(app):
        pass
    assert (connections[0]["dsn"], connections[0]["namespace"]) == ("postgresql://later", "other")


async def test_without_a_database_it_says_what_to_do(connections: list[dict[str, Any]]) -> None:
    app = FastAPI(lifespan=lifespan([Order]))
    with pytest.raises(StartRefused, match=r"PERDURE_DSN.*perdure dev"):
        async with running(app):
            pass


async def test_the_client_of_the_application_serves_its_requests(connections: list[dict[str, Any]]) -> None:
    app = FastAPI(lifespan=lifespan([Order], dsn="postgresql://x"))
    app.include_router(entity_router(Order), prefix="/orders")
    other = FakeCaller()
    async with running(app) as state:
        set_default(other)

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app(scope | {"state": dict(state)}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url=HERE) as http:
            assert (await http.post("/orders/o-1/pick_up")).status_code == 200
    assert other.envelopes == []
    assert len(connections[0]["connection"].envelopes) == 1
