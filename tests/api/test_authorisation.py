"""What a caller may do: grants, roles, authorisers; and what a refusal tells."""

import json
import logging
import re
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import Depends, FastAPI, Request
from pydantic import SecretStr, ValidationError

from perdure.api import (
    ApiClient,
    Asked,
    Grant,
    Guard,
    Principal,
    Refused,
    Right,
    Settings,
    create_app,
    entity_router,
    install,
    principal_of,
)
from perdure.entities.ids import EntityId
from perdure.entities.messages import Kind
from perdure.entities.operate import read_act
from perdure.entities.tokens import make_token

from .fake import FakeCaller
from .shop import Customer, Order

MASTER = "m" * 32
KEYS = {name: f"{name}-" + "k" * 32 for name in ("clerk", "viewer", "mechanic", "elsewhere", "nobody", "searcher")}
ROLES = {"clerk": ("Order.pick_up:call", "Order.state:read", "shop/Customer:read"), "mechanic": ("Order:operate",)}
TOKEN = make_token(EntityId("Order", "o-1"), "run/0123/4")


def settings(**changes: Any) -> Settings:
    def client(name: str, **more: Any) -> ApiClient:
        return ApiClient(keys=(SecretStr(KEYS[name]),), **more)

    return Settings(
        api_keys=(SecretStr(MASTER),),
        roles=ROLES,
        clients={
            "clerk": client("clerk", roles=("clerk",)),
            "viewer": client("viewer", grants=("*:read",)),
            "mechanic": client("mechanic", roles=("mechanic",)),
            "elsewhere": client("elsewhere", grants=("*:admin",), namespace="other"),
            "searcher": client("searcher", grants=("Order:list",)),
            "nobody": client("nobody"),
        },
        **changes,
    )


@pytest.fixture(scope="module")
def locked() -> FastAPI:
    app = create_app([Order, Customer], settings=settings(), namespace="shop")
    app.include_router(entity_router(Order, settings=settings()), prefix="/orders")
    return app


def client(app: Any, name: str = "") -> httpx.AsyncClient:
    key = KEYS.get(name, name)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.example", headers=headers)


async def status(app: Any, who: str, method: str, path: str, **more: Any) -> int:
    async with client(app, who) as http:
        return (await http.request(method, path, **more)).status_code


REQUESTS: list[tuple[str, str, Right]] = [
    ("POST", "/entities/Order/o/pick_up", Right.CALL),
    ("POST", "/entities/Order/o/add", Right.CALL),
    ("POST", "/entities/Order/o/note", Right.CALL),
    ("POST", "/entities/Order/o/decision", Right.CALL),
    ("POST", "/entities/Customer/c/ordered", Right.CALL),
    ("POST", "/entities/Order/o/run/start", Right.CALL),
    *(("POST", f"/activities/{TOKEN}/{what}", Right.CALL) for what in ("heartbeat", "complete", "fail")),
    *(("GET", f"/entities/Order/o/{query}", Right.READ) for query in ("state", "find", "wait_for")),
    *(("POST", f"/entities/Order/o/{query}", Right.READ) for query in ("state", "find", "like", "wait_for")),
    ("GET", "/entities/Order/o/run/result", Right.READ),
    ("GET", "/entities/Order/o/-/history", Right.READ),
    ("GET", "/entities/Order/o/-/events", Right.READ),
    ("GET", "/entities/Order/o/-/state", Right.READ),
    ("GET", "/entities/Order/o/-/diff?from=1&to=2", Right.READ),
    ("GET", "/entities/Order/o/-/export", Right.READ),
    ("GET", "/entities/Order/o/-/now", Right.READ),
    ("GET", "/entities/Order/o/-/outbox", Right.READ),
    ("GET", "/dead-letters?type=Order", Right.READ),
    *(
        ("GET", path, Right.READ)
        for path in ("/overview", "/types", "/hosts", "/all-entities", "/reminders", "/schedules", "/audit", "/metrics")
    ),
    ("GET", "/entities/Order", Right.LIST),
    ("GET", "/entities/Order/o/run/operations", Right.OPERATE),
    ("POST", "/entities/Order/o/run/cancel", Right.OPERATE),
    ("POST", "/entities/Order/o/run/terminate", Right.OPERATE),
    *(
        ("POST", f"/entities/Order/o/run/{action}", Right.OPERATE)
        for action in ("pause", "resume", "retry", "complete", "fail", "restart", "rerun")
    ),
    *(("POST", f"/entities/Order/o/-/{what}", Right.OPERATE) for what in ("edit", "fork", "replay", "discard")),
    ("POST", "/replay?type=Order", Right.OPERATE),
    ("POST", "/hosts/h1/drain", Right.OPERATE),
    ("POST", "/entities/PerdureSchedule/s/create", Right.ADMIN),
    ("POST", "/entities/PerdureEvents/e/publish", Right.ADMIN),
]


