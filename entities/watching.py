"""Following one entity: each committed change of its state, and what happened, as it comes.

Read from Postgres alone, so it works while the entity sleeps and while no host runs, and shows committed facts only
(promise P8). A change is noticed by looking at the entity's version now and then: one row by its primary key. Whoever
follows misses no event that is retained, but may see several turns as one change: what is certain is the last state.
"""

import asyncio
import datetime as dt
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import msgspec

from .archive import address_of, ambient_archive
from .client import ambient
from .entity import Entity
from .errors import InvalidArguments
from .history import HistoryEvent, history
from .ids import EntityId
from .recurrence import from_us
from .store.archive import Archive

POLL_S = 1.0
POLL_MIN_S = 0.01
EVENTS_MAX = 100
"""Turns whose events one change holds."""


class EntityChange(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of an entity since the change before."""

    type: str
    key: str
    version: int
    """Everything up to this version has been told: pass it as `after` to go on from here. 0: it does not exist yet."""
    updated_at: dt.datetime | None
    """Of `state`, by the database's clock."""
    state: Any
    """The present state as JSON; None while there is more to tell (`is_last` is false), or if it does not exist yet."""
    events: list[HistoryEvent]
    """What happened, oldest first: messages, workflow runs that began or ended and their operations."""
    is_last: bool = True
    """Nothing more was there to tell when it was read."""


@runtime_checkable
class HasChanges(Protocol):
    """A caller that follows entities by a way of its own."""

    def changes(self, entity: EntityId, *, after: int | None = None) -> AsyncGenerator[EntityChange]:
        """See `watch`."""
        ...


async def watch(
    entity: Entity | EntityId,
    *,
    after: int | None = None,
    poll: timedelta | float = POLL_S,
    archive: Archive | None = None,
) -> AsyncGenerator[EntityChange]:
    """Follow an entity, without end: first what it is now, then each change, within `poll` (numbers are seconds).

    after: a version up to which everything is known; the first change then holds what has happened since, as far as it
    is retained. None: from now on. Over HTTP the gateway decides how often it looks.

    Raises InvalidArguments (`after` is in the future), StoreUnavailable, NotConnected.
    """
    poll_s = poll.total_seconds() if isinstance(poll, timedelta) else float(poll)
    if after is not None and after < 0:
        raise InvalidArguments(f"after is a version, 0 or more, not {after}")
    if not POLL_MIN_S <= poll_s <= 3_600:
        raise InvalidArguments(f"poll is {POLL_MIN_S} s to an hour, not {poll}")
    address = address_of(entity)
    caller: object = ambient() if archive is None else None
    if isinstance(caller, HasChanges):
        async for change in caller.changes(address, after=after):
            yield change
        return
    reading = archive or ambient_archive()
    told = -1
    while True:
        snapshot = await reading.snapshot(address)
        version = 0 if snapshot is None else snapshot.version
        if told < 0:
            after = _check_after(address, version if after is None else after, version)
        if version != told:
            assert after is not None
            async for change in _since(address, after, reading):
                after = change.version
                if not change.is_last:
                    yield change
                    continue
                if after > version:  # it changed between the two reads: the state is not to be older than the version
                    snapshot = await reading.snapshot(address)
                    version = 0 if snapshot is None else snapshot.version
                yield msgspec.structs.replace(
                    change,
                    updated_at=None if snapshot is None else from_us(snapshot.updated_us),
                    state=None if snapshot is None else msgspec.json.decode(snapshot.state),
                )
            told = min(version, after)  # of a state that is newer than its version the events are still to come
        await asyncio.sleep(poll_s)


def _check_after(address: EntityId, after: int, version: int) -> int:
    if after > version:
        raise InvalidArguments(
            f"{address} is at version {version}; there is nothing to go on from after {after}", errors=[]
        )
    return after


async def _since(address: EntityId, after: int, archive: Archive) -> AsyncGenerator[EntityChange]:
    """What happened after a version, a piece at a time, without the state."""
    is_last = False
    while not is_last:
        page = await history(address, after=after, limit=EVENTS_MAX, archive=archive)
        events = [event for event in page.events if event.version > after]
        is_last = page.next is None
        after = max(after, page.version) if page.next is None else page.next
        if events or is_last:
            yield EntityChange(
                type=address.type,
                key=address.key,
                version=after,
                updated_at=None,
                state=None,
                events=events,
                is_last=is_last,
            )
