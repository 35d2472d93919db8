"""Looking at entities and mending them over HTTP, on entities that really run (in memory)."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import httpx
import pytest

from perdure.api import Settings, create_app
from perdure.api.cursors import wrap
from perdure.entities import ApplicationError, Entity, RetryPolicy, handler
from perdure.entities.client import set_default
from perdure.entities.testing import LocalCluster

from .conftest import HERE

works = {"deliver": False}


class Parcel(Entity, index=["status"]):
    status: str = "new"
    weight: int | None = None
    limit: int = 0
    sent_at: datetime | None = None

    @handler
    async def set(self, status: str, weight: int | None = None) -> None:
        self.status, self.weight = status, weight

    @handler(retry=RetryPolicy(attempts=1))
    async def deliver(self) -> None:
        if not works["deliver"]:
            raise ApplicationError("nobody at home")
        self.status = "delivered"


@pytest.fixture
async def local() -> AsyncGenerator[LocalCluster]:
    works["deliver"] = False
    async with LocalCluster([Parcel]) as cluster:
        yield cluster


@pytest.fixture
async def client(local: LocalCluster) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app([Parcel], settings=Settings())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
        yield client


async def get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    reply = await client.get(path)
    assert reply.status_code == status, reply.text
    return reply.json()


async def post(client: httpx.AsyncClient, path: str, body: object, status: int = 200) -> Any:
    reply = await client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


async def test_entities_are_found_by_the_fields_of_their_state(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await Parcel.ref(f"p/{number}").set("packed" if number % 2 else "new", number or None)
    found = await get(client, "/entities/Parcel?status=packed")
    assert sorted(match["key"] for match in found["matches"]) == ["p/1", "p/3"]
    assert found["matches"][0]["state"]["status"] == "packed"
    assert (found["type"], found["next"], found["unreadable"]) == ("Parcel", None, [])
    assert found["matches"][0]["version"] == 1

    async def keys(query: str) -> list[str]:
        return sorted(match["key"] for match in (await get(client, f"/entities/Parcel?{query}"))["matches"])

    assert await keys("weight__ge=2&weight__lt=4") == ["p/2", "p/3"]
    assert await keys("weight=null") == ["p/0"]
    assert await keys("weight__in=1&weight__in=4") == ["p/1", "p/4"]
    assert await keys("limit__eq=0&sent_at__ge=2026-01-01T00:00:00Z") == []
    assert len(await keys("")) == 5


async def test_pages_of_a_search_are_followed_by_their_cursor(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await Parcel.ref(f"p {number}/ü").set("packed")
    keys: list[str] = []
    after: dict[str, str] = {}
    while True:
        reply = await client.get("/entities/Parcel", params={"status": "packed", "limit": "2", **after})
        found = reply.json()
        keys += [match["key"] for match in found["matches"]]
        if found["next"] is None:
            break
        after = {"after": found["next"]}
    assert sorted(keys) == sorted(f"p {number}/ü" for number in range(5))


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/entities/Parcle", 404, "unknown_type"),
        ("/entities/Parcel?colour=red", 422, "invalid_argument"),
        ("/entities/Parcel?weight=heavy", 422, "invalid_argument"),
        ("/entities/Parcel?status=a&status=b", 422, "invalid_argument"),
        ("/entities/Parcel?limit=0", 422, "invalid_argument"),
        ("/entities/Parcel?limit=x", 422, "invalid_argument"),
        ("/entities/Parcel?after=x", 400, "bad_cursor"),
        ("/entities/Parcel/p/-/history?limit=9999", 422, "invalid_argument"),
        ("/entities/Parcel/p/-/history?kind=nonsense", 422, "invalid_argument"),
        ("/entities/Parcel/p/-/state", 404, "no_such_entity"),
        ("/entities/Parcel/p/-/diff?from=1", 422, "invalid_argument"),
        ("/entities/Parcel/p/-/export", 404, "no_such_entity"),
        ("/entities/Parcel/p/-/nothing", 404, "unknown_handler"),
        ("/dead-letters?since=yesterday", 422, "invalid_argument"),
        ("/dead-letters?key=p", 422, "invalid_argument"),
        ("/dead-letters?after=x", 400, "bad_cursor"),
    ],
)
async def test_wrong_questions_get_problems(client: httpx.AsyncClient, path: str, status: int, code: str) -> None:
    assert (await get(client, path, status))["code"] == code


async def test_history_states_and_differences(client: httpx.AsyncClient) -> None:
    parcel = Parcel.ref("a/b")
    await parcel.set("packed")
    await parcel.set("sent", 3)
    here = "/entities/Parcel/a%2Fb/-"
    page = await get(client, f"{here}/history")
    assert [(event["version"], event["what"], event["name"]) for event in page["events"]] == [
        (1, "message", "set"),
        (2, "message", "set"),
    ]
    assert page["events"][1]["input"] == {"status": "sent", "weight": 3}
    first = await get(client, f"{here}/history?limit=1&kind=message")
    assert (first["version"], len(first["events"]), first["next"]) == (2, 1, 1)
    newest = await get(client, f"{here}/history?limit=1&newest_first=true")
    assert newest["events"][0]["version"] == 2
    assert (await get(client, f"{here}/state?version=1"))["status"] == "packed"
    assert (await get(client, f"{here}/state"))["status"] == "sent"
    assert (await get(client, f"{here}/state?version=7", 404))["code"] == "version_not_retained"
    changes = (await get(client, f"{here}/diff?from=1&to=2"))["changes"]
    assert changes == [
        {"op": "replace", "path": "/status", "value": "sent", "old": "packed"},
        {"op": "replace", "path": "/weight", "value": 3, "old": None},
    ]
    exported = await get(client, f"{here}/export")
    assert (exported["perdure_export"], exported["entity"]["key"], len(exported["history"])) == (1, "a/b", 2)


async def test_forks_and_edits(client: httpx.AsyncClient) -> None:
    await Parcel.ref("p").set("packed")
    here = "/entities/Parcel/p/-"
    assert await post(client, f"{here}/fork", {"new_key": "q", "version": 1, "reason": "look"}) == {
        "type": "Parcel",
        "key": "q",
    }
    assert (await get(client, "/entities/Parcel/q/-/state"))["status"] == "packed"
    assert (await post(client, f"{here}/fork", {"new_key": "q"}, 409))["code"] == "entity_exists"
    body = {"fields": {"status": "edited"}, "expected_version": 1, "reason": "typo", "operator": "ada"}
    assert await post(client, f"{here}/edit", body) == {"version": 2}
    assert (await get(client, f"{here}/state"))["status"] == "edited"
    assert (await post(client, f"{here}/edit", body, 409))["code"] == "version_conflict"
    wrong = {"fields": {"weight": "heavy"}, "expected_version": 2}
    assert (await post(client, f"{here}/edit", wrong, 422))["code"] == "invalid_argument"
    assert (await post(client, f"{here}/edit", {"fields": {}}, 422))["code"] == "invalid_argument"
    assert (await post(client, f"{here}/edit", {"unknown": 1}, 422))["code"] == "invalid_argument"


async def test_dead_letters_are_listed_replayed_and_discarded(client: httpx.AsyncClient) -> None:
    for key in ("p", "q"):
        with pytest.raises(ApplicationError):
            await Parcel.ref(key).deliver.send()
    while len((page := await get(client, "/dead-letters?type=Parcel"))["letters"]) < 2:
        await asyncio.sleep(0)
    assert page["letters"][0]["error"]["message"] == "nobody at home"
    (letter,) = (await get(client, "/dead-letters?type=Parcel&key=p&limit=1"))["letters"]
    (other,) = (await get(client, "/dead-letters?type=Parcel&key=q"))["letters"]
    works["deliver"] = True
    order = {"message_id": letter["message_id"], "operator": "ada"}
    assert "message_id" in await post(client, "/entities/Parcel/p/-/replay", order)
    while (await get(client, "/entities/Parcel/p/-/state"))["status"] != "delivered":
        await asyncio.sleep(0)
    assert (await post(client, "/entities/Parcel/p/-/replay", order, 404))["code"] == "no_such_letter"
    await post(client, "/entities/Parcel/q/-/discard", {"message_id": other["message_id"]})
    assert (await get(client, "/dead-letters"))["letters"] == []


async def test_without_a_connection_it_is_a_problem(client: httpx.AsyncClient) -> None:
    set_default(None)
    assert (await get(client, "/entities/Parcel", 503))["code"] == "not_connected"


async def test_every_route_tells_its_parameters_and_its_body(client: httpx.AsyncClient) -> None:
    """A generated client could not even fill in the path otherwise."""
    document = await get(client, "/openapi.json")
    assert {"/entities/{type}/{key}/-/edit", "/dead-letters", "/entities/{type}"} <= document["paths"].keys()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)", path)), (method, path)
            if "/-/" in path and method == "post":
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                assert schema["required"], path
                assert "default" in operation["responses"], path
    (edit,) = document["paths"]["/entities/{type}/{key}/-/edit"].values()
    assert set(edit["requestBody"]["content"]["application/json"]["schema"]["properties"]) == {
        "fields", "expected_version", "reason", "operator",
    }  # fmt: skip


@pytest.mark.parametrize("microseconds", [99999999999999999999, -999999999999999999])
async def test_a_cursor_out_of_all_time_is_no_cursor(client: httpx.AsyncClient, microseconds: int) -> None:
    cursor = wrap(f'[{microseconds},"a","b","c"]', ["dead letters", "type=None", "key=None", "since=None"])
    assert (await get(client, f"/dead-letters?after={cursor}", 422))["code"] == "invalid_argument"


async def test_a_version_beyond_all_numbers_is_not_retained(client: httpx.AsyncClient) -> None:
    await Parcel.ref("p").set("sent")
    body = {"new_key": "q", "version": 10**30}
    assert (await post(client, "/entities/Parcel/p/-/fork", body, 404))["code"] == "version_not_retained"
