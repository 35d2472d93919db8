"""A script without an event loop, on a cluster: a process of its own that joins Ray from the client's thread."""

import asyncio
import sys

import pytest

from perdure.cluster.ray_runtime import gcs_address

from .conftest import World
from .counter import Counter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]

SCRIPT = """
import sys
from perdure.api import SyncClient
from perdure.entities import history
from tests.cluster.counter import Counter

dsn, namespace, address = sys.argv[1:]
client = SyncClient.in_cluster(dsn=dsn, namespace=namespace, ray_address=address)
counter = Counter.ref("script")
assert client.call(counter.add, 2) == 2
client.call(counter.add.options(idempotency_key="k").send, 3)
client.call(counter.add.options(idempotency_key="k").send, 3)
assert client.call(counter.get) == 5
print(len(client.call(history, counter).events))
"""
"""It does not close its client: the end of the process does."""


async def test_a_script_joins_a_cluster_and_ends(world: World) -> None:
    await world.up(1)
    where = (world.dsn, world.namespace, gcs_address())
    script = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, *where, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await script.communicate()
    assert (script.returncode, output.split()[-1:]) == (0, [b"2"]), errors.decode()
    await world.connect()
    assert await Counter.ref("script").get() == 5
