"""The Directory half of the in-memory store: host incarnations, leases and shard ownership."""

from collections.abc import Callable, Collection, Mapping

from .port import HostFenced
from .rows import HostRow, ShardOwner

GONE_SHOWN_US = 3_600_000_000
"""How long `hosts()` still shows a host that is stopped or fenced: one hour."""

_LIVE = ("active", "draining")


class MemoryDirectory:
    """Directory in memory. `now_us` is "the database's" clock in microseconds since the epoch."""

    def __init__(self, *, shards: int, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._owners = [ShardOwner(shard, "", 0) for shard in range(shards)]
        self._hosts: dict[str, HostRow] = {}
        self._gone_us: dict[str, int] = {}
        self._registered_us: dict[str, int] = {}
        self._targets: bytes | None = None

    async def clock_us(self) -> int:
        return self._now_us()

    async def shard_count(self) -> int:
        return len(self._owners)

    async def register(self, host: HostRow, *, lease_s: float) -> None:
        if host.incarnation in self._hosts:
            raise HostFenced(f"the name {host.incarnation} is taken; every incarnation of a host needs a new one")
        self._hosts[host.incarnation] = host._replace(status="active", lease_us=self._lease_end(lease_s))
        self._registered_us[host.incarnation] = self._now_us()

    async def renew(self, incarnation: str, *, lease_s: float) -> int:
        if not self._can_commit(incarnation):
            raise HostFenced(f"host {incarnation} is fenced, stopped or unknown; its lease cannot be renewed")
        self._hosts[incarnation] = self._hosts[incarnation]._replace(lease_us=self._lease_end(lease_s))
        return self._now_us()

    async def set_draining(self, incarnation: str) -> None:
        host = self._hosts.get(incarnation)
        if host is not None and host.status == "active":
            self._hosts[incarnation] = host._replace(status="draining")

    async def fence(self, incarnation: str, *, is_dead: bool, waited_out_us: int = 0) -> bool:
        if not self._can_commit(incarnation):
            return True
        host = self._hosts[incarnation]
        if not is_dead and host.lease_us > self._now_us() and host.lease_us != waited_out_us:
            return False
        self._leave(host, "fenced")
        return True

    async def claim(self, incarnation: str, shards: Collection[int]) -> dict[int, int]:
        host = self._hosts.get(incarnation)
        if host is None or host.status != "active":
            raise HostFenced(f"host {incarnation} is not active; it cannot claim shards")
        claimed: dict[int, int] = {}
        for shard in sorted(set(shards)):
            if not 0 <= shard < len(self._owners):
                continue
            before = self._owners[shard]
            if not self._can_commit(before.owner):
                taken_us = self._now_us() if before.owner else before.taken_us
                self._owners[shard] = ShardOwner(shard, incarnation, before.epoch + 1, taken_us)
                claimed[shard] = before.epoch + 1
        return claimed

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        if not self._can_commit(incarnation):
            raise HostFenced(f"host {incarnation} is fenced, stopped or unknown; it owns nothing any more")
        raised: dict[int, int] = {}
        for shard, epoch in epochs.items():
            if self._owns(incarnation, shard, epoch):
                self._owners[shard] = self._owners[shard]._replace(epoch=epoch + 1)
            if self._owns(incarnation, shard, epoch + 1):
                raised[shard] = epoch + 1
        return raised

    async def release(self, incarnation: str, shards: Collection[int]) -> None:
        for row in self._owners:
            if row.owner == incarnation and row.shard in shards:
                self._owners[row.shard] = row._replace(owner="")

    async def retire(self, incarnation: str) -> None:
        await self.release(incarnation, range(len(self._owners)))
        if self._can_commit(incarnation):
            self._leave(self._hosts[incarnation], "stopped")

    async def owners(self) -> list[ShardOwner]:
        return list(self._owners)

    async def hosts(self) -> list[HostRow]:
        since = self._now_us() - GONE_SHOWN_US
        return [host for name, host in sorted(self._hosts.items()) if self._gone_us.get(name, since) >= since]

    def incarnations(self, *, gone_shown_us: int) -> list[tuple[HostRow, int, int]]:
        """(host, when it registered, when it went or 0): those that live or went not longer ago, by name."""
        since = self._now_us() - gone_shown_us
        return [
            (host, self._registered_us[name], self._gone_us.get(name, 0))
            for name, host in sorted(self._hosts.items())
            if self._gone_us.get(name, since) >= since
        ]

    async def targets(self) -> bytes | None:
        return self._targets

    async def set_targets(self, targets: bytes) -> None:
        self._targets = targets

    def _can_commit(self, incarnation: str) -> bool:
        host = self._hosts.get(incarnation)
        return host is not None and host.status in _LIVE

    def _owns(self, incarnation: str, shard: int, epoch: int) -> bool:
        row = self._owners[shard]
        return (row.owner, row.epoch) == (incarnation, epoch)

    def _leave(self, host: HostRow, status: str) -> None:
        self._hosts[host.incarnation] = host._replace(status=status)
        self._gone_us[host.incarnation] = self._now_us()

    def _lease_end(self, lease_s: float) -> int:
        return self._now_us() + int(lease_s * 1_000_000)
