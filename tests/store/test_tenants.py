"""Two namespaces in one database with the same keys and other contents (workload W12): nothing gets from one to the
other, over any route, whatever ids, cursors and tokens of the other one a caller presents (I19)."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from perdure.api import ApiClient, Settings, create_app
from perdure.api.exchange import STATE
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import (
    ApplicationError,
    CompleteLater,
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    activity_info,
    handler,
    query,
    workflow,
)
from perdure.entities.client import set_default
from perdure.entities.testing import LocalCluster

from .conftest import SHARDS

tokens: dict[str, str] = {}


@activity
async def ask_people(note: str) -> str:
    tokens[note] = activity_info().token
    raise CompleteLater


class Diary(Entity, index=["note"]):
    note: str = ""
    answer: str = ""
    letters = Mailbox(str)

    @handler
    async def write(self, note: str) -> str:
        self.note, before = note, self.note
        return before

    @handler(retry=RetryPolicy(attempts=1))
    async def burn(self, why: str) -> None:
        raise ApplicationError(f"no fire for {why}")

    @query
    async def read(self) -> str:
        return self.note

    @workflow
    async def ask(self, note: str) -> str:
        self.answer = await ask_people(note)
        return self.answer


class Tenant:
    """A namespace with hosts and a gateway, and a program that may do everything there."""

    def __init__(self, name: str, cluster: LocalCluster) -> None:
        self.name = name
        self.marker = f"marker-of-{name}"
        self.key = f"{name}-" + "k" * 32
        clients = {
            tenant: ApiClient(keys=(SecretStr(f"{tenant}-" + "k" * 32),), grants=("*:admin",), namespace=tenant)
            for tenant in ("red", "blue")
        }
        gateway: Any = create_app([Diary], namespace=name, settings=Settings(clients=clients))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await gateway({**scope, "state": {STATE: cluster}}, receive, send)

        self.app = app
        self.seen: list[str] = []

    async def ask(self, method: str, path: str, body: object = None, *, key: str = "") -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        headers = {"authorization": f"Bearer {key or self.key}", "idempotency-key": path[-200:]}
        async with httpx.AsyncClient(transport=transport, base_url="http://g.example", headers=headers) as client:
            reply = await client.request(method, path, json=body)
        self.seen.append(f"{method} {path} → {reply.status_code} {dict(reply.headers)} {reply.text}")
        return reply

    async def fill(self) -> None:
        for key in ("a", "b", "c"):
            reply = await self.ask("POST", f"/entities/Diary/{key}/write", {"note": f"{self.marker} {key}"})
            assert (reply.status_code, reply.json()) == (200, "")
        assert (await self.ask("POST", "/entities/Diary/a/letters", self.marker)).status_code == 202
        assert (await self.ask("POST", "/entities/Diary/a/ask/start", {"note": self.marker})).status_code == 202


@pytest.fixture
async def tenants(server: EmbeddedPostgres) -> AsyncIterator[tuple[Tenant, Tenant]]:
    found: list[Tenant] = []
    async with AsyncExitStack() as stack:
        for name in ("red", "blue"):
            migrations.upgrade(server.dsn, name, shard_count=SHARDS)
            store = PostgresStore(SessionSettings(dsn=server.dsn), namespace=name)
            stack.push_async_callback(store.close)
            cluster = await stack.enter_async_context(LocalCluster([Diary], store=store))
            found.append(Tenant(name, cluster))
        yield found[0], found[1]
    set_default(None)


READING = [
    ("GET", "/entities"),
    ("GET", "/entities/Diary?limit=1"),
    ("GET", "/entities/Diary?note__ge=marker"),
    ("GET", "/entities/Diary/a"),
    ("GET", "/entities/Diary/a/read"),
    ("POST", "/entities/Diary/a/read"),
    ("GET", "/entities/Diary/a/ask/operations"),
    ("GET", "/entities/Diary/a/ask/result?timeout=0.25"),
    ("GET", "/entities/Diary/a/-/history"),
    ("GET", "/entities/Diary/a/-/state"),
    ("GET", "/entities/Diary/a/-/diff?from=0&to=1"),
    ("GET", "/entities/Diary/a/-/export"),
    ("GET", "/dead-letters"),
    ("GET", "/entities/PerdureSchedule/a/describe"),
    ("GET", "/openapi.json"),
    ("GET", "/readyz"),
]


async def test_nothing_gets_from_one_namespace_to_the_other(tenants: tuple[Tenant, Tenant]) -> None:
    red, blue = tenants
    await red.fill()
    await blue.fill()
    burnt = await red.ask("POST", "/entities/Diary/a/burn", {"why": red.marker})
    assert burnt.status_code == 422

    for tenant in tenants:
        for method, path in READING:
            reply = await tenant.ask(method, path)
            assert reply.status_code < 500 or path == "/readyz", reply.text
    await _with_things_of_the_other(red, blue)

    for tenant, other in ((red, blue), (blue, red)):
        told = [line for line in tenant.seen if other.marker in line.partition(" → ")[2]]
        assert told == []
        assert sum(tenant.marker in line for line in tenant.seen) >= 8, "the markers are seen where they belong"


async def _with_things_of_the_other(red: Tenant, blue: Tenant) -> None:
    """Credential, cursors, dead letter, run and token of the red namespace, presented to the blue gateway."""
    for method, path in (*READING, ("POST", "/entities/Diary/a/write")):
        if path == "/readyz":  # it names nothing, and needs no credential
            continue
        reply = await blue.ask(method, path, {"note": "forged"} if method == "POST" else None, key=red.key)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), (path, reply.text)

    cursor = (await red.ask("GET", "/entities/Diary?limit=1")).json()["next"]
    assert cursor
    foreign = await blue.ask("GET", f"/entities/Diary?after={cursor}")
    assert (foreign.status_code, foreign.json()["code"]) == (400, "bad_cursor")
    assert (await red.ask("GET", f"/entities/Diary?after={cursor}")).status_code == 200

    # One-way messages that fail become dead letters.
    for tenant in (red, blue):
        transport = httpx.ASGITransport(tenant.app)
        headers = {"authorization": f"Bearer {tenant.key}", "prefer": "respond-async"}
        async with httpx.AsyncClient(transport=transport, base_url="http://g.example", headers=headers) as client:
            sent = await client.post("/entities/Diary/b/burn", json={"why": tenant.marker})
        assert sent.status_code in (202, 422), "accepted, or refused by its code before it was"
    letters = await _letters(red, 1)
    await _letters(blue, 1)
    for what in ("replay", "discard"):
        body = {"message_id": letters[0]["message_id"], "reason": "mine now"}
        assert (await blue.ask("POST", "/entities/Diary/b/-/" + what, body)).status_code == 404
    assert await _letters(red, 1) == letters

    token = tokens[red.marker]
    for what, answer in (("heartbeat", "x"), ("complete", "forged"), ("fail", {"message": "forged"})):
        reply = await blue.ask("POST", f"/activities/{token}/{what}", answer)
        assert reply.json()["code"] in ("no_such_operation", "operation_settled"), "it is of no run here"
    for tenant in (red, blue):
        done = await tenant.ask("POST", f"/activities/{tokens[tenant.marker]}/complete", f"yes, {tenant.marker}")
        assert done.status_code == 200, done.text
        result = await tenant.ask("GET", "/entities/Diary/a/ask/result")
        assert result.json() == f"yes, {tenant.marker}"


async def _letters(tenant: Tenant, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(200):
        found = (await tenant.ask("GET", "/dead-letters")).json()["letters"]
        if len(found) >= count:
            return found
    raise AssertionError(f"{tenant.name} has {json.dumps(found)}")
