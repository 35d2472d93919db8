"""What a body may be (rows B1-B12, B21-B24 of the table of bad inputs). Nothing that is refused reaches an entity."""

import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import hypothesis
import hypothesis.strategies as st
import pytest

from perdure.api import Settings
from perdure.api.problems import Refused
from perdure.api.strict_json import DEPTH_MAX, check_json

from .fake import FakeCaller
from .shop import Item

ADD = "/entities/Order/o-1/add"
JSON = {"content-type": "application/json"}

WRONG_JSON: list[tuple[bytes, str]] = [
    (b"{", "bad_json"),
    (b'{"item":', "bad_json"),
    (b'{"item":{"name":"x"}', "bad_json"),
    (b'{"item":{"name":"x"}}}', "bad_json"),
    (b'{"item":{"name":"x"},}', "bad_json"),
    (b"{'item':1}", "bad_json"),
    (b"hello", "bad_json"),
    (b"   ", "bad_json"),
    (b'\xef\xbb\xbf{"item":{"name":"x"}}', "bad_json"),
    (b'{"item":{"name":"\x01"}}', "bad_json"),
    (b'{"item":{"name":"\\x"}}', "bad_json"),
    (b'{"times":01,"item":{"name":"x"}}', "bad_json"),
    (b'{"item":{"name":"\xff"}}', "bad_encoding"),
    (b'{"\xc3(":1}', "bad_encoding"),
    (json.dumps({"item": {"name": "é"}}, ensure_ascii=False).encode("latin-1"), "bad_encoding"),
    (json.dumps({"item": {"name": "x"}}).encode("utf-16"), "bad_encoding"),
    (b'{"times":NaN,"item":{"name":"x"}}', "bad_number"),
    (b'{"times":Infinity}', "bad_number"),
    (b'{"times":-Infinity}', "bad_number"),
    (b'{"times":1e400}', "bad_number"),
    (b'{"times":-1e999}', "bad_number"),
    (b'{"times":1,"times":2,"item":{"name":"x"}}', "duplicate_key"),
    (b'{"item":{"name":"x","name":"y"}}', "duplicate_key"),
    (b'{"item":{"name":"x","n\\u0061me":"y"}}', "duplicate_key"),
    (b'{"item":{"name":"x","parts":[{"name":"a"},{"name":"b","name":"c"}]}}', "duplicate_key"),
    (b'{"item":{"name":"a\\u0000b"}}', "nul_not_allowed"),
    (b'{"item\\u0000":{"name":"x"}}', "nul_not_allowed"),
    (b'{"item":{"name":"\\\\\\u0000"}}', "nul_not_allowed"),
    (b'{"item":{"name":"\\ud800"}}', "bad_unicode"),
    (b'{"item":{"name":"\\udc00x"}}', "bad_unicode"),
    (b'{"item":{"name":"\\ud800\\ud800"}}', "bad_unicode"),
    (b'{"item":{"name":"\\ud83d then text"}}', "bad_unicode"),
    (b'{"times":' + b"9" * 5_000 + b"}", "number_too_long"),
    (b'{"times":-' + b"9" * 50_000 + b"}", "number_too_long"),
    (b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "too_deep"),
    (b"[" * 100_000, "too_deep"),
    (b'{"a":' * 100_000, "too_deep"),
    (b'{"item":' + b"[" * 500 + b"]" * 500 + b"}", "too_deep"),
]


@pytest.mark.parametrize(
    ("body", "code"), WRONG_JSON, ids=[f"{code}-{number}" for number, (_, code) in enumerate(WRONG_JSON)]
)
async def test_what_parsers_read_differently_is_refused(
    http: httpx.AsyncClient, caller: FakeCaller, body: bytes, code: str
) -> None:
    reply = await http.post(ADD, content=body, headers=JSON)
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (400, code), problem
    assert problem["entity"] == "Order/o-1"
    assert len(reply.content) < 1_500
    assert caller.envelopes == []


