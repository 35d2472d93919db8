"""Which request reaches which entity, and what the others are told."""

from urllib.parse import unquote

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from starlette.routing import Match

from perdure.api import Settings, create_app, entity_router
from perdure.api.routes import DirectRoute
from perdure.entities.ids import KEY_BYTES_MAX
from perdure.entities.messages import Kind

from .conftest import HERE
from .fake import FakeCaller, asgi
from .shop import Order


@pytest.mark.parametrize(
    ("method", "path", "kind", "name", "status"),
    [
        ("POST", "pick_up", Kind.CALL, "pick_up", 200),
        ("GET", "state", Kind.QUERY, "state", 200),
        ("POST", "state", Kind.QUERY, "state", 200),
        ("POST", "run/start", Kind.START, "run", 202),
        ("GET", "run/result", Kind.RESULT, "run", 200),
        ("POST", "run/cancel", Kind.CANCEL, "run", 202),
        ("POST", "run/terminate", Kind.TERMINATE, "run", 202),
        ("GET", "run/operations", Kind.OPERATIONS, "run", 200),
        ("POST", "run/pause", Kind.OPERATE, "run", 200),
        ("POST", "run/resume", Kind.OPERATE, "run", 200),
        ("POST", "note", Kind.SIGNAL, "note", 202),
    ],
)
async def test_every_operation_is_one_message(
    http: httpx.AsyncClient, *, caller: FakeCaller, method: str, path: str, kind: Kind, name: str, status: int
) -> None:
    body: object = {"product_id": 3} if kind is Kind.START else "hello" if kind is Kind.SIGNAL else {}
    reply = await http.request(method, f"/entities/Order/o-1/{path}", json=None if method == "GET" else body)
    assert reply.status_code == status, reply.text
    envelope = caller.envelope
    assert (envelope.type, envelope.key, envelope.kind, envelope.name) == ("Order", "o-1", kind, name)
    assert reply.headers["perdure-version"] == "7"
    assert reply.headers["etag"] == '"v7"'


KEYS = [
    ("a%2Fb", "a/b"),
    ("a%2fb", "a/b"),
    ("%2F", "/"),
    ("a%2Fpick_up", "a/pick_up"),
    ("x%2Frun%2Fstart", "x/run/start"),
    ("caf%C3%A9", "café"),
    ("%E2%98%83%2F%E2%98%83", "☃/☃"),
    ("a%20b", "a b"),
    ("50%25", "50%"),
    ("a%252Fb", "a%2Fb"),
    ("a.b.", "a.b."),
    ("...", "..."),
    ("a;b=c,d", "a;b=c,d"),
    ("%EF%BF%BD", "\N{REPLACEMENT CHARACTER}"),
    ("a%3Fb%23c", "a?b#c"),
]


@pytest.mark.parametrize(("path", "key"), KEYS)
@pytest.mark.parametrize("prefix", ["/entities/Order", "/orders"])
async def test_a_key_is_one_percent_encoded_segment(
    http: httpx.AsyncClient, *, caller: FakeCaller, path: str, key: str, prefix: str
) -> None:
    reply = await http.post(f"{prefix}/{path}/pick_up")
    assert reply.status_code == 200, reply.text
    assert (caller.envelope.key, caller.envelope.name) == (key, "pick_up")


@pytest.mark.parametrize(("path", "key"), KEYS)
async def test_keys_with_slashes_cannot_name_another_operation(
    http: httpx.AsyncClient, caller: FakeCaller, path: str, key: str
) -> None:
    reply = await http.post(f"/entities/Order/{path}/run/start", json={"product_id": 1})
    assert reply.status_code == 202
    assert (caller.envelope.key, caller.envelope.name, caller.envelope.kind) == (key, "run", Kind.START)
    assert reply.headers["location"] == f"/entities/Order/{path}/run/result"


