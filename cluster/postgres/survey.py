"""The survey on Postgres: what needs a person, hosts, minutes, the audit, the work list. Counting is in sampling.py,
lists of entities and reminders are in listing.py.

What is rare is found by partial indexes (schema.py says which). If it is not rare after all (a deploy that parks a
million runs), the first thousand are looked at and the oldest of those are shown: nothing here is ever slow because
something is very wrong.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ...entities.definition import EntityDefinition
from ...entities.ids import EntityId, new_message_id
from ...entities.shard import shard_of
from ...entities.store.rows import AttemptRow, HistoryRow, HostRow, ReminderKind, ReminderRow, RunRow, Suspicion
from ...entities.store.survey import (
    COUNT_MAX,
    DECISION,
    DRAIN,
    FAILED_SHOWN_US,
    HOST,
    LATE_US,
    MINUTES_KEPT_US,
    NEVER_US,
    POISON_POINTS,
    WEDGED_ATTEMPTS,
    AuditCursor,
    Audited,
    Due,
    DueCursor,
    Few,
    Listed,
    Minute,
    Noted,
    OldMessage,
    SurveyedHost,
    SurveyedHosts,
    Tally,
    Troubles,
    TypeTally,
    host_order,
)
from .archive import LETTER_COLUMNS, letter_of
from .exchange import Session, Statement
from .listing import Lister
from .plainly import read_plainly
from .reads import Reader, attempt_row, run_row
from .sampling import Sampler
from .statements import CLOCK
from .views import Views

INBOX_LOOK = 8
"""Rows of each shard's inbox that are looked at for old messages."""
GONE_SHOWN = "interval '1 day'"

Run = Callable[[Callable[[Session], Awaitable[Any]]], Awaitable[Any]]
"""Runs work on one of the store's sessions."""

_RUN = (
    "t.type, t.key, t.workflow, t.run_id, t.status,"
    " case when jsonb_typeof(t.args) = 'string' then t.args else '{}' end, t.fingerprint,"
    " t.started_at, t.ended_at, t.outcome, t.in_flight, t.waiting, t.paused, t.reply_to, t.chain,"
    " t.parent, t.children"
)
"""Arguments are left out: nobody sees them here. Those of an encrypted run hold its outcome."""
_ATTEMPT = (
    "t.type, t.key, t.operation, t.activity, t.attempt, t.error, t.next_at, t.first_at, t.status, t.details,"
    " t.started_at"
)
_REMINDER = (
    "t.type, t.key, t.name, t.kind, t.generation, t.due_at, t.every_us, t.catch_up_all, t.handler, t.args, t.cron"
)
_AGO = "clock_timestamp() - interval '{us} microseconds'"
_SHARDS = "generate_series(0, {n} - 1) as s (shard)"
_LATE = f"t.shard = s.shard and t.due_at < {_AGO.replace('{us}', str(LATE_US))}"

_FROM = {
    "damaged": "{s}.parked t",
    "parked": "{s}.runs t where t.status = 'parked'",
    "poisoned": f"{{s}}.suspects t where t.points >= {POISON_POINTS}",
    "wedged": f"{{s}}.attempts t where t.status = 'retrying' and t.attempt >= {WEDGED_ATTEMPTS}",
    "exhausted": "{s}.attempts t where t.status = 'paused'",
    "letters": "{s}.dead_letters t",
    "late": f"{_SHARDS} cross join lateral (select t.* from {{s}}.reminders t where {_LATE}"
    " order by t.due_at limit {limit}) t",
    "paused": "{s}.runs t where t.paused <> '' and t.ended_at is null",
    "failed": f"{{s}}.runs t where t.status = 'failed' and t.ended_at > {_AGO.replace('{us}', str(FAILED_SHOWN_US))}",
    "decisions": f"{{s}}.attempts t where t.status = 'outside' and left(t.activity, 9) = '{DECISION}'",
}
"""Each finds its rows by an index; without a limit a few thousand at most are read."""
_SHOWN = {
    "damaged": ("t.type, t.key, t.reason, t.parked_at", "parked_at, type, key"),
    "parked": (_RUN, "started_at, type, key, workflow"),
    "poisoned": ("t.noted_at, t.type, t.key, t.message_id, t.points, t.reason", "noted_at, type, key"),
    "wedged": (_ATTEMPT, "first_at, type, key, operation"),
    "exhausted": (_ATTEMPT, "first_at, type, key, operation"),
    "letters": (", ".join(f"t.{name}" for name in LETTER_COLUMNS), "died_at, type, key, message_id"),
    "late": (_REMINDER, "due_at, type, key, name"),
    "paused": (_RUN, "started_at, type, key, workflow"),
    "failed": (_RUN, "ended_at, type, key, workflow"),
}
_UNORDERED = ("damaged", "parked", "poisoned", "exhausted", "paused")
"""No index has their order: the oldest of the first thousand."""