@pytest.mark.parametrize("path", ["note", "run/start", "run/terminate", "find"])
async def test_the_checks_are_those_of_every_operation(http: httpx.AsyncClient, caller: FakeCaller, path: str) -> None:
    reply = await http.post(f"/entities/Order/o-1/{path}", content=b'{"a":1,"a":2}', headers=JSON)
    assert (reply.status_code, reply.json()["code"]) == (400, "duplicate_key")
    assert caller.envelopes == []


async def test_bad_json_says_where(http: httpx.AsyncClient) -> None:
    problem = (await http.post(ADD, content=b'{\n "item": {\n  "name": x}}', headers=JSON)).json()
    assert problem["position"] == 23
    assert "line 3 column 11" in problem["detail"]


async def test_nul_says_where(http: httpx.AsyncClient) -> None:
    body = b'{"item":{"name":"x","parts":[{"name":"ok"},{"name":"a\\u0000"}]}}'
    problem = (await http.post(ADD, content=body, headers=JSON)).json()
    assert problem["pointer"] == "/item/parts/1/name"


GOOD_JSON = [
    b'{"item":{"name":"x"}}',
    b' \n{ "item" : { "name" : "http://x:1/{[" } , "times" : 2 }\n',
    b'{"item":{"name":"\\ud83d\\ude00 \\u00e9 \\\\u0000 NaN"}}',
    '{"item":{"name":"é ☃ 😀"}}'.encode(),
    b'{"item":{"name":"' + b"[{" * 500 + b'"}}',
    b'{"item":{"name":"x","count":' + b"9" * 300 + b"}}",
    b'{"item":{"name":"x","parts":' + b'[{"name":"y","parts":' * 20 + b"[]" + b"}]" * 20 + b"}}",
]


@pytest.mark.parametrize("body", GOOD_JSON, ids=[str(number) for number in range(len(GOOD_JSON))])
async def test_what_all_parsers_read_alike_passes(http: httpx.AsyncClient, caller: FakeCaller, body: bytes) -> None:
    reply = await http.post(ADD, content=body, headers=JSON)
    assert reply.status_code == 200, reply.text
    sent, arrived = json.loads(body), json.loads(caller.envelope.args)
    assert Item.model_validate(arrived.pop("item")) == Item.model_validate(sent.pop("item"))
    assert arrived == sent


