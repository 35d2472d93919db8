"""`/readyz` tells the truth about hosts, also when nobody is left to declare them dead."""

from typing import Any, cast

from perdure.api.health import Probe
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import HostRow

START_US = 1_000_000_000_000


async def test_a_host_whose_lease_has_ended_serves_nobody() -> None:
    clock = [START_US]
    store = MemoryStore(shards=8, now_us=lambda: clock[0])
    await store.register(HostRow("h1", "actor-h1", "node-1", 1, "active", 0), lease_s=5)
    await store.claim("h1", range(8))
    probe = Probe("", "shop")
    probe._store = cast("Any", store)
    assert await probe.missing() == []
    clock[0] += 6_000_000  # every process of Ray was killed: the directory still has it as active
    assert await probe.missing() == ["no host is alive", "8 of 8 shards have no owner"]