@pytest.mark.parametrize("right", list(Right))
async def test_each_request_needs_its_right(caller: FakeCaller, right: Right) -> None:
    """A table over every kind of route: with the right it is not refused, with all others it is."""
    granted = ApiClient(keys=(SecretStr(KEYS["clerk"]),), grants=(f"*:{right}",))
    app = create_app([Order, Customer], settings=Settings(clients={"clerk": granted}))
    refused = [
        (method, path, needed)
        for method, path, needed in REQUESTS
        if await status(app, "clerk", method, path, json={}) == 403
    ]
    expected = [request for request in REQUESTS if right not in (request[2], Right.ADMIN)]
    assert refused == expected


ELSEWHERE: dict[tuple[str, str], str] = {
    ("GET", "/livez"): "test_access.test_every_route_but_health_needs_a_key",
    ("GET", "/readyz"): "test_access.test_every_route_but_health_needs_a_key",
    ("GET", "/entities"): "test_authorisation.test_the_lists_show_what_one_may_see",
    ("GET", "/entities/{type}/{key}"): "test_authorisation.test_the_lists_show_what_one_may_see",
    ("GET", "/worklist"): "test_worklist.test_everybody_sees_what_they_may_decide",
    ("POST", "/worklist/{id}"): "test_worklist.test_only_the_group_and_operators_may_decide",
}
"""Routes whose answer depends on more than one right, and the tests of what it depends on."""


async def test_the_table_knows_every_route(locked: FastAPI) -> None:
    """By method and path: a new route without a line above would not be tested, so this fails."""
    known = {(method, path.partition("?")[0]) for method, path, _ in REQUESTS}
    missing = {
        (method.upper(), path)
        for path, operations in locked.openapi()["paths"].items()
        for method in operations
        if not path.startswith("/orders/")  # the same routes again, below another prefix
        and not any(verb == method.upper() and re.fullmatch(pattern_of(path), asked) for verb, asked in known)
    }
    assert missing == set(ELSEWHERE)


def pattern_of(path: str) -> str:
    """What a path of OpenAPI stands for."""
    return re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_tests_of_other_routes_exist(test: str) -> None:
    module, _, name = test.partition(".")
    assert f"def {name}(" in (Path(__file__).parent / f"{module}.py").read_text()


