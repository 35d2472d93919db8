"""Real Ray, real Postgres: one local cluster and one server per session, a fresh namespace per test."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from perdure.cluster import ray_runtime
from perdure.cluster.addresses import process_of
from perdure.cluster.client import Connection
from perdure.cluster.connect import connect, down, up
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.process import Pulse, pulse
from perdure.cluster.settings import ClusterSettings
from perdure.cluster.stores import Store, StoreAddress
from perdure.entities.store.rows import HostRow
from tests.scratch import scratch_directory

SHARDS = 32
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    with scratch_directory("pg-cluster-") as path, EmbeddedPostgres(path / "postgres") as server:
        yield server.dsn


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    ray_runtime.start_local(num_cpus=4)
    yield
    ray_runtime.leave()


class World:
    """A namespace and what runs in it."""

    def __init__(self, dsn: str, namespace: str) -> None:
        self.dsn = dsn
        self.namespace = namespace
        self.store: Store = StoreAddress(dsn=dsn, namespace=namespace).open()
        self.where: dict[str, Any] = {"dsn": dsn, "namespace": namespace}
        self.clients: list[Connection] = []

    async def up(self, hosts: int, entities: tuple[str, ...] = ("tests.cluster.counter",), **options: Any) -> None:
        options.setdefault("settings", ClusterSettings(lease_s=2.0))
        await up(**self.where, hosts=hosts, entities=entities, timeout_s=120, **options)

    async def connect(self, **options: Any) -> Connection:
        client = await connect(**self.where, **options)
        self.clients.append(client)
        return client

    async def hosts(self, *statuses: str) -> list[HostRow]:
        return [host for host in await self.store.hosts() if host.status in (statuses or ("active",))]

    async def until_owned_by(self, count: int, timeout_s: float = 60) -> None:
        """Until so many hosts, all of them alive, own all shards between them."""
        async with asyncio.timeout(timeout_s):
            while True:
                hosts = await self.hosts("active", "draining")
                active = {host.incarnation for host in hosts if pulse(process_of(host)) is not Pulse.GONE}
                owners = {row.owner for row in await self.store.owners()}
                if owners <= active and len(owners) == len(active) == len(hosts) == count:
                    return
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        await down(**self.where, timeout_s=60)
        for client in self.clients:
            await client.close()
        await self.store.close()


@pytest.fixture
async def world(dsn: str, ray_cluster: None) -> AsyncIterator[World]:
    namespace = f"cluster{next(_numbers)}"
    migrations.upgrade(dsn, namespace, shard_count=SHARDS)
    world = World(dsn, namespace)
    yield world
    await world.close()
