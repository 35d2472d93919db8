"""`GET /metrics`: what hosts and the gateway count, as Prometheus reads it."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from perdure.api import ApiClient, Settings, create_app
from perdure.cluster.readings import gather_readings
from perdure.entities import Entity, handler, query
from perdure.entities.metrics import CATALOGUE, Reading, decode_reading, encode_reading
from perdure.entities.testing import LocalCluster

from .conftest import HERE

KEY = "a-key-of-the-monitoring-system-0123456789"
OTHER_KEY = "a-key-of-some-other-program-0123456789"


class Lamp(Entity):
    is_on: bool = False

    @handler
    async def switch(self) -> bool:
        self.is_on = not self.is_on
        return self.is_on

    @handler
    async def drop(self) -> None:
        raise ValueError("in pieces")

    @query
    async def state(self) -> bool:
        return self.is_on


@pytest.fixture
async def hosts() -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Lamp], hosts=2) as cluster:
        yield cluster


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """By name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """Over all hosts."""
    wanted = set(labels.items())
    return sum(value for (found, given), value in samples.items() if found == name and wanted <= given)


async def test_a_scrape_shows_hosts_and_gateway(hosts: LocalCluster) -> None:
    async with client(create_app([Lamp])) as http:
        for _ in range(3):
            await http.post("/entities/Lamp/hall/switch")
        await http.post("/entities/Lamp/hall/drop")
        await http.post("/entities/Lamp/a%2Fb/switch")
        await http.get("/entities/Lamp/hall/state")
        await http.get("/nowhere/at/all")
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = parsed(answer.text)
    switch = {"type": "Lamp", "kind": "call", "handler": "switch"}
    assert total(samples, "perdure_turns_total", **switch, outcome="ok") == 4
    assert total(samples, "perdure_turns_total", type="Lamp", handler="drop", outcome="error") == 1
    assert total(samples, "perdure_queries_total", handler="state", outcome="ok") == 1
    assert total(samples, "perdure_activations", type="Lamp") == 2
    assert total(samples, "perdure_commit_seconds_count") == total(samples, "perdure_commits_total", outcome="ok") > 0
    assert total(samples, "perdure_host_up") == 2
    member = "/entities/{type}/{key}/{member}"
    assert total(samples, "perdure_http_requests_total", route=member, method="POST", status="200") == 4
    assert total(samples, "perdure_http_requests_total", route="-", status="404") == 1
    assert total(samples, "perdure_http_request_seconds_count", route=member) == 6
    known = {metric.name for metric in CATALOGUE}
    shown = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name, _ in samples}
    assert shown <= known


async def test_only_the_gateway_if_asked(hosts: LocalCluster) -> None:
    async with client(create_app([Lamp])) as http:
        samples = parsed((await http.get("/metrics?hosts=false")).text)
        again = parsed((await http.get("/metrics?hosts=false")).text)
    assert not any(name == "perdure_host_up" for name, _ in samples)
    assert total(again, "perdure_http_requests_total", route="/metrics") == 1


async def test_callers_cannot_invent_labels(hosts: LocalCluster) -> None:
    async with client(create_app([Lamp])) as http:
        for number in range(50):
            await http.request(f"VERB{number}", f"/entities/Lamp/k{number}/nothing{number}")
            await http.post(f"/entities/Type{number}/k/x")
            await http.get(f"/made-up/{number}")
        samples = parsed((await http.get("/metrics")).text)
    text = str([labels for _, labels in samples])
    assert "VERB" not in text
    assert "nothing" not in text
    assert "Type7" not in text
    assert "made-up" not in text


async def test_reading_metrics_needs_a_grant(hosts: LocalCluster) -> None:
    clients = {
        "prometheus": ApiClient(keys=(SecretStr(KEY),), grants=("*:read",)),
        "shop": ApiClient(keys=(SecretStr(OTHER_KEY),), grants=("Lamp:call,read",)),
    }
    async with client(create_app([Lamp], settings=Settings(clients=clients))) as http:
        assert (await http.get("/metrics")).status_code == 401
        refused = await http.get("/metrics", headers={"authorization": f"Bearer {OTHER_KEY}"})
        allowed = await http.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
    assert refused.status_code == 403
    assert total(parsed(allowed.text), "perdure_http_requests_total", status="401") == 1


async def test_a_dead_host_does_not_hold_up_the_scrape() -> None:
    never = asyncio.Event()

    async def ask(actor: str) -> bytes:
        if actor == "frozen":
            await never.wait()
        if actor == "dead":
            raise LookupError(actor)
        if actor == "strange":
            return b"\xff"
        return encode_reading(Reading())

    actors = {name: name for name in ("frozen", "dead", "strange", "well")}
    found = await gather_readings(actors, ask, timeout_s=0.05)
    assert found == {"frozen": None, "dead": None, "strange": None, "well": Reading()}


def test_readings_travel() -> None:
    for metric in CATALOGUE:
        reading = Reading()
        reading.add(metric, 3, *metric.labels)
        assert decode_reading(encode_reading(reading)) == reading