@pytest.mark.parametrize(
    ("who", "asked", "expected"),
    [
        ("clerk", ("POST", "/entities/Order/o/pick_up"), 200),
        ("clerk", ("POST", "/orders/o/pick_up"), 200),
        ("clerk", ("GET", "/entities/Order/o/state"), 200),
        ("clerk", ("GET", "/orders/o/state"), 200),
        ("clerk", ("POST", "/orders/o/run/start"), 403),
        ("clerk", ("POST", "/entities/Order/o/add"), 403),
        ("clerk", ("POST", "/entities/Customer/c/ordered"), 403),
        ("clerk", ("GET", "/entities/Order/o/-/state"), 403),
        ("clerk", ("GET", "/entities/Order"), 403),
        ("clerk", ("GET", "/dead-letters"), 403),
        ("viewer", ("POST", "/entities/Order/o/pick_up"), 403),
        ("viewer", ("GET", "/entities/Order/o/state"), 200),
        ("mechanic", ("POST", "/entities/Order/o/run/pause"), 200),
        ("mechanic", ("POST", "/entities/Customer/c/-/edit"), 403),
        ("mechanic", ("POST", "/entities/Order/o/pick_up"), 403),
        ("nobody", ("POST", "/entities/Order/o/pick_up"), 403),
        ("nobody", ("GET", "/entities/Order/o"), 403),
        ("elsewhere", ("POST", "/entities/Order/o/pick_up"), 403),
        ("elsewhere", ("GET", "/openapi.json"), 403),
        (MASTER, ("POST", "/entities/Order/o/pick_up"), 200),
        (MASTER, ("POST", "/entities/Order/o/run/pause"), 200),
    ],
)
async def test_what_is_not_granted_is_refused(
    locked: FastAPI, caller: FakeCaller, who: str, asked: tuple[str, str], expected: int
) -> None:
    assert await status(locked, who, *asked, json={}) == expected
    assert bool(caller.envelopes) == (expected == 200)


@pytest.mark.parametrize("path", ["Order/o/{}", "Order/o/{}/start", "{}/o/pick_up"])
async def test_a_refusal_does_not_tell_what_there_is(locked: FastAPI, caller: FakeCaller, path: str) -> None:
    names = ("Customer", "Nothing") if path.startswith("{}") else ("add", "nothing")
    async with client(locked, "clerk") as http:
        replies = [await http.post("/entities/" + path.format(name), json={}) for name in names]
    bodies = [reply.json() | {"request_id": "", "instance": ""} for reply in replies]
    assert [reply.status_code for reply in replies] == [403, 403]
    assert json.dumps(bodies[0]).replace(names[0], names[1]) == json.dumps(bodies[1])


async def test_the_lists_show_what_one_may_see(locked: FastAPI) -> None:
    seen: dict[str, list[str]] = {}
    for who in ("clerk", "searcher", "nobody", MASTER):
        async with client(locked, who) as http:
            seen[who] = [one["type"] for one in (await http.get("/entities")).json()["types"]]
    assert seen == {"clerk": ["Order", "Customer"], "searcher": ["Order"], "nobody": [], MASTER: ["Order", "Customer"]}
    async with client(locked, "clerk") as http:
        told = (await http.get("/entities/Order/o")).json()["operations"]
    assert {one["name"] for one in told} == {"pick_up", "state"}


# --- operators --------------------------------------------------------------------------------------------------------


async def test_a_body_cannot_forge_who_did_it(locked: FastAPI, caller: FakeCaller) -> None:
    async with client(locked, "mechanic") as http:
        reply = await http.post("/entities/Order/o/run/pause", json={"operator": "the boss", "reason": "why"})
    assert reply.status_code == 200
    act = read_act(caller.envelope.args)
    assert (act.operator, act.reason) == ("mechanic", "why")


@pytest.mark.parametrize(("action", "kind"), [("cancel", Kind.CANCEL), ("terminate", Kind.TERMINATE)])
async def test_the_end_of_a_run_says_who_asked_for_it(
    locked: FastAPI, caller: FakeCaller, action: str, kind: Kind
) -> None:
    assert await status(locked, "mechanic", "POST", f"/entities/Order/o/run/{action}") == 202
    assert caller.envelope.kind is kind
    assert msgspec.json.decode(caller.envelope.args)["operator"] == "mechanic"


async def test_without_credentials_the_body_may_say_who_it_is(app: FastAPI, http: Any, caller: FakeCaller) -> None:
    await http.post("/entities/Order/o/run/pause", json={"operator": "ann"})
    assert read_act(caller.envelope.args).operator == "ann"


