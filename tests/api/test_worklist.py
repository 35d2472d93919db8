"""The work list over HTTP: who sees what, who may decide, answers applied once."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Literal

import httpx
import pytest

from perdure.api import ApiClient, Settings, create_app
from perdure.entities import Entity, decision, workflow
from perdure.entities.testing import LocalCluster

from .conftest import HERE

GRANTS = {
    "boss": ["*:operate"],
    "ann": ["*.underwriting:decide"],
    "bob": ["Claim.legal:decide"],
    "customer": ["Claim:call,read"],
}


class Claim(Entity):
    outcome: str = ""

    @workflow
    async def process(self, group: str) -> str:
        self.outcome = await decision(group, Literal["yes", "no"], title="Pay?", show={"key": self.key}, due=3_600)  # type: ignore[arg-type]
        return self.outcome


@pytest.fixture
async def clients() -> AsyncGenerator[dict[str, httpx.AsyncClient]]:
    """One for each of GRANTS, with three decisions open."""
    keys = {name: f"key-of-{name}-0123456789abcdef" for name in GRANTS}
    known = {name: ApiClient(keys=(keys[name],), grants=tuple(grants)) for name, grants in GRANTS.items()}  # type: ignore[arg-type]
    settings = Settings(clients=known)
    async with LocalCluster([Claim]) as cluster:
        transport = httpx.ASGITransport(create_app([Claim], settings=settings), raise_app_exceptions=False)
        clients = {
            name: httpx.AsyncClient(transport=transport, base_url=HERE, headers={"Authorization": f"Bearer {key}"})
            for name, key in keys.items()
        }
        for key, group in (("c-1", "underwriting"), ("c-2", "legal"), ("c-3", "underwriting")):
            await Claim.ref(key).process.start(group)
        async with asyncio.timeout(10):
            while (await cluster.survey.troubles(limit=1)).decisions.value < 3:
                await asyncio.sleep(0.01)
        yield clients


async def listed(client: httpx.AsyncClient, **parameters: str) -> list[Any]:
    reply = await client.get("/worklist", params=parameters)
    assert reply.status_code == 200, reply.text
    found: list[Any] = reply.json()["decisions"]
    return found


async def decide(client: httpx.AsyncClient, decision_id: str, **headers: str) -> httpx.Response:
    return await client.post(f"/worklist/{decision_id}", json={"value": "yes", "reason": "fine"}, headers=headers)


async def test_everybody_sees_what_they_may_decide(clients: dict[str, httpx.AsyncClient]) -> None:
    assert {row["key"] for row in await listed(clients["boss"])} == {"c-1", "c-2", "c-3"}
    assert {row["key"] for row in await listed(clients["ann"])} == {"c-1", "c-3"}
    assert {row["key"] for row in await listed(clients["bob"])} == {"c-2"}
    assert await listed(clients["bob"], group="underwriting") == []
    assert (await clients["customer"].get("/worklist")).status_code == 403
    row = (await listed(clients["bob"]))[0]
    assert (row["group"], row["title"], row["show"], row["schema"]) == (
        "legal", "Pay?", {"key": "c-2"}, {"enum": ["yes", "no"], "type": "string"},
    )  # fmt: skip
    assert row["due_at"] > row["asked_at"]


async def test_pages_are_whole_whatever_one_may_see(clients: dict[str, httpx.AsyncClient]) -> None:
    for name, expected in (("boss", 3), ("ann", 2), ("bob", 1)):
        keys: list[str] = []
        parameters = {"limit": "1"}
        for _ in range(10):
            page = (await clients[name].get("/worklist", params=parameters)).json()
            keys += [row["key"] for row in page["decisions"]]
            if page["next"] is None:
                break
            parameters["after"] = page["next"]
        assert len(keys) == len(set(keys)) == expected


async def test_only_the_group_and_operators_may_decide(clients: dict[str, httpx.AsyncClient]) -> None:
    legal = (await listed(clients["bob"]))[0]["id"]
    assert (await decide(clients["ann"], legal)).status_code == 403
    assert (await decide(clients["customer"], legal)).status_code == 403
    by_token = await clients["customer"].post(f"/activities/{legal}/complete", json="yes")
    assert (by_token.status_code, by_token.json()["code"]) == (404, "no_such_operation")
    answer = await decide(clients["bob"], legal)
    assert answer.status_code == 200, answer.text
    assert answer.json()["decided"]
    assert await Claim.ref("c-2").process.result() == "yes"
    again = await decide(clients["bob"], legal)
    assert (again.status_code, again.json()["code"]) == (409, "operation_settled")
    assert (await decide(clients["customer"], legal)).status_code == 403
    audit = (await clients["boss"].get("/audit", params={"type": "Claim"})).json()
    assert audit.get("code") == "forbidden", "`operate` is not `read`"


async def test_a_wrong_answer_changes_nothing(clients: dict[str, httpx.AsyncClient]) -> None:
    first = (await listed(clients["ann"]))[0]["id"]
    reply = await clients["ann"].post(f"/worklist/{first}", json={"value": "perhaps"})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument")
    assert (await clients["ann"].post(f"/worklist/{first}", json={"reason": "no value"})).status_code == 422
    assert first in {row["id"] for row in await listed(clients["ann"])}
    assert (await clients["ann"].post("/worklist/nonsense", json={"value": "yes"})).status_code == 404


async def test_a_repeat_with_its_key_gets_the_first_outcome(clients: dict[str, httpx.AsyncClient]) -> None:
    row = (await listed(clients["boss"], group="underwriting"))[0]
    for _ in range(2):
        reply = await decide(clients["boss"], row["id"], **{"Idempotency-Key": "decide-1"})
        assert reply.status_code == 200, reply.text
    assert await Claim.ref(row["key"]).process.result() == "yes"
