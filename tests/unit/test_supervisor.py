"""What the supervisor does by itself, without Ray: hosts of whom only the lease tells."""

from types import SimpleNamespace
from typing import Any

import pytest

from perdure.cluster import ray_runtime
from perdure.cluster import supervisor as supervisor_module
from perdure.cluster.addresses import HostAddress
from perdure.cluster.settings import ClusterSettings
from perdure.cluster.stores import StoreAddress
from perdure.cluster.supervisor import Supervisor, SupervisorSpec
from perdure.cluster.targets import Targets
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import HostRow

LEASE_S, PERIOD_S = 5.0, 1.25
SETTINGS = ClusterSettings(lease_s=LEASE_S, lease_renewals=4)


class World:
    """A store, its clock, and the supervisor's."""

    def __init__(self) -> None:
        self.database_us = 4_000_000_000
        self.now = 100.0
        self.store = MemoryStore(shards=2, now_us=lambda: self.database_us)
        self.store._targets = Targets(hosts=0, settings=SETTINGS).to_json()

    async def close(self) -> None:
        """The store's."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    async def nowhere(_name: str) -> None: ...

    world = World()
    store: Any = world.store
    store.close = world.close
    monkeypatch.setattr(StoreAddress, "open", lambda *_: store)
    monkeypatch.setattr(ray_runtime, "find", nowhere)
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(monotonic=lambda: world.now))
    return world


async def test_a_dead_host_is_fenced_in_time_although_the_database_clock_was_set_back(world: World) -> None:
    """On another machine: only its lease can tell, and that ends an hour from now by the database's clock."""
    address = HostAddress("perdure-host-n-h1", "r1", "another machine", "1")
    await world.store.register(HostRow("h1", str(address), "node", 1, "active", 0), lease_s=LEASE_S)
    nobody: Any = None
    supervisor = Supervisor(SupervisorSpec(dsn="", namespace="n"), spawn_host=lambda *_: nobody)
    statuses: list[str] = []
    try:
        for passes_s in (0.0, LEASE_S, PERIOD_S):
            world.now += passes_s
            await supervisor.reconcile()
            while fence := supervisor._errands.get(("fence", "h1")):
                await fence
            statuses += [row.status for row in await world.store.hosts()]
            world.database_us = 400_000_000
    finally:
        await supervisor.stop()
    assert statuses == ["active", "active", "fenced"]
