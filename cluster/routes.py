"""Which host serves which shard, as far as this process knows.

The truth is in the directory. A `RouteTable` is a copy of it; `Routes` keeps the newest copy that this process has
seen, however it came: read from Postgres after a not-owner answer, or pushed by the supervisor's long poll. A stale
table costs a detour, never correctness: hosts refuse what they do not own.

Newer means: a higher sum of epochs. Claims raise it; releases and fences do not, so of two tables with equal sums the
later one seen wins.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ..entities.errors import PerdureError
from ..entities.store.port import Directory
from ..entities.store.rows import HostRow, ShardOwner
from .addresses import HostAddress
from .tasks import end

log = logging.getLogger("perdure.routes")

PAUSE_S = 0.05
"""Between two reads of the directory, however many ask."""


class RouteTable(msgspec.Struct, frozen=True, array_like=True):
    """Owner of every shard, and the actors of the hosts that are alive."""

    owners: list[str]
    """Incarnation by shard number; empty where nobody serves the shard."""
    actors: dict[str, str]
    """Incarnation → name of its Ray actor, of hosts that are active or draining."""
    stamp: int
    """Sum of all epochs."""

    @classmethod
    def of(cls, owners: Sequence[ShardOwner], hosts: Sequence[HostRow]) -> "RouteTable":
        """From the directory's rows."""
        actors = {
            host.incarnation: HostAddress.parse(host.address).actor
            for host in hosts
            if host.status in {"active", "draining"}
        }
        return cls(
            [owner.owner if owner.owner in actors else "" for owner in owners],
            actors,
            sum(owner.epoch for owner in owners),
        )

    @property
    def is_complete(self) -> bool:
        """Whether every shard is served."""
        return bool(self.owners) and all(self.owners)


_decoder = msgspec.msgpack.Decoder(tuple[str, RouteTable])


def encode_routes(version: str, table: RouteTable) -> bytes:
    """A table with the version under which the supervisor knows it."""
    return msgspec.msgpack.encode((version, table))


def decode_routes(data: bytes) -> tuple[str, RouteTable]:
    """Inverse of encode_routes(). Raises msgspec.DecodeError on anything else."""
    return _decoder.decode(data)


class Routes:
    """The newest table this process has seen, and how to get a newer one."""

    def __init__(self, read: Callable[[], Awaitable[RouteTable]]) -> None:
        self._read = read
        self._listeners: list[Callable[[], None]] = []
        self._refresh: asyncio.Task[None] | None = None
        self._is_closed = False
        self.table = RouteTable([], {}, -1)

    @classmethod
    def of_store(cls, directory: Directory) -> "Routes":
        """Routes that are read from the directory."""

        async def read() -> RouteTable:
            owners = await directory.owners()
            return RouteTable.of(owners, await directory.hosts())

        return cls(read)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of the table."""
        self._listeners.append(listener)

    def owner(self, shard: int) -> str:
        """Incarnation that serves the shard, or empty."""
        return self.table.owners[shard] if shard < len(self.table.owners) else ""

    def offer(self, table: RouteTable) -> None:
        """A table from wherever; taken unless it is older."""
        if table.stamp < self.table.stamp or table == self.table:
            return
        self.table = table
        for listener in self._listeners:
            listener()

    def refresh(self) -> "asyncio.Task[None]":
        """Read the directory soon; requests that come meanwhile share the read. Never fails: the old table stays."""
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.get_running_loop().create_task(self._read_once())
        return self._refresh

    async def close(self) -> None:
        """Stop reading."""
        self._is_closed = True
        await end(self._refresh)

    async def _read_once(self) -> None:
        if self._is_closed:
            return
        try:
            self.offer(await self._read())
        except PerdureError as error:
            log.warning("routes could not be read: %s", error)
        await asyncio.sleep(PAUSE_S)