async def test_what_operators_do_is_audited_refused_or_not(
    locked: FastAPI, caller: FakeCaller, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "perdure.audit"):
        await status(locked, "mechanic", "POST", "/entities/Order/o%0Aforged/run/pause")
        await status(locked, "clerk", "POST", "/entities/Order/o/-/edit", json={})
        await status(locked, "clerk", "POST", "/entities/Order/o/pick_up", json={})
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in lines] == ["INFO", "WARNING"]
    assert "allowed 'mechanic': POST run:operate of 'Order/o\\nforged' in shop" in lines[0][1]
    assert "refused 'clerk': POST -:operate of 'Order/o' in shop" in lines[1][1]


async def test_the_subject_of_a_token_does_not_pass_for_a_client(
    caller: FakeCaller, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may choose their name at an identity provider could otherwise act under that of a client."""
    subject = Principal(subject="mechanic", origin="token", grants=(Grant.parse("Order:operate"),))

    async def authenticate(_: Request) -> Principal | None:
        return subject

    app = create_app([Order], settings=settings(), namespace="shop", authenticator=authenticate)
    with caplog.at_level(logging.INFO, "perdure.audit"):
        assert await status(app, "", "POST", "/entities/Order/o/run/pause") == 200
    assert read_act(caller.envelope.args).operator == "token:mechanic"
    assert "allowed 'token:mechanic': POST" in caplog.text
    with pytest.raises(ValidationError, match="cannot begin with token:"):
        Settings(clients={"token:mechanic": ApiClient(keys=(SecretStr(MASTER),))})


# --- hooks ------------------------------------------------------------------------------------------------------------


async def by_header(request: Request) -> Principal | None:
    name = request.headers.get("x-user", "")
    if name == "banned":
        raise Refused(403, "forbidden", "go away")
    return Principal(subject=name, grants=(Grant.parse("Order:read"),)) if name else None


async def own_orders(principal: Principal, asked: Asked) -> bool | None:
    if asked.right is Right.CALL:
        return asked.key == principal.subject
    return None


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        ({"x-user": "ann"}, "/entities/Order/ann/pick_up", 200),
        ({"x-user": "ann"}, "/entities/Order/bob/pick_up", 403),
        ({"x-user": "ann"}, "/entities/Order/bob/state", 200),
        ({"x-user": "ann"}, "/entities/Order/ann/run/pause", 403),
        ({"x-user": "banned"}, "/entities/Order/ann/pick_up", 403),
        ({}, "/entities/Order/ann/pick_up", 401),
        ({"authorization": f"Bearer {MASTER}"}, "/entities/Order/bob/state", 200),
    ],
)
async def test_an_application_may_decide_for_itself(
    caller: FakeCaller, headers: dict[str, str], path: str, expected: int
) -> None:
    keys = Settings(api_keys=(SecretStr(MASTER),))
    app = create_app([Order], settings=keys, authenticator=by_header, authoriser=own_orders)
    async with client(app) as http:
        assert (await http.post(path, headers=headers, json={})).status_code == expected


async def test_an_authenticator_alone_closes_the_gateway(caller: FakeCaller) -> None:
    app = create_app([Order], settings=Settings(), authenticator=by_header)
    assert await status(app, "", "GET", "/entities/Order/o/state") == 401


@pytest.mark.parametrize("is_guarded_twice", [False, True])
async def test_an_open_path_gives_nobody_the_rights_of_this_machine(caller: FakeCaller, is_guarded_twice: bool) -> None:
    opened = Settings(insecure_bind=True)
    path = "/entities/Order/ann/state"
    app: Any = create_app([Order], settings=opened, authenticator=by_header, open_paths=[path])
    app = Guard(app, opened) if is_guarded_twice else app  # one around it that lets everybody do everything
    assert await status(app, "", "GET", path) == 401
    assert caller.envelopes == []
    assert await status(app, "", "GET", path, headers={"x-user": "ann"}) == 200


async def test_routes_of_ones_own_learn_who_calls(caller: FakeCaller) -> None:
    app = FastAPI()
    install(app)

    @app.get("/me")
    async def me(who: Annotated[Principal, Depends(principal_of)]) -> str:
        return who.subject

    assert await status(app, "", "GET", "/me") == 401
    async with client(Guard(app, settings()), MASTER) as http:
        assert (await http.get("/me")).json().startswith("key-")


async def test_routes_without_a_guard_are_closed_if_there_are_credentials(caller: FakeCaller) -> None:
    app = FastAPI()
    app.include_router(entity_router(Order, settings=settings()))
    assert await status(app, MASTER, "POST", "/o/pick_up") == 401
    assert caller.envelopes == []


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grant",
    [
        "",
        "Order",
        "Order:",
        ":read",
        "Order:write",
        "Order.:read",
        "*.*.*:read",
        "a/b/c:read",
        "Order:read,",
    ],
)
def test_a_grant_that_is_none_is_refused(grant: str) -> None:
    with pytest.raises(ValidationError, match="is no grant"):
        Settings(roles={"r": (grant,)})


@pytest.mark.parametrize(
    ("grant", "asked", "expected"),
    [
        ("*:read", Asked("a", "Order", "state", "o", Right.READ), True),
        ("*:read", Asked("a", "*", "-", "", Right.READ), True),
        ("Order:read", Asked("a", "*", "-", "", Right.READ), False),
        ("Order:call,read", Asked("a", "Order", "state", "o", Right.READ), True),
        ("Order.*:call", Asked("a", "Order", "pick_up", "o", Right.CALL), True),
        ("Order.-:read", Asked("a", "Order", "state", "o", Right.READ), False),
        ("a/Order:read", Asked("a", "Order", "state", "o", Right.READ), True),
        ("b/Order:read", Asked("a", "Order", "state", "o", Right.READ), False),
        ("Order:admin", Asked("a", "Order", "state", "o", Right.OPERATE), True),
        ("Order:admin", Asked("a", "Orders", "state", "o", Right.OPERATE), False),
        ("Order:operate", Asked("a", "Order", "state", "o", Right.READ), False),
    ],
)
def test_what_a_grant_covers(grant: str, asked: Asked, expected: bool) -> None:
    assert Grant.parse(grant).allows(asked) is expected


def test_clients_come_from_the_environment_and_only_hashes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "old-" + "k" * 32, "new-" + "k" * 32
    monkeypatch.setenv("PERDURE_CLIENTS", json.dumps({"shop": {"keys": [old, new], "grants": ["Order:call"]}}))
    held = Settings().clients["shop"].keys
    assert all(key.get_secret_value().startswith("sha256:") for key in held)
    assert old not in str([key.get_secret_value() for key in held])


@pytest.mark.parametrize(
    ("clients", "why"),
    [
        ({"a": {"keys": []}}, "at least 1"),
        ({"a": {"keys": ["k" * 16, "l" * 16, "m" * 16]}}, "at most 2"),
        ({"a": {"keys": ["canary"]}}, "API key is 16"),
        ({"a": {"keys": ["k" * 16], "roles": ["missing"]}}, "PERDURE_ROLES does not define"),
        ({"a\nb": {"keys": ["k" * 16]}}, "printable"),
        ({"a": {"keys": ["k" * 16], "grant": ["*:read"]}}, "Extra inputs"),
    ],
)
def test_wrong_clients_are_refused_without_showing_a_key(clients: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        Settings(clients=clients)
    assert "canary" not in str(caught.value)
    assert "kkkk" not in str(caught.value)


async def test_both_keys_of_a_client_are_good_while_one_is_being_replaced(caller: FakeCaller) -> None:
    keys = (SecretStr("old-" + "k" * 32), SecretStr("new-" + "k" * 32))
    app = create_app([Order], settings=Settings(clients={"shop": ApiClient(keys=keys, grants=("Order:call",))}))
    statuses = [await status(app, key.get_secret_value(), "POST", "/entities/Order/o/pick_up") for key in keys]
    assert statuses == [200, 200]
    assert await status(app, "other-" + "k" * 32, "POST", "/entities/Order/o/pick_up") == 401