# Of a long inbox some rows of every shard.
_INBOX = f"""
select t.type, t.key, t.message_id, t.kind, t.name, t.position, t.count from {_SHARDS} cross join lateral (
    select x.*, count(*) over () as count from (
        select i.type, i.key, i.message_id, i.kind, i.name, i.position from {{s}}.inbox i where i.shard = s.shard
        order by i.type, i.key, i.position limit {INBOX_LOOK}
    ) x
) t
where t.position < (extract(epoch from clock_timestamp()) * 1000000)::int8 - {LATE_US}
order by t.position, t.type, t.key"""

# A loose index scan: the next type of each shard, until there is none.
_TYPES = """
with recursive found as (
    select s.shard, (select e.type from {s}.entities e where e.shard = s.shard order by e.type limit 1) as type
    from {s}.shards s
    union all
    select f.shard, (select e.type from {s}.entities e where e.shard = f.shard and e.type > f.type
        order by e.type limit 1)
    from found f where f.type is not null
) select distinct type from found where type is not null order by type"""
_GROUPS = f"""
with recursive found as (
    (select t.activity from {_FROM["decisions"]} order by t.activity limit 1)
    union all
    select (select t.activity from {_FROM["decisions"]} and t.activity > f.activity order by t.activity limit 1)
    from found f where f.activity is not null
) select activity from found where activity is not null"""

_LIVE = "h.status in ('active', 'draining')"
_HOSTS = f"""
select h.incarnation, h.address, h.node, h.pid, h.status, h.lease_until, h.capacity, h.registered_at, h.gone_at,
    (select count(*) from {{s}}.shards o where o.owner = h.incarnation),
    m.minute, m.seconds, m.turns, m.commits, m.failed_commits, m.commit_us_p50, m.commit_us_p99, m.activations
from {{s}}.hosts h left join lateral (
    select * from {{s}}.host_stats x where x.incarnation = h.incarnation order by x.minute desc limit 1
) m on true
where {_LIVE} or h.gone_at > clock_timestamp() - {GONE_SHOWN} order by h.incarnation"""
_SHARD_COUNTS = f"""
select count(*), count(*) filter (where not exists (
    select from {{s}}.hosts h where h.incarnation = o.owner and {_LIVE}
)) from {{s}}.shards o"""

# One statement: of two that order it at a time the second waits for the row, and then finds nothing to do.
_DRAIN_HOST = """
with drained as (
    update {s}.hosts set status = 'draining' where incarnation = $3::text and status = 'active' returning incarnation
)
insert into {s}.audit (shard, type, key, version, message_id, kind, name, sender, args, ok, outcome, recorded_at)
select $1::int4, $2::text, incarnation, $4::int8, $5::text, $6::text, $7::text, '', ($8::text)::jsonb, true, 'null',
    clock_timestamp()
from drained"""

_TARGETS = "select value from {s}.meta where name = 'targets'"

