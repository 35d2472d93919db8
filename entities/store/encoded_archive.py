"""The archive of an encoded store: opened by its codec where that is possible, else saying why it is not.

Lists show what they can: a payload that cannot be read is the text `encrypted (<why>)` in its place. What would hand
such a text on as if it were a state (a snapshot, a past state, an export) raises PayloadUnreadable instead.

Without any key it is still of use: who, when and what is stored in the clear (`NoKeys`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from ..codec import CannotDecode
from ..errors import PayloadUnreadable
from ..ids import EntityId
from ..messages import encode_json
from .archive import (
    Archive,
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
)
from .fates import Fate, Sent, UnappliedFew
from .rows import AttemptRow, DeadLetter, HistoryRow, JournalRow, RunRow
from .sealing import Sealer

T = TypeVar("T")


class NoKeys:
    """A `PayloadCodec` for readers that were given none: it opens nothing, and says whose key it would take."""

    searchable: Mapping[str, Collection[str]] = {}
    accept_plain = True

    def encode(self, data: bytes, context: bytes) -> tuple[str, bytes]:
        """Nothing is written without a key."""
        raise PayloadUnreadable("this process has no encryption keys: it cannot write")

    def decode(self, key_id: str, blob: bytes, context: bytes) -> bytes:
        """Always raises CannotDecode."""
        raise CannotDecode(f"key id {key_id}")


class ShownRows:
    """Rows for people: what cannot be read says why."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def history(self, entity: EntityId, row: HistoryRow) -> HistoryRow:
        """A message and its outcome."""
        try:
            return self._sealer.open_history(entity, row)
        except CannotDecode as why:
            return row._replace(args=_placeholder(why), outcome=_placeholder(why) if row.ok else _error(why))

    def journal(self, entity: EntityId, row: JournalRow) -> JournalRow:
        """A resume of a run."""
        try:
            return self._sealer.open_journal(entity, row)
        except CannotDecode as why:
            return row._replace(entry=_placeholder(why))

    def run(self, entity: EntityId, row: RunRow) -> RunRow:
        """A run."""
        try:
            return self._sealer.open_run(entity, row)
        except CannotDecode as why:
            is_value = row.status in ("running", "completed")
            return row._replace(args=_placeholder(why), outcome=_placeholder(why) if is_value else _error(why))

    def attempt(self, entity: EntityId, row: AttemptRow) -> AttemptRow:
        """A note on an activity."""
        try:
            return self._sealer.open_attempt(entity, row)
        except CannotDecode as why:
            return row._replace(error=_error(why))

    def letter(self, found: Letter) -> Letter:
        """A dead letter."""
        try:
            return found._replace(letter=self._sealer.open_letter(found.letter))
        except CannotDecode as why:
            envelope, attempts, _ = found.letter
            shown = msgspec.structs.replace(envelope, args=_placeholder(why))
            return found._replace(letter=DeadLetter(shown, attempts, _error(why)))


