"""`perdure serve`: a gateway on hosts that run already."""

import asyncio
import os
import re
import subprocess
import sys

import httpx
import pytest
from pydantic import SecretStr

from perdure.api.commands.serving import gateway
from perdure.api.serve import bind
from perdure.api.settings import Settings
from perdure.api.target import load_target
from perdure.cluster.ray_runtime import gcs_address

from .conftest import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]


async def test_a_gateway_serves_what_runs_and_leaves_it_running(world: World) -> None:
    settings = Settings(dsn=SecretStr(world.dsn), namespace=world.namespace, port=0)
    target = load_target("tests.cluster.counter")
    async with gateway(settings, target, bind(settings.host, 0)) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503, "no hosts yet"
        await world.up(1)
        assert (await http.get("/readyz")).status_code == 200
        answer = await http.post("/entities/Counter/c/add", json={"amount": 3}, timeout=60)
        assert answer.json() == 3
    assert len(await world.hosts()) == 1


async def test_the_command_joins_from_a_process_of_its_own_and_ends_at_sigterm(world: World) -> None:
    await world.up(1)
    words = ["serve", "tests.cluster.counter", "--port", "0", "--address", gcs_address()]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.dev.main", *words),
        env=os.environ | {"PERDURE_DSN": world.dsn, "PERDURE_NAMESPACE": world.namespace, "PERDURE_DRAIN_S": "0.2"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    url = re.fullmatch(r"Serving Counter on (http://\S+)\n", line)
    assert url is not None, line
    async with httpx.AsyncClient(base_url=url[1]) as http:
        answer = await http.post("/entities/Counter/c/add", json={"amount": 3}, timeout=60)
        assert answer.json() == 3
    process.terminate()
    said = (await process.stdout.read()).decode()
    assert "Stopping …" in said
    assert "Draining: for 0.2 s" in said
    assert await process.wait() == 0
    assert len(await world.hosts()) == 1
