"""Reading entities: batched by arrays of addresses, each method one read-only transaction in one round trip.

Every row is checked on the way (see checksums). What is damaged is sorted out row by row, so that a batch never fails
because of one of its rows (P9): an entity or a run is marked, messages and reminders are set apart for the store.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from ...entities.errors import DamagedRow
from ...entities.ids import EntityId
from ...entities.messages import Envelope
from ...entities.shard import shard_of
from ...entities.store.rows import (
    AttemptRow,
    AttemptStatus,
    Child,
    DuePosition,
    HistoryRow,
    JournalRow,
    Loaded,
    MailboxItem,
    ReminderKind,
    ReminderRow,
    RunRow,
    RunStatus,
)
from . import checksums
from .arrays import Array, int4s, texts
from .exchange import Rows, Session
from .messages import from_columns
from .statements import CLOCK

_strings = msgspec.json.Decoder(tuple[str, ...]).decode
_children = msgspec.json.Decoder(tuple[Child, ...]).decode

_ADDRESSES = "unnest($1::int4[], $2::text[], $3::text[]) as u (shard, type, key)"
_OF_ENTITY = "t.shard = u.shard and t.type = u.type and t.key = u.key"
_MESSAGE = "t.position, t.message_id, t.kind, t.name, t.args, t.sender, t.reply_to, t.extra"
_RUN = (
    "t.workflow, t.run_id, t.status, t.args, t.fingerprint, t.started_at, t.ended_at, t.outcome, t.in_flight,"
    " t.waiting, t.paused, t.reply_to, t.chain, t.parent, t.children"
)

_ENTITIES = f"""
select u.type, u.key, {checksums.ENTITIES.holds("t")}, t.version, t.state, t.schema_version, t.clock
from {_ADDRESSES} join {{s}}.entities t on {_OF_ENTITY}"""

_NOTED = f"""
select u.type, u.key from {_ADDRESSES} join {{s}}.parked t on {_OF_ENTITY}"""

_RUNS = f"""
select u.type, u.key, {_RUN}
from {_ADDRESSES} join {{s}}.runs t on {_OF_ENTITY} order by t.workflow"""

# Runs first, then the journal of each by its whole key. "offset 0" keeps the planner from joining in another order: a
# table without statistics made it read the journals of all runs that the entity has continued from (P10).
_JOURNAL = f"""
select u.type, u.key, j.*
from {_ADDRESSES} cross join lateral (
    select t.workflow, t.run_id from {{s}}.runs t where {_OF_ENTITY} and t.status in ('running', 'parked') offset 0
) r cross join lateral (
    select {checksums.JOURNAL.holds("t")} as holds, t.workflow, t.run_id, t.number, t.version, t.entry
    from {{s}}.journal t where {_OF_ENTITY} and t.workflow = r.workflow and t.run_id = r.run_id offset 0
) j
order by j.workflow, j.number"""

_ITEMS = f"""
select u.type, u.key, {checksums.ITEMS.holds("t")}, t.mailbox, t.position, t.message_id, t.item
from {_ADDRESSES} join {{s}}.mailbox_items t on {_OF_ENTITY} order by t.mailbox, t.position"""

_ATTEMPTS = f"""
select u.type, u.key, t.operation, t.activity, t.attempt, t.error, t.next_at, t.first_at, t.status, t.details,
    t.started_at
