"""Webhooks: what is not signed rightly reaches nobody, what is signed rightly is applied once."""

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from perdure.api import (
    GithubSignature,
    Guard,
    Refused,
    Settings,
    StandardWebhookSignature,
    StripeSignature,
    WebhookEvent,
    WebhookScheme,
    create_app,
    install,
    webhook,
    webhook_router,
)
from perdure.api.console.beside import Console
from perdure.api.limits import Limits
from perdure.api.serve import guarded
from perdure.entities import Unavailable
from perdure.entities.messages import Kind
from perdure.entities.testing import LocalCluster

from .bank import Account
from .conftest import HERE
from .fake import FakeCaller

OLD, NEW = "whsec_b2xkIHNlY3JldA==", "whsec_bmV3IHNlY3JldA=="
BODY = b'{"id":"evt_1","account":"a","amount":5}'


def stripe(body: bytes, *secrets: str, at: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    signatures = [hmac.digest(key.encode(), stamp.encode() + b"." + body, "sha256").hex() for key in secrets]
    return {"stripe-signature": ",".join([f"t={stamp}", "v0=old", *(f"v1={one}" for one in signatures)])}


def github(body: bytes, *secrets: str, at: float | None = None) -> dict[str, str]:
    [secret] = secrets
    signature = hmac.digest(secret.encode(), body, "sha256").hex()
    return {"x-hub-signature-256": f"sha256={signature}", "x-github-delivery": "evt_1"}


def standard(body: bytes, *secrets: str, at: float | None = None) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    signed = f"evt_1.{stamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(["v1a,other", *(f"v1,{one}" for one in signatures)]),
    }


SCHEMES: dict[str, tuple[Any, Any]] = {
    "stripe": (StripeSignature, stripe),
    "github": (GithubSignature, github),
    "standard": (StandardWebhookSignature, standard),
}
every_scheme = pytest.mark.parametrize(("scheme", "sign"), SCHEMES.values(), ids=SCHEMES)


def refusal(scheme: WebhookScheme, headers: Mapping[str, str], body: bytes = BODY) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        scheme.verify(headers, body)
    return refused.value.status, refused.value.code


# --- Signatures -------------------------------------------------------------------------------------------------------


@every_scheme
def test_a_right_signature_gives_the_events_id(scheme: Any, sign: Any) -> None:
    assert scheme(NEW).verify(sign(BODY, NEW), BODY) == "evt_1"


@every_scheme
def test_during_a_rotation_two_secrets_are_right(scheme: Any, sign: Any) -> None:
    rotating = scheme([OLD, SecretStr(NEW)])
    for secret in (OLD, NEW):
        assert rotating.verify(sign(BODY, secret), BODY) == "evt_1"
    assert refusal(scheme(NEW), sign(BODY, OLD)) == (401, "bad_signature")


@every_scheme
def test_what_is_signed_is_the_body_to_the_byte(scheme: Any, sign: Any) -> None:
    assert refusal(scheme(NEW), sign(BODY, NEW), BODY + b" ") == (401, "bad_signature")
    assert refusal(scheme(NEW), sign(BODY, NEW), BODY.replace(b"5", b"9")) == (401, "bad_signature")


@every_scheme
def test_a_signature_that_is_missing_cut_or_nonsense_is_none(scheme: Any, sign: Any) -> None:
    right = sign(BODY, NEW)
    assert refusal(scheme(NEW), {}) == (401, "bad_signature")
    name = next(name for name in right if "signature" in name)
    for wrong in ("", " ", ",", "=", "v1=", "v1,", "sha256=", "t=,v1=", "\xe4\u2603", right[name][:-1], "v1" * 5_000):
        assert refusal(scheme(NEW), right | {name: wrong}) == (401, "bad_signature"), wrong


@pytest.mark.parametrize(("scheme", "sign"), [SCHEMES["stripe"], SCHEMES["standard"]], ids=["stripe", "standard"])
@pytest.mark.parametrize("age_s", [-1_000, 1_000, 10**9])
def test_an_old_signature_is_a_replay(scheme: Any, sign: Any, age_s: int) -> None:
    headers = sign(BODY, NEW, at=time.time() - age_s)
    assert refusal(scheme(NEW), headers) == (401, "stale_signature")
    assert scheme(NEW, tolerance=timedelta(days=20_000)).verify(headers, BODY) == "evt_1"


def test_a_time_that_is_changed_is_not_signed() -> None:
    old = stripe(BODY, NEW, at=1)["stripe-signature"]
    now = {"stripe-signature": old.replace("t=1,", f"t={int(time.time())},")}
    assert refusal(StripeSignature(NEW), now) == (401, "bad_signature")
    headers = standard(BODY, NEW) | {"webhook-id": "evt_2"}
    assert refusal(StandardWebhookSignature(NEW), headers) == (401, "bad_signature")


