"""What a request asks for in its headers and parameters, and what it gets back."""

import json
from typing import Any

import httpx
import pytest

from perdure.entities.errors import Busy, CallTimeout, NoSuchRun, Unavailable
from perdure.entities.ids import keyed_message_id
from perdure.entities.messages import Kind, Reply, Status
from perdure.entities.store.port import StoreUnavailable

from .fake import FakeCaller

PICK_UP = "/orders/o-1/pick_up"


async def test_the_result_is_passed_on_as_it_is(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.body = b'{"total":1,"items":[]}'
    reply = await http.post("/orders/o-1/add", json={"item": {"name": "x"}})
    assert (reply.status_code, reply.content) == (200, caller.body)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"


async def test_an_entity_that_never_was_has_version_zero(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.version = 0
    assert (await http.get("/orders/o-1/state")).headers["perdure-version"] == "0"


# --- idempotency ------------------------------------------------------------------------------------------------------


async def test_the_idempotency_key_names_the_message(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    await http.post(PICK_UP, headers={"idempotency-key": "abc 1"})
    assert caller.envelope.id == keyed_message_id("pick_up", "abc 1")
    assert caller.envelope.is_retry


async def test_without_one_every_request_is_new(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    await http.post(PICK_UP)
    await http.post(PICK_UP)
    first, second = caller.envelopes
    assert first.id != second.id
    assert not first.is_retry
    assert first.position < second.position


@pytest.mark.parametrize("key", [b"", b"x" * 256, "é".encode(), b"a\tb", b"a\x7f"])
async def test_unusable_idempotency_keys_are_refused(http: httpx.AsyncClient, caller: FakeCaller, key: bytes) -> None:
    reply = await http.post(PICK_UP, headers=[(b"idempotency-key", key)])
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_idempotency_key")
    assert caller.envelopes == []


async def test_two_idempotency_keys_are_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post(PICK_UP, headers=[("idempotency-key", "a"), ("idempotency-key", "a")])
    assert reply.json()["code"] == "bad_idempotency_key"


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "wait_s"),
    [
        ("", {}, 30),
        ("?timeout=5", {}, 5),
        ("?timeout=0.5", {}, 0.5),
        ("?timeout=0", {}, 0.25),
        ("", {"prefer": "wait=7"}, 7),
        ("", {"prefer": 'wait="8"; foo, return=minimal'}, 8),
        ("?timeout=1e9", {}, 300),
        ("?timeout=5", {"prefer": "wait=7"}, 5),
    ],
)
async def test_callers_say_how_long_they_wait(
    http: httpx.AsyncClient, caller: FakeCaller, path: str, headers: dict[str, str], wait_s: float
) -> None:
    await http.post(PICK_UP + path, headers=headers)
    assert caller.envelope.timeout_us == round(wait_s * 1e6)
    assert caller.timeouts_s[0] == pytest.approx(wait_s, abs=0.5)


@pytest.mark.parametrize("value", ["-1", "abc", "", "nan", "inf", "1,5", "1&timeout=2"])
async def test_unusable_waits_are_refused(http: httpx.AsyncClient, caller: FakeCaller, value: str) -> None:
    reply = await http.post(f"{PICK_UP}?timeout={value}")
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["errors"][0]["field"]) == (422, "invalid_argument", "timeout")
    assert caller.envelopes == []


async def test_no_answer_in_time_says_how_to_find_out(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.refuse(CallTimeout("no answer"))
    reply = await http.post(f"{PICK_UP}?timeout=0.5")
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (504, "timeout")
    assert "may or may not have been applied" in problem["detail"]
    caller.answer = caller.success
    again = await http.post(PICK_UP, headers={"idempotency-key": problem["idempotency_key"]})
    assert again.status_code == 200
    first, second = caller.envelopes
    assert first.id == second.id
    assert second.is_retry


async def test_no_answer_to_a_query_just_means_to_ask_again(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.refuse(CallTimeout("no answer"))
    reply = await http.get("/orders/o-1/state")
    assert reply.status_code == 504
    assert "changes nothing" in reply.json()["detail"]
    assert "idempotency_key" not in reply.json()


async def test_no_result_yet_is_no_failure(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.refuse(CallTimeout("no answer"))
    reply = await http.get("/orders/o-1/run/result?timeout=2")
    assert (reply.status_code, reply.json()) == (202, {"status": "running", "waited_s": 2.0})
    assert reply.headers["retry-after"]


# --- one-way ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", ["respond-async", "Respond-Async, wait=10", "return=minimal,respond-async"])
async def test_respond_async_sends_instead_of_calling(http: httpx.AsyncClient, caller: FakeCaller, prefer: str) -> None:
    reply = await http.post(f"{PICK_UP}?delay=60", headers={"prefer": prefer, "idempotency-key": "k"})
    assert (reply.status_code, reply.json()) == (202, {"accepted": True, "idempotency_key": "k"})
    assert reply.headers["preference-applied"] == "respond-async"
    assert (caller.envelope.kind, caller.envelope.delay_us) == (Kind.SEND, 60_000_000)


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf", "1e20"])
async def test_unusable_delays_are_refused(http: httpx.AsyncClient, caller: FakeCaller, value: str) -> None:
    reply = await http.post(f"{PICK_UP}?delay={value}", headers={"prefer": "respond-async"})
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "delay")
    assert caller.envelopes == []


async def test_a_delay_needs_a_message_without_answer(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    reply = await http.post(f"{PICK_UP}?delay=5")
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_preference")
    assert caller.envelopes == []


# --- workflows --------------------------------------------------------------------------------------------------------


async def test_start_says_where_the_result_will_be(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    reply = await http.post("/orders/o-1/run/start", json={"product_id": 3})
    assert (reply.status_code, reply.json()) == (202, {"run_id": "run-1"})
    assert reply.headers["location"] == "/orders/o-1/run/result"
    assert caller.envelope.options == ""


async def test_a_run_can_be_started_anew(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    await http.post("/orders/o-1/run/start?restart=true", json={"product_id": 3})
    assert caller.envelope.options == "restart"
    reply = await http.post("/orders/o-1/run/start?restart=maybe", json={"product_id": 3})
    assert reply.status_code == 422


@pytest.mark.parametrize(
    ("body", "reason"),
    [(None, ""), ({}, ""), ({"reason": "wrong order"}, "wrong order"), ({"reason": "x" * 5_000}, "x" * 1_000)],
)
async def test_termination_has_a_reason(
    http: httpx.AsyncClient, caller: FakeCaller, body: dict[str, Any] | None, reason: str
) -> None:
    reply = (
        await http.post("/orders/o-1/run/terminate", json=body)
        if body is not None
        else await http.post("/orders/o-1/run/terminate")
    )
    assert reply.status_code == 202
    assert json.loads(caller.envelope.args) == {"reason": reason}


async def test_a_wrong_reason_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.post("/orders/o-1/run/terminate", json={"reason": 5})).status_code == 422
    assert (await http.post("/orders/o-1/run/terminate", json={"why": "x"})).status_code == 422


async def test_cancel_reads_no_body(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    assert (await http.post("/orders/o-1/run/cancel")).status_code == 202
    assert caller.envelope.args == b"{}"


# --- queries ----------------------------------------------------------------------------------------------------------


async def test_query_arguments_from_the_query_string(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    path = "/orders/o-1/find?size=large&at_least=3&since=2026-01-02T03:04:05%2B00:00&is_open=true&timeout=4"
    assert (await http.get(path)).status_code == 200
    assert json.loads(caller.envelope.args) == {
        "size": "large",
        "at_least": 3,
        "since": "2026-01-02T03:04:05Z",
        "is_open": True,
    }
    assert caller.envelope.timeout_us == 4_000_000


async def test_query_arguments_are_equal_in_both_forms(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    await http.get("/orders/o-1/find?at_least=3&size=large")
    await http.post("/orders/o-1/find", json={"size": "large", "at_least": 3})
    first, second = caller.envelopes
    assert first.args == second.args


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "size"),
        ("size=medium", "size"),
        ("size=large&at_least=x", "at_least"),
        ("size=large&at_least=1.5", "at_least"),
        ("size=large&since=yesterday", "since"),
        ("size=large&is_open=perhaps", "is_open"),
        ("size=large&other=1", "other"),
        ("size=large&size=small", "size"),
    ],
)
@pytest.mark.parametrize("prefix", ["/orders", "/entities/Order"])
async def test_wrong_query_strings_name_the_field(
    http: httpx.AsyncClient, *, caller: FakeCaller, query: str, field: str, prefix: str
) -> None:
    reply = await http.get(f"{prefix}/o-1/find?{query}")
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (422, "invalid_argument"), problem
    assert problem["errors"][0]["field"] == field
    assert caller.envelopes == []


async def test_a_query_may_have_an_argument_called_timeout(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    await http.get("/orders/o-1/wait_for?timeout=2.5", headers={"prefer": "wait=9"})
    assert json.loads(caller.envelope.args) == {"timeout": 2.5}
    assert caller.envelope.timeout_us == 9_000_000


async def test_arguments_that_fit_into_no_query_string_are_posted(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    reply = await http.get("/orders/o-1/like?item=x")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert (await http.post("/orders/o-1/like", json={"item": {"name": "x"}})).status_code == 200


# --- refusals of the cluster ------------------------------------------------------------------------------------------


async def test_a_full_mailbox_is_waited_out_then_told(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.fail(Busy("Order/o-1: 10000 messages wait already"), status=Status.BUSY)
    reply = await http.post(f"{PICK_UP}?timeout=0.2")
    problem = reply.json()
    assert (reply.status_code, problem["code"], reply.headers["retry-after"]) == (429, "busy", "1")
    assert problem["retry_after"] == 1
    assert len(caller.envelopes) > 1
    assert len({envelope.id for envelope in caller.envelopes}) == 1


async def test_unavailable_says_when_to_retry(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.refuse(Unavailable("Order/o-1: no host"))
    reply = await http.post(PICK_UP)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


async def test_no_owner_is_unavailable(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.answer = lambda envelope: Reply(envelope.id, Status.NOT_OWNER)
    assert (await http.post(PICK_UP)).json()["code"] == "unavailable"


@pytest.mark.parametrize(("maybe_applied", "status"), [(False, 503), (True, 504)])
async def test_a_lost_database_says_whether_it_may_have_been_applied(
    http: httpx.AsyncClient, caller: FakeCaller, maybe_applied: bool, status: int
) -> None:
    caller.fail(StoreUnavailable("the connection broke", maybe_applied=maybe_applied))
    reply = await http.post(PICK_UP)
    assert reply.status_code == status
    assert ("retry-after" in reply.headers) == (not maybe_applied)
    assert ("idempotency_key" in reply.json()) == maybe_applied


async def test_errors_carry_the_version_too(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.fail(NoSuchRun("Order/o-1.run was never started"))
    reply = await http.get("/orders/o-1/run/result")
    assert (reply.status_code, reply.headers["perdure-version"], reply.json()["version"]) == (404, "7", 7)


@pytest.mark.parametrize(
    ("header", "passed"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("garbage", False),
        ("00-xyz", False),
        ("x" * 10_000, False),
    ],
)
async def test_a_malformed_trace_is_ignored(
    http: httpx.AsyncClient, caller: FakeCaller, header: str, passed: bool
) -> None:
    assert (await http.post(PICK_UP, headers={"traceparent": header})).status_code == 200
    assert caller.envelope.trace == (header if passed else "")