async def test_equal_input_is_written_alike_however_it_came(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    for body in (b'{"times":2,"item":{"name":"\\u00e9"}}', '{ "item": {"name": "é"}, "times": 2 }'.encode()):
        assert (await http.post(ADD, content=body, headers=JSON)).status_code == 200
    first, second = caller.envelopes
    assert first.args == second.args


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def refusal(body: bytes) -> Refused | None:
    try:
        check_json(body)
    except Refused as refused:
        return refused
    return None


@hypothesis.given(json_values, st.booleans())
def test_any_storable_json_passes(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii)
    refused = refusal(text.encode(errors="surrogatepass"))
    code = None if refused is None else refused.code
    if any("\ud800" <= char <= "\udfff" for char in text):
        assert code == "bad_encoding"
    else:
        assert code == ("nul_not_allowed" if "\\u0000" in text.replace("\\\\", "") else None)


@hypothesis.given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_pass_or_are_refused_in_our_words(body: bytes) -> None:
    refused = refusal(body)
    if refused is None:
        json.loads(body)
    else:
        assert refused.status == 400
        assert refused.message


@hypothesis.given(json_values, st.data())
def test_damaged_json_passes_or_is_refused_in_our_words(value: Any, data: st.DataObject) -> None:
    body = bytearray(json.dumps(value).encode())
    at = data.draw(st.integers(0, len(body) - 1))
    damage = data.draw(st.sampled_from([b"", b"\\", b'"', b"\\ud800", b"\xff", b"NaN", b"[", b"1e999", b"9" * 9_000]))
    body[at : at + data.draw(st.integers(0, 3))] = damage
    refused = refusal(bytes(body))
    if refused is None:
        json.loads(body)
    else:
        assert refused.status == 400


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/json; charset=latin-1",
        "text/json",
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_refused(
    http: httpx.AsyncClient, caller: FakeCaller, content_type: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    reply = await http.post(ADD, content=b'{"item":{"name":"x"}}', headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
    assert reply.headers["accept"] == "application/json"
    assert caller.envelopes == []


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/vnd.x+json"],
)
async def test_json_may_be_declared_in_these_ways(http: httpx.AsyncClient, content_type: str) -> None:
    reply = await http.post(ADD, content=b'{"item":{"name":"x"}}', headers={"content-type": content_type})
    assert reply.status_code == 200


async def test_no_body_is_no_arguments(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    assert (await http.post("/entities/Order/o-1/pick_up")).status_code == 200
    assert caller.envelope.args == b"{}"
    assert (await http.post(ADD)).json()["code"] == "invalid_argument"
    assert (await http.post("/entities/Order/o-1/note", headers=JSON)).json()["code"] == "bad_json"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
async def test_compressed_bodies_are_refused(http: httpx.AsyncClient, caller: FakeCaller, encoding: str) -> None:
    reply = await http.post(
        ADD, content=gzip.compress(b" " * 10_000_000), headers=JSON | {"content-encoding": encoding}
    )
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
    assert caller.envelopes == []


async def test_a_body_over_the_limit_is_refused_by_its_length(
    http: httpx.AsyncClient, caller: FakeCaller, settings: Settings
) -> None:
    reply = await http.post(ADD, content=b" " * (settings.body_bytes_max + 1), headers=JSON)
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (413, "payload_too_large")
    assert (problem["limit"], problem["got"]) == (settings.body_bytes_max, settings.body_bytes_max + 1)
    assert reply.headers["connection"] == "close"
    assert caller.envelopes == []


async def test_a_chunked_body_over_the_limit_is_not_read_to_its_end(
    http: httpx.AsyncClient, caller: FakeCaller, settings: Settings
) -> None:
    sent = 0

    async def chunks() -> AsyncGenerator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 65_536
            yield b" " * 65_536

    reply = await http.post(ADD, content=chunks(), headers=JSON)
    assert (reply.status_code, reply.json()["code"]) == (413, "payload_too_large")
    assert sent <= settings.body_bytes_max + 2 * 65_536
    assert caller.envelopes == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "item"),
        (b'{"item":null}', "item"),
        (b'{"item":"x"}', "item"),
        (b'{"item":{}}', "item.name"),
        (b'{"item":{"name":"x"},"times":"5"}', "times"),
        (b'{"item":{"name":"x"},"times":true}', "times"),
        (b'{"item":{"name":"x"},"times":1.5}', "times"),
        (b'{"item":{"name":"x"},"extra":1}', "extra"),
        (b'{"item":{"name":"x","parts":[{"name":1}]}}', "item.parts.0.name"),
        (b"[1,2]", ""),
        (b"null", ""),
        (b'"x"', ""),
    ],
)
async def test_arguments_that_do_not_fit_name_the_field(
    http: httpx.AsyncClient, caller: FakeCaller, body: bytes, field: str
) -> None:
    reply = await http.post(ADD, content=body, headers=JSON)
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (422, "invalid_argument")
    assert problem["errors"][0]["field"] == field
    assert problem["errors"][0]["pointer"] == "#" + "".join(f"/{part}" for part in field.split(".") if part)
    assert caller.envelopes == []


@pytest.mark.parametrize("body", [b"5", b"null", b"{}", b'{"name":"x"}'])
async def test_an_item_that_does_not_fit_its_mailbox_is_refused(
    http: httpx.AsyncClient, caller: FakeCaller, body: bytes
) -> None:
    reply = await http.post("/entities/Order/o-1/note", content=body, headers=JSON)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_argument")
    assert caller.envelopes == []


@pytest.mark.parametrize("content_type", ["application/problem+json"])
async def test_refusals_hold_no_stack(http: httpx.AsyncClient, content_type: str) -> None:
    reply = await http.post(ADD, content=b"[" * 100_000, headers=JSON)
    assert reply.headers["content-type"] == content_type
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text
