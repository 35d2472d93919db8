"""The console's files and the API below it: who gets what, and that nothing can run but these files."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from perdure.api import Console, Settings, create_app
from perdure.api.console.pages import PATHS
from perdure.api.serve import guarded
from perdure.entities import Entity, handler
from perdure.entities.testing import LocalCluster

from .conftest import HERE
from .fake import FakeCaller
from .shop import Order

KEY = "k" * 32
STATIC = Path(__file__).parents[2] / "api" / "console" / "static"


class Note(Entity):
    text: str = ""

    @handler
    async def write(self, text: str) -> None:
        self.text = text


def client(app: object, key: str = "") -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url=HERE, headers=headers)


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with LocalCluster([Note]), client(create_app([Note], settings=Settings())) as opened:
        yield opened


async def test_every_file_is_served_with_a_policy_that_lets_nothing_else_run(http: httpx.AsyncClient) -> None:
    assert {Path(path).name for path in PATHS} >= {file.name for file in STATIC.glob("*.js")}
    for path in sorted(PATHS - {"/console"}):
        reply = await http.get(path)
        assert reply.status_code == 200, path
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_no_page_has_inline_scripts_styles_or_parses_html() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=|<style", page) == []
    for file in [*STATIC.glob("*.js"), STATIC / "index.html", STATIC / "style.css"]:
        text = file.read_text()
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function", text
        )
        assert found == [], file.name
        foreign = [url for url in re.findall(r"https?://[^\s\"'`)]+", text) if "www.w3.org" not in url]
        assert foreign == [], file.name


async def test_the_address_without_a_slash_leads_to_the_page(http: httpx.AsyncClient) -> None:
    reply = await http.get("/console")
    assert (reply.status_code, reply.headers["location"]) == (307, "console/")


async def test_a_browser_keeps_files_until_they_change(http: httpx.AsyncClient) -> None:
    first = await http.get("/console/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = await http.get("/console/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await http.get("/console/main.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


async def test_the_api_is_below_the_console_too_with_the_same_keys(http: httpx.AsyncClient) -> None:
    reply = await http.post("/console/api/entities/Note/a%2Fb/write", json={"text": "x"})
    assert reply.status_code == 200, reply.text
    state = await http.get("/entities/Note/a%2Fb/-/state")
    assert state.json() == {"text": "x"}
    assert (await http.get("/entities/Note/a/-/state")).status_code == 404
    assert (await http.get("/console/api/nowhere")).status_code == 404
    assert (await http.get("/console/api/")).status_code == 404


async def test_files_open_without_a_key_and_nothing_else_does(caller: FakeCaller) -> None:
    locked = create_app([Order], settings=Settings(api_keys=(SecretStr(KEY),)))
    async with client(locked) as http:
        for path in sorted(PATHS):
            assert (await http.get(path)).status_code in (200, 307), path
        for path in (
            "/console/api/entities",
            "/console/api/entities/Order/o/-/state",
            "/console/x",
            "/console//",
            "/entities",
        ):
            reply = await http.get(path)
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized"), path
    async with client(locked, KEY) as http:
        assert (await http.get("/console/api/entities")).status_code == 200


async def test_foreign_pages_reach_neither_the_files_nor_the_api() -> None:
    app = create_app([Order], settings=Settings())
    async with client(app) as http:
        for path in ("/console/", "/console/api/entities"):
            reply = await http.get(path, headers={"origin": "https://evil.example"})
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden_host")


async def test_it_can_be_turned_off() -> None:
    async with client(create_app([Order], settings=Settings(console=False))) as http:
        assert (await http.get("/console/")).status_code == 404
        assert (await http.get("/console/api/entities")).status_code == 404
        assert (await http.get("/entities")).status_code == 200


async def test_beside_an_application_with_other_things_at_the_same_paths(caller: FakeCaller) -> None:
    own = FastAPI()

    @own.get("/entities")
    async def entities() -> str:
        return "mine"

    settings = Settings(api_keys=(SecretStr(KEY),))
    app = guarded(Console(own, entities=[Order], settings=settings), settings)
    async with client(app) as http:
        assert (await http.get("/console/")).status_code == 200
        assert (await http.get("/entities")).status_code == 401, "the application is guarded as without the console"
        assert (await http.get("/console/api/entities")).status_code == 401
    async with client(app, KEY) as http:
        assert (await http.get("/entities")).json() == "mine"
        found = (await http.get("/console/api/entities")).json()
        assert [one["type"] for one in found["types"]] == ["Order"]
