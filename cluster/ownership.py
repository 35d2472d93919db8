"""Which shards this host owns, and how that changes. No supervisor needed: every host does this for itself.

Protocol
--------
* Every `settle_s`, and at every poke, a host reads owners and hosts, computes `allocate()` and acts on its own part
  only: it claims what it should own and is free, and gives up a bounded part of what it should not own.
* Claiming is compare-and-set in the store. Giving up means: the engine accepts nothing more for the shard, commits
  what it has, evicts; then the shard is released; then whoever should own it is poked.
* A shard is free when nobody owns it or its owner's row is fenced or stopped. Every host fences hosts that are
  gone: at once if it can see on its own machine that the process does not exist, else when the lease has been expired
  for a while, by the database's clock or by its own (lease.Doubts).
* An answer that got lost: what the directory says this host owns is adopted at the next look, at a raised epoch; what
  the engine has disowned and the directory still says is ours is owned again, or released again, whichever `allocate()`
  says then.
* A host whose row says `draining` has no share: it claims nothing and keeps what it owns until it is told to leave.
* If the directory says that this host is fenced or stopped, or that one of its shards has another owner, this
  process must not go on: `fenced`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from ..entities.store.port import HostFenced
from ..entities.store.rows import HostRow, ShardOwner
from .addresses import process_of
from .allocation import allocate
from .hosted import HostedEngine
from .lease import Doubts
from .process import Pulse, pulse
from .routes import Routes, RouteTable
from .stores import Store

log = logging.getLogger("perdure.ownership")

_LIVE = frozenset({"active", "draining"})


class Ownership:
    """The shards of one host incarnation."""

    def __init__(
        self,
        *,
        incarnation: str,
        store: Store,
        engine: HostedEngine,
        routes: Routes,
        doubts: Doubts,
        move_max: int,
        poke: Callable[[Iterable[str]], None],
        changed: Callable[[], None],
        fenced: Callable[[str], None],
    ) -> None:
        self.shards: set[int] = set()
        """What the engine accepts messages for."""
        self._incarnation = incarnation
        self._store = store
        self._engine = engine
        self._routes = routes
        self._doubts = doubts
        self._move_max = move_max
        self._poke = poke
        """Tell these hosts to look now."""
        self._changed = changed
        """Shards have changed hands: tell the supervisor, who tells the routers."""
        self._fenced = fenced
        self._lock = asyncio.Lock()
        self._is_leaving = False

    async def settle(self) -> None:
        """Compare what this host owns with what it should own, and take one step."""
        async with self._lock:
            if self._is_leaving:
                return
            owners, hosts = await self._look()
            if await self._fence_the_gone(hosts):
                owners, hosts = await self._look()
            status = self._status(owners, hosts)
            if status not in _LIVE or not await self._adopt(owners):
                return
            if status != "active":
                return  # ordered out (reconcile.py): it keeps what it owns until it is asked to go
            capacity = {host.incarnation: max(1, host.capacity) for host in hosts if host.status == "active"}
            desired = allocate([row.owner for row in owners], capacity)
            live = {host.incarnation for host in hosts if host.status in _LIVE}
            mine = self._incarnation
            gain = [row.shard for row in owners if desired[row.shard] == mine and row.owner not in live]
            surplus = [shard for shard in sorted(self.shards) if desired[shard] != mine]
            if gain:
                await self._claim(gain, {row.shard for row in owners if row.owner})
            if surplus:
                leaving = surplus[: self._move_max]
                await self._give_up(leaving)
                self._poke({desired[shard] for shard in leaving})
                if len(surplus) > len(leaving):
                    self._poke([mine])

    async def stop_taking(self) -> None:
        """Change nothing any more, but for `leave`."""
        self._is_leaving = True
        async with self._lock:  # a look under way may still claim
            pass

    async def leave(self) -> None:
        """Give up everything, a bounded part at a time."""
        async with self._lock:
            while self.shards:
                await self._give_up(sorted(self.shards)[: self._move_max])
                self._poke(set(self._routes.table.actors) - {self._incarnation})

    async def _look(self) -> tuple[list[ShardOwner], list[HostRow]]:
        # Owners first: then every owner has a row among the hosts.
        owners = await self._store.owners()
        hosts = await self._store.hosts()
        self._routes.offer(RouteTable.of(owners, hosts))
        return owners, hosts

    def _status(self, owners: Iterable[ShardOwner], hosts: Iterable[HostRow]) -> str:
        """What the directory says that this host is; if that is not a live one, this process ends."""
        status = next((host.status for host in hosts if host.incarnation == self._incarnation), "forgotten")
        if status not in _LIVE:
            self._fenced(f"the directory says that this host is {status}")
            return status
        for row in owners:
            if row.shard in self.shards and row.owner not in {self._incarnation, ""}:
                self._fenced(f"shard {row.shard} belongs to {row.owner}")
                return "fenced"
        return status

    async def _adopt(self, owners: Sequence[ShardOwner]) -> bool:
        """Shards whose claim or release came to nothing that was heard of. False if this host is fenced.

        At new epochs: a commit from before the engine disowned them may still be on its way (engine/settling.py).
        """
        strays = {
            row.shard: row.epoch for row in owners if row.owner == self._incarnation and row.shard not in self.shards
        }
        if strays:
            try:
                self._own(await self._store.settle(self._incarnation, strays), owners)
            except HostFenced as error:
                self._fenced(error.message)
                return False
        return True

    async def _claim(self, shards: Collection[int], unreleased: Collection[int]) -> None:
        try:
            claimed = await self._store.claim(self._incarnation, shards)
        except HostFenced as error:
            self._fenced(error.message)
            return
        if claimed:  # if this look comes to nothing, the next one adopts them
            self._own(claimed, await self._store.owners(), taken_over=claimed.keys() & unreleased)

    def _own(self, epochs: dict[int, int], owners: Iterable[ShardOwner], *, taken_over: Collection[int] = ()) -> None:
        log.info("host %s gained %d shards", self._incarnation, len(epochs))
        self.shards.update(epochs)
        taken_us = {row.shard: row.taken_us for row in owners if row.shard in epochs}
        self._engine.own(epochs, taken_over=taken_over, taken_us=taken_us)
        self._changed()

    async def _give_up(self, shards: Collection[int]) -> None:
        for shard in shards:
            self.shards.discard(shard)
        await self._engine.disown(shards)
        await self._store.release(self._incarnation, shards)
        self._changed()

    async def _fence_the_gone(self, hosts: Collection[HostRow]) -> bool:
        others = [host for host in hosts if host.status in _LIVE and host.incarnation != self._incarnation]
        dead = {host.incarnation for host in others if pulse(process_of(host)) is Pulse.GONE}
        leases = {host.incarnation: host.lease_us for host in others}
        expired = self._doubts.expired(others, database_us=await self._store.clock_us(), now=time.monotonic())
        is_any = False
        for incarnation in sorted(dead.union(expired)):
            if await self._store.fence(incarnation, is_dead=incarnation in dead, waited_out_us=leases[incarnation]):
                log.warning("host %s is gone; its shards are taken over", incarnation)
                is_any = True
        return is_any
