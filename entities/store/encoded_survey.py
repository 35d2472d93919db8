"""The survey of an encoded store: opened by its codec where that is possible, else saying why it is not.

As the archive's lists (encoded_archive.py): a payload that cannot be read is the text `encrypted (<why>)` in its place.
Names, times and counts are stored in the clear, so nothing is missing without a key but the words.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from ..codec import CannotDecode
from ..ids import EntityId
from .encoded_archive import ShownRows
from .rows import AttemptRow, ReminderRow, RunRow
from .sealing import Sealer
from .survey import (
    HOST,
    AuditCursor,
    Audited,
    Due,
    DueCursor,
    Few,
    Listed,
    Minute,
    Noted,
    Survey,
    SurveyedHosts,
    Tally,
    Troubles,
    TypeTally,
)

if TYPE_CHECKING:
    from ..definition import EntityDefinition

T = TypeVar("T")


class EncodedSurvey:
    """`Survey` of what an EncodedStore writes. See the module."""

    def __init__(self, inner: Survey, sealer: Sealer) -> None:
        self._inner = inner
        self._sealer = sealer
        self._shown = ShownRows(sealer)

    async def troubles(self, *, limit: int) -> Troubles:
        found = await self._inner.troubles(limit=limit)
        seal = self._sealer
        return found._replace(
            damaged=Few(list(map(self._noted, found.damaged.rows)), found.damaged.total),
            parked=self._runs(found.parked),
            poisoned=Few([(at, seal.open_suspicion(row)) for at, row in found.poisoned.rows], found.poisoned.total),
            wedged=self._attempts(found.wedged),
            exhausted=self._attempts(found.exhausted),
            letters=Few(list(map(self._shown.letter, found.letters.rows)), found.letters.total),
            late=Few(list(map(self._reminder, found.late.rows)), found.late.total),
            paused=self._runs(found.paused),
            failed=self._runs(found.failed),
        )

    def _noted(self, note: Noted) -> Noted:
        return note._replace(reason=self._sealer.open_text(note.entity, "parked", (), note.reason))

    def _runs(self, few: Few[tuple[EntityId, RunRow]]) -> Few[tuple[EntityId, RunRow]]:
        return Few([(entity, self._shown.run(entity, row)) for entity, row in few.rows], few.total)

    def _attempts(self, few: Few[tuple[EntityId, AttemptRow]]) -> Few[tuple[EntityId, AttemptRow]]:
        return Few([(entity, self._shown.attempt(entity, row)) for entity, row in few.rows], few.total)

    def _reminder(self, row: ReminderRow) -> ReminderRow:
        try:
            return self._sealer.open_reminder(row)
        except CannotDecode:
            return row._replace(args=b"{}")

    async def types(self) -> list[str]:
        return await self._inner.types()

    async def tally(self, types: Sequence[str]) -> dict[str, TypeTally]:
        return await self._inner.tally(types)

    async def views(self) -> dict[str, str]:
        return await self._inner.views()

    async def make_views(self, definitions: "Sequence[EntityDefinition]") -> list[str]:
        return await self._inner.make_views(definitions)

    async def versions(self, types: Sequence[str]) -> dict[str, dict[int, Tally]]:
        return await self._inner.versions(types)

    async def hosts(self) -> SurveyedHosts:
        return await self._inner.hosts()

    async def drain_host(self, incarnation: str, *, operator: str, reason: str) -> None:
        await self._inner.drain_host(incarnation, operator=operator, reason=reason)

    async def minutes(self, *, since_us: int) -> list[Minute]:
        return await self._inner.minutes(since_us=since_us)

    async def note(self, minute: Minute) -> None:
        await self._inner.note(minute)

    async def entities(
        self,
        type: str,
        *,
        prefix: str = "",
        status: str = "",
        waiting: str = "",
        since_us: int = 0,
        after: str | None = None,
        limit: int,
    ) -> Listed:
        return await self._inner.entities(
            type, prefix=prefix, status=status, waiting=waiting, since_us=since_us, after=after, limit=limit
        )

    async def due(
        self, *, until_us: int = 0, type: str = "", kind: str = "", after: DueCursor | None = None, limit: int
    ) -> Due:
        found = await self._inner.due(until_us=until_us, type=type, kind=kind, after=after, limit=limit)
        return found._replace(rows=list(map(self._reminder, found.rows)))

    async def audit(
        self,
        *,
        type: str = "",
        key: str = "",
        since_us: int = 0,
        until_us: int = 0,
        after: AuditCursor | None = None,
        limit: int,
    ) -> list[Audited]:
        found = await self._inner.audit(
            type=type, key=key, since_us=since_us, until_us=until_us, after=after, limit=limit
        )
        return [
            one if one.entity.type == HOST else one._replace(row=self._shown.history(one.entity, one.row))
            for one in found
        ]

    async def groups(self) -> list[str]:
        return await self._inner.groups()

    async def decisions(
        self, group: str, *, type: str = "", after: DueCursor | None = None, limit: int
    ) -> list[tuple[EntityId, AttemptRow]]:
        found = await self._inner.decisions(group, type=type, after=after, limit=limit)
        return [(entity, self._shown.attempt(entity, row)) for entity, row in found]

    async def decision(self, entity: EntityId, operation: str) -> AttemptRow | None:
        found = await self._inner.decision(entity, operation)
        return None if found is None else self._shown.attempt(entity, found)
