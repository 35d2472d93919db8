"""Taking hosts out over HTTP: what is answered, who may, and what the audit keeps."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from perdure.api import ApiClient, Settings, create_app
from perdure.cluster.targets import Targets
from perdure.entities import Entity, handler
from perdure.entities.store.rows import HostRow
from perdure.entities.testing import LocalCluster

from .conftest import HERE

GRANTS = {
    "boss": ["*:operate,read"],
    "robot": ["PerdureHost:operate,read"],
    "clerk": ["Order:operate,read,call"],
    "viewer": ["*:read"],
}


class Order(Entity):
    @handler
    async def touch(self) -> None: ...


@pytest.fixture
async def local() -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Order]) as cluster:
        for name in ("h1", "h2"):
            await cluster.store.register(HostRow(name, name, "node-7", 1, "active", 0), lease_s=3_600)
        yield cluster


@pytest.fixture
async def client(local: LocalCluster) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app([Order], settings=Settings()), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=HERE)


async def drain(client: httpx.AsyncClient, host: str, code: int = 200, /, **body: str) -> Any:
    reply = await client.post(f"/hosts/{host}/drain", json=body)
    assert reply.status_code == code, reply.text
    return reply.json()


async def audit(client: httpx.AsyncClient) -> list[tuple[str, ...]]:
    actions = (await client.get("/audit")).json()["actions"]
    return [(one["type"], one["key"], one["action"], one["operator"], one["reason"], one["target"]) for one in actions]


async def supervised(local: LocalCluster, hosts: int, *, is_alive: bool = True) -> list[float]:
    """So many hosts are wanted, and somebody sees to it. Returns the pokes."""
    pokes: list[float] = []

    async def poke_supervisor(*, timeout_s: float) -> bool:
        pokes.append(timeout_s)
        return is_alive

    local.poke_supervisor = poke_supervisor  # type: ignore[attr-defined]
    await local.store.set_targets(Targets(hosts=hosts).to_json())
    return pokes


async def test_it_is_ordered_once_however_often_it_is_asked(local: LocalCluster, client: httpx.AsyncClient) -> None:
    pokes = await supervised(local, 2)
    first = await drain(client, "h1", reason="new disk", operator="ann")
    assert (first["host"]["id"], first["host"]["status"]) == ("h1", "draining")
    assert (first["hosts_active"], first["hosts_wanted"], first["is_supervised"]) == (2, 2, True)
    assert first["next"] == "it hands its shards over to the others and ends"
    again = await drain(client, "h1", reason="really", operator="bob")
    assert again | {"host": 0} == first | {"host": 0}
    assert again["host"]["status"] == "draining"
    assert len(pokes) == 2, "an order may have been overlooked"
    assert await audit(client) == [("PerdureHost", "h1", "drain", "ann", "new disk", "")]
    assert (await client.get("/hosts")).json()["hosts_wanted"] == 2


async def test_the_answer_says_what_it_waits_for(local: LocalCluster, client: httpx.AsyncClient) -> None:
    assert "nobody has said how many hosts" in (await drain(client, "h1"))["next"]
    await supervised(local, 3)
    assert "until its successor is there: 2 of the 3 hosts" in (await drain(client, "h1"))["next"]
    await supervised(local, 3, is_alive=False)
    found = await drain(client, "h1")
    assert not found["is_supervised"]
    assert found["next"].startswith("no supervisor answers: the order is kept")


async def test_a_host_that_drains_already_is_no_news(local: LocalCluster, client: httpx.AsyncClient) -> None:
    """`up` is replacing it: nothing is changed, and nobody else's doing is put down to an operator."""
    await local.store.set_draining("h1")
    assert (await drain(client, "h1", reason="me too"))["host"]["status"] == "draining"
    assert await audit(client) == []


async def test_a_host_that_goes_at_once_is_told_as_gone(local: LocalCluster, client: httpx.AsyncClient) -> None:
    await supervised(local, 2)

    async def poke_supervisor(*, timeout_s: float) -> bool:
        await local.store.retire("h1")
        return True

    local.poke_supervisor = poke_supervisor  # type: ignore[attr-defined]
    found = await drain(client, "h1")
    assert (found["host"]["status"], found["next"]) == ("stopped", "nothing: it is gone")


@pytest.mark.parametrize(
    ("fate", "why"),
    [("retire", "it has left in order"), ("fence", "was declared dead"), ("", "no host 'nobody' is alive")],
)
async def test_who_is_gone_cannot_be_taken_out(
    local: LocalCluster, client: httpx.AsyncClient, fate: str, why: str
) -> None:
    if fate == "retire":
        await local.store.retire("h1")
    if fate == "fence":
        await local.store.fence("h1", is_dead=True)
    found = await drain(client, "h1" if fate else "nobody", 404, reason="why not")
    assert found["code"] == "no_such_host"
    assert why in found["detail"]
    assert await audit(client) == []


async def test_a_body_is_not_needed_but_a_wrong_one_changes_nothing(
    local: LocalCluster, client: httpx.AsyncClient
) -> None:
    for body in (b'{"why": "x"}', b'{"reason": 1}', b"[]", b"{", b'{"reason": "\\u0000"}'):
        reply = await client.post("/hosts/h1/drain", content=body, headers={"content-type": "application/json"})
        assert reply.status_code in (400, 422), body
    assert {row.incarnation: row.status for row in await local.store.hosts()}["h1"] == "active"
    assert (await client.post("/hosts/h1/drain")).status_code == 200


async def test_who_may(local: LocalCluster) -> None:
    """A host serves every type, so operating one of them does not do, whatever the request names."""
    keys = {name: f"key-of-{name}-0123456789abcdef" for name in GRANTS}
    known = {name: ApiClient(keys=(keys[name],), grants=tuple(grants)) for name, grants in GRANTS.items()}  # type: ignore[arg-type]
    app = create_app([Order], settings=Settings(clients=known))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    statuses: dict[str, list[int]] = {}
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
        for name, key in keys.items():
            said = {"Authorization": f"Bearer {key}"}
            statuses[name] = [
                (await client.post(f"/hosts/{path}", headers=said, json={"operator": "the boss"})).status_code
                for path in ("h1/drain?type=Order", "h1/drain", "nobody/drain")
            ]
        boss, robot = ({"Authorization": f"Bearer {keys[name]}"} for name in ("boss", "robot"))
        (row,) = (await client.get("/audit", headers=boss)).json()["actions"]
        listed = await client.get("/hosts", params={"type": "PerdureHost"}, headers=robot)
    assert statuses == {"boss": [200, 200, 404], "robot": [200, 200, 404], "clerk": [403] * 3, "viewer": [403] * 3}
    assert listed.status_code == 200, "which is what `perdure drain` asks for"
    assert row["operator"] == "boss", "a body cannot forge who did it"