_MINUTES = """
select incarnation, minute, seconds, turns, commits, failed_commits, commit_us_p50, commit_us_p99, activations
from {s}.host_stats where minute >= to_timestamp(0) + $1::int8 * interval '1 microsecond'
order by minute, incarnation"""
# A minute that is lost in a crash of the server costs nothing, so nobody waits for the disk.
_WITHOUT_WAITING_FOR_DISK: Statement = ("select set_config('synchronous_commit', 'off', true)", ())
_NOTE = """
insert into {s}.host_stats as t (minute, incarnation, seconds, turns, commits, failed_commits, commit_us_p50,
    commit_us_p99, activations)
values (date_trunc('minute', clock_timestamp()), $1::text, $2::int4, $3::int8, $4::int8, $5::int8, $6::int8, $7::int8,
    $8::int8)
on conflict (minute, incarnation) do update set seconds = t.seconds + excluded.seconds,
    turns = t.turns + excluded.turns, commits = t.commits + excluded.commits,
    failed_commits = t.failed_commits + excluded.failed_commits,
    commit_us_p50 = greatest(t.commit_us_p50, excluded.commit_us_p50),
    commit_us_p99 = greatest(t.commit_us_p99, excluded.commit_us_p99), activations = excluded.activations"""
_FORGET = f"delete from {{s}}.host_stats where minute < {_AGO.replace('{us}', str(MINUTES_KEPT_US))}"

_AUDIT = """
select recorded_at, type, key, message_id, version, kind, name, sender, args, ok, outcome from {s}.audit
where ($1::text = '' or type = $1::text) and ($2::text = '' or key = $2::text)
    and recorded_at >= to_timestamp(0) + $3::int8 * interval '1 microsecond'
    and ($4::int8 = 0 or recorded_at <= to_timestamp(0) + $4::int8 * interval '1 microsecond')
    and (recorded_at, type, key, message_id) < (to_timestamp(0) + $5::int8 * interval '1 microsecond',
        $6::text collate "C", $7::text collate "C", $8::text collate "C")
order by recorded_at desc, type desc, key desc, message_id desc limit $9::int8"""
_AUDIT_OF = _AUDIT.replace("$1::text = '' or type", "shard = $10::int4 and type")

# Those with a due time by it, then those without.
_DECISIONS = f"""
select * from (
    (select 0 as part, {_ATTEMPT} from {_FROM["decisions"]} and t.activity = $1::text and t.next_at > 'epoch'
        and (t.next_at, t.type, t.key, t.operation) > (to_timestamp(0) + $2::int8 * interval '1 microsecond',
            $3::text collate "C", $4::text collate "C", $5::text collate "C")
        and ($6::text = '' or t.type = $6::text)
    order by t.next_at, t.type, t.key, t.operation limit $7::int8)
    union all
    (select 1, {_ATTEMPT} from {_FROM["decisions"]} and t.activity = $1::text and t.next_at = 'epoch'
        and ($2::int8 < {NEVER_US} or (t.type, t.key, t.operation) > ($3::text collate "C", $4::text collate "C",
            $5::text collate "C"))
        and ($6::text = '' or t.type = $6::text)
    order by t.type, t.key, t.operation limit $7::int8)
) d order by part, next_at, type, key, operation limit $7::int8"""
_DECISION = (
    f"select {_ATTEMPT} from {_FROM['decisions']}"
    " and t.shard = $1::int4 and t.type = $2::text and t.key = $3::text and t.operation = $4::text"
)


