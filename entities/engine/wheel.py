"""What is due when: the next window of reminders and timers of the owned shards, in memory.

The store holds the truth. The wheel reads a window ahead, is told of every change that this host commits, and hands
what is due to the engine by the database's time. An occurrence that was handed out stays known until the turn that
consumed it is durable (`drop_stale`), so that reading the window again does not hand it out twice. If its turn was lost
the engine calls `forget`, and the next read finds it again.
"""

import heapq
from collections.abc import Callable, Collection

from ..ids import EntityId
from ..store.rows import ReminderRow

Key = tuple[EntityId, str]


class Wheel:
    """Pure: no clock, no I/O. All times are database microseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._rows: dict[Key, ReminderRow] = {}
        self._out: set[Key] = set()
        self._count = 0
        self._changed: set[Key] | None = None
        """What has changed since the store was asked; None: it is not being asked."""
        self.horizon_us = 0
        """Everything due before this has been read, or is being read."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def handed_out(self) -> int:
        """Occurrences that are being processed."""
        return len(self._out)

    def begin_read(self, horizon_us: int) -> None:
        """The store is asked for what is due up to `horizon_us`. Its answer may be older than what comes meanwhile."""
        self._changed = set()
        self.horizon_us = horizon_us

    def loaded(self, rows: Collection[ReminderRow], horizon_us: int) -> None:
        """The store's answer for everything due up to `horizon_us`."""
        changed, self._changed = self._changed or set(), None
        for row in rows:
            key = (row.entity, row.name)
            if key not in changed and key not in self._out and self._rows.get(key) != row:
                self._add(key, row)
        self.horizon_us = horizon_us

    def put(self, row: ReminderRow) -> None:
        """A commit of this host has set it."""
        key = (row.entity, row.name)
        self._out.discard(key)
        self._note(key)
        if row.due_us <= self.horizon_us:
            self._add(key, row)
        else:
            self._rows.pop(key, None)

    def drop(self, entity: EntityId, name: str) -> None:
        """A commit of this host has cancelled it."""
        self._note((entity, name))
        self._rows.pop((entity, name), None)
        self._out.discard((entity, name))

    def drop_stale(self, row: ReminderRow) -> None:
        """This occurrence is over (consumed durably, or found to be out of date)."""
        key = (row.entity, row.name)
        self._note(key)
        if key in self._out:
            self._out.discard(key)
        elif self._rows.get(key) == row:
            del self._rows[key]

    def forget(self, is_gone: Callable[[EntityId], bool]) -> None:
        """Forget everything about these entities, to be read again."""
        for key in [key for key in self._rows if is_gone(key[0])]:
            del self._rows[key]
        self._out = {key for key in self._out if not is_gone(key[0])}
        self.horizon_us = 0

    def next_due_us(self) -> int | None:
        """When the next one is due."""
        while self._heap:
            due_us, _, key = self._heap[0]
            row = self._rows.get(key)
            if row is not None and row.due_us == due_us:
                return due_us
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_us: int, limit: int) -> list[ReminderRow]:
        """Hand out what is due, earliest first, at most `limit`."""
        due: list[ReminderRow] = []
        while len(due) < limit:
            next_us = self.next_due_us()
            if next_us is None or next_us > now_us:
                break
            _, _, key = heapq.heappop(self._heap)
            due.append(self._rows.pop(key))
            self._out.add(key)
        return due

    def _note(self, key: Key) -> None:
        if self._changed is not None:
            self._changed.add(key)

    def _add(self, key: Key, row: ReminderRow) -> None:
        self._rows[key] = row
        self._count += 1
        heapq.heappush(self._heap, (row.due_us, self._count, key))
