"""Reading what is due from the store: the next window, what has to be read again, what nobody could take.

Three ways through the rows, each with a cursor of its own, so that none waits for another:

* *Ahead*: from where the last read ended to `timer_window_s` from now, in order of due times, page by page while the
  wheel has room. It passes what nobody can take once and leaves it behind, so the earliest rows never block later ones,
  however many they are. Gained shards make it begin again.
* *Asked for*: the entities whose turns were lost, or that can be loaded again, or whose parked run goes on. By address,
  so it does not matter what else is due.
* *Second look*: all that lies behind, from the beginning, every `timer_window_s`. It finds what is left alone and may
  be tried again (the wheel ignores all else that it knows). What it brings is limited to `rehydrate_per_s`; it rests
  for as long as it took: nothing here ever spins, and a million stuck rows cost a page of memory at a time.

So the load by what nobody can take is bounded: in memory by `LEFT_MAX`, among those handed out by nothing at all
(whoever cannot take one says so, see `wheel`), in tries by the second look.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..ids import EntityId
from ..store.port import StoreUnavailable
from ..store.rows import DuePosition, ReminderRow

if TYPE_CHECKING:
    from .engine import Engine

LOOK_S = 0.005
"""Between two pages, or two looks whether there is room for the next."""


class Window:
    """Fills the wheel of one engine. Everything on its loop."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._ahead: DuePosition | None = None
        """Everything up to here has been read; None: nothing."""
        self._beginnings = 0
        self._ahead_at = 0.0
        """When the next page is wanted (monotonic)."""
        self._behind: DuePosition | None = None
        """Where the second look is; None: it has to begin."""
        self._behind_at = 0.0
        self._behind_since = 0.0
        self._asked: dict[EntityId, None] = {}
        self._wanted = asyncio.Event()

    def begin_again(self) -> None:
        """Shards were gained: read everything that is due."""
        self._beginnings += 1
        self._ahead, self._ahead_at = None, 0.0
        self._wanted.set()

    def read_again(self, entity: EntityId) -> None:
        """Read what is due of this entity; the wheel has forgotten it."""
        self._asked[entity] = None
        self._wanted.set()

    async def serve(self) -> None:
        """One round. Raises StoreUnavailable; nothing is lost then, the next round reads it."""
        self._wanted.clear()
        engine = self._engine
        rest_s = engine.settings.timer_window_s / 2
        if engine.epochs:
            await self._read_asked()
            now = engine.monotonic()
            if now >= self._ahead_at and self._has_room():
                await self._read_ahead()
            if now >= self._behind_at and engine.wheel.handed_out < engine.settings.timer_batch:
                await self._look_again()
            rest_s = min(rest_s, min(self._ahead_at, self._behind_at) - engine.monotonic())
        with suppress(TimeoutError):
            # Not `wait_for`: before Python 3.12 it swallows a cancellation that comes together with the event.
            async with asyncio.timeout(max(rest_s, LOOK_S)):
                await self._wanted.wait()

    def _has_room(self) -> bool:
        """Whether the next page fits: beside little, or, if it is overdue, beside nothing else that is."""
        engine = self._engine
        wheel = engine.wheel
        if len(wheel) + wheel.handed_out <= engine.settings.timer_batch:
            return True
        now_us, next_us = engine.now_us(), wheel.next_due_us()
        is_overdue = self._ahead is None or self._ahead.due_us <= now_us
        is_idle = wheel.handed_out < engine.settings.timer_batch and (next_us is None or next_us > now_us)
        return is_overdue and is_idle

    @property
    def _page(self) -> int:
        return self._engine.settings.timer_batch * 2

    async def _read_asked(self) -> None:
        engine = self._engine
        while self._asked:
            entities = list(self._asked)[: engine.settings.load_max]
            for entity in entities:
                del self._asked[entity]  # now: whoever asks from now on does not mean this answer
            engine.wheel.begin_read()
            try:
                rows = await engine.store.due_of(entities, until_us=engine.wheel.horizon_us, limit=self._page)
            except StoreUnavailable:
                self._asked.update(dict.fromkeys(entities))
                raise
            self._load(rows)
            if len(rows) >= self._page:
                self.begin_again()  # there is more of them than fits

    async def _read_ahead(self) -> None:
        engine = self._engine
        until_us = engine.now_us() + round(engine.settings.timer_window_s * 1e6)
        beginnings = self._beginnings
        engine.wheel.begin_read(until_us)
        rows = await self._due(until_us, self._ahead)
        is_end = len(rows) < self._page
        self._load(rows, until_us if is_end else rows[-1].due_us)
        if self._beginnings == beginnings:
            self._ahead = DuePosition.behind(until_us) if is_end else DuePosition.of(rows[-1])
            self._ahead_at = engine.monotonic() + engine.settings.timer_window_s / 2 if is_end else 0.0

    async def _look_again(self) -> None:
        engine = self._engine
        begun = engine.monotonic()
        if self._behind is None:
            self._behind_since = begun
        engine.wheel.begin_read()
        rows = await self._due(engine.wheel.horizon_us, self._behind)
        new = self._load(rows)
        now = engine.monotonic()
        if len(rows) < self._page:
            self._behind = None
            self._behind_at = now + max(engine.settings.timer_window_s, now - self._behind_since)
        else:
            self._behind = DuePosition.of(rows[-1])
            self._behind_at = now + max(now - begun, new / engine.settings.rehydrate_per_s)

    async def _due(self, until_us: int, after: DuePosition | None) -> list[ReminderRow]:
        engine = self._engine
        sent = engine.monotonic()
        database_us, rows = await engine.store.due(
            list(engine.epochs), until_us=until_us, limit=self._page, after=after
        )
        engine.clock.observe(database_us, sent=sent, received=engine.monotonic())
        return rows

    def _load(self, rows: Sequence[ReminderRow], horizon_us: int = 0) -> int:
        engine = self._engine
        new = engine.wheel.loaded([row for row in rows if engine.owns(row.entity)], engine.now_us(), horizon_us)
        engine.readers.nudge_timers()
        return new
