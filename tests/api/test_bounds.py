"""Nothing that a caller chooses makes an answer large or slow to make, nor costs the database (S25, S29, S30)."""

import json
import time

import httpx
import pytest

from perdure.entities.client import set_default

from .fake import FakeCaller

LONG = "x" * 20_000
ANSWER_BYTES_MAX = 12_000
"""Twenty problems, each with a name and a reason of bounded length."""
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/{LONG}"),
        ("GET", f"/entities/{LONG}"),
        ("POST", f"/entities/{LONG}/k/pick_up"),
        ("GET", f"/entities/{LONG}/k"),
        ("POST", f"/entities/Order/{LONG}/pick_up"),
        ("POST", f"/entities/Order/k/{LONG}"),
        ("POST", f"/entities/Order/k/run/{LONG}"),
        ("DELETE", f"/entities/Order/{LONG[:500]}/pick_up"),
        ("GET", f"/entities/Order/k/find?size={LONG}"),
        ("GET", f"/entities/Order/k/find?{LONG}=1"),
        ("GET", "/entities/Order/k/find?" + "&".join(f"f{number}={LONG[:500]}" for number in range(40))),
        ("GET", f"/entities/Order/k/state?timeout={LONG}"),
        ("GET", f"/entities/Order?{LONG[:4_000]}=1"),
        ("GET", f"/entities/Order?items={LONG[:4_000]}"),
        ("GET", f"/entities/Order?after={LONG[:4_000]}"),
        ("GET", f"/entities/Order/k/-/history?kind={LONG}"),
        ("GET", f"/dead-letters?since={LONG}"),
        ("GET", f"/dead-letters?after={LONG}"),
        ("POST", f"/activities/{LONG}/complete"),
    ],
    ids=lambda value: value.replace("x" * 10, "").replace("xxxxx", "")[:50],
)
async def test_long_names_give_short_answers(
    http: httpx.AsyncClient, caller: FakeCaller, method: str, path: str
) -> None:
    reply = await http.request(method, path)
    assert 400 <= reply.status_code < 500, reply.text[:500]
    assert len(reply.content) < ANSWER_BYTES_MAX
    assert all(len(value) < 1_000 for value in reply.headers.values())
    assert caller.envelopes == []


@pytest.mark.parametrize(
    "body",
    [
        {"x" * 1_000_000: 1},
        {f"{number}-{'x' * 1_000}": 1 for number in range(1_000)},
        {"item": {"name": ["x" * 1_000_000]}},
        {"item": {"name": "x", "parts": [{"x" * 10_000: 1}] * 50}, "y" * 9_000: 1},
        {"item": {"name": "x", "parts": [{"name": 1}] * 5_000}},
        {"item": {"name": "x"}, "times": "x" * 1_000_000},
    ],
    ids=["one name", "many names", "a value", "nested names", "many errors", "a number"],
)
async def test_large_wrong_bodies_give_short_answers(
    http: httpx.AsyncClient, caller: FakeCaller, body: dict[str, object]
) -> None:
    for path in ("add", "run/start", "decision", "run/complete", "-/edit", "-/fork"):
        reply = await http.post(f"/entities/Order/k/{path}", json=body)
        assert reply.status_code == 422, reply.text[:500]
        assert len(reply.content) < ANSWER_BYTES_MAX, path
    assert caller.envelopes == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2_000_000,
        b'{"a":' * 300_000,
        b"{" + b",".join(b'"k%d":1' % number for number in range(150_000)) + b',"k1":2}',
        b'{"item":"' + b"\\ud800" * 300_000 + b'"}',
        b'{"item":"' + b"\\\\" * 900_000 + b'\\u0000"}',
        b'{"item":' + b"9" * 2_000_000 + b"}",
        b'{"item":' + b"[" * 60 + b'{"a":1,"a":2},' * 100_000,
        b"1" + b" " * 2_000_000,
        b'"' + b"\\" * 2_000_001,
        b"{" + b'"' * 2_000_000,
    ],
    ids=["brackets", "objects", "keys", "surrogates", "nul", "digits", "cut off", "blanks", "escapes", "quotes"],
)
async def test_hostile_json_is_refused_in_linear_time(http: httpx.AsyncClient, caller: FakeCaller, body: bytes) -> None:
    begin = time.process_time()
    reply = await http.post("/entities/Order/k/add", content=body[: 2 * 1024 * 1024], headers=JSON)
    assert 400 <= reply.status_code < 500
    assert len(reply.content) < ANSWER_BYTES_MAX
    assert time.process_time() - begin < 5, "a quadratic check of 2 MB takes hours"
    assert caller.envelopes == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/entities/Order?limit=0", 422),
        ("GET", "/entities/Order?colour=red", 422),
        ("GET", "/entities/Order?after=x", 400),
        ("GET", "/entities/Order?items=" + "x" * 5_000, 422),
        ("GET", "/entities/Order/%00/-/state", 400),
        ("GET", "/entities/Order/k/-/history?limit=0", 422),
        ("GET", "/entities/Order/k/-/diff?from=1", 422),
        ("GET", "/dead-letters?limit=x", 422),
        ("GET", "/dead-letters?since=2026-01-01", 422),
        ("POST", "/entities/Order/k/-/edit", 415),
        ("POST", "/entities/Order/k/add", 422),
        ("POST", "/activities/nonsense/complete", 404),
    ],
)
async def test_what_is_refused_asks_nobody(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    """Cheap checks come first: without any connection the answer is the same."""
    set_default(None)
    reply = await http.request(method, path)
    assert reply.status_code == status, reply.text
    assert json.loads(reply.content)["code"] != "not_connected"
