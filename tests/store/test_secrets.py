"""Secrets stay secret (S33, S34): canaries as database password, API key, token and payload go through calls that
succeed and calls that fail; then everything that was said, logged or stored is searched for them."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

from perdure.api import ApiClient, JwtSettings, Settings, create_app
from perdure.api.cli import app as command_line
from perdure.api.connection import connection
from perdure.api.exchange import STATE
from perdure.api.health import PROBE, Probe
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.host import HostSpec
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.schema import metadata
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.cluster.stores import StoreAddress
from perdure.cluster.supervisor import SupervisorSpec
from perdure.cluster.targets import Targets
from perdure.entities import ApplicationError, Entity, RetryPolicy, handler, workflow
from perdure.entities.logs import JsonFormatter
from perdure.entities.testing import LocalCluster

from .conftest import SHARDS

PASSWORD = "canary-password-7f3a"
KEY = "canary-key-" + "k" * 24
CLIENT_KEY = "canary-client-" + "k" * 24
WRONG_KEY = "canary-wrong-" + "k" * 24
SIGNER = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
ISSUER = "https://id.example/"
PAYLOAD = "canary-payload-9b1c"
QUOTED = "canary-quoted-51e0"
"""A payload that code repeats in its exception."""


def token(**changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": "perdure", "sub": "ann", "exp": int(time.time()) + 60, "roles": ["all"]} | changes
    return jwt.encode(claims, SIGNER, "RS256", headers={"kid": "one"})


GOOD_TOKEN, BAD_TOKEN = token(), token(exp=1)
SECRETS = (PASSWORD, KEY, CLIENT_KEY, WRONG_KEY, GOOD_TOKEN, BAD_TOKEN, GOOD_TOKEN.rpartition(".")[2])


class Safe(Entity):
    words: str = ""

    @handler
    async def put(self, words: str) -> None:
        self.words = words

    @handler(retry=RetryPolicy(attempts=1))
    async def fail(self, words: str) -> None:
        raise ApplicationError("no")

    @handler
    async def crash(self, words: str) -> None:
        raise KeyError(7)

    @handler
    async def quote(self, words: str) -> None:
        raise KeyError(words)

    @workflow
    async def run(self, words: str) -> str:
        return words


def settings(**changes: Any) -> Settings:
    keys = ({**RSAAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True), "kid": "one"},)
    return Settings(
        api_keys=(SecretStr(KEY),),
        clients={"shop": ApiClient(keys=(SecretStr(CLIENT_KEY),), grants=("Safe:call",))},
        roles={"all": ("*:admin",)},
        jwt=JwtSettings(issuer=ISSUER, audience="perdure", keys=keys),
        **changes,
    )


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.fixture
def dsn(server: EmbeddedPostgres) -> str:
    """With a password; the server does not ask for it, so it travels all the same."""
    return make_conninfo("", **(conninfo_to_dict(server.dsn) | {"password": PASSWORD}))


@pytest.fixture
def nowhere() -> str:
    return f"postgresql://ann:{PASSWORD}@127.0.0.1:1/x"


@pytest.fixture
async def gateway(server: EmbeddedPostgres, dsn: str, nowhere: str) -> AsyncIterator[Any]:
    migrations.upgrade(dsn, "secrets", shard_count=SHARDS)
    app: Any = create_app([Safe], namespace="secrets", settings=settings(dsn=SecretStr(dsn)))
    store = PostgresStore(SessionSettings(dsn=dsn), namespace="secrets")
    probe = Probe(nowhere, "secrets")
    try:
        async with LocalCluster([Safe], store=store) as cluster:

            async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "state": {STATE: cluster, PROBE: probe}}, receive, send)

            yield asgi
    finally:
        await probe.close()
        await store.close()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_no_secret_is_said_logged_stored_or_traced(
    spans: InMemorySpanExporter, dsn: str, gateway: Any, logs: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    answers: list[str] = []
    measured: list[str] = []
    statuses: set[int] = set()
    for credential in (KEY, CLIENT_KEY, GOOD_TOKEN, BAD_TOKEN, WRONG_KEY, ""):
        headers = {"authorization": f"Bearer {credential}", "cookie": f"session={WRONG_KEY}"}
        transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://g.example", headers=headers) as client:
            for method, path, body in (
                ("POST", "put", {"words": PAYLOAD}),
                ("POST", "put", {"word": PAYLOAD}),
                ("POST", "fail", {"words": PAYLOAD}),
                ("POST", "crash", {"words": PAYLOAD}),
                ("POST", "quote", {"words": QUOTED}),
                ("POST", "nothing", {}),
                ("POST", "run/start", {"words": PAYLOAD}),
                ("POST", "run/pause", {"reason": "why"}),
                ("POST", "-/edit", {"fields": {"words": "x"}, "expected_version": 99}),
                ("GET", "-/export", None),
                ("GET", "-/history", None),
            ):
                reply = await client.request(method, f"/entities/Safe/s/{path}", json=body)
                statuses.add(reply.status_code)
                if path == "quote":
                    answers.append(reply.text)
                said.append(f"{dict(reply.headers)} {reply.text}")
            for path in (
                "/readyz",
                "/livez",
                "/entities",
                "/openapi.json",
                "/docs/errors",
                "/nowhere",
                "/dead-letters",
                "/metrics",
            ):
                reply = await client.get(path)
                said.append(f"{dict(reply.headers)} {reply.text}")
                if path == "/metrics" and reply.status_code == 200:
                    measured.append(reply.text)
        await asyncio.sleep(0)
    assert {200, 401, 403, 404, 409, 422, 500, 202} <= statuses
    traced = "\n".join(str(span.to_json()) for span in spans.get_finished_spans())
    everything = {
        "said": "\n".join(said),
        "measured": "\n".join(measured),
        "logged": _logged(logs),
        "traced": traced,
        "stored": _stored(dsn, "secrets"),
    }
    assert "perdure_turns" in everything["measured"]
    assert '"Safe.crash"' in traced
    assert "not ready" in everything["said"]
    assert PAYLOAD in everything["stored"], "the dump is one of what was written"
    assert "perdure.audit" in everything["logged"]
    assert _leaks(everything) == []
    for where in ("logged", "measured", "traced"):
        assert PAYLOAD not in everything[where], where
    assert len(answers) == 6
    for text in (everything["logged"], everything["measured"], *answers):
        assert QUOTED not in text
    assert QUOTED in everything["stored"], "the text of an exception is part of its outcome"


async def test_no_secret_is_in_what_goes_wrong_at_the_start(
    dsn: str, nowhere: str, logs: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    half = f"host=127.0.0.1 port=1 password=spaced {PASSWORD}"
    torn = f"postgresql://ann:{PASSWORD}/@127.0.0.1:1/x"
    for address in (
        nowhere,
        torn,
        f"host=127.0.0.1 port=1 password='{PASSWORD}' dbname=x",
        f"{nowhere}?sslmode=none",
        half,
    ):
        try:
            async with connection(address, "secrets"):
                raise AssertionError("there is nothing to connect with")
        except Exception:
            said.append(traceback.format_exc())
        for command in (["db", "check"], ["db", "upgrade"], ["replay", "tests.api.versions"], ["doctor"]):
            monkeypatch.setenv("PERDURE_DSN", address)
            ran = await asyncio.to_thread(CliRunner().invoke, command_line, [*command, "--namespace", "secrets"])
            assert ran.exit_code != 0
            said.append(ran.output + repr(ran.exception))
    monkeypatch.setenv("PERDURE_CLIENTS", json.dumps({"shop": {"keys": [CLIENT_KEY, KEY, WRONG_KEY]}}))
    wrongs: tuple[dict[str, Any], ...] = (
        {},
        {"api_keys": (SecretStr("canary wrong" + CLIENT_KEY),)},
        {"port": PASSWORD},
    )
    for wrong in wrongs:
        try:
            Settings(**wrong)
        except Exception:
            said.append(traceback.format_exc())
    monkeypatch.setenv("PERDURE_CLIENTS", '{"shop": {"keys": ["' + CLIENT_KEY)
    ran = await asyncio.to_thread(CliRunner().invoke, command_line, ["db", "check"])
    said.append(ran.output + repr(ran.exception))
    monkeypatch.delenv("PERDURE_CLIENTS")
    assert len(said) == 5 * 5 + 3 + 1
    assert _leaks({"said": "\n".join(said), "logged": _logged(logs)}) == []


def test_no_secret_is_in_a_repr(dsn: str) -> None:
    chosen = settings(dsn=SecretStr(dsn))
    texts = [
        repr(one) + str(one)
        for one in (
            chosen,
            chosen.model_dump_json(),
            StoreAddress(dsn=dsn, namespace="n"),
            SessionSettings(dsn=dsn),
            SupervisorSpec(dsn=dsn, namespace="n"),
            HostSpec(dsn=dsn, namespace="n", incarnation="i", targets=Targets()),
        )
    ]
    assert _leaks({"repr": "\n".join(texts)}) == []


def _leaks(everything: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (where, text[max(0, text.index(secret) - 300) : text.index(secret) + len(secret)])
        for where, text in everything.items()
        for secret in SECRETS
        if secret in text
    ]


def _logged(logs: pytest.LogCaptureFixture) -> str:
    """With everything that a handler could add to a line, tracebacks included; and as JSON."""
    formatter, as_json = logging.Formatter("%(name)s %(levelname)s %(message)s"), JsonFormatter()
    return "\n".join(formatter.format(record) + repr(vars(record)) + as_json.format(record) for record in logs.records)


def _stored(dsn: str, namespace: str) -> str:
    with psycopg.connect(dsn) as session:
        rows = [
            session.execute(sql.SQL("select t::text from {} t").format(sql.Identifier(namespace, table))).fetchall()
            for table in metadata.tables
        ]
    return "\n".join(str(row[0]) for found in rows for row in found)
