"""What the documentation shows of files and formats of others is taken by them, or is what we really print."""

import asyncio
import configparser
import importlib.metadata
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from packaging.requirements import Requirement

from perdure.api import Settings, create_app
from perdure.api.serve import serving
from perdure.cluster.codecs import load_codec
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.entities import EncryptionCodec, Entity, Mailbox, handler, workflow
from perdure.entities.testing import LocalCluster, PerdureTest, Stuck
from tests.store import pooler

from .blocks import ROOT, block
from .shell import bash
from .test_examples import Restartable

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.skipif(pooler.PROGRAM is None, reason=pooler.WHY_NOT)
def test_pgbouncer_takes_its_settings(server: EmbeddedPostgres) -> None:
    shown = configparser.ConfigParser(comment_prefixes=(";", "#"), inline_comment_prefixes=None)
    shown.read_string(block("docs/deployment.md", "[pgbouncer]"))
    wanted = dict(shown["pgbouncer"])
    assert len(wanted) == 5
    with (
        pooler.pgbouncer(server, **wanted) as dsn,
        psycopg.connect(dsn, dbname="pgbouncer", autocommit=True, prepare_threshold=None) as console,
    ):
        cursor = psycopg.ClientCursor(console)
        actual = {str(row[0]): str(row[1]) for row in cursor.execute("show config").fetchall()}
    assert {name: actual[name] for name in wanted} == wanted


class Counter(Entity):
    value: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value


class Approval(Entity):
    decisions = Mailbox(str)

    @workflow
    async def run(self) -> None:
        await self.decisions.receive()


class Order(Entity):
    status: str = "New"

    @handler
    async def become(self, status: str) -> None:
        self.status = status


async def test_prometheus_scrapes_what_there_is() -> None:
    jobs = yaml.safe_load(block("docs/observability.md", "scrape_configs"))["scrape_configs"]
    known = {"job_name", "params", "static_configs", "authorization"}  # of Prometheus' <scrape_config>
    assert all(job.keys() <= known for job in jobs)
    assert all(job["authorization"].keys() == {"credentials"} for job in jobs)
    assert all(re.fullmatch(r"[\w.-]+:\d+", one) for job in jobs for c in job["static_configs"] for one in c["targets"])
    async with LocalCluster([Counter]) as cluster:
        app = Restartable(create_app([Counter], settings=Settings(), console=False), cluster)
        async with serving(app, Settings(port=0)) as url, httpx.AsyncClient(base_url=url) as http:
            texts = [(await http.get("/metrics", params=job.get("params"))).raise_for_status().text for job in jobs]
    assert ["\nperdure_host_up{" in text for text in texts] == [True, False]
    assert "\nperdure_http_requests_total{" in texts[1], "of itself"


async def test_a_stream_looks_as_shown() -> None:
    shown = block("docs/api.md", "retry: 1000")
    async with LocalCluster([Order]) as cluster:
        for number in range(7):
            await Order.ref("o-1").become(f"status {number}")
        app = Restartable(create_app([Order], settings=Settings(), console=False), cluster)
        async with (
            asyncio.timeout(60),
            serving(app, Settings(port=0)) as url,
            httpx.AsyncClient(base_url=url) as http,
            http.stream("GET", "/entities/Order/o-1/-/events") as answer,
        ):
            text = ""
            async for part in answer.aiter_text():
                text += part
                if "data:" in text and text.endswith("\n\n"):
                    break
    pattern = re.escape(shown.strip()).replace("…", ".*")
    assert re.fullmatch(pattern, text.strip()), text


async def test_stuck_says_what_waits() -> None:
    shown = block("docs/testing.md", "Stuck: at")
    async with PerdureTest([Approval]) as world:
        await Approval.ref("a-1").run.start()
        await world.advance(days=7, seconds=5)
        with pytest.raises(Stuck) as error:
            await Approval.ref("a-1").run.result()
    assert [line.rstrip() for line in f"Stuck: {error.value}".splitlines()] == shown.splitlines()


@pytest.mark.parametrize("page", ["docs/getting-started.md", "docs/encryption.md"])
async def test_what_pip_is_told_to_install_is_declared_and_here(page: str, tmp_path: Path) -> None:
    [line] = [line for line in block(page, "pip install").splitlines() if line.startswith("pip")]
    [said] = await bash(line, folder=tmp_path, before='pip() { echo "$@"; }')
    verb, wanted = said.output.split()
    requirement = Requirement(wanted)
    assert (verb, requirement.name) == ("install", PROJECT["name"])
    for extra in requirement.extras:
        for one in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if one.name != PROJECT["name"] and (one.marker is None or one.marker.evaluate()):
                assert one.specifier.contains(importlib.metadata.version(one.name), prereleases=True), one


async def test_keys_of_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = block("docs/encryption.md", "export PERDURE_CODEC=")
    stand_ins = f'pip() {{ :; }}\npython() {{ {shlex.quote(sys.executable)} "$@"; }}'
    _, key, *_ = await bash(text, folder=tmp_path, before=stand_ins)
    assert re.fullmatch(r"2026-11=[\w+/=-]{43,44}\n", key.output)
    exports = "\n".join(line for line in text.splitlines() if line.startswith("export"))
    exports = exports.replace("2026-11=…", key.output.strip())
    assert key.output.strip() in exports
    *_, said = await bash(f"{exports}\nenv --null", folder=tmp_path)
    for line in said.output.split("\0"):
        name, _, value = line.partition("=")
        if name.startswith("PERDURE_") and os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    load_codec.cache_clear()
    assert isinstance(load_codec(os.environ["PERDURE_CODEC"]), EncryptionCodec)
    load_codec.cache_clear()