class EncodedArchive:
    """`Archive` of what an EncodedStore writes. See the module."""

    def __init__(self, inner: Archive, sealer: Sealer) -> None:
        self._inner = inner
        self._sealer = sealer
        self._shown = ShownRows(sealer)

    # --- one entity, exactly ------------------------------------------------------------------------------------------

    async def snapshot(self, entity: EntityId) -> Snapshot | None:
        found = await self._inner.snapshot(entity)
        if found is None:
            return None
        return found._replace(state=_exactly(entity, lambda: self._open_state(entity, found)))

    def _open_state(self, entity: EntityId, snapshot: Snapshot) -> bytes:
        return self._sealer.open_state(entity, snapshot.version, snapshot.state)

    async def state_at(self, entity: EntityId, version: int) -> KeptState:
        kept = await self._inner.state_at(entity, version)
        state = kept.state
        if state is None:
            return kept
        is_present = version == kept.present
        opened = self._sealer.open_state if is_present else self._sealer.open_kept
        return kept._replace(state=_exactly(entity, lambda: opened(entity, kept.left_by, state)))

    async def everything(self, entity: EntityId) -> Everything | None:
        found = await self._inner.everything(entity)
        return None if found is None else _exactly(entity, lambda: self._open_everything(entity, found))

    def _open_everything(self, entity: EntityId, found: Everything) -> Everything:
        seal = self._sealer
        history = [(at, seal.open_history(entity, row), row.state) for at, row in found.history]
        journal = [(at, seal.open_journal(entity, row), row.state) for at, row in found.journal]
        return Everything(
            seal.open_loaded(found.loaded),
            found.updated_us,
            [(at, row._replace(state=seal.open_kept(entity, row.version, state))) for at, row, state in history],
            [(at, row._replace(state=seal.open_kept(entity, row.version, state))) for at, row, state in journal],
            [seal.open_reminder(row) for row in found.reminders],
            [Letter(letter.died_us, seal.open_letter(letter.letter)) for letter in found.letters],
        )

    async def present(self, entity: EntityId, *, limit: int, journal_max: int) -> Present | None:
        found = await self._inner.present(entity, limit=limit, journal_max=journal_max)
        if found is None:
            return None
        seal = self._sealer
        return _exactly(
            entity,
            lambda: found._replace(
                loaded=seal.open_loaded(found.loaded),
                reminders=[seal.open_reminder(row) for row in found.reminders],
                letters=[Letter(letter.died_us, seal.open_letter(letter.letter)) for letter in found.letters],
            ),
        )

    # --- what is stored in the clear ----------------------------------------------------------------------------------

    async def fates(self, sender: EntityId, sent: Sequence[Sent]) -> list[Fate]:
        return await self._inner.fates(sender, sent)

    async def unapplied(self, sender: EntityId, *, limit: int) -> UnappliedFew:
        return await self._inner.unapplied(sender, limit=limit)

    # --- lists, as far as can be --------------------------------------------------------------------------------------

    async def timeline(
        self, entity: EntityId, *, after: int, limit: int, newest_first: bool = False, kinds: Sequence[str] = ()
    ) -> Timeline:
        found = await self._inner.timeline(entity, after=after, limit=limit, newest_first=newest_first, kinds=kinds)
        return found._replace(
            records=[Recorded(record.at_us, self._message_or_resume(entity, record.row)) for record in found.records],
            operations=[self._shown.journal(entity, row) for row in found.operations],
            runs=[self._shown.run(entity, row) for row in found.runs],
            attempts=[self._shown.attempt(entity, row) for row in found.attempts],
        )

    def _message_or_resume(self, entity: EntityId, row: HistoryRow | JournalRow) -> HistoryRow | JournalRow:
        return self._shown.journal(entity, row) if isinstance(row, JournalRow) else self._shown.history(entity, row)

    async def letters(
        self, *, type: str = "", key: str = "", since_us: int = 0, after: LetterCursor | None = None, limit: int
    ) -> list[Letter]:
        found = await self._inner.letters(type=type, key=key, since_us=since_us, after=after, limit=limit)
        return list(map(self._shown.letter, found))

    async def letter(self, entity: EntityId, message_id: str) -> Letter | None:
        found = await self._inner.letter(entity, message_id)
        return None if found is None else self._shown.letter(found)

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
        """The database narrows by searchable fields alone, and lets pass what was written before they were that."""
        searchable = self._sealer.searchable(type)
        found = await self._inner.scan(
            type,
            narrow=[one._replace(or_missing=True) for one in narrow if one.field in searchable],
            schema_version=schema_version,
            indexed=[field for field in indexed if field in searchable],
            after=after,
            limit=limit,
            examine_max=examine_max,
        )
        return found._replace(found=[self._scanned(type, *one) for one in found.found])

    def _scanned(self, type: str, shard: int, key: str, snapshot: Snapshot) -> tuple[int, str, Snapshot]:
        try:
            state = self._open_state(EntityId(type, key), snapshot)
        except CannotDecode as why:
            state = _placeholder(why)
        return shard, key, snapshot._replace(state=state)

    async def index(self, type: str, fields: Sequence[str], schema_version: int) -> None:
        """Indexes on what the database can see."""
        searchable = self._sealer.searchable(type)
        await self._inner.index(type, [field for field in fields if field in searchable], schema_version)


def _exactly(entity: EntityId, read: Callable[[], T]) -> T:
    try:
        return read()
    except CannotDecode as why:
        raise PayloadUnreadable(f"{entity}: what is stored of it cannot be read here: {why}") from None


def _placeholder(why: CannotDecode) -> bytes:
    return encode_json(f"encrypted ({why})")


def _error(why: CannotDecode) -> bytes:
    return encode_json(PayloadUnreadable(f"encrypted ({why})").body())
