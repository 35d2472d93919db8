"""What a store around another one passes on unchanged: all that holds no payload."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ..ids import EntityId
from .archive import Archive
from .port import Directory, EntityStore, LiveRuns
from .rows import HostRow, ShardOwner
from .survey import Survey


class InnerStore(EntityStore, LiveRuns, Directory, Protocol):
    """All that a store offers."""

    def archive(self) -> Archive:
        """For people and tools."""
        ...

    def survey(self) -> Survey:
        """The whole namespace, for people and tools."""
        ...

    async def close(self) -> None:
        """End the sessions, if there are any."""
        ...


class PassingStore:
    """Every method does what that of `inner` does."""

    def __init__(self, inner: InnerStore) -> None:
        self.inner = inner

    async def close(self) -> None:
        await self.inner.close()

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        return await self.inner.settle(incarnation, epochs)

    async def with_mail(self, shards: Collection[int], *, limit: int, after: EntityId | None = None) -> list[EntityId]:
        return await self.inner.with_mail(shards, limit=limit, after=after)

    async def in_flight(self, shards: Collection[int], *, after: EntityId | None, limit: int) -> list[EntityId]:
        return await self.inner.in_flight(shards, after=after, limit=limit)

    async def with_live_runs(self, type_name: str, *, after: EntityId | None, limit: int) -> list[EntityId]:
        return await self.inner.with_live_runs(type_name, after=after, limit=limit)

    async def acquit(self, keys: Sequence[tuple[EntityId, str]]) -> None:
        await self.inner.acquit(keys)

    async def prune(self, *, older_than_us: int, limit: int) -> int:
        return await self.inner.prune(older_than_us=older_than_us, limit=limit)

    async def clock_us(self) -> int:
        return await self.inner.clock_us()

    # --- Directory ----------------------------------------------------------------------------------------------------

    async def shard_count(self) -> int:
        return await self.inner.shard_count()

    async def register(self, host: HostRow, *, lease_s: float) -> None:
        await self.inner.register(host, lease_s=lease_s)

    async def renew(self, incarnation: str, *, lease_s: float) -> int:
        return await self.inner.renew(incarnation, lease_s=lease_s)

    async def set_draining(self, incarnation: str) -> None:
        await self.inner.set_draining(incarnation)

    async def fence(self, incarnation: str, *, is_dead: bool, waited_out_us: int = 0) -> bool:
        return await self.inner.fence(incarnation, is_dead=is_dead, waited_out_us=waited_out_us)

    async def claim(self, incarnation: str, shards: Collection[int]) -> dict[int, int]:
        return await self.inner.claim(incarnation, shards)

    async def release(self, incarnation: str, shards: Collection[int]) -> None:
        await self.inner.release(incarnation, shards)

    async def retire(self, incarnation: str) -> None:
        await self.inner.retire(incarnation)

    async def owners(self) -> list[ShardOwner]:
        return await self.inner.owners()

    async def hosts(self) -> list[HostRow]:
        return await self.inner.hosts()

    async def targets(self) -> bytes | None:
        return await self.inner.targets()

    async def set_targets(self, targets: bytes) -> None:
        await self.inner.set_targets(targets)