from {_ADDRESSES} join {{s}}.attempts t on {_OF_ENTITY} order by t.operation"""

_INBOX = f"""
select u.type, u.key, m.*
from {_ADDRESSES} cross join lateral (
    select {checksums.INBOX.holds("t")} as holds, {_MESSAGE}
    from {{s}}.inbox t where {_OF_ENTITY} order by t.position, t.message_id limit $4::int8
) m
order by u.type collate "C", u.key collate "C", m.position, m.message_id"""

_WITH_MAIL = """
select m.type, m.key from unnest($1::int4[]) as u (shard) cross join lateral (
    select distinct t.type, t.key from {s}.inbox t
    where t.shard = u.shard and (t.type, t.key) > ($2::text collate "C", $3::text collate "C")
    order by t.type, t.key limit $4::int8
) m
order by m.type, m.key limit $4::int8"""

_OUTCOMES = """
select t.type, t.key, t.message_id, t.version, t.kind, t.name, t.sender, t.fingerprint, t.args, t.ok, t.outcome
from unnest($1::int4[], $2::text[], $3::text[], $4::text[]) as u (shard, type, key, message_id)
join {s}.history t on (t.shard, t.type, t.key, t.message_id) = (u.shard, u.type, u.key, u.message_id)"""

_REMINDER = f"""{checksums.REMINDERS.holds("t")} as holds,
    t.type, t.key, t.name, t.kind, t.generation, t.due_at, t.every_us, t.catch_up_all, t.handler, t.args, t.cron"""
_IN_ORDER = "order by t.due_at, t.type, t.key, t.name"

_AFTER = "coalesce(to_timestamp(0) + $4::int8 * interval '1 microsecond', '-infinity')"

# The checksums are made of what is left after the limit, not of a page from each shard. The first condition on due_at
# is in the second already; it tells the planner where to begin in the index.
_DUE = f"""
select {_REMINDER} from unnest($1::int4[]) as u (shard) cross join lateral (
    select * from {{s}}.reminders t
    where t.shard = u.shard and t.due_at <= to_timestamp(0) + $2::int8 * interval '1 microsecond'
        and t.due_at >= {_AFTER}
        and (t.due_at, t.type, t.key, t.name) > ({_AFTER},
            $5::text collate "C", $6::text collate "C", $7::text collate "C")
    {_IN_ORDER} limit $3::int8
) t
{_IN_ORDER} limit $3::int8"""

_KINDS = ", ".join(f"'{kind}'" for kind in ReminderKind)
_DUE_INTACT = _DUE.replace(
    _IN_ORDER, f"and {checksums.REMINDERS.holds('t')} and t.kind in ({_KINDS})\n    {_IN_ORDER}", 1
)
"""For when there are damaged ones: they must not use up the limit."""

_DUE_OF = f"""
select {_REMINDER} from {_ADDRESSES} join {{s}}.reminders t on {_OF_ENTITY}
where t.due_at <= to_timestamp(0) + $4::int8 * interval '1 microsecond'
{_IN_ORDER} limit $5::int8"""

_IN_FLIGHT = """
select m.type, m.key from unnest($1::int4[]) as u (shard) cross join lateral (
    select distinct t.type, t.key from {s}.runs t
    where t.shard = u.shard and t.in_flight and (t.type, t.key) > ($2::text collate "C", $3::text collate "C")
    order by t.type, t.key limit $4::int8
) m
order by m.type, m.key limit $4::int8"""

_LIVE_RUNS = """
select distinct t.type, t.key from {s}.runs t
where t.status in ('running', 'parked') and ($1::text = '' or t.type = $1::text)
    and (t.type, t.key) > ($2::text collate "C", $3::text collate "C")
