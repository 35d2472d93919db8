"""The archive: the read side of the store, for people and for tools.

Everything here is answered by the store alone, so it works while no host runs. Nothing locks and nothing waits for a
turn; every method reads one committed moment (promise P8). Both implementations (Postgres, memory) are held to one
conformance suite (tests/store/test_archive.py).

What there is to read obeys the retention: history rows go when they are older than it, journals when their run is gone
or replaced and they are as old. So histories have gaps at their beginning, never an error.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from ..ids import EntityId
from .fates import Fates
from .rows import AttemptRow, DeadLetter, HistoryRow, JournalRow, Loaded, ReminderRow, RunRow


class Snapshot(NamedTuple):
    """An entity as committed."""

    version: int
    state: bytes
    schema_version: int
    updated_us: int


class Recorded(NamedTuple):
    """A history or journal row with the time of its commit. `row.state` is a mark, or empty if a state is kept."""

    at_us: int
    row: HistoryRow | JournalRow


STATE_IS_KEPT = b""
"""In `row.state` of a `Recorded`: there is a state; `state_at` reads it."""


class Timeline(NamedTuple):
    """A piece of an entity's history."""

    version: int
    """The entity's present version; 0 = it does not exist."""
    records: list[Recorded]
    """Ordered by version; the message of a version before its resume. Whole versions only."""
    next: int | None
    """Version to go on from (exclusive), or None at the end."""
    operations: list[JournalRow]
    """All journal rows of the runs that have a resume in `records`: what their operation numbers mean."""
    runs: list[RunRow]
    attempts: list[AttemptRow]


class KeptState(NamedTuple):
    """What is known of the state at a version."""

    state: bytes | None
    """None: not retained."""
    present: int
    """The entity's present version; 0 = it does not exist."""
    left_by: int = 0
    """The version whose row holds the state: this one, or an earlier one if those in between left what they found."""


class Letter(NamedTuple):
    """A dead letter with the time of its death."""

    died_us: int
    letter: DeadLetter


class LetterCursor(NamedTuple):
    """Where a list of dead letters goes on: after this one."""

    died_us: int
    type: str
    key: str
    message_id: str


class Everything(NamedTuple):
    """All that is stored of one entity, for export."""

    loaded: Loaded
    """With all runs, but only the journals of live ones; `journal` has all."""
    updated_us: int
    history: list[tuple[int, HistoryRow]]
    """(time, row), ordered by version; states included."""
    journal: list[tuple[int, JournalRow]]
    reminders: list[ReminderRow]
    letters: list[Letter]


class Present(NamedTuple):
    """What is going on at one entity, as committed: for people, so bounded."""

    loaded: Loaded
    """With all runs; of the journals of live ones the newest entries; of items and inbox the first."""
    updated_us: int
    reminders: list[ReminderRow]
    """The earliest due first."""
    letters: list[Letter]


class Narrow(NamedTuple):
    """A condition on one field that an entity must fulfil to be worth a look (the reader checks it exactly).

    Stores may ignore it. A field that the stored state lacks fulfils it if `or_missing`.
    """

    field: str
    test: Literal["text_in", "text_from", "text_to", "number_from", "number_to", "is_null", "not_null"]
    """`text_in`: the value as text, cut to FIND_PREFIX characters, is one of `values`; `text_from`/`text_to`: it is at
    least / at most `values[0]` by code point; `number_…`: a JSON number at least / at most `values[0]`."""
    values: tuple[str, ...] = ()
    or_missing: bool = False


FIND_PREFIX = 64
"""Characters of a field's text that indexes and narrowing look at: index entries must stay small."""


class ScanCursor(NamedTuple):
    """Where a scan goes on: after this address. Scans go by shard, then key."""

    shard: int
    key: str


class Scanned(NamedTuple):
    """Candidates among the entities of one type."""

    found: list[tuple[int, str, Snapshot]]
    """(shard, key, snapshot) in the order of the scan."""
    next: ScanCursor | None
    """None: the scan is at its end."""
    examined: int
    """Entities that were looked at."""
    is_indexed: bool = False
    """Only those that an index found."""


class Archive(Fates, Protocol):
    """What can be asked. Raises StoreUnavailable if the database does not answer."""

    async def snapshot(self, entity: EntityId) -> Snapshot | None:
        """The entity as committed, or None."""
        ...

    async def timeline(
        self, entity: EntityId, *, after: int, limit: int, newest_first: bool = False, kinds: Sequence[str] = ()
    ) -> Timeline:
        """Rows of versions after `after` (with `newest_first`: before it; 0 = from the end), about `limit` of them.

        `kinds`: of messages only these kinds; resumes are left out then.
        """
        ...

    async def state_at(self, entity: EntityId, version: int) -> KeptState:
        """The state that this version left, if it is retained or follows from what is."""
        ...

    async def everything(self, entity: EntityId) -> Everything | None:
        """All rows of one entity, from one snapshot; None if nothing is stored under this address."""
        ...

    async def present(self, entity: EntityId, *, limit: int, journal_max: int) -> Present | None:
        """What is going on at one entity, from one snapshot: `limit` rows of each kind, `journal_max` journal entries.

        None if nothing is stored under this address.
        """
        ...

    async def letters(
        self, *, type: str = "", key: str = "", since_us: int = 0, after: LetterCursor | None = None, limit: int
    ) -> list[Letter]:
        """Dead letters, oldest first, of a type, of one entity of it, or of all."""
        ...

    async def letter(self, entity: EntityId, message_id: str) -> Letter | None:
        """One dead letter, or None."""
        ...

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
        """Entities of a type that fulfil `narrow` or were written by a schema before `schema_version`.

        At most `limit` of them, having looked at no more than about `examine_max`. `indexed`: fields for which
        there should be an index; one that has not been made (see `index`) is not counted on.
        """
        ...

    async def index(self, type: str, fields: Sequence[str], schema_version: int) -> None:
        """Make the indexes for searching a type by these fields, and drop those for other fields. Repeatable."""
        ...


def page_of(
    messages: list[Recorded], resumes: list[Recorded], *, limit: int, newest_first: bool
) -> tuple[list[Recorded], int | None]:
    """Rows of both tables (`limit` + 1 of each at most) as one page of whole versions, and where the next begins."""
    sign = -1 if newest_first else 1
    # What a table has beyond its limit is unknown: the page ends before the first version that may be incomplete.
    ends = [sign * rows[limit].row.version for rows in (messages, resumes) if len(rows) > limit]
    rows = sorted((*messages, *resumes), key=lambda r: (sign * r.row.version, isinstance(r.row, JournalRow)))
    if not ends:
        return rows, None
    kept = [r for r in rows if sign * r.row.version < min(ends)]
    return kept, sign * (min(ends) - 1)
