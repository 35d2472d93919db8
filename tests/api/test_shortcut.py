"""A call that takes the shortcut is answered, counted and refused as by the routes that it passes by."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from perdure.api import create_app
from perdure.api.principal import Asked, Principal
from perdure.api.problems import Refused
from perdure.api.shortcut import Shortcut
from perdure.entities.errors import ApplicationError

from .fake import FakeCaller
from .shop import Customer, Order

SAME = {"x-request-id": "the-same"}
JSON = {"content-type": "application/json"}
ITEM = b'{"item":{"name":"x"}}'


class OwnError(Exception):
    """One that the application has a handler for."""


ERRORS: dict[str, Exception] = {
    "http": HTTPException(418, "tea", headers={"x-tea": "green"}),
    "not found": HTTPException(404),
    "refused": Refused(403, "forbidden", "not you"),
    "perdure": ApplicationError("said no"),
    "own": OwnError("mine"),
    "bug": ValueError("a bug"),
}


async def authorise(_: Principal, asked: Asked) -> bool | None:
    if asked.key in ERRORS:
        raise ERRORS[asked.key]
    return None


@pytest.fixture(scope="module")
def application() -> FastAPI:
    app = create_app([Order, Customer], authoriser=authorise)

    @app.exception_handler(OwnError)
    async def on_own(_: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(f"handled {error}", 409)

    return app


@asynccontextmanager
async def client(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=SAME) as http:
        yield http


REQUESTS: list[tuple[str, str]] = [
    ("POST", "/entities/Order/o-1/add"),
    ("POST", "/entities/Order/o-1/add?timeout=3"),
    ("POST", "/entities/Order/o-1/pick_up"),
    ("GET", "/entities/Order/o-1/state"),
    ("POST", "/entities/Order/o-1/run/start"),
    ("GET", "/entities/Order/o-1/run/result"),
    ("HEAD", "/entities/Order/o-1/state"),
    ("OPTIONS", "/entities/Order/o-1/add"),
    ("PROPFIND", "/entities/Order/o-1/add"),
    ("DELETE", "/entities/Order/o-1/add"),
    ("POST", "/entities/Order/o-1/nothing"),
    ("POST", "/entities/Order/o-1/run/nothing"),
    ("POST", "/entities/Order/o-1/run/start/more"),
    ("POST", "/entities/Nothing/o-1/add"),
    ("POST", "/entities/Order//add"),
    ("POST", "/entities//o-1/add"),
    ("POST", "/entities/Order/o-1/"),
    ("POST", "/entities/Order/o-1/add/"),
    ("POST", "/entities/Order/o-1/run//"),
    ("POST", "/entities/Order/o-1/%0A"),
    ("POST", "/entities/Order/o-1/add%0A"),
    ("POST", "/entities/Order/a%2Fb/add"),
    ("POST", "/entities/Order/a%2fb/run/start"),
    ("POST", "/entities/Order/%C3%A9%20/add"),
    ("POST", "/entities/Order/%FF/add"),
    ("POST", "/entities/Order/%00/add"),
    ("POST", "/entities/Order/%2E%2E/add"),
    ("GET", "/entities/Order/o-1/-"),
    ("GET", "/entities/Order/o-1/-/history"),
    ("GET", "/entities/Order/o-1/-/nothing"),
    ("GET", "/entities/Order/o-1"),
    ("GET", "/entities/Order"),
    ("GET", "/entities"),
    ("GET", "/entitiesx/Order/o-1/state"),
    ("POST", "/console/api/entities/Order/o-1/add"),
    *(("POST", f"/entities/Order/{name}/add") for name in ERRORS),
]


async def counts(http: httpx.AsyncClient) -> set[str]:
    text = (await http.get("/metrics?hosts=false")).text
    return {line for line in text.splitlines() if line.startswith("perdure_http_requests_total")}


async def answers(app: FastAPI, caller: FakeCaller, method: str, path: str) -> Any:
    caller.envelopes.clear()
    async with client(app) as http:
        before = await counts(http)
        reply = await http.request(method, path, content=ITEM if method == "POST" else b"", headers=JSON)
        counted = {line.rpartition(" ")[0] for line in await counts(http) - before}
    seen = [(one.type, one.key, one.kind, one.name, one.args, one.options) for one in caller.envelopes]
    body = reply.content.partition(b'"idempotency_key"')[0]  # it is another one each time
    return reply.status_code, sorted(reply.headers.multi_items()), body, seen, counted


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_the_answer_is_that_of_the_routes(
    application: FastAPI, method: str, path: str, caller: FakeCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = await answers(application, caller, method, path)
    monkeypatch.setattr(Shortcut, "_take", lambda *_: False)
    assert short == await answers(application, caller, method, path)


@pytest.mark.parametrize("path", ["add", "add?timeout=3", "nothing", "run/start"])
async def test_calls_do_take_it(
    application: FastAPI, path: str, caller: FakeCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("a route was looked for")

    monkeypatch.setattr(application.router, "middleware_stack", refuse)
    async with client(application) as http:
        reply = await http.post(f"/entities/Order/o-1/{path}", content=ITEM, headers=JSON)
    assert reply.status_code != 500


async def test_an_application_below_another_one_has_its_calls_too(application: FastAPI, caller: FakeCaller) -> None:
    async with client(Starlette(routes=[Mount("/below", application)])) as http:
        reply = await http.post("/below/entities/Order/o-1/add", content=ITEM, headers=JSON)
        assert reply.status_code == 200
        assert (await http.post("/entities/Order/o-1/add", content=ITEM, headers=JSON)).status_code == 404
    assert [envelope.key for envelope in caller.envelopes] == ["o-1"]


async def test_requests_that_the_framework_traces_take_its_routes(
    application: FastAPI, caller: FakeCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    router = application.router.middleware_stack

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        taken.append(scope["path"])
        await router(scope, receive, send)

    monkeypatch.setattr(application.router, "middleware_stack", noted)

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "fastapi.telemetry": object()}, receive, send)

    async with client(traced) as http:
        assert (await http.post("/entities/Order/o-1/add", content=ITEM, headers=JSON)).status_code == 200
    assert taken == ["/entities/Order/o-1/add"]
