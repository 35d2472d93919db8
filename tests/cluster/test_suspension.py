"""P8: a machine that was suspended trusts no lease from before, so no host answers from what it remembers."""

import sys
import time
from typing import Any

import pytest

from perdure.cluster import host as host_module
from perdure.cluster.host import Host, HostSpec
from perdure.cluster.settings import ClusterSettings
from perdure.cluster.targets import Targets
from perdure.entities.steady import steady_clock
from perdure.entities.store.port import HostFenced

NOW = 5_000.0
LEASE_S = 0.04


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such clock, see steady.py")
def test_the_clock_counts_suspension() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= steady_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)


class Surroundings:
    """A store, an engine and a world that only take notes."""

    node = "node"

    def __init__(self) -> None:
        self.leases: list[tuple[float, float]] = []
        self.ended_with: list[int] = []

    async def register(self, *_: Any, **__: Any) -> None:
        """Granted."""

    async def renew(self, *_: Any, **__: Any) -> int:
        if len(self.leases) < 3:
            return 7
        raise HostFenced("enough")

    def set_lease(self, deadline: float, _database_us: int, asked_at: float = 0.0) -> None:
        self.leases.append((deadline, asked_at))

    def exit_process(self, code: int) -> None:
        self.ended_with.append(code)


async def test_a_host_counts_its_lease_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends of the comparison: the engine's is in tests/engine/test_p1_dedicated_late_commits.py."""
    monkeypatch.setattr(host_module, "steady_clock", lambda: NOW)
    targets = Targets(settings=ClusterSettings(lease_s=LEASE_S))
    world: Any = Surroundings()
    host: Any = Host(HostSpec(dsn="", namespace="n", incarnation="i", targets=targets), world)
    host._store = host._renewals = host._engine = world
    await host._register()
    await host._renew()
    until = pytest.approx(NOW + LEASE_S, abs=LEASE_S / 2)
    assert world.leases == [(until, 0.0), (until, NOW), (until, NOW)]
    assert world.ended_with == [host_module.EXIT_FENCED]