class PostgresSurvey:
    """`Survey` over the store's sessions."""

    def __init__(self, run: Run, reader: Callable[[], Awaitable[Reader]], *, schema: str) -> None:
        self._run = run
        self._reader = reader
        self._schema = schema

    async def _transact(self, *statements: Statement) -> list[Any]:
        filled = [(sql.replace("{s}", self._schema), parameters) for sql, parameters in statements]
        answers: list[Any] = await self._run(lambda session: read_plainly(session, filled))
        return answers

    async def _shard_count(self) -> int:
        return (await self._reader()).shard_count

    async def troubles(self, *, limit: int) -> Troubles:
        shard_count = await self._shard_count()
        counts = {name: _counted(name, shard_count) for name in _FROM}
        shown = {name: _few(name, shard_count, limit) for name in _SHOWN}
        inbox = _INBOX.replace("{n}", str(shard_count))
        answers = await self._transact(
            (CLOCK, ()), (inbox, ()), *((sql, ()) for sql in (*counts.values(), *shown.values()))
        )
        ((now_us,),), old, *rest = answers
        tally = {name: _at_most(rows[0][0]) for name, rows in zip(counts, rest, strict=False)}
        rows = dict(zip(shown, rest[len(counts) :], strict=True))
        is_cut = any(row[-1] >= INBOX_LOOK for row in old)
        return Troubles(
            now_us,
            Few([Noted(EntityId(*row[:2]), *row[2:]) for row in rows["damaged"]], tally["damaged"]),
            Few(_runs(rows["parked"]), tally["parked"]),
            Few([(at, Suspicion(EntityId(*row[:2]), *row[2:])) for at, *row in rows["poisoned"]], tally["poisoned"]),
            Few(_attempts(rows["wedged"]), tally["wedged"]),
            Few(_attempts(rows["exhausted"]), tally["exhausted"]),
            Few(list(map(letter_of, rows["letters"])), tally["letters"]),
            Few(list(map(_reminder, rows["late"])), tally["late"]),
            Few([_message(row) for row in old[:limit]], Tally(len(old), not is_cut, is_cut)),
            Few(_runs(rows["paused"]), tally["paused"]),
            Few(_runs(rows["failed"]), tally["failed"]),
            tally["decisions"],
        )

    async def types(self) -> list[str]:
        (rows,) = await self._transact((_TYPES, ()))
        return [name for (name,) in rows]

    async def tally(self, types: Sequence[str]) -> dict[str, TypeTally]:
        entities, runs = await self._sampler("entities", "''"), await self._sampler("runs", "t.status")
        counted = await self._run(lambda session: entities.tally(session, types))
        statuses = await self._run(lambda session: runs.tally(session, types))
        return {
            name: TypeTally(counted[name].get("", Tally(0)), dict(sorted(statuses[name].items()))) for name in types
        }

    async def views(self) -> dict[str, str]:
        return await Views(self._run, schema=self._schema).by_type()

    async def make_views(self, definitions: Sequence[EntityDefinition]) -> list[str]:
        return await Views(self._run, schema=self._schema).make(definitions)

    async def versions(self, types: Sequence[str]) -> dict[str, dict[int, Tally]]:
        sampler = await self._sampler("entities", "t.schema_version::text")
        counted = await self._run(lambda session: sampler.tally(session, types))
        return {name: dict(sorted((int(version), count) for version, count in counted[name].items())) for name in types}

    async def _sampler(self, table: str, column: str) -> Sampler:
        return Sampler(schema=self._schema, shard_count=await self._shard_count(), table=table, column=column)

    async def hosts(self) -> SurveyedHosts:
        ((now_us,),), rows, ((shards, unowned),), targets = await self._transact(
            (CLOCK, ()), (_HOSTS, ()), (_SHARD_COUNTS, ()), (_TARGETS, ())
        )
        wanted = str(targets[0][0]).encode() if targets else None
        return SurveyedHosts(now_us, list(map(_host, rows)), shards, unowned, wanted)

    async def drain_host(self, incarnation: str, *, operator: str, reason: str) -> None:
        shard = shard_of(HOST, incarnation, await self._shard_count())
        row = host_order(DRAIN, new_message_id(), operator=operator, reason=reason)
        values = (row.version, row.message_id, str(row.kind), row.name, row.args.decode())
        sql = _DRAIN_HOST.replace("{s}", self._schema)
        await self._run(lambda session: session.transact([(sql, (shard, HOST, incarnation, *values))]))

    async def minutes(self, *, since_us: int) -> list[Minute]:
        (rows,) = await self._transact((_MINUTES, (since_us,)))
        return [Minute(*row) for row in rows]

    async def note(self, minute: Minute) -> None:
        values = (minute.incarnation, *minute[2:])
        statements = [_WITHOUT_WAITING_FOR_DISK, (_NOTE, values), (_FORGET, ())]
        filled = [(sql.replace("{s}", self._schema), parameters) for sql, parameters in statements]
        await self._run(lambda session: session.transact(filled))

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
        lister = await self._lister()
        listed: Listed = await self._run(
            lambda session: lister.entities(
                session,
                type,
                prefix=prefix,
                status=status,
                waiting=waiting,
                since_us=since_us,
                after=after,
                limit=limit,
            )
        )
        return listed

    async def due(
        self, *, until_us: int = 0, type: str = "", kind: str = "", after: DueCursor | None = None, limit: int
    ) -> Due:
        lister = await self._lister()
        due: Due = await self._run(
            lambda session: lister.due(session, until_us=until_us, type=type, kind=kind, after=after, limit=limit)
        )
        return due

    async def _lister(self) -> Lister:
        return Lister(schema=self._schema, shard_count=await self._shard_count())

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
        start = after or AuditCursor(NEVER_US, "", "", "")
        parameters = (type, key, since_us, until_us, *start, limit)
        if type and key:
            shard = shard_of(type, key, await self._shard_count())
            (rows,) = await self._transact((_AUDIT_OF, (*parameters, shard)))
        else:
            (rows,) = await self._transact((_AUDIT, parameters))
        return [_audited(row) for row in rows]

    async def groups(self) -> list[str]:
        (rows,) = await self._transact((_GROUPS, ()))
        return sorted(activity.removeprefix(DECISION) for (activity,) in rows)

    async def decisions(
        self, group: str, *, type: str = "", after: DueCursor | None = None, limit: int
    ) -> list[tuple[EntityId, AttemptRow]]:
        start = after or DueCursor(0, "", "", "")
        (rows,) = await self._transact((_DECISIONS, (DECISION + group, *start, type, limit)))
        return _attempts([row[1:] for row in rows])

    async def decision(self, entity: EntityId, operation: str) -> AttemptRow | None:
        shard = shard_of(*entity, await self._shard_count())
        (rows,) = await self._transact((_DECISION, (shard, *entity, operation)))
        return attempt_row(rows[0][2:]) if rows else None


