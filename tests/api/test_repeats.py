"""Repeats, lifecycles, conditions and schedules over HTTP, on entities that really run (rows B22-B38 of the table)."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field

from perdure.api import Settings, create_app
from perdure.entities import Entity, Mailbox, handler, query, workflow
from perdure.entities.ids import EntityId
from perdure.entities.testing import LocalCluster
from perdure.entities.tokens import make_token
from tests.engine.faults import FaultyStore

from .conftest import HERE

gates: dict[str, asyncio.Event] = {}


class Price(BaseModel):
    cents: int
    exact: float = 0.0


class Lenient(BaseModel):
    model_config = ConfigDict(strict=False)
    cents: int


class Till(Entity):
    total: int = 0
    note = Mailbox(str)

    @handler
    async def add(self, cents: Annotated[int, Field(ge=-(2**63), lt=2**63)]) -> int:
        self.total += cents
        return self.total

    @handler
    async def add_price(self, price: Price) -> int:
        self.total += price.cents
        return self.total

    @handler
    async def add_lenient(self, price: Lenient) -> int:
        self.total += price.cents
        return self.total

    @handler
    async def add_slowly(self, cents: int) -> int:
        gates["entered"].set()
        await asyncio.wait_for(gates["open"].wait(), 20)
        self.total += cents
        return self.total

    @query
    async def state(self) -> int:
        return self.total

    @workflow
    async def close(self, hour: int) -> str:
        return f"{hour}: {await self.note.receive()}"


TILL = "/entities/Till/t-1"


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def cluster(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    gates.update(entered=asyncio.Event(), open=asyncio.Event())
    async with LocalCluster([Till], store=store) as cluster:
        yield cluster


@pytest.fixture
async def till(cluster: LocalCluster) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app([Till], settings=Settings(call_wait_s=10))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE + TILL) as client:
        yield client


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


# --- Repeats (B26-B28) -----------------------------------------------------------------------------------------------


async def test_b26_a_key_used_for_another_payload_has_no_effect(till: httpx.AsyncClient) -> None:
    first = await till.post("/add", json={"cents": 5}, headers=keyed("k"))
    again = await till.post("/add", json={"cents": 5}, headers=keyed("k"))
    other = await till.post("/add", json={"cents": 6}, headers=keyed("k"))
    assert (first.json(), again.json()) == (5, 5)
    assert first.headers["perdure-version"] == again.headers["perdure-version"]
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    assert (await till.get("/state")).json() == 5
    elsewhere = await till.post("/add_price", json={"price": {"cents": 1}}, headers=keyed("k"))
    assert elsewhere.json() == 6, "a key belongs to an entity and a handler"


async def test_b27_a_repeat_while_the_first_still_runs_waits_for_its_outcome(till: httpx.AsyncClient) -> None:
    body = {"cents": 5}
    first = asyncio.create_task(till.post("/add_slowly", json=body, headers=keyed("k")))
    await gates["entered"].wait()
    second = asyncio.create_task(till.post("/add_slowly", json=body, headers=keyed("k")))
    impatient = await till.post("/add_slowly?timeout=0.25", json=body, headers=keyed("k"))
    assert (impatient.status_code, impatient.json()["code"]) == (504, "timeout")
    assert impatient.json()["idempotency_key"] == "k"
    gates["open"].set()
    assert [(await first).json(), (await second).json()] == [5, 5]
    assert (await till.get("/state")).json() == 5


async def test_b28_after_the_retention_a_repeat_runs_anew(
    till: httpx.AsyncClient, cluster: LocalCluster, store: FaultyStore
) -> None:
    assert (await till.post("/add", json={"cents": 5}, headers=keyed("k"))).json() == 5
    await cluster.drained()
    await store.prune(older_than_us=-1, limit=1_000)
    await cluster.crash()
    assert (await till.post("/add", json={"cents": 5}, headers=keyed("k"))).json() == 10


@pytest.mark.parametrize("headers", [[("Idempotency-Key", "")], [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]])
async def test_b25_edits_take_no_other_keys_than_calls(till: httpx.AsyncClient, headers: list[tuple[str, str]]) -> None:
    await till.post("/add", json={"cents": 5})
    edit = {"fields": {"total": 1}, "expected_version": 1}
    for bad in (headers, [("Idempotency-Key", "x" * 256)]):
        reply = await till.post("/-/edit", json=edit, headers=bad)
        assert (reply.status_code, reply.json()["code"]) == (400, "bad_idempotency_key")
    assert (await till.get("/state")).json() == 5


async def test_s30_an_edit_of_fields_that_there_are_not_gets_a_short_answer(till: httpx.AsyncClient) -> None:
    await till.post("/add", json={"cents": 5})
    for fields in ({"x" * 1_000_000: 1}, {f"field {number}": 1 for number in range(10_000)}):
        reply = await till.post("/-/edit", json={"fields": fields, "expected_version": 1})
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument")
        assert len(reply.content) < 10_000


# --- Lifecycles (B29-B32) --------------------------------------------------------------------------------------------


async def test_b29_b30_b31_starting_signalling_and_cancelling_again(till: httpx.AsyncClient) -> None:
    assert (await till.get("/close/result")).json()["code"] == "no_such_run"
    first = await till.post("/close/start", json={"hour": 8})
    assert (first.status_code, (await till.post("/close/start", json={"hour": 8})).json()) == (202, first.json())
    other = await till.post("/close/start", json={"hour": 9})
    assert (other.status_code, other.json()["code"]) == (409, "already_started")
    for _ in range(2):
        assert (await till.post("/close/cancel")).status_code == 202
    ended = await till.get("/close/result")
    assert (ended.status_code, ended.json()["code"]) == (409, "workflow_cancelled")
    late = await till.post("/close/cancel")
    assert late.status_code == 202, "there is nothing left to cancel, which is what was asked for"
    # The entity outlives its runs: an item is kept for the next one, and a handler is served.
    assert (await till.post("/note", json="kept")).status_code == 202
    assert (await till.post("/add", json={"cents": 1})).json() == 1
    assert (await till.post("/close/start?restart=true", json={"hour": 9})).status_code == 202
    assert (await till.get("/close/result")).json() == "9: kept"


async def test_b32_tokens_that_mean_nothing_look_alike(till: httpx.AsyncClient) -> None:
    """Who knows tokens only learns nothing of types, entities and runs from guessing."""
    bodies: list[dict[str, Any]] = []
    for type_name, key, workflow_ in (
        ("Till", "t-1", "close"), ("Till", "never", "close"), ("Till", "t-1", "none"), ("Safe", "s-1", "open"),
    ):  # fmt: skip
        token = make_token(EntityId(type_name, key), f"{workflow_}/{'r' * 32}/1")
        bodies.append((await till.post(f"{HERE}/activities/{token}/complete", json=1)).json())
    bodies.append((await till.post(f"{HERE}/activities/nonsense/complete", json=1)).json())
    for body in bodies:
        assert (body["status"], body["code"]) == (404, "no_such_operation"), body
        del body["request_id"], body["instance"]
    assert all(body == bodies[0] for body in bodies)


# --- Arguments (B22-B24) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/add", [1], ""),
        ("/add", {"cents": 2**63}, "cents"),
        ("/add", {"cents": "5"}, "cents"),
        ("/add", {"cents": True}, "cents"),
        ("/add_price", {"price": {"cents": "5"}}, "price.cents"),
        ("/add_price", {"price": {"cents": True}}, "price.cents"),
        ("/add_price", {"price": {"cents": 5.0}}, "price.cents"),
        ("/add_price", {"price": {"cents": 5, "exact": False}}, "price.exact"),
        ("/add_price", {"price": {"cents": 5, "exact": "1"}}, "price.exact"),
        ("/close/restart", {"arguments": {"hour": "8"}}, "hour"),
    ],
)
async def test_b22_b23_b24_types_are_taken_literally_at_every_depth(
    till: httpx.AsyncClient, path: str, body: Any, field: str
) -> None:
    reply = await till.post(path, json=body)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument"), reply.text
    assert reply.json()["errors"][0]["field"] == field
    assert (await till.get("/state")).headers["perdure-version"] == "0"


async def test_b24_a_type_that_says_it_is_lenient_is(till: httpx.AsyncClient) -> None:
    assert (await till.post("/add_lenient", json={"price": {"cents": "5"}})).json() == 5


# --- Conditions and lists (B37-B40) ----------------------------------------------------------------------------------


async def test_b37_versions_and_preconditions(till: httpx.AsyncClient) -> None:
    await till.post("/add", json={"cents": 5})
    stale = await till.post("/-/edit", json={"fields": {"total": 1}, "expected_version": 0})
    assert (stale.status_code, stale.json()["code"]) == (409, "version_conflict")
    for wrong in ("1", 1.5, None, True):
        reply = await till.post("/-/edit", json={"fields": {"total": 1}, "expected_version": wrong})
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument"), wrong
    for version in (-1, 2**70):
        reply = await till.post("/-/edit", json={"fields": {"total": 1}, "expected_version": version})
        assert (reply.status_code, reply.json()["code"]) in {(409, "version_conflict"), (422, "invalid_argument")}
    reply = await till.post("/add", json={"cents": 5}, headers={"If-Match": '"v0"'})
    assert (reply.status_code, reply.json()["code"]) == (400, "precondition_unsupported")
    assert (await till.get("/state")).json() == 5


async def test_b38_cursors_belong_to_their_list(till: httpx.AsyncClient) -> None:
    for number in range(3):
        await till.post(f"{HERE}/entities/Till/n-{number}/add", json={"cents": 5})
    search = f"{HERE}/entities/Till"
    page = (await till.get(f"{search}?total=5&limit=1")).json()
    cursor = page["next"]
    assert (await till.get(f"{search}?total=5&limit=2&after={cursor}")).status_code == 200
    middle = len(cursor) // 2
    damaged = cursor[:middle] + ("A" if cursor[middle] != "A" else "B") + cursor[middle + 1 :]
    for query_ in (
        f"total=6&after={cursor}",
        f"after={cursor}",
        f"total__ge=5&after={cursor}",
        f"total=5&after={damaged}",
        f"total=5&after={cursor[:-4]}",
        "total=5&after=",
        "total=5&after=0/n-1",
        "total=5&after=%00",
    ):
        reply = await till.get(f"{search}?{query_}")
        assert (reply.status_code, reply.json()["code"]) == (400, "bad_cursor"), query_
    assert (await till.get(f"{HERE}/dead-letters?after={cursor}")).json()["code"] == "bad_cursor"
    assert (await till.get(f"{search}?total=5&after={cursor}&after={cursor}")).status_code == 422


@pytest.mark.parametrize(
    "query_",
    [
        "limit=0",
        "limit=-1",
        "limit=1000000000",
        "limit=1&limit=2",
        "total=; DROP TABLE entities",
        "total=' OR 1=1",
        "total=((((",
        "total=NaN",
        "total=1e999",
        "total__regex=(a+)+$",
        "total__like=%25",
        "sort=total",
        "order_by=total",
        "; DROP TABLE entities=1",
        "total->>'x'=1",
        "key=t-1",
        "__class__=x",
        "model_fields=x",
        "total__in=" + "1&total__in=" * 500 + "1",
        "total=" + "x" * 10_000,
    ],
    ids=lambda query_: query_[:24],
)
async def test_b38_b39_b40_what_is_no_condition_is_refused(till: httpx.AsyncClient, query_: str) -> None:
    reply = await till.get(f"{HERE}/entities/Till?{query_}")
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument"), reply.text
    assert len(reply.content) < 2_000


# --- Times (B34-B36) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "since",
    [
        "2026-01-01T00:00:00",
        "2026-01-01T24:00:00Z",
        "2026-06-30T23:59:60Z",
        "10000-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "now",
        "",
        "1e9",
    ],
)
async def test_b34_times_that_are_none_or_have_no_zone(till: httpx.AsyncClient, since: str) -> None:
    reply = await till.get(f"{HERE}/dead-letters", params={"since": since})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument"), reply.text


SPEC = {"type": "Till", "key": "t", "name": "add", "arguments": {"cents": 1}}
SCHEDULE = f"{HERE}/entities/PerdureSchedule/s"


@pytest.mark.parametrize(
    "when",
    [
        {"every": 0},
        {"every": -5},
        {"every": "PT0S"},
        {"every": "-PT5S"},
        {"every": 1e-9},
        {"every": "P500Y"},
        {"every": "soon"},
        {"every": "PT1H", "cron": "* * * * *"},
        {"every": "PT1H", "start_at": "2026-01-01T00:00:00"},
        {"every": "PT1H", "start_at": "2026-06-30T23:59:60Z"},
        {"every": "PT1H", "start_at": "2026-01-01T24:00:00Z"},
        {"every": "PT1H", "start_at": "10000-01-01T00:00:00Z"},
        {"every": "PT1H", "end_at": "2020-01-01T00:00:00Z", "start_at": "2021-01-01T00:00:00Z"},
        {"every": "PT1H", "jitter": "-PT1S"},
        {"cron": "61 * * * *"},
        {"cron": "0 0 31 2 *"},
        {"cron": "* * *"},
        {"cron": "* * * * * * * *"},
        {"cron": ""},
        {"cron": "0 0 * * *", "tz": "Mars/Olympus"},
        {"cron": "0 0 * * *", "tz": "../../etc/passwd"},
        {"cron": "0 0 * * *", "tz": ""},
        {},
        {"every": "PT1H", "name": "state"},
        {"every": "PT1H", "name": "nothing"},
        {"every": "PT1H", "arguments": {"cents": "1"}},
        {"every": "PT1H", "key": ""},
    ],
    ids=str,
)
async def test_b34_b35_b36_schedules_that_never_or_always_are_due(
    till: httpx.AsyncClient, when: dict[str, Any]
) -> None:
    reply = await till.post(f"{SCHEDULE}/create", json={"spec": SPEC | when})
    assert reply.status_code in {404, 422}, reply.text
    assert reply.json()["code"] in {"invalid_argument", "unknown_handler"}, reply.text
    assert (await till.get(f"{SCHEDULE}/describe")).json()["code"] == "no_such_schedule"


async def test_b36_a_schedule_that_is_right_is_made(till: httpx.AsyncClient) -> None:
    spec = SPEC | {"cron": "30 2 * * *", "tz": "Europe/Berlin"}  # on one night a year there is no half past two
    reply = await till.post(f"{SCHEDULE}/create", json={"spec": spec})
    assert reply.status_code == 200, reply.text
    assert (await till.get(f"{SCHEDULE}/describe")).status_code == 200


async def test_b34_waits_and_delays_have_bounds(till: httpx.AsyncClient) -> None:
    century = timedelta(days=366 * 101).total_seconds()
    for wrong in ("-1", str(century), "1e400", "nan", "soon", ""):
        reply = await till.post("/add", params={"delay": wrong}, json={"cents": 1}, headers={"Prefer": "respond-async"})
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument"), wrong
    assert (await till.get("/state")).json() == 0
