"""The archive on Postgres: reading histories, states, dead letters. Searching is in search.py.

A history is found by the prefix of its primary key, not by an index of its own, which every turn would have to pay for;
reading a page therefore costs in proportion to the retained history of that one entity.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ...entities.ids import EntityId
from ...entities.shard import shard_of
from ...entities.store.archive import (
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
from ...entities.store.fates import Fate, Sent, UnappliedFew
from ...entities.store.rows import (
    STATE_NOT_KEPT,
    STATE_UNCHANGED,
    DeadLetter,
    HistoryRow,
    JournalRow,
    Loaded,
    MailboxItem,
    ReminderKind,
    ReminderRow,
)
from .arrays import texts
from .exchange import Rows, Session, Statement
from .fates import read_fates, read_unapplied
from .messages import for_people
from .plainly import read_plainly
from .reads import Reader, attempt_row, loaded_of, reading, run_row
from .search import Search

INBOX_MAX = 100_000
"""Waiting messages of one entity that an export holds at most."""

_HISTORY = "message_id, version, kind, name, sender, fingerprint, args, ok, outcome"
_JOURNAL = "workflow, run_id, number, version, entry"
_OF = "shard = $1::int4 and type = $2::text and key = $3::text"
_MARK = "case when state is null or state = 'true' then state else '{}' end"

_SNAPSHOT = f"select version, state, schema_version, updated_at from {{s}}.entities where {_OF}"
_RUNS = (
    "select workflow, run_id, status, args, fingerprint, started_at, ended_at, outcome, in_flight, waiting, paused,"
    f" reply_to, chain, parent, children from {{s}}.runs where {_OF} order by workflow"
)
_ATTEMPTS = (
    "select operation, activity, attempt, error, next_at, first_at, status, details, started_at from {s}.attempts"
    f" where {_OF} order by operation"
)


def _page(table: str, columns: str, *, newest_first: bool, where: str = "") -> str:
    order, is_wanted = ("desc", "version < $4::int8") if newest_first else ("asc", "version > $4::int8")
    return (
        f"select recorded_at, {columns}, {_MARK} from {{s}}.{table}"
        f" where {_OF} and {is_wanted}{where} order by version {order} limit $5::int8"
    )


_OPERATIONS = f"""
select workflow, run_id, number, version, entry from {{s}}.journal
where {_OF} and (workflow, run_id) in (select * from unnest($4::text[], $5::text[]))
order by workflow, run_id, number"""

# The nearest row at or before the version that is not "unchanged", if no version in between is without a row.
_STATE_AT = f"""
with turn as (
    select version, 0 as part, state from {{s}}.history where {_OF} and version <= $4::int8
    union all
    select version, 1, state from {{s}}.journal where {_OF} and version <= $4::int8
), left_by as (
    select version, state from turn where state is distinct from 'true' order by version desc, part desc limit 1
)
select state, version from left_by
where exists (select from turn where version = $4::int8) and $4::int8 - left_by.version =
    (select count(distinct version) from turn where version > left_by.version)"""

_EXPORT_HISTORY = f"select recorded_at, {_HISTORY}, state from {{s}}.history where {_OF} order by version, message_id"
_EXPORT_JOURNAL = (
    f"select recorded_at, {_JOURNAL}, state from {{s}}.journal where {_OF} order by workflow, run_id, number"
)
_ITEMS = f"select mailbox, position, message_id, item from {{s}}.mailbox_items where {_OF} order by mailbox, position"
_FIRST = " limit $4::int8"
_WAITING = (
    "select position, message_id, kind, name, args, sender, reply_to, extra from {s}.inbox"
    f" where {_OF} order by position, message_id"
)
_INBOX = f"{_WAITING} limit {INBOX_MAX}"
_REMINDER = (
    "select name, kind, generation, due_at, every_us, catch_up_all, handler, args, cron from {s}.reminders"
    f" where {_OF}"
)
_REMINDERS = f"{_REMINDER} order by name"
_DUE = f"{_REMINDER} order by due_at, name{_FIRST}"
_LIVE_JOURNAL = """
select j.workflow, j.run_id, j.number, j.version, j.entry from {s}.journal j join {s}.runs r
    on r.shard = j.shard and r.type = j.type and r.key = j.key and r.workflow = j.workflow and r.run_id = j.run_id