def _source(name: str, shard_count: int, limit: int) -> str:
    return _FROM[name].replace("{n}", str(shard_count)).replace("{limit}", str(limit))


def _counted(name: str, shard_count: int) -> str:
    source = _source(name, shard_count, COUNT_MAX + 1)
    return f"select count(*) from (select from {source} limit {COUNT_MAX + 1}) x"


def _few(name: str, shard_count: int, limit: int) -> str:
    columns, order = _SHOWN[name]
    source = _source(name, shard_count, limit)
    if name in _UNORDERED:
        source = f"(select t.* from {source} limit {COUNT_MAX}) t"
    order = ", ".join(f"t.{column}" for column in order.split(", "))
    return f"select {columns} from {source} order by {order} limit {limit}"


def _at_most(count: int) -> Tally:
    return Tally(min(count, COUNT_MAX), count <= COUNT_MAX, count > COUNT_MAX)


def _runs(rows: Sequence[tuple[Any, ...]]) -> list[tuple[EntityId, RunRow]]:
    return [(EntityId(*row[:2]), run_row(row[2:])) for row in rows]


def _attempts(rows: Sequence[tuple[Any, ...]]) -> list[tuple[EntityId, AttemptRow]]:
    return [(EntityId(*row[:2]), attempt_row(row[2:])) for row in rows]


def _reminder(row: tuple[Any, ...]) -> ReminderRow:
    type_name, key, name, kind, *rest = row
    return ReminderRow(EntityId(type_name, key), name, ReminderKind(kind), *rest)


def _message(row: tuple[Any, ...]) -> OldMessage:
    return OldMessage(EntityId(*row[:2]), *row[2:6])


def _host(row: tuple[Any, ...]) -> SurveyedHost:
    registered_us, gone_us, shards, minute, *figures = row[7:]
    last = None if minute is None else Minute(row[0], minute, *figures)
    return SurveyedHost(HostRow(*row[:7]), registered_us, gone_us or 0, shards, last)


def _audited(row: tuple[Any, ...]) -> Audited:
    at_us, type_name, key, message_id, version, kind, name, sender, args, ok, outcome = row
    history = HistoryRow(message_id, version, kind, name, sender, b"", args, ok, outcome)
    return Audited(at_us, EntityId(type_name, key), history)
