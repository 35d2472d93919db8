"""Hosts on Ray whose every way to Postgres is a PgBouncer in transaction mode: leases, fences and take-overs, too."""

from collections.abc import AsyncIterator

import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.stores import StoreAddress
from tests.scratch import scratch_directory
from tests.store import pooler

from .conftest import SHARDS, World
from .counter import Counter

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("cluster"),
    pytest.mark.skipif(pooler.PROGRAM is None, reason=pooler.WHY_NOT),
]


@pytest.fixture
async def pooled_world(ray_cluster: None) -> AsyncIterator[World]:
    with (
        scratch_directory("pg-pooled-") as path,
        EmbeddedPostgres(path / "postgres") as server,
        pooler.pgbouncer(server, default_pool_size=8) as dsn,
    ):
        migrations.upgrade(dsn, "pooled", shard_count=SHARDS)
        world = World(dsn, "pooled")
        world.store = StoreAddress(dsn=dsn, namespace="pooled", is_pooled=True).open()
        world.where |= {"is_pooled": True}
        yield world
        await world.close()


async def test_hosts_serve_die_and_are_replaced(pooled_world: World) -> None:
    await pooled_world.up(2)
    await pooled_world.connect()
    for number in range(20):
        assert await Counter.ref(f"c{number}").add(number) == number
    await Counter.ref("c1").make_vanish("c2", "c3")
    await pooled_world.until_owned_by(2)
    assert [await Counter.ref(f"c{number}").add(0) for number in (1, 7)] == [1, 7]