where j.shard = $1::int4 and j.type = $2::text and j.key = $3::text and r.status in ('running', 'parked')
order by j.number desc, j.workflow limit $4::int8"""
_CLOCKS = f"select clock from {{s}}.entities where {_OF}"

LETTER_COLUMNS = (
    "died_at", "type", "key", "attempts", "error", "position", "message_id", "kind", "name", "args", "sender",
    "reply_to", "extra",
)  # fmt: skip
_LETTER = ", ".join(LETTER_COLUMNS)
_LETTERS = f"""
select {_LETTER} from {{s}}.dead_letters
where ($1::text = '' or type = $1::text) and ($2::text = '' or key = $2::text)
    and died_at >= to_timestamp(0) + $3::int8 * interval '1 microsecond'
    and (died_at, type, key, message_id) > (
        to_timestamp(0) + $4::int8 * interval '1 microsecond', $5::text collate "C", $6::text collate "C",
        $7::text collate "C")
order by died_at, type, key, message_id limit $8::int8"""
_OWN_LETTERS = f"select {_LETTER} from {{s}}.dead_letters where {_OF} order by died_at, message_id limit $4::int8"
_ONE_LETTER = f"select {_LETTER} from {{s}}.dead_letters where {_OF} and message_id = $4::text"

Run = Callable[[Callable[[Session], Awaitable[Any]]], Awaitable[Any]]
"""Runs work on one of the store's sessions."""


class PostgresArchive:
    """`Archive` over the store's sessions."""

    def __init__(self, run: Run, reader: Callable[[], Awaitable[Reader]], *, schema: str) -> None:
        self._run = run
        self._reader = reader
        self._schema = schema

    async def _transact(self, *statements: tuple[str, Sequence[object]]) -> list[Any]:
        filled = [(sql.replace("{s}", self._schema), parameters) for sql, parameters in statements]
        answers: list[Any] = await self._run(lambda session: session.transact(filled, is_snapshot=True))
        return answers

    async def _address(self, entity: EntityId) -> tuple[int, str, str]:
        return shard_of(*entity, (await self._reader()).shard_count), entity.type, entity.key

    async def snapshot(self, entity: EntityId) -> Snapshot | None:
        (rows,) = await self._transact((_SNAPSHOT, await self._address(entity)))
        return Snapshot(*rows[0]) if rows else None

    async def timeline(
        self, entity: EntityId, *, after: int, limit: int, newest_first: bool = False, kinds: Sequence[str] = ()
    ) -> Timeline:
        address = await self._address(entity)
        bounds = (*address, after if after or not newest_first else 2**62, limit + 1)
        of_kind = _page("history", _HISTORY, newest_first=newest_first, where=" and kind = any($6::text[])")
        history = _page("history", _HISTORY, newest_first=newest_first)
        found, messages, resumes, runs, attempts = await self._transact(
            (_SNAPSHOT, address),
            (of_kind, (*bounds, texts(list(kinds)))) if kinds else (history, bounds),
            (_page("journal", _JOURNAL, newest_first=newest_first), bounds),
            (_RUNS, address),
            (_ATTEMPTS, address),
        )
        records, following = page_of(
            [Recorded(row[0], _history(row[1:-1], _mark(row[-1]))) for row in messages],
            [] if kinds else [Recorded(row[0], _journal(row[1:-1], _mark(row[-1]))) for row in resumes],
            limit=limit,
            newest_first=newest_first,
        )
        touched = sorted({(r.row.workflow, r.row.run_id) for r in records if isinstance(r.row, JournalRow)})
        operations: list[Any] = []
        if touched:
            names = texts([workflow for workflow, _ in touched]), texts([run_id for _, run_id in touched])
            (operations,) = await self._transact((_OPERATIONS, (*address, *names)))
        with reading(entity):
            return Timeline(
                found[0][0] if found else 0,
                records,
                following,
                [JournalRow(*row) for row in operations],
                list(map(run_row, runs)),
                [attempt_row(row) for row in attempts],
            )

    async def state_at(self, entity: EntityId, version: int) -> KeptState:
        address = await self._address(entity)
        found, kept = await self._transact((_SNAPSHOT, address), (_STATE_AT, (*address, version)))
        if not found:
            return KeptState(None, 0)
        present, state, _, _ = found[0]
        state, left_by = (state, present) if version == present else kept[0] if kept else (None, 0)
        return KeptState(state, present, left_by)

    async def everything(self, entity: EntityId) -> Everything | None:
        address = await self._address(entity)
        queries = (_SNAPSHOT, _CLOCKS, _RUNS, _ITEMS, _ATTEMPTS, _INBOX, _EXPORT_HISTORY, _EXPORT_JOURNAL, _REMINDERS)
        found, clocks, runs, items, attempts, inbox, history, journal, reminders = await self._transact(
            *((query, address) for query in queries)
        )
        if not (found or inbox):
            return None
        updated_us = found[0][-1] if found else 0
        with reading(entity):
            loaded = _loaded(entity, found, clocks, runs, items, attempts, inbox)
            due = [ReminderRow(entity, name, ReminderKind(kind), *rest) for name, kind, *rest in reminders]
        return Everything(
            loaded,
            updated_us,
            [(row[0], _history(row[1:-1], row[-1] or STATE_NOT_KEPT)) for row in history],
            [(row[0], _journal(row[1:-1], row[-1] or STATE_NOT_KEPT)) for row in journal],
            due,
            await self.letters(type=entity.type, key=entity.key, limit=INBOX_MAX),
        )

    async def present(self, entity: EntityId, *, limit: int, journal_max: int) -> Present | None:
        address = await self._address(entity)
        few = (*address, limit)
        found, clocks, runs, entries, items, attempts, inbox, reminders, letters = await self._transact(
            (_SNAPSHOT, address),
            (_CLOCKS, address),
            (_RUNS, address),
            (_LIVE_JOURNAL, (*address, journal_max)),
            (_ITEMS + _FIRST, few),
            (_ATTEMPTS + _FIRST, few),
            (_WAITING + _FIRST, few),
            (_DUE, few),
            (_OWN_LETTERS, few),
        )
        if not (found or inbox):
            return None
        updated_us = found[0][-1] if found else 0
        with reading(entity):
            journal = sorted((JournalRow(*row) for row in entries), key=lambda row: (row.workflow, row.number))
            loaded = _loaded(entity, found, clocks, runs, items, attempts, inbox, journal=journal)
            due = [ReminderRow(entity, name, ReminderKind(kind), *rest) for name, kind, *rest in reminders]
        return Present(loaded, updated_us, due, list(map(letter_of, letters)))

    async def letters(
        self, *, type: str = "", key: str = "", since_us: int = 0, after: LetterCursor | None = None, limit: int
    ) -> list[Letter]:
        start = after or LetterCursor(-1, "", "", "")
        (rows,) = await self._transact((_LETTERS, (type, key, since_us, *start, limit)))
        return list(map(letter_of, rows))

    async def letter(self, entity: EntityId, message_id: str) -> Letter | None:
        (rows,) = await self._transact((_ONE_LETTER, (*await self._address(entity), message_id)))
        return letter_of(rows[0]) if rows else None

    async def fates(self, sender: EntityId, sent: Sequence[Sent]) -> list[Fate]:
        return await read_fates(self._plainly, (await self._reader()).shard_count, sender, sent)

    async def unapplied(self, sender: EntityId, *, limit: int) -> UnappliedFew:
        return await read_unapplied(self._plainly, (await self._reader()).shard_count, sender, limit=limit)

    async def _plainly(self, statements: Sequence[Statement]) -> list[Rows]:
        filled = [(sql.replace("{s}", self._schema), parameters) for sql, parameters in statements]
        answers: list[Rows] = await self._run(lambda session: read_plainly(session, filled))
        return answers

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
        search = Search(self._schema, type, (await self._reader()).shard_count)
        scanned: Scanned = await self._run(
            lambda session: search.scan(
                session,
                narrow=narrow,
                schema_version=schema_version,
                indexed=indexed,
                after=after,
                limit=limit,
                examine_max=examine_max,
            )
        )
        return scanned

    async def index(self, type: str, fields: Sequence[str], schema_version: int) -> None:
        search = Search(self._schema, type, (await self._reader()).shard_count)
        await self._run(lambda session: search.index(session, fields, schema_version))