async def test_a_slash_that_is_not_encoded_is_no_key(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    reply = await http.post("/entities/Order/a/b/c/pick_up")
    assert reply.status_code == 404
    assert "%2F" in reply.json()["detail"]
    assert caller.envelopes == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", "bad_key"),
        ("%20", "bad_key"),
        ("%20%20", "bad_key"),
        ("a%00b", "bad_key"),
        ("a%00%2Fb", "bad_key"),
        ("a%0Ab", "bad_key"),
        ("a%7F", "bad_key"),
        ("x" * (KEY_BYTES_MAX + 1), "bad_key"),
        ("%C3%A9" * (KEY_BYTES_MAX // 2 + 1), "bad_key"),
        ("%FF", "bad_encoding"),
        ("a%FF%2Fb", "bad_encoding"),
        ("%ED%A0%80", "bad_encoding"),
    ],
)
@pytest.mark.parametrize("prefix", ["/entities/Order", "/orders"])
async def test_unusable_keys_are_refused(
    http: httpx.AsyncClient, *, caller: FakeCaller, path: str, code: str, prefix: str
) -> None:
    reply = await http.post(f"{prefix}/{path}/pick_up")
    assert (reply.status_code, reply.json()["code"]) == (400, code)
    assert caller.envelopes == []


@pytest.mark.parametrize("segment", [".", "..", "%2E", "%2e%2E"])
async def test_dot_segments_are_refused(app: FastAPI, caller: FakeCaller, segment: str) -> None:
    # clients remove them, and so does httpx; so the request is made by hand
    status = await asgi(app, "POST", f"/entities/Order/{segment}/pick_up")
    assert status == 400
    assert caller.envelopes == []


async def test_keys_that_differ_only_in_case_or_normal_form_are_different(
    http: httpx.AsyncClient, caller: FakeCaller
) -> None:
    for path in ("%C3%A9", "e%CC%81", "E", "e"):
        await http.post(f"/entities/Order/{path}/pick_up")
    assert len({envelope.key for envelope in caller.envelopes}) == 4


async def test_unknown_type_names_close_ones(http: httpx.AsyncClient) -> None:
    reply = await http.post("/entities/Ordr/o-1/pick_up")
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["suggestions"]) == (404, "unknown_type", ["Order"])


@pytest.mark.parametrize("prefix", ["/entities/Order", "/orders"])
async def test_unknown_handler_names_close_ones(http: httpx.AsyncClient, prefix: str) -> None:
    reply = await http.post(f"{prefix}/o-1/pickup")
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["suggestions"]) == (404, "unknown_handler", ["pick_up"])
    assert "pick_up" in problem["detail"]


@pytest.mark.parametrize("name", ["_terminate", "__init__", "model_dump", "key", "ref", "items", "perdure_", "new"])
async def test_what_is_no_handler_cannot_be_reached(http: httpx.AsyncClient, caller: FakeCaller, name: str) -> None:
    reply = await http.post(f"/entities/Order/o-1/{name}")
    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_handler")
    assert caller.envelopes == []


@pytest.mark.parametrize("prefix", ["/entities/Order", "/orders"])
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "pick_up", "POST"),
        ("DELETE", "pick_up", "POST"),
        ("PUT", "state", "GET, POST"),
        ("GET", "run/start", "POST"),
        ("POST", "run/result", "GET"),
        ("HEAD", "state", "GET, POST"),
    ],
)
async def test_wrong_method_names_the_right_ones(
    http: httpx.AsyncClient, *, prefix: str, method: str, path: str, allow: str
) -> None:
    reply = await http.request(method, f"{prefix}/o-1/{path}")
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)


async def test_a_workflow_is_not_called_like_a_handler(http: httpx.AsyncClient) -> None:
    reply = await http.post("/entities/Order/o-1/run", json={"product_id": 1})
    assert reply.status_code == 404
    assert "run/start" in reply.json()["detail"]


async def test_routes_of_the_application_beside_an_entity_router_win(caller: FakeCaller) -> None:
    app = FastAPI()
    app.include_router(entity_router(Order), prefix="/orders")

    @app.get("/orders/{order_id}/invoice")
    async def invoice(order_id: str) -> str:
        return order_id

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        assert (await http.get("/orders/o-1/invoice")).json() == "o-1"
        assert (await http.get("/orders/o-1/invoices")).json()["code"] == "unknown_handler"


