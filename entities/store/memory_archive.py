"""The archive of the memory store: plain loops over everything, equal in what it answers to that on Postgres."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ids import EntityId
from ..shard import shard_of
from .archive import (
    STATE_IS_KEPT,
    Everything,
    KeptState,
    Letter,
    LetterCursor,
    Narrow,
    Present,
    Recorded,
    ScanCursor,
    Scanned,
    Snapshot,
    Timeline,
    page_of,
)
from .memory_fates import MemoryFates
from .rows import STATE_NOT_KEPT, STATE_UNCHANGED, HistoryRow, JournalRow, Loaded

if TYPE_CHECKING:
    from .memory import StoredEntity


class MemoryArchive(MemoryFates):
    """`Archive` over the memory store's own dictionaries."""

    async def snapshot(self, entity: EntityId) -> Snapshot | None:
        stored = self._entities.get(entity)
        return _snapshot(stored) if stored is not None and stored.version else None

    async def timeline(
        self, entity: EntityId, *, after: int, limit: int, newest_first: bool = False, kinds: Sequence[str] = ()
    ) -> Timeline:
        stored = self._entities.get(entity)
        if stored is None:
            return Timeline(0, [], None, [], [], [])

        def is_wanted(version: int) -> bool:
            return (not after or version < after) if newest_first else version > after

        def first(rows: list[Recorded]) -> list[Recorded]:
            rows = [row for row in rows if is_wanted(row.row.version)]
            rows.sort(key=lambda row: row.row.version, reverse=newest_first)
            return rows[: limit + 1]

        messages = first([_recorded(*item) for item in stored.history.values() if not kinds or item[1].kind in kinds])
        resumes = [] if kinds else first([_recorded(*item) for item in stored.journal.values()])
        records, following = page_of(messages, resumes, limit=limit, newest_first=newest_first)
        touched = {(r.row.workflow, r.row.run_id) for r in records if isinstance(r.row, JournalRow)}
        operations = [row for _, (_, row) in sorted(stored.journal.items()) if (row.workflow, row.run_id) in touched]
        return Timeline(
            stored.version,
            records,
            following,
            operations,
            [run for _, run in sorted(stored.runs.items())],
            [attempt for _, attempt in sorted(stored.attempts.items())],
        )

    async def state_at(self, entity: EntityId, version: int) -> KeptState:
        stored = self._entities.get(entity)
        if stored is None or not stored.version:
            return KeptState(None, 0)
        if version == stored.version:
            return KeptState(stored.state, stored.version, version)
        rows = [(row.version, 0, row.state) for _, row in stored.history.values()]
        rows += [(row.version, 1, row.state) for _, row in stored.journal.values()]
        seen = {version}
        if all(later != version for later, _, _ in rows):
            return KeptState(None, stored.version)
        for earlier, _, state in sorted(rows, reverse=True):
            if earlier > version:
                continue
            if earlier < min(seen) - 1:
                break  # a gap: what happened in between is not known
            seen.add(earlier)
            if state != STATE_UNCHANGED:
                return KeptState(None if state == STATE_NOT_KEPT else state, stored.version, earlier)
        return KeptState(None, stored.version)

    async def everything(self, entity: EntityId) -> Everything | None:
        stored = self._entities.get(entity)
        if stored is None:
            return None
        history = sorted(stored.history.values(), key=lambda item: (item[1].version, item[1].message_id))
        return Everything(
            _loaded(entity, stored),
            stored.updated_us,
            history,
            [item for _, item in sorted(stored.journal.items())],
            [reminder for _, reminder in sorted(stored.reminders.items())],
            await self.letters(type=entity.type, key=entity.key, limit=len(self._letters)),
        )

    async def present(self, entity: EntityId, *, limit: int, journal_max: int) -> Present | None:
        stored = self._entities.get(entity)
        if stored is None:
            return None
        live = {run.run_id for run in stored.runs.values() if not run.status.is_terminal}
        entries = [row for _, (_, row) in sorted(stored.journal.items()) if row.run_id in live]
        newest = sorted(entries, key=lambda row: (-row.number, row.workflow))[:journal_max]
        return Present(
            _loaded(entity, stored, journal=sorted(newest, key=lambda row: (row.workflow, row.number)), limit=limit),
            stored.updated_us,
            sorted(stored.reminders.values(), key=lambda row: (row.due_us, row.name))[:limit],
            await self.letters(type=entity.type, key=entity.key, limit=limit),
        )

    async def letters(
        self, *, type: str = "", key: str = "", since_us: int = 0, after: LetterCursor | None = None, limit: int
    ) -> list[Letter]:
        found = sorted(
            (LetterCursor(died_us, *entity, message_id), letter)
            for (entity, message_id), (died_us, letter) in self._letters.items()
            if (not type or entity.type == type) and (not key or entity.key == key) and died_us >= since_us
        )
        return [Letter(at.died_us, letter) for at, letter in found if after is None or at > after][:limit]

    async def letter(self, entity: EntityId, message_id: str) -> Letter | None:
        found = self._letters.get((entity, message_id))
        return None if found is None else Letter(*found)

    async def scan(
        self,
        type: str,
        *,
        narrow: Sequence[Narrow],
        schema_version: int,
        indexed: Sequence[str],
        after: ScanCursor | None,
        limit: int,
        examine_max: int,
    ) -> Scanned:
        del narrow, schema_version, indexed  # the reader checks each candidate anyway
        all_of_type = sorted(
            (shard_of(*entity, self._shard_count), entity.key, _snapshot(stored))
            for entity, stored in self._entities.items()
            if entity.type == type and stored.version
        )
        left = [item for item in all_of_type if after is None or item[:2] > tuple(after)]
        found = left[: min(limit, examine_max)]
        following = ScanCursor(*found[-1][:2]) if len(found) < len(left) else None
        return Scanned(found, following, len(found))

    async def index(self, type: str, fields: Sequence[str], schema_version: int) -> None:
        """Nothing to do: there is nothing that an index would save."""


def _snapshot(stored: "StoredEntity") -> Snapshot:
    return Snapshot(stored.version, stored.state or b"null", stored.schema_version, stored.updated_us)


def _recorded(at_us: int, row: HistoryRow | JournalRow) -> Recorded:
    is_mark = row.state in (STATE_NOT_KEPT, STATE_UNCHANGED)
    return Recorded(at_us, row if is_mark else row._replace(state=STATE_IS_KEPT))


def _loaded(
    entity: EntityId, stored: "StoredEntity", *, journal: Sequence[JournalRow] = (), limit: int | None = None
) -> Loaded:
    """`limit`: of each kind of row that may be many."""
    return Loaded(
        entity=EntityId(*entity),
        version=stored.version,
        state=stored.state,
        schema_version=stored.schema_version,
        clock=stored.clock,
        runs=[run for _, run in sorted(stored.runs.items())],
        journal=list(journal),
        items=[item for _, item in sorted(stored.items.items())][:limit],
        attempts=[attempt for _, attempt in sorted(stored.attempts.items())][:limit],
        inbox=[envelope for _, envelope in sorted(stored.inbox.items())][:limit],
    )
