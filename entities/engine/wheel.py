"""What is due when: the next window of reminders and timers of the owned shards, in memory.

The store holds the truth. The wheel is given the window by `window`, is told of every change that this host commits,
and hands what is due to the engine by the database's time.

Where an occurrence is
----------------------
* *waiting*: read, not yet due or not yet handed out.
* *handed out*: on its way to a turn, until the turn that consumed it is durable (`drop_stale`). Only so many at a time:
  that is what bounds the load by timers.
* *set aside*: handed out, but held where it must not use up that bound: by a suspect's case, by its back-off after a
  failure. Somebody still has it. Beyond `ASIDE_MAX` they count as handed out.
* *left alone*: nobody can take it (parked run or entity, a type that this host does not have, …) and nobody has it.
  Whoever drops a `Fire` without its turn must say so (`leave_alone`). It stays in the store, and whatever the store
  brings of it is ignored until its time is over, its row is another one, or its entity is read again on purpose. Beyond
  `LEFT_MAX` the oldest are not known any more: they are tried again when the store brings them next (`window`).
* nowhere: consumed, cancelled, or not read. If its turn was lost the engine calls `forget`, and has it read again.

So what nobody can take costs neither room among those handed out nor, beyond a bound, memory.
"""

import heapq
from collections.abc import Callable, Collection

from ..ids import EntityId
from ..store.rows import ReminderRow
from .left import LeftAlone

Key = tuple[EntityId, str]

ASIDE_MAX = 5_000
"""Occurrences that may be set aside at a time."""


class Wheel:
    """Pure: no clock, no I/O. All times are database microseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._rows: dict[Key, ReminderRow] = {}
        self._out: set[Key] = set()
        self._aside: set[Key] = set()
        self._left = LeftAlone()
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

    @property
    def left_alone(self) -> int:
        """Occurrences that nobody could take when they were tried last; no more than `LEFT_MAX` are counted."""
        return len(self._left)

    def begin_read(self, horizon_us: int = 0) -> None:
        """The store is asked for what is due up to `horizon_us`, or (0) for what it may have brought before.

        Its answer may be older than what comes meanwhile.
        """
        self._changed = set()
        self.horizon_us = horizon_us or self.horizon_us

    def loaded(self, rows: Collection[ReminderRow], now_us: int, horizon_us: int = 0) -> int:
        """The store's answer; it is everything due up to `horizon_us`, if that is given. Returns how many are new."""
        changed, self._changed = self._changed or set(), None
        before = self._count
        for row in rows:
            key = (row.entity, row.name)
            if key in changed or key in self._out or key in self._aside or self._rows.get(key) == row:
                continue
            if not self._left.holds(row, now_us):
                self._add(key, row)
        self.horizon_us = horizon_us or self.horizon_us
        return self._count - before

    def put(self, row: ReminderRow) -> None:
        """A commit of this host has set it."""
        key = (row.entity, row.name)
        self._let_go(key)
        if row.due_us <= self.horizon_us:
            self._add(key, row)
        else:
            self._rows.pop(key, None)

    def drop(self, entity: EntityId, name: str) -> None:
        """A commit of this host has cancelled it."""
        self._let_go((entity, name))
        self._rows.pop((entity, name), None)

    def drop_stale(self, row: ReminderRow) -> None:
        """This occurrence is over (consumed durably, or found to be out of date)."""
        self._end(row)

    def set_aside(self, row: ReminderRow) -> None:
        """This occurrence, handed out, is in somebody's hands for longer: others need not wait for it."""
        key = (row.entity, row.name)
        if key in self._out and len(self._aside) < ASIDE_MAX:
            self._out.discard(key)
            self._aside.add(key)

    def leave_alone(self, row: ReminderRow, until_us: int) -> None:
        """Nobody could take this occurrence; what the store brings of it is ignored until then."""
        self._end(row)
        key = (row.entity, row.name)
        if key in self._rows:
            return  # it has been replaced meanwhile
        self._left.add(row, until_us)

    def take_up(self, entity: EntityId) -> None:
        """Nothing of this entity is to be left alone any more."""
        self._left.forget(entity)

    def forget(self, is_gone: Callable[[EntityId], bool]) -> None:
        """Forget everything about these entities: it is read again, or another host's by now."""
        for entity in [entity for entity in self._left.entities() if is_gone(entity)]:
            self._left.forget(entity)
        self._forget_known(is_gone)

    def forget_entity(self, entity: EntityId) -> None:
        """Forget everything about this one, to be read again."""
        self._left.forget(entity)
        self._forget_known(lambda other: other == entity)

    def _forget_known(self, is_gone: Callable[[EntityId], bool]) -> None:
        for key in [key for key in self._rows if is_gone(key[0])]:
            del self._rows[key]
        self._out = {key for key in self._out if not is_gone(key[0])}
        self._aside = {key for key in self._aside if not is_gone(key[0])}

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

    def _end(self, row: ReminderRow) -> None:
        key = (row.entity, row.name)
        is_known = key in self._out or key in self._aside
        self._let_go(key)
        if not is_known and self._rows.get(key) == row:
            del self._rows[key]

    def _let_go(self, key: Key) -> None:
        """Nobody has an occurrence of it, and it is not left alone; an answer under way may know less."""
        self._out.discard(key)
        self._aside.discard(key)
        self._left.discard(*key)
        if self._changed is not None:
            self._changed.add(key)

    def _add(self, key: Key, row: ReminderRow) -> None:
        self._left.discard(*key)
        self._rows[key] = row
        self._count += 1
        heapq.heappush(self._heap, (row.due_us, self._count, key))