async def test_entity_router_below_prefixes_mounts_and_root_paths(caller: FakeCaller) -> None:
    inner = FastAPI()
    group = APIRouter(prefix="/tenants/{tenant}")
    group.include_router(entity_router(Order), prefix="/orders")
    inner.include_router(group)
    outer = FastAPI()
    outer.mount("/shop", inner)
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
        reply = await http.post("/shop/tenants/t%2F1/orders/a%2Fb/run/start", json={"product_id": 1})
    assert reply.status_code == 202, reply.text
    assert caller.envelope.key == "a/b"
    assert reply.headers["location"] == "/shop/tenants/t%2F1/orders/a%2Fb/run/result"


async def test_dependencies_guard_every_route(caller: FakeCaller) -> None:
    def refuse() -> None:
        raise HTTPException(401, "who are you?")

    app = FastAPI()
    app.include_router(entity_router(Order, dependencies=[Depends(refuse)]), prefix="/orders")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        for path in ("pick_up", "run/start", "unknown", "note"):
            assert (await http.post(f"/orders/o-1/{path}", json={})).status_code == 401
    assert caller.envelopes == []


async def test_a_dependency_may_read_the_body_too(caller: FakeCaller) -> None:
    seen: list[bytes] = []

    async def read(request: Request) -> None:
        seen.append(await request.body())

    app = FastAPI()
    app.include_router(entity_router(Order, dependencies=[Depends(read)]), prefix="/orders")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        await http.post("/orders/o-1/run/start", json={"product_id": 1})
        await http.post("/orders/o-1/note", json="hello")
    assert seen == [b'{"product_id":1}', b'"hello"']
    assert [envelope.args for envelope in caller.envelopes] == [b'{"product_id":1}', b'"hello"']


async def test_an_entity_describes_itself(http: httpx.AsyncClient) -> None:
    types = (await http.get("/entities")).json()["types"]
    assert [found["type"] for found in types] == ["Order", "Customer"]
    described = (await http.get("/entities/Order/a%2Fb")).json()
    assert described["key"] == "a/b"
    paths = {operation["path"] for operation in described["operations"]}
    assert "/entities/Order/a%2Fb/run/start" in paths
    assert (await http.get("/entities/Nothing/x")).json()["code"] == "unknown_type"


async def test_nothing_elsewhere_is_a_problem_too(http: httpx.AsyncClient) -> None:
    reply = await http.get("/nowhere")
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert reply.headers["content-type"] == "application/problem+json"


async def test_schedules_are_reached_by_the_generic_routes_without_being_listed(
    http: httpx.AsyncClient, caller: FakeCaller
) -> None:
    reply = await http.post("/entities/PerdureSchedule/nightly/pause", json={"note": "holiday"})
    assert reply.status_code == 200
    assert (caller.envelope.type, caller.envelope.key, caller.envelope.name) == ("PerdureSchedule", "nightly", "pause")
    operations = (await http.get("/entities/PerdureSchedule/nightly")).json()["operations"]
    assert {"create", "trigger", "backfill", "describe", "delete"} <= {operation["name"] for operation in operations}
    wrong = await http.post("/entities/PerdureSchedule/nightly/create", json={"spec": {"type": "Order"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_argument")


@pytest.mark.parametrize(
    ("path", "is_members"),
    [
        ("/entities/Order/o-1/pick_up", True),
        ("/entities/Order/o-1/run/start", True),
        ("/entities/Order/a%2Fb/pick_up", True),
        ("/entities/Order/-/pick_up", True),
        ("/entities/Order/o-1/-/history", False),
        ("/entities/Order/o-1/-/state", False),
        ("/entities/Order/o-1", False),
        ("/entities/Order", False),
        ("/worklist/17", False),
    ],
)
def test_members_stand_first_and_take_nothing_else(path: str, *, is_members: bool) -> None:
    first = create_app([Order], settings=Settings()).router.routes[:2]
    raw = path.encode()
    scope = {"type": "http", "method": "POST", "path": unquote(path), "raw_path": raw, "headers": []}
    matches = [route.matches(scope)[0] for route in first]
    assert (Match.FULL in matches) == is_members
    assert {type(route) for route in first} == {DirectRoute}
