"""Repair of runs, and completion of activities by token, over HTTP: what is asked for, and what becomes of it."""

from typing import Any

import httpx
import pytest

from perdure.api import create_app
from perdure.entities import NoSuchOperation, OperationSettled
from perdure.entities.ids import EntityId
from perdure.entities.messages import Kind, Reply, Status
from perdure.entities.operate import read_act
from perdure.entities.testing import LocalCluster
from perdure.entities.tokens import make_token
from tests.engine.chores import Job, Outside, outside
from tests.engine.faults import FaultyStore
from tests.engine.scenes import world
from tests.engine.waiting import eventually

from .conftest import HERE
from .fake import FakeCaller

RUN = "/entities/Order/o-1/run"
TOKEN = make_token(EntityId("Order", "o/1"), "run/" + "r" * 32 + "/3")


@pytest.mark.parametrize(
    ("action", "body", "wanted"),
    [
        ("pause", {"reason": "audit", "operator": "ann"}, {"reason": "audit", "operator": "ann"}),
        ("pause", None, {}),
        ("resume", None, {}),
        ("retry", {"operation": 4}, {"operation": 4}),
        ("complete", {"operation": 4, "value": {"a": [1]}}, {"operation": 4, "value": b'{"a":[1]}'}),
        ("complete", {"operation": 4}, {"operation": 4, "value": b"null"}),
        ("fail", {"operation": 4, "error": {"message": "no", "type": "T"}}, {"operation": 4}),
    ],
)
async def test_an_action_is_one_message(
    http: httpx.AsyncClient, caller: FakeCaller, action: str, body: Any, wanted: dict[str, Any]
) -> None:
    reply = await http.post(f"{RUN}/{action}", **({} if body is None else {"json": body}))
    assert reply.status_code == 200, reply.text
    assert reply.json()["applied"] is True
    envelope = caller.envelope
    assert (envelope.kind, envelope.name) == (Kind.OPERATE, "run")
    act = read_act(envelope.args)
    assert act.action == action
    for name, value in wanted.items():
        got = getattr(act, name)
        assert (bytes(got) if name == "value" else got) == value
    if action == "fail":
        assert act.error is not None
        assert (act.error.message, act.error.type) == ("no", "T")


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("restart", {"arguments": {"product_id": 3}}),
        ("restart", None),
        ("rerun", {"from_operation": "charge", "keep_state": True}),
        ("rerun", {"from_operation": 3}),
        ("rerun", None),
    ],
)
async def test_a_new_run_is_answered_with_its_id(
    http: httpx.AsyncClient, caller: FakeCaller, action: str, body: Any
) -> None:
    caller.body = b'"run-2"'
    reply = await http.post(f"{RUN}/{action}", **({} if body is None else {"json": body}))
    assert (reply.status_code, reply.json()) == (202, {"run_id": "run-2"})
    assert reply.headers["location"] == f"{RUN}/result"
    act = read_act(caller.envelope.args)
    assert act.operation == (body or {}).get("from_operation")
    if body and "arguments" in body:
        assert bytes(act.value) == b'{"product_id":3}'


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("pause", {"why": "x"}),
        ("retry", {}),
        ("retry", {"operation": "4"}),
        ("retry", {"operation": -1}),
        ("complete", {"value": 1}),
        ("fail", {"operation": 4}),
        ("fail", {"operation": 4, "error": "no"}),
        ("restart", {"arguments": {"product": 3}}),
        ("rerun", {"from_operation": [1]}),
    ],
)
async def test_wrong_bodies_are_refused_before_anything_is_sent(
    http: httpx.AsyncClient, caller: FakeCaller, action: str, body: Any
) -> None:
    reply = await http.post(f"{RUN}/{action}", json=body)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument")
    assert caller.envelopes == []


@pytest.mark.parametrize(("error", "status"), [(NoSuchOperation("?"), 404), (OperationSettled("?"), 409)])
async def test_refusals_are_problems(
    http: httpx.AsyncClient, caller: FakeCaller, error: NoSuchOperation | OperationSettled, status: int
) -> None:
    caller.fail(error)
    for path, body in ((f"{RUN}/retry", {"operation": 1}), (f"/activities/{TOKEN}/complete", 5)):
        reply = await http.post(path, json=body)
        assert (reply.status_code, reply.json()["code"]) == (status, error.code)


# --- Tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "body", "action"),
    [("complete", {"a": 1}, "complete"), ("heartbeat", 5, "heartbeat"), ("fail", {"message": "no"}, "fail_attempt")],
)
async def test_a_token_is_an_address(
    http: httpx.AsyncClient, caller: FakeCaller, what: str, body: Any, action: str
) -> None:
    caller.answer = lambda envelope: Reply(envelope.id, Status.OK, b"null", 7)
    reply = await http.post(f"/activities/{TOKEN}/{what}", json=body, headers={"Idempotency-Key": "k"})
    assert (reply.status_code, reply.json()) == (200, {"applied": True, "idempotency_key": "k"})
    envelope = caller.envelope
    assert (envelope.type, envelope.key, envelope.name, envelope.kind) == ("Order", "o/1", "run", Kind.OPERATE)
    assert envelope.id == "run:k"
    act = read_act(envelope.args)
    assert (act.action, act.operation, act.run_id) == (action, 3, "r" * 32)


async def test_a_token_that_is_none_is_not_found(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    reply = await http.post("/activities/nonsense/complete", json=1)
    assert (reply.status_code, reply.json()["code"]) == (404, "no_such_operation")
    assert (await http.post(f"/activities/{TOKEN}/fail", json={})).status_code == 422
    for seconds in (-1, 1e300, "1"):
        body = {"message": "no", "retry_after_s": seconds}
        assert (await http.post(f"/activities/{TOKEN}/fail", json=body)).status_code == 422
    assert (await http.post(f"/activities/{TOKEN}/heartbeat", json="x" * 70_000)).status_code == 413
    assert caller.envelopes == []


async def test_the_whole_way() -> None:
    """Gateway and engine together: an activity is completed by its token, and seen waiting before."""
    world.reset()
    outside.__dict__.update(Outside().__dict__)
    store = FaultyStore()
    async with (
        LocalCluster([Job], store=store),
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app([Job])), base_url=HERE) as http,
    ):
        run = "/entities/Job/j/outside"
        assert (await http.post(f"{run}/start", json={"amount": 5})).status_code == 202
        await eventually(lambda: store.attempt_rows() != [])
        view = (await http.get(f"{run}/operations")).json()
        (operation,) = view["operations"]
        assert (view["status"], operation["status"], operation["token"]) == ("running", "outside", outside.tokens[0])
        token = operation["token"]
        assert (await http.post(f"/activities/{token}/heartbeat", json={"half": True})).status_code == 200
        assert (await http.post(f"/activities/{token}/complete", json="five")).status_code == 422
        assert (await http.post(f"/activities/{token}/complete", json=5)).status_code == 200
        assert (await http.get(f"{run}/result")).json() == 5
        assert (await http.post(f"/activities/{token}/complete", json=6)).status_code == 409
    world.reset()
