"""Looking at a whole namespace over HTTP, on entities that really run (in memory), and after every host is gone."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from perdure.api import Settings, create_app
from perdure.entities import (
    ApplicationError,
    Entity,
    EntityId,
    Mailbox,
    RetryPolicy,
    activity,
    handler,
    query,
    remind,
    schedule,
    workflow,
)
from perdure.entities.store.survey import Minute
from perdure.entities.testing import LocalCluster

from .conftest import HERE

bank = {"is_down": True}


@activity(retry=RetryPolicy(initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=20)))
async def charge() -> str:
    if bank["is_down"]:
        raise ApplicationError("the bank is down\nand will be for a while", type="BankDown")
    return "paid"


class Order(Entity, version=2, index=["status"]):
    """An order."""

    status: str = "new"
    note = Mailbox(str)

    @workflow
    async def run(self) -> str:
        self.status = await charge()
        return self.status

    @handler
    async def set(self, status: str) -> None:
        """Set the status."""
        self.status = status

    @handler
    async def later(self) -> None:
        remind(self.set, after=3600, name="later", arguments={"status": "late"})

    @handler(private=True)
    async def inner(self) -> None: ...

    @handler(retry=RetryPolicy(attempts=1))
    async def break_down(self) -> None:
        raise ApplicationError("nobody at home")

    @query
    async def shown(self) -> str:
        return self.status


@pytest.fixture
async def local() -> AsyncGenerator[LocalCluster]:
    bank["is_down"] = True
    async with LocalCluster([Order]) as cluster:
        yield cluster


@pytest.fixture
async def client(local: LocalCluster) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app([Order], settings=Settings())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
        yield client


async def get(client: httpx.AsyncClient, path: str, code: int = 200, /, **parameters: str) -> Any:
    reply = await client.get(path, params=parameters)
    assert reply.status_code == code, reply.text
    return reply.json()


async def until_wedged(client: httpx.AsyncClient) -> Any:
    async with asyncio.timeout(20):
        while not (found := await get(client, "/overview"))["attention_counts"]["wedged"]["value"]:
            await asyncio.sleep(0.01)
    return found


async def test_a_wedged_workflow_is_first_with_its_reason_until_it_completes(client: httpx.AsyncClient) -> None:
    await Order.ref("o/1 ü").run.start()
    await Order.ref("o-2").set("Paid")
    found = await until_wedged(client)
    first = found["attention"][0]
    assert (first["kind"], first["type"], first["key"], first["name"]) == ("wedged", "Order", "o/1 ü", "charge")
    assert first["reason"] == "BankDown: the bank is down"
    assert first["path"] == "/entities/Order/o%2F1%20%C3%BC"
    assert first["attempts"] >= 5
    assert first["next_at"] is not None
    assert (await client.get(first["path"])).status_code == 200
    (counts,) = found["types"]
    assert (counts["type"], counts["is_served"]) == ("Order", True)
    assert counts["entities"] == {"value": 2, "is_exact": True, "is_at_least": False}
    assert counts["runs"]["running"]["value"] == 1
    bank["is_down"] = False
    retried = await client.post(f"{first['path']}/run/retry", json={"operation": first["operation"]})
    assert retried.status_code == 200
    assert await Order.ref("o/1 ü").run.result() == "paid"
    again = await get(client, "/overview")
    assert again["attention"] == []
    assert again["types"][0]["runs"] == {"completed": {"value": 1, "is_exact": True, "is_at_least": False}}


async def test_everything_is_answered_without_any_host(client: httpx.AsyncClient, local: LocalCluster) -> None:
    await Order.ref("o-1").later()
    with contextlib.suppress(ApplicationError):
        await Order.ref("o-1").break_down.send()
    await schedule("nightly", Order.ref("o-9").later, every=timedelta(hours=1))
    await local.drained()
    async with asyncio.timeout(10):
        while not (await get(client, "/overview"))["attention_counts"]["dead_letter"]["value"]:
            await asyncio.sleep(0.01)
    local.kill(0)
    found = await get(client, "/overview")
    assert [one["kind"] for one in found["attention"]] == ["dead_letter"]
    assert found["attention"][0]["reason"].endswith("nobody at home")
    hosts = await get(client, "/hosts")
    assert hosts["hosts"]
    rows = (await get(client, "/all-entities"))["entities"]
    assert [(row["type"], row["key"]) for row in rows] == [("Order", "o-1"), ("PerdureSchedule", "nightly")]
    assert [row["name"] for row in (await get(client, "/reminders", type="Order"))["reminders"]] == ["later"]
    (nightly,) = (await get(client, "/schedules"))["schedules"]
    assert (nightly["name"], nightly["when"], nightly["is_paused"]) == ("nightly", "every 1:00:00", False)
    assert nightly["next_at"] is not None
    assert (await get(client, "/audit"))["actions"] == []
    assert (await get(client, "/worklist"))["decisions"] == []


async def test_types_say_what_they_can_do_and_what_is_stored(client: httpx.AsyncClient, local: LocalCluster) -> None:
    await Order.ref("o-1").set("Paid")
    found = {one["type"]: one for one in (await get(client, "/types"))["types"]}
    order = found["Order"]
    assert (order["version"], order["is_built_in"], order["description"]) == (2, False, "An order.")
    assert order["versions"] == [{"version": 2, "entities": {"value": 1, "is_exact": True, "is_at_least": False}}]
    assert order["pending_upgrades"]["value"] == 0
    assert order["indexed"] == ["status"]
    members = {one["name"]: one for one in order["members"]}
    assert {name: one["kind"] for name, one in members.items()} == {
        "break_down": "handler", "inner": "handler", "later": "handler", "set": "handler", "shown": "query",
        "run": "workflow", "note": "mailbox",
    }  # fmt: skip
    assert members["inner"]["is_private"]
    assert members["set"]["description"] == "Set the status."
    assert members["set"]["arguments"]["properties"]["status"]["type"] == "string"
    assert members["run"]["result"]["type"] == "string"
    assert order["state"]["properties"]["status"]["type"] == "string"
    assert found["PerdureSchedule"]["is_built_in"]


async def test_a_list_over_all_types_in_pages(client: httpx.AsyncClient) -> None:
    for number in range(7):
        await Order.ref(f"o-{number}").set("Paid")
    await schedule("nightly", Order.ref("o-1").later, every=timedelta(hours=1))

    async def listed(**conditions: str) -> list[str]:
        found: list[str] = []
        after: dict[str, str] = {}
        for _ in range(30):
            page = await get(client, "/all-entities", **conditions, **after)
            found += [f"{row['type']}/{row['key']}" for row in page["entities"]]
            if page["next"] is None:
                return found
            after = {"after": page["next"]}
        raise AssertionError("the list has no end")

    everything = [*(f"Order/o-{number}" for number in range(7)), "PerdureSchedule/nightly"]
    for limit in ("1", "3", "7", "8", "100"):
        assert await listed(limit=limit) == everything
    assert await listed(limit="2", prefix="o-3") == ["Order/o-3"]
    assert await listed(limit="2", type="Order", status="idle") == everything[:7]
    assert await listed(status="failed") == []
    other = (await get(client, "/all-entities", limit="1"))["next"]
    assert (await get(client, "/all-entities", 400, limit="1", status="idle", after=other))["code"] == "bad_cursor"


async def test_the_audit_says_who_did_what_and_why(client: httpx.AsyncClient) -> None:
    await Order.ref("o-1").set("Paid")
    why = {"reason": "asked by the customer", "operator": "ann"}
    edited = await client.post(
        "/entities/Order/o-1/-/edit", json={"fields": {"status": "Void"}, "expected_version": 1, **why}
    )
    assert edited.status_code == 200
    await Order.ref("o-1").run.start()
    paused = await client.post("/entities/Order/o-1/run/pause", json={"reason": "wait", "operator": "bob"})
    assert paused.status_code == 200
    ended = await client.post("/entities/Order/o-1/run/terminate", json={"reason": "enough"})
    assert ended.status_code == 202
    actions = (await get(client, "/audit"))["actions"]
    assert [(one["action"], one["operator"], one["reason"], one["target"]) for one in actions] == [
        ("terminate", "", "enough", "run"),
        ("pause", "bob", "wait", "run"),
        ("edit", "ann", "asked by the customer", ""),
    ]
    assert [one["version"] for one in actions] == sorted((one["version"] for one in actions), reverse=True)
    assert [one["action"] for one in (await get(client, "/audit", operator="bob"))["actions"]] == ["pause"]
    assert [one["action"] for one in (await get(client, "/audit", action="edit"))["actions"]] == ["edit"]
    page = await get(client, "/audit", limit="2")
    rest = await get(client, "/audit", limit="2", after=page["next"])
    assert [one["action"] for one in (*page["actions"], *rest["actions"])] == ["terminate", "pause", "edit"]
    assert rest["next"] is None
    assert (await get(client, "/audit", since="2200-01-01T00:00:00Z"))["actions"] == []


async def test_the_last_hour_and_the_hosts(client: httpx.AsyncClient, local: LocalCluster) -> None:
    name = local.engines[0].incarnation
    await local.survey.note(Minute(name, 0, 60, 1_200, 300, 1, 2_500, 9_000, 42))
    hour = (await get(client, "/overview"))["last_hour"]
    assert hour["turns_per_s"] == 20.0
    assert (hour["commit_ms_p50"], hour["commit_ms_p99"]) == (2.5, 9.0)
    assert [(one["turns"], one["failed_commits"]) for one in hour["minutes"]] == [(1_200, 1)]
    (host,) = (await get(client, "/hosts"))["hosts"]
    assert (host["id"], host["status"], host["activations"], host["turns_per_s"]) == (name, "alive", 42, 20.0)
    assert host["shards"] == (await get(client, "/hosts"))["shards"]
    assert (await get(client, "/overview"))["hosts"]["alive"] == 1


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/all-entities", {"status": "asleep"}),
        ("/all-entities", {"limit": "0"}),
        ("/all-entities", {"limit": "1001"}),
        ("/all-entities", {"prefix": "a\x00"}),
        ("/all-entities", {"since": "yesterday"}),
        ("/all-entities", {"since": "2026-11-21T09:00:00"}),
        ("/reminders", {"kind": "alarm"}),
        ("/audit", {"key": "o-1"}),
        ("/worklist", {"limit": "none"}),
    ],
)
async def test_wrong_conditions_are_named(client: httpx.AsyncClient, path: str, parameters: dict[str, str]) -> None:
    found = await get(client, path, 422, **parameters)
    assert found["code"] == "invalid_argument"
    assert found["errors"][0]["field"] in parameters


async def test_a_state_that_cannot_be_loaded_comes_before_everything_else(
    client: httpx.AsyncClient, local: LocalCluster
) -> None:
    await Order.ref("o-1").set("Paid")
    await local.store.park(EntityId("Order", "o-1"), "Order/o-1: its stored state does not fit\nsecond line")
    found = (await get(client, "/overview"))["attention"][0]
    assert (found["kind"], found["reason"]) == ("damaged", "Order/o-1: its stored state does not fit")
    (row,) = (await get(client, "/all-entities", status="damaged"))["entities"]
    assert row["key"] == "o-1"