def _loaded(  # noqa: PLR0917 - the answers of one snapshot, in order
    entity: EntityId, found: Rows, clocks: Rows, runs: Rows, items: Rows, attempts: Rows, inbox: Rows, **more: Any
) -> Loaded:
    return loaded_of(
        entity,
        (*found[0][:3], clocks[0][0]) if found else None,
        runs=list(map(run_row, runs)),
        items=[MailboxItem(*row) for row in items],
        attempts=[attempt_row(row) for row in attempts],
        inbox=[for_people(*entity, row) for row in inbox],
        **more,
    )


def _history(columns: tuple[Any, ...], state: bytes) -> HistoryRow:
    return HistoryRow._make((*columns, state))


def _journal(columns: tuple[Any, ...], state: bytes) -> JournalRow:
    return JournalRow._make((*columns, state))


def _mark(state: bytes | None) -> bytes:
    if state is None:
        return STATE_NOT_KEPT
    return STATE_UNCHANGED if state == STATE_UNCHANGED else STATE_IS_KEPT


def letter_of(row: tuple[Any, ...]) -> Letter:
    """A dead letter from its columns."""
    died_us, type_name, key, attempts, error, *columns = row
    return Letter(died_us, DeadLetter(for_people(type_name, key, tuple(columns)), attempts, error))