order by t.type, t.key limit $4::int8"""

_JOURNAL_OF = """
select t.workflow, t.run_id, t.number, t.version, t.entry from {s}.journal t
where t.shard = $1::int4 and t.type = $2::text and t.key = $3::text and t.workflow = $4::text and t.run_id = $5::text
order by t.number"""

_RUN_OF = f"""
select {_RUN} from {{s}}.runs t
where t.shard = $1::int4 and t.type = $2::text and t.key = $3::text and t.workflow = $4::text"""


UNDECODABLE = (ValueError, TypeError, msgspec.DecodeError)
"""What a value that nobody wrote ends in. Not for rows of a newer release: `check_server` refuses those."""
_DIFFERS = "its checksum does not fit"


class DamagedMessage(NamedTuple):
    """A row of the inbox that is not as it was written."""

    entity: EntityId
    position: int
    message_id: str
    reason: str


class DamagedReminder(NamedTuple):
    """A reminder that is not as it was written."""

    entity: EntityId
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads of one namespace. Every method takes the session to run on."""

    schema: str
    """Quoted."""
    shard_count: int

    async def load(
        self, session: Session, entities: Sequence[EntityId], *, inbox_max: int
    ) -> tuple[list[Loaded], list[DamagedMessage]]:
        addresses = self._addresses(set(entities))
        queries = (_ENTITIES, _RUNS, _JOURNAL, _ITEMS, _ATTEMPTS, _NOTED)
        answers = await session.transact(
            [
                *((self._sql(query), addresses) for query in queries),
                (self._sql(_INBOX), (*addresses, inbox_max)),
            ],
            is_snapshot=True,
        )
        of = [_by_entity(rows) for rows in answers]
        damaged: list[DamagedMessage] = []
        return [_loaded(EntityId(*entity), [rows[entity] for rows in of], damaged) for entity in entities], damaged

    async def inbox(
        self, session: Session, entities: Sequence[EntityId], *, per_entity_max: int
    ) -> tuple[list[Envelope], list[DamagedMessage]]:
        addresses = self._addresses(set(entities))
        (rows,) = await session.transact([(self._sql(_INBOX), (*addresses, per_entity_max))])
        damaged: list[DamagedMessage] = []
        found = (_message(EntityId(row[0], row[1]), row[2:], damaged) for row in rows)
        return [envelope for envelope in found if envelope is not None], damaged

    async def with_mail(
        self, session: Session, shards: Collection[int], *, limit: int, after: EntityId | None
    ) -> list[EntityId]:
        first = after or EntityId("", "")
        (rows,) = await session.transact([(self._sql(_WITH_MAIL), (int4s(sorted(set(shards))), *first, limit))])
        return [EntityId(*row) for row in rows]

    async def outcomes(
        self, session: Session, keys: Sequence[tuple[EntityId, str]]
    ) -> dict[tuple[EntityId, str], HistoryRow]:
        wanted = list(dict.fromkeys(keys))
        addresses = self._addresses([entity for entity, _ in wanted])
        message_ids = texts([message_id for _, message_id in wanted])
        (rows,) = await session.transact([(self._sql(_OUTCOMES), (*addresses, message_ids))])
        return {(EntityId(row[0], row[1]), row[2]): HistoryRow(*row[2:]) for row in rows}

    async def due(
        self,
        session: Session,
        shards: Collection[int],
        *,
        until_us: int,
        limit: int,
        after: DuePosition | None,
        intact_only: bool = False,
    ) -> tuple[int, list[ReminderRow], list[DamagedReminder]]:
        wanted = (int4s(sorted(set(shards))), until_us, limit, *(after or (None, "", "", "")))
        ((time,), *_), rows = await session.transact(
            [(CLOCK, ()), (self._sql(_DUE_INTACT if intact_only else _DUE), wanted)]
        )
        return time, *_reminders(rows)

    async def due_of(
        self, session: Session, entities: Collection[EntityId], *, until_us: int, limit: int
    ) -> tuple[list[ReminderRow], list[DamagedReminder]]:
        wanted = (*self._addresses(set(entities)), until_us, limit)
        (rows,) = await session.transact([(self._sql(_DUE_OF), wanted)])
        return _reminders(rows)

    async def in_flight(
        self, session: Session, shards: Collection[int], *, after: EntityId | None, limit: int
    ) -> list[EntityId]:
        first = after or EntityId("", "")
        (rows,) = await session.transact([(self._sql(_IN_FLIGHT), (int4s(sorted(set(shards))), *first, limit))])
        return [EntityId(*row) for row in rows]

    async def with_live_runs(
        self, session: Session, type_name: str, *, after: EntityId | None, limit: int
    ) -> list[EntityId]:
        first = after or EntityId("", "")
        (rows,) = await session.transact([(self._sql(_LIVE_RUNS), (type_name, *first, limit))])
        return [EntityId(*row) for row in rows]

    async def run(self, session: Session, entity: EntityId, workflow: str) -> RunRow | None:
        shard = shard_of(*entity, self.shard_count)
        (rows,) = await session.transact([(self._sql(_RUN_OF), (shard, *entity, workflow))])
        return run_row(rows[0]) if rows else None

    async def journal(self, session: Session, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        shard = shard_of(*entity, self.shard_count)
        (rows,) = await session.transact([(self._sql(_JOURNAL_OF), (shard, *entity, workflow, run_id))])
        return [JournalRow(*row) for row in rows]

    def _sql(self, template: str) -> str:
        return template.replace("{s}", self.schema)

    def _addresses(self, entities: Iterable[EntityId]) -> tuple[Array, Array, Array]:
        entities = list(entities)
        return (
            int4s([shard_of(*entity, self.shard_count) for entity in entities]),
            texts([entity.type for entity in entities]),
            texts([entity.key for entity in entities]),
        )


@contextmanager
def reading(entity: EntityId) -> Generator[None]:
    """Around reads of one entity for people: a row that cannot be decoded is a DamagedRow."""
    try:
        yield
    except UNDECODABLE as error:
        raise DamagedRow(
            f"{entity}: a stored row is not as it was written ({error}). Nothing was changed; restore it from a backup"
        ) from None


def _by_entity(rows: Rows) -> defaultdict[tuple[str, str], list[tuple[Any, ...]]]:
    grouped: defaultdict[tuple[str, str], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        grouped[row[0], row[1]].append(row[2:])
    return grouped


def _loaded(entity: EntityId, rows: Sequence[list[tuple[Any, ...]]], damaged: list[DamagedMessage]) -> Loaded:
    """An entity from its rows by query, or a mark of what is damaged. Damaged messages are added to `damaged`."""
    states, runs, journal, items, attempts, noted, inbox = rows
    found = (_message(entity, row, damaged) for row in inbox)
    mail = [envelope for envelope in found if envelope is not None]
    is_noted = bool(noted)

    def refused(what: str, version: int = 0) -> Loaded:
        return Loaded(entity=entity, version=version, inbox=mail, damage=what, is_noted=is_noted)

    if states and not states[0][0]:
        return refused(f"the row of its state (version {states[0][1]}) is damaged: {_DIFFERS}", states[0][1])
    for holds, mailbox, position, *_ in items:
        if not holds:
            return refused(f"the item at position {position} of its mailbox {mailbox!r} is damaged: {_DIFFERS}")
    try:
        return loaded_of(
            entity,
            states[0][1:] if states else None,
            runs=list(map(run_row, runs)),
            journal=[JournalRow(*row[1:]) for row in journal],
            items=[MailboxItem(*row[1:]) for row in items],
            attempts=list(map(attempt_row, attempts)),
            inbox=mail,
            damaged_runs={
                row[1]: f"entry {row[3]} of its journal is damaged: {_DIFFERS}" for row in journal if not row[0]
            },
            is_noted=is_noted,
        )
    except UNDECODABLE as error:
        return refused(f"a row of its runs or attempts is damaged: {error}")


def _message(entity: EntityId, row: tuple[Any, ...], damaged: list[DamagedMessage]) -> Envelope | None:
    """A message from (holds, its columns); None for a damaged one, which is added to `damaged`."""
    holds, *columns = row
    reason = _DIFFERS
    if holds:
        try:
            return from_columns(*entity, tuple(columns))
        except UNDECODABLE as error:
            reason = str(error)
    damaged.append(DamagedMessage(entity, columns[0], columns[1], reason))
    return None


def _reminders(rows: Rows) -> tuple[list[ReminderRow], list[DamagedReminder]]:
    """What is as it was written, and what is not."""
    due: list[ReminderRow] = []
    damaged: list[DamagedReminder] = []
    for holds, type_name, key, name, kind, *rest in rows:
        entity = EntityId(type_name, key)
        try:
            row = ReminderRow(entity, name, ReminderKind(kind), *rest)
        except UNDECODABLE as error:
            damaged.append(DamagedReminder(entity, name, str(error)))
            continue
        if holds:
            due.append(row)
        else:
            damaged.append(DamagedReminder(entity, name, _DIFFERS))
    return due, damaged


def loaded_of(entity: EntityId, state: tuple[Any, ...] | None, **rest: Any) -> Loaded:
    """An entity from (version, state, schema version, clock), or None for one without a turn."""
    if state is None:
        return Loaded(entity=entity, **rest)
    version, snapshot, schema_version, clock = state
    return Loaded(entity=entity, version=version, state=snapshot, schema_version=schema_version, clock=clock, **rest)


def attempt_row(row: tuple[Any, ...]) -> AttemptRow:
    """A note on an attempt from its columns."""
    plain = AttemptRow(*row)
    return plain._replace(status=AttemptStatus(plain.status))


def run_row(row: tuple[Any, ...]) -> RunRow:
    """A run from its columns."""
    workflow, run_id, status, args, fingerprint, started_us, ended_us, *rest = row
    outcome, in_flight, waiting, paused, reply_to, chain, parent, children = rest
    return RunRow(
        workflow=workflow,
        run_id=run_id,
        status=RunStatus(status),
        args=args,
        fingerprint=fingerprint,
        started_us=started_us,
        ended_us=ended_us or 0,
        outcome=outcome,
        in_flight=in_flight,
        waiting=waiting,
        paused=paused,
        reply_to=_strings(reply_to),
        chain=_strings(chain),
        parent=parent,
        children=_children(children),
    )