def test_a_time_that_is_no_number_is_stale_even_if_signed() -> None:
    signature = hmac.digest(NEW.encode(), b"\xc2\xb2." + BODY, "sha256").hex()
    assert refusal(StripeSignature(NEW), {"stripe-signature": f"t=\xb2,v1={signature}"}) == (401, "stale_signature")


def test_several_signatures_of_one_request_are_all_looked_at() -> None:
    assert StripeSignature(NEW).verify(stripe(BODY, OLD, NEW), BODY) == "evt_1"
    assert StandardWebhookSignature(NEW).verify(standard(BODY, OLD, NEW), BODY) == "evt_1"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":5}', b'{"id":""}', b'{"id":"a\\u0000b"}', b"[" * 100_000])
def test_an_event_without_an_id_could_not_be_told_from_its_repeat(body: bytes) -> None:
    assert refusal(StripeSignature(NEW), stripe(body, NEW), body) == (400, "bad_webhook")


def test_an_id_that_is_not_signed_may_be_replaced_by_a_hash_of_what_is() -> None:
    headers = github(BODY, NEW) | {"x-github-delivery": "forged"}
    assert GithubSignature(NEW).verify(headers, BODY) == "forged"
    assert GithubSignature(NEW, id_from_body=True).verify(headers, BODY) == hashlib.sha256(BODY).hexdigest()
    del headers["x-github-delivery"]
    assert refusal(GithubSignature(NEW), headers) == (400, "bad_webhook")


def test_a_scheme_of_ones_own_headers() -> None:
    scheme = GithubSignature(NEW, header="x-signature", id_header="x-id")
    headers = {"x-signature": github(BODY, NEW)["x-hub-signature-256"], "x-id": "7"}
    assert scheme.verify(headers, BODY) == "7"
    svix = {name.replace("webhook", "svix"): value for name, value in standard(BODY, NEW).items()}
    assert StandardWebhookSignature(NEW, prefix="svix").verify(svix, BODY) == "evt_1"


def test_every_pair_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    headers = stripe(BODY, NEW, OLD)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    StripeSignature([NEW, OLD]).verify(headers, BODY)
    assert len(compared) == 4


@every_scheme
@pytest.mark.parametrize("secrets", ["", " ", [], [NEW, ""]])
def test_no_secret_is_refused_when_it_is_declared(scheme: Any, sign: Any, secrets: Any) -> None:
    with pytest.raises(ValueError, match="secret"):
        scheme(secrets)


@every_scheme
def test_secrets_are_shown_nowhere(scheme: Any, sign: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = scheme([OLD, NEW])
    with caplog.at_level(logging.DEBUG), pytest.raises(Refused) as refused:
        made.verify(sign(BODY, "whsec_d3Jvbmc="), BODY)
    for secret in (OLD, NEW, base64.b64decode(NEW.removeprefix("whsec_")).decode()):
        assert secret not in f"{made!r} {made} {refused.value!r} {refused.value.details} {caplog.text}"
    with pytest.raises(ValueError, match="base64") as wrong:
        StandardWebhookSignature("whsec_not base64!")
    assert "not base64!" not in str(wrong.value)


# --- Delivery ---------------------------------------------------------------------------------------------------------


def to(event: WebhookEvent) -> Any:
    told = event.json()
    return Account.ref(told["account"]).received if "account" in told else None


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(webhook_router("/hooks", StripeSignature(NEW), to, settings=Settings(body_bytes_max=2_000)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        yield http


async def post(http: httpx.AsyncClient, body: bytes = BODY, *, path: str = "/hooks", secret: str = NEW) -> Any:
    headers = {"content-type": "application/json"} | stripe(body, secret)
    return await http.post(path, content=body, headers=headers)


async def test_a_redelivery_does_nothing_twice(http: httpx.AsyncClient) -> None:
    async with LocalCluster([Account]) as cluster:
        for _ in range(3):
            reply = await post(http)
            assert (reply.status_code, reply.json()) == (202, {"accepted": True, "id": "evt_1"})
        await cluster.crash()
        changed = await post(http, BODY.replace(b"}", b',"pending_webhooks":1}'))
        assert (changed.status_code, changed.json()["accepted"]) == (200, True)
        await post(http, BODY.replace(b"evt_1", b"evt_2"))
        await cluster.drained()
        assert await Account.ref("a").events_seen() == ["evt_1", "evt_2"]


async def test_nothing_that_is_refused_reaches_an_entity(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    replies = [
        await http.post("/hooks", content=BODY),
        await post(http, secret=OLD),
        await post(http, b'{"account":"a"}'),
        await post(http, BODY + b" " * 2_000),
        await post(http, b'{"id":"e","id":"e","account":"a"}'),
    ]
    assert [(reply.status_code, reply.json()["code"]) for reply in replies] == [
        (401, "bad_signature"),
        (401, "bad_signature"),
        (400, "bad_webhook"),
        (413, "payload_too_large"),
        (400, "duplicate_key"),
    ]
    assert caller.envelopes == []


async def test_an_event_for_nobody_is_not_sent_again(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    reply = await post(http, b'{"id":"evt_9"}')
    assert (reply.status_code, reply.json()) == (200, {"accepted": False, "id": "evt_9"})
    assert caller.envelopes == []


async def test_what_could_not_be_delivered_is_to_be_sent_again(http: httpx.AsyncClient, caller: FakeCaller) -> None:
    caller.refuse(Unavailable("no host"))
    assert (await post(http)).status_code == 503


@pytest.mark.parametrize(
    ("member", "kind", "args"),
    [
        ("received", Kind.SEND, b'{"event":{"id":"evt_1","account":"a","amount":5}}'),
        ("save", Kind.START, b'{"amount":5}'),
        ("notes", Kind.SIGNAL, b'"evt_1"'),
    ],
)
async def test_handlers_workflows_and_mailboxes_take_events(
    caller: FakeCaller, member: str, kind: Kind, args: bytes
) -> None:
    payloads = {"received": WebhookEvent.json, "save": lambda event: event.json()["amount"], "notes": lambda e: e.id}
    app = FastAPI()
    router = webhook_router(
        "/hooks", StripeSignature(NEW), lambda _: getattr(Account.ref("a"), member), payload=payloads[member]
    )
    app.include_router(router, prefix="/in")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        assert (await post(http, path="/in/hooks")).status_code == 202
    envelope = caller.envelope
    assert (envelope.kind, envelope.id, envelope.args) == (kind, f"{member}:evt_1", args)


async def test_as_a_dependency_of_ones_own_route(caller: FakeCaller) -> None:
    app = FastAPI()
    install(app)
    seen: list[WebhookEvent] = []

    @app.post("/hooks")
    async def hook(event: Annotated[WebhookEvent, Depends(webhook(StripeSignature(NEW)))]) -> None:
        seen.append(event)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as http:
        assert (await post(http)).status_code == 200
        refused = await post(http, secret=OLD)
    assert (refused.status_code, refused.json()["code"]) == (401, "bad_signature")
    [event] = seen
    assert (event.id, event.body, event.json()) == ("evt_1", BODY, json.loads(BODY))


async def test_an_application_of_ones_own_says_which_paths_are_open_and_is_guarded_once(caller: FakeCaller) -> None:
    keys = Settings(api_keys=(SecretStr("k" * 40),))
    own, bare = FastAPI(), FastAPI()
    for app in (own, bare):
        app.include_router(webhook_router("/hooks", StripeSignature(NEW), to))
        app.include_router(webhook_router("/closed", StripeSignature(NEW), to))
    own.add_middleware(Guard, settings=keys, open_paths=["/hooks"])
    seen: dict[str, list[int]] = {}
    for name, served in {"own": own, "bare": bare, "beside": Console(own, entities=[Account], settings=keys)}.items():
        transport = httpx.ASGITransport(guarded(served, keys))
        async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as http:
            seen[name] = [(await post(http, path=path)).status_code for path in ("/hooks", "/closed")]
    assert seen == {"own": [202, 401], "bare": [401, 401], "beside": [202, 401]}
    assert isinstance(guarded(own, keys), Limits)


def test_one_path_is_no_collection_of_open_paths() -> None:
    with pytest.raises(TypeError, match=r"open_paths=\['/hooks'\]"):
        create_app([Account], settings=Settings(), open_paths="/hooks")
    with pytest.raises(TypeError, match=r"open_paths=\['/hooks'\]"):
        Guard(FastAPI(), Settings(), open_paths="/hooks")


async def test_a_gateway_with_credentials_lets_webhooks_in_where_it_is_told_to(caller: FakeCaller) -> None:
    keys = Settings(api_keys=(SecretStr("k" * 40),))
    app = create_app([Account], settings=keys, console=False, open_paths=["/hooks"])
    app.include_router(webhook_router("/hooks", StripeSignature(NEW), to))
    app.include_router(webhook_router("/closed", StripeSignature(NEW), to))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://shop.example") as http:
        assert (await post(http)).status_code == 202
        assert (await post(http, secret=OLD)).json()["code"] == "bad_signature"
        assert (await post(http, path="/closed")).json()["code"] == "unauthorized"
        assert (await http.post("/entities/Account/a/deposit", json={"amount": 1})).status_code == 401
    assert len(caller.envelopes) == 1
    assert app.openapi()["paths"]["/hooks"]["post"]["security"] == []
