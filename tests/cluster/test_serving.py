"""`perdure serve`: a gateway on hosts that run already."""

import httpx
import pytest
from pydantic import SecretStr

from perdure.api.commands.serving import gateway
from perdure.api.serve import bind
from perdure.api.settings import Settings
from perdure.api.target import load_target

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
