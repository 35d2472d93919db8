"""After a commit whose outcome is unknown: make sure that it has happened, or never will, before anything is read.

Promises P1, P2, P6. The connection broke, but the commit may still be on its way: in a socket, in a pooler, in a
backend that has not looked yet. If the host read the entity again now and the commit took effect *after* that, the
host would go on from a state that the store no longer holds. Its writes would conflict, but its answers would be wrong
("there is no such run"), and work that only the lost commit asked for would not begin until the entity was read again.

Protocol
--------
* A commit names the epochs of its shards. The host raises those epochs by one, as their owner (`EntityStore.settle`):
  that waits for a commit under way, and no commit that names the old epochs can happen any more.
* Only then are the entities of the lost commit dropped and read again. Until then their turns go on behind the gate:
  whatever they say waits for a commit of their own, so nothing leaves.
* What was raised is compared, not only counted: `settle` says from which epoch, so one whose answer got lost is
  repeated, and one that takes effect late changes nothing.
* A shard is released only once no commit is under way that was begun while it was held (`passed`).
* Commits of this host and a raise exclude each other, else a commit that names the old epoch could look like that of a
  fenced host. The committer makes one commit at a time; dedicated actors' commits come beside it, hence the count.

Failures: while the store is not available, it is asked again until it answers, the engine stops, or the host is fenced.
Transactions that were given an entity at the old epoch are refused, as after a change of owner (P8).
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ..store.port import HostFenced, StoreUnavailable

if TYPE_CHECKING:
    from .engine import Engine

log = logging.getLogger("perdure.engine")

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)

T = TypeVar("T")


class Settling:
    """Owned by the engine; everything on the host's loop."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._under_way: set[object] = set()
        """A mark for each commit."""
        self._is_raising = False
        self._changed = asyncio.Event()

    async def free(self) -> None:
        """Wait until commits may be made. Whoever makes one does not suspend between this and `carry`."""
        while self._is_raising:
            await self._wait()

    async def carry(self, commit: Awaitable[T]) -> T:
        """A commit, counted while it is under way."""
        mark = object()
        self._under_way.add(mark)
        try:
            return await commit
        finally:
            self._under_way.remove(mark)
            self._changed.set()

    async def passed(self) -> None:
        """Wait until every commit that is under way now has come to an end, whichever."""
        begun = set(self._under_way)
        while begun & self._under_way:
            await self._wait()

    async def settle(self, epochs: Mapping[int, int]) -> None:
        """Return once no commit can happen any more that names these epochs (shard → epoch), or the engine has ended.

        `epochs`: those of a commit that failed, and may have happened.
        """
        while self._is_raising:
            await self._wait()
        self._is_raising = True
        try:
            while self._under_way:
                await self._wait()
            await self._raise(epochs)
        finally:
            self._is_raising = False
            self._changed.set()

    async def _raise(self, epochs: Mapping[int, int]) -> None:
        engine = self._engine
        failures = 0
        while not engine.is_stopped:
            # Others have left, or were raised for another commit that was lost.
            wanted = {shard: epoch for shard, epoch in epochs.items() if engine.epochs_held.get(shard) == epoch}
            if not wanted:
                return
            try:
                raised = await engine.store.settle(engine.incarnation, wanted)
            except HostFenced as fenced:
                engine.fenced(str(fenced))
                return
            except StoreUnavailable as problem:
                log.warning("the outcome of a commit is unknown, and the store is not available: %s", problem)
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
            else:
                engine.raised(raised)
                return

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
