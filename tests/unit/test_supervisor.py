"""What the supervisor does by itself, without Ray: hosts of whom only the lease tells, hosts that are to leave."""

import asyncio
from collections.abc import AsyncGenerator
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


class Ray:
    """Hosts as a supervisor reaches them: whoever is asked to drain leaves, hangs, or cannot be reached."""

    def __init__(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.asked: list[str] = []
        self.killed: list[str] = []
        self.hangs = False
        self.is_away = False
        self.is_asked = asyncio.Event()
        monkeypatch.setattr(ray_runtime, "find", self.find)
        monkeypatch.setattr(supervisor_module, "submit", self.submit)
        monkeypatch.setattr(supervisor_module, "kill", self.killed.append)

    async def find(self, name: str) -> str | None:
        return None if self.is_away else name.rpartition("-")[2]

    async def submit(self, host: str, method: str) -> None:
        if method == "drain":
            self.asked.append(host)
            self.is_asked.set()
            if not self.hangs:
                await self.store.retire(host)
                return
        await asyncio.Event().wait()


@pytest.fixture
def ray(world: World, monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(world.store, monkeypatch)


async def registered(world: World, name: str) -> None:
    address = HostAddress(f"perdure-host-n-{name}", targets(world).revision, "another machine", "1")
    await world.store.register(HostRow(name, str(address), "node", 1, "active", 0), lease_s=3_600.0)


def targets(world: World) -> Targets:
    assert world.store._targets is not None
    return Targets.from_json(world.store._targets)  # type: ignore[return-value]


def wants(world: World, hosts: int, **settings: float) -> None:
    world.store._targets = Targets(hosts=hosts, settings=ClusterSettings(**settings)).to_json()  # type: ignore[arg-type]


class Hall:
    """Supervisors, whom they start, and their ends."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.supervisors: list[Supervisor] = []

    def supervisor(self) -> Supervisor:
        def spawn_host(incarnation: str, _: Targets) -> Any:
            self.started.append(incarnation)
            return incarnation

        made = Supervisor(SupervisorSpec(dsn="", namespace="n"), spawn_host=spawn_host)
        self.supervisors.append(made)
        return made


@pytest.fixture
async def hall() -> AsyncGenerator[Hall]:
    hall = Hall()
    yield hall
    for supervisor in hall.supervisors:
        await supervisor.stop()


async def drained(supervisor: Supervisor, host: str) -> None:
    if errand := supervisor._errands.get(("drain", host)):
        await errand
        await asyncio.sleep(0)  # it is struck off the list by then


async def statuses(world: World) -> dict[str, str]:
    return {row.incarnation: row.status for row in await world.store.hosts()}


async def test_a_host_that_is_ordered_out_is_asked_once_its_successor_is_there(
    world: World, ray: Ray, hall: Hall
) -> None:
    wants(world, 1)
    await registered(world, "h1")
    await world.store.survey().drain_host("h1", operator="ann", reason="")
    supervisor = hall.supervisor()
    await supervisor.reconcile()
    await supervisor.reconcile()
    assert (len(hall.started), ray.asked) == (1, []), "the last host of the namespace goes on serving"
    await registered(world, "h2")
    await supervisor.reconcile()
    await drained(supervisor, "h1")
    assert await statuses(world) == {"h1": "stopped", "h2": "active"}
    await supervisor.reconcile()
    assert (len(hall.started), ray.asked) == (1, ["h1"])


async def test_the_next_supervisor_goes_on_where_the_last_one_died(world: World, ray: Ray, hall: Hall) -> None:
    wants(world, 1)
    await registered(world, "h1")
    await registered(world, "h2")
    await world.store.set_draining("h1")
    ray.hangs = True
    first = hall.supervisor()
    await first.reconcile()
    await ray.is_asked.wait()
    await first.stop()
    hall.supervisors.remove(first)
    ray.hangs = False
    second = hall.supervisor()
    await second.reconcile()
    await drained(second, "h1")
    assert ray.asked == ["h1", "h1"]
    assert ray.killed == []
    assert (await statuses(world))["h1"] == "stopped"


async def test_two_supervisors_may_both_ask(world: World, ray: Ray, hall: Hall) -> None:
    wants(world, 1)
    await registered(world, "h1")
    await registered(world, "h2")
    await world.store.set_draining("h1")
    both = hall.supervisor(), hall.supervisor()
    for one in both:
        await one.reconcile()
    for one in both:
        await drained(one, "h1")
        await one.reconcile()
    assert ray.asked == ["h1", "h1"]
    assert await statuses(world) == {"h1": "stopped", "h2": "active"}
    assert hall.started == []


async def test_a_host_that_hangs_is_ended_and_its_death_awaited_without_haste(
    world: World, ray: Ray, hall: Hall
) -> None:
    """Until the death is noticed it drains by its row; asking and poking without a pause would help nobody."""
    wants(world, 1, drain_s=0.01)
    await registered(world, "h1")
    await registered(world, "h2")
    await world.store.set_draining("h1")
    ray.hangs = True
    supervisor = hall.supervisor()
    await supervisor.reconcile()
    await drained(supervisor, "h1")
    assert (ray.asked, ray.killed) == (["h1"], ["h1"])
    assert not supervisor._poke._event.is_set()


async def test_a_host_that_ray_does_not_know_is_left_to_its_lease(world: World, ray: Ray, hall: Hall) -> None:
    wants(world, 1)
    await registered(world, "h1")
    await registered(world, "h2")
    await world.store.set_draining("h1")
    ray.is_away = True
    supervisor = hall.supervisor()
    await supervisor.reconcile()
    await drained(supervisor, "h1")
    assert (ray.asked, ray.killed) == ([], [])
    assert (await statuses(world))["h1"] == "draining"
    ray.is_away = False
    await supervisor.reconcile()
    await drained(supervisor, "h1")
    assert (await statuses(world))["h1"] == "stopped"
