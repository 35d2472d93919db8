"""Every error is a problem: its status, its code, and nothing that callers must not see."""

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from perdure.api import install
from perdure.api.explain import error_page
from perdure.api.problems import OWN_CODES, TABLE, row_of
from perdure.entities.errors import (
    ERRORS,
    ApplicationError,
    CallCycle,
    ErrorBody,
    HandlerFailed,
    PerdureError,
    WorkflowFailed,
    error_body,
)
from perdure.entities.messages import Reply, Status, encode_json

from .conftest import HERE
from .fake import FakeCaller
from .shop import Order

PICK_UP = "/orders/o-1/pick_up"
SECRET = "postgresql://root:hunter2@db"


@pytest.mark.parametrize("code", sorted(ERRORS))
async def test_every_error_of_an_entity_has_a_status(http: httpx.AsyncClient, caller: FakeCaller, code: str) -> None:
    error = ERRORS[code]("Order/o-1: what happened")
    caller.fail(error)
    reply = await http.post(PICK_UP)
    problem = reply.json()
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.status_code == problem["status"] == row_of(error).status >= 400
    assert problem["code"] == code
    assert problem["type"] == f"/docs/errors#{code}"
    assert problem["instance"] == PICK_UP
    assert problem["entity"] == "Order/o-1"
    assert problem["title"]
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert ("retry-after" in reply.headers) == ("retry_after" in problem) == bool(row_of(error).retry_after_s)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("bad_key", 400),
        ("unknown_type", 404),
        ("unknown_handler", 404),
        ("invalid_argument", 422),
        ("payload_too_large", 413),
        ("idempotency_mismatch", 409),
        ("already_started", 409),
        ("run_ended", 409),
        ("entity_parked", 423),
        ("busy", 429),
        ("unavailable", 503),
        ("not_connected", 503),
        ("timeout", 504),
        ("application_error", 422),
        ("handler_failed", 500),
        ("workflow_failed", 422),
    ],
)
def test_statuses_are_those_that_are_documented(code: str, status: int) -> None:
    assert row_of(ERRORS[code]("x")).status == status


def test_every_class_of_the_tree_is_in_the_table_itself() -> None:
    framework = {cls for cls in ERRORS.values() if cls.__module__ == PerdureError.__module__}
    assert framework <= TABLE.keys()


async def test_a_business_failure_is_told_in_full(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.fail(ApplicationError("card declined", type="CardDeclined", card="4242", reason={"code": 5}))
    problem = (await http.post(PICK_UP)).json()
    assert (problem["status"], problem["detail"], problem["error_type"]) == (422, "card declined", "CardDeclined")
    assert problem["details"] == {"card": "4242", "reason": {"code": 5}}


async def test_an_unexpected_error_is_told_by_its_class_only(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.fail(HandlerFailed(f"Order/o-1.pick_up raised KeyError: {SECRET}", error_type="KeyError", where=SECRET))
    reply = await http.post(PICK_UP)
    assert (reply.status_code, reply.json()["error_type"]) == (500, "KeyError")
    assert SECRET not in reply.text


async def test_a_workflow_that_failed_on_purpose_says_why(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    error = WorkflowFailed("Order/o-1.run failed: card declined", error_type="CardDeclined")
    error.__cause__ = ApplicationError("card declined", type="CardDeclined")
    caller.fail(error)
    problem = (await http.get("/orders/o-1/run/result")).json()
    assert problem["status"] == 422
    assert problem["cause"] == {"error_type": "CardDeclined", "message": "card declined"}


async def test_a_workflow_that_broke_says_only_how(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    body = ErrorBody(
        "workflow_failed",
        f"Order/o-1.run failed: {SECRET}",
        details={"error_type": "KeyError"},
        cause=error_body(KeyError(SECRET)),
    )
    caller.answer = lambda envelope: Reply(envelope.id, Status.ERROR, encode_json(body), 3)
    reply = await http.get("/orders/o-1/run/result")
    assert (reply.json()["error_type"], reply.status_code) == ("KeyError", 422)
    assert SECRET not in reply.text


async def test_details_of_any_kind_do_not_break_the_answer(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.refuse(CallCycle("a cycle", chain=("A/a#run", "B/b#run"), odd=object()))
    reply = await http.post(PICK_UP)
    assert (reply.status_code, reply.json()["chain"]) == (409, ["A/a#run", "B/b#run"])


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1:2", True), ("a b", False), ("x" * 200, False), ("<script>", False)]
)
async def test_the_request_id_of_the_caller_is_kept_if_it_is_one(
    http: httpx.AsyncClient, given: str, kept: bool
) -> None:
    reply = await http.post("/orders/o-1/nothing", headers={"x-request-id": given})
    assert (reply.json()["request_id"] == given) == kept


async def test_routes_of_the_user_answer_in_the_same_way(caller: FakeCaller) -> None:
    app = FastAPI()
    install(app)

    @app.get("/{key}")
    async def pick(key: str) -> str:
        await Order.ref(key).pick_up()
        return "done"

    @app.get("/http/{key}")
    async def http_error(key: str) -> str:
        raise HTTPException(418, "teapot")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        assert (await http.get("/o-1")).json() == "done"
        caller.fail(ApplicationError("no"))
        reply = await http.get("/o-1")
        assert (reply.status_code, reply.json()["code"]) == (422, "application_error")
        assert (await http.get("/%20")).json()["code"] == "bad_key"
        assert (await http.get("/http/x")).json() == {"detail": "teapot"}  # not ours: left alone


async def test_with_every_error_there_is_one_shape() -> None:
    app = FastAPI()
    install(app, every_error=True)

    @app.get("/teapot")
    async def teapot() -> str:
        raise HTTPException(418, "teapot")

    @app.get("/bug")
    async def bug() -> str:
        raise RuntimeError(SECRET)

    @app.get("/number/{value}")
    async def number(value: int) -> int:
        return value

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
        replies = {path: await http.get(path) for path in ("/teapot", "/bug", "/number/x", "/nowhere")}
    codes = {path: (reply.status_code, reply.json()["code"]) for path, reply in replies.items()}
    assert codes == {
        "/teapot": (418, "http_error"),
        "/bug": (500, "internal_error"),
        "/number/x": (422, "invalid_argument"),
        "/nowhere": (404, "not_found"),
    }
    assert SECRET not in replies["/bug"].text
    assert replies["/number/x"].json()["errors"][0]["field"] == "path.value"


async def test_the_page_of_a_problem_explains_its_code(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs/errors")).json()
    assert page == error_page()
    assert page.keys() >= {cls.code for cls in TABLE} | set(OWN_CODES)
    assert all(entry["meaning"] and entry["next"] and entry["do"] for entry in page.values())


async def test_a_browser_gets_a_page_with_a_place_for_each_code(http: httpx.AsyncClient) -> None:
    reply = await http.get("/docs/errors", headers={"accept": "text/html,*/*;q=0.8"})
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert [code for code in error_page() if f'<section id="{code}">' not in reply.text] == []


async def test_not_connected_says_how_to_connect(app: FastAPI) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        reply = await http.post(PICK_UP)
    assert (reply.status_code, reply.json()["code"]) == (503, "not_connected")
    assert "lifespan" in reply.json()["detail"]
