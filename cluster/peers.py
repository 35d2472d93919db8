"""What one host tells others: that their entities have mail, and that shards have changed hands.

All of it is a hint and may get lost: hosts also poll the store for mail, and compare what they own with what they
should own every second.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import msgspec

from ..entities.ids import EntityId
from ..entities.messages import decode
from ..entities.shard import shard_of
from .ray_runtime import Handles, tell
from .routes import Routes
from .tasks import end

HINTS_MAX = 5_000
"""Hints kept for one host while it is being looked up; the rest are dropped."""

_encode = msgspec.msgpack.Encoder().encode
_entities = msgspec.msgpack.Decoder(list[EntityId])


def decode_entities(data: bytes) -> list[EntityId]:
    """What `wake` was sent. Raises msgspec.DecodeError on anything else."""
    return decode(_entities, data)


class Peers:
    """The other hosts of the namespace, by incarnation."""

    def __init__(self, routes: Routes, handles: Handles, *, shard_count: int) -> None:
        self._routes = routes
        self._handles = handles
        self._shard_count = shard_count
        self._hints: dict[str, dict[EntityId, None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def hint(self, entities: Iterable[EntityId]) -> None:
        """These entities have new mail: tell their owners, all that come in one go with one call per host."""
        for entity in entities:
            owner = self._routes.owner(shard_of(entity.type, entity.key, self._shard_count))
            if not owner:
                continue
            waiting = self._hints.get(owner)
            if waiting is None:
                waiting = self._hints[owner] = {}
                self._spawn(self._send_hints(owner))
            if len(waiting) < HINTS_MAX:
                waiting[entity] = None

    def poke(self, incarnations: Iterable[str]) -> None:
        """Shards are free or have moved: these hosts should look now."""
        for incarnation in sorted(set(incarnations)):  # in an order that a simulation can repeat
            self._spawn(self._tell(incarnation, "settle"))

    async def close(self) -> None:
        """Send nothing more."""
        await end(*self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_hints(self, owner: str) -> None:
        handle = await self._handles.get(self._routes.table.actors.get(owner, ""))
        entities = list(self._hints.pop(owner, ()))
        if handle is not None and entities:
            tell(handle, "wake", _encode(entities))

    async def _tell(self, incarnation: str, method: str) -> None:
        handle = await self._handles.get(self._routes.table.actors.get(incarnation, ""))
        if handle is not None:
            tell(handle, method)
