"""Lists over all shards in one order, page by page: entities by key, reminders by due time.

The order of a list is not that of any index, since keys begin with the shard. So every shard gives its first few rows
after the cursor, in its own order; of all these, the list is complete up to the nearest end of a shard that may have
more (the *edge*). Whatever the conditions, a page reads a bounded number of rows, and says where to go on.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from dataclasses import dataclass
from typing import Any

from ...entities.ids import EntityId
from ...entities.store.rows import ReminderKind, ReminderRow
from ...entities.store.survey import STATUS_RANK, Due, DueCursor, Listed, ListedEntity
from .exchange import Session
from .plainly import read_plainly

ROUND_ROWS = 5_000
"""About so many rows are looked at in one statement if there are conditions."""
EXAMINE_MAX = 5_000
"""A page ends when it has looked at so many."""

_ENTITY = "e.shard, e.type, e.key, e.version, e.updated_at, e.schema_version"
_RANK = " ".join(f"when '{status}' then {rank}" for rank, status in enumerate(STATUS_RANK))

_OF_ALL = f"""
piece as materialized (
    select e.* from generate_series(0, $4::int4 - 1) as s (shard) cross join lateral (
        select {_ENTITY} from {{s}}.entities e where e.shard = s.shard and e.type = $1::text
            and e.key > $2::text collate "C"{{prefix}} order by e.key limit $3::int8
    ) e
), edge as (
    select min(x.last) as key from (select max(key) as last from piece group by shard having count(*) >= $3::int8) x
)"""
# What is rare has an index of its own: there the order of the list is that of the index.
_OF_RARE = f"""
named as materialized (
    select distinct t.shard, t.key from {{s}}.{{table}} t
    where t.type = $1::text and t.key > $2::text collate "C"{{rare}} and $4::int4 > 0
    order by t.key limit $3::int8
), piece as materialized (
    select {_ENTITY} from named t join {{s}}.entities e on e.shard = t.shard and e.type = $1::text and e.key = t.key
), edge as (
    select case when count(*) >= $3::int8 then max(key) end as key from named
)"""
_ENTITIES = f"""
with {{piece}}, seen as (
    select p.* from piece p cross join edge where edge.key is null or p.key <= edge.key {{first}}
), listed as (
    select p.*, r.workflow, r.waiting, r.paused,
        case when d.key is not null then 'damaged' else coalesce(r.status, 'idle') end as status
    from seen p
    left join {{s}}.parked d on (d.shard, d.type, d.key) = (p.shard, p.type, p.key)
    left join lateral (
        select t.workflow, t.status, t.waiting, t.paused from {{s}}.runs t
        where (t.shard, t.type, t.key) = (p.shard, p.type, p.key)
        order by case t.status {_RANK} end, t.workflow limit 1
    ) r on true
)
select (select count(*) from seen), edge.key, m.key, m.version, m.updated_at, m.schema_version, m.status, m.workflow,
    m.waiting, m.paused
from edge left join (
    select * from listed where ($5::text = '' or status = $5::text)
        and ($6::text = '' or strpos(coalesce(waiting, ''), $6::text) > 0)
        and updated_at >= to_timestamp(0) + $7::int8 * interval '1 microsecond'
    order by key limit $8::int8
) m on true
order by m.key"""

_REMINDER = (
    "t.type, t.key, t.name, t.kind, t.generation, t.due_at, t.every_us, t.catch_up_all, t.handler, t.args, t.cron"
)
_DUE = f"""
with piece as materialized (
    select e.* from generate_series(0, $1::int4 - 1) as s (shard) cross join lateral (
        select t.shard, {_REMINDER} from {{s}}.reminders t
        where t.shard = s.shard and t.due_at >= to_timestamp(0) + $2::int8 * interval '1 microsecond'
            and (t.due_at, t.type, t.key, t.name) > (to_timestamp(0) + $2::int8 * interval '1 microsecond',
                $3::text collate "C", $4::text collate "C", $5::text collate "C")
            and ($6::int8 = 0 or t.due_at <= to_timestamp(0) + $6::int8 * interval '1 microsecond')
        order by t.due_at, t.type, t.key, t.name limit $7::int8
    ) e
), edge as (
    select x.due_at, x.type, x.key, x.name from (
        select distinct on (shard) due_at, type, key, name, count(*) over (partition by shard) as count
        from piece order by shard, due_at desc, type desc, key desc, name desc
    ) x where x.count >= $7::int8 order by x.due_at, x.type, x.key, x.name limit 1
)
select (select count(*) from piece), (extract(epoch from clock_timestamp()) * 1000000)::int8,
    edge.due_at, edge.type, edge.key, edge.name, m.*
from (select) one left join edge on true left join (
    select {_REMINDER} from piece t left join edge on true
    where (edge.due_at is null or (t.due_at, t.type, t.key, t.name) <= (edge.due_at, edge.type, edge.key, edge.name))
        and ($8::text = '' or t.type = $8::text) and ($9::text = '' or t.kind = $9::text)
    order by t.due_at, t.type, t.key, t.name limit $10::int8
) m on true
order by m.due_at, m.type, m.key, m.name"""


@dataclass(frozen=True, kw_only=True)
class Lister:
    """Lists of one namespace."""

    schema: str
    """Quoted."""
    shard_count: int

    async def entities(
        self,
        session: Session,
        type: str,
        *,
        prefix: str,
        status: str,
        waiting: str,
        since_us: int,
        after: str | None,
        limit: int,
    ) -> Listed:
        """See Survey.entities."""
        is_plain = not (status or waiting or since_us)
        piece, per_shard = self._piece(status, prefix, limit, is_plain=is_plain)
        first = "order by p.key limit $8::int8" if is_plain else ""
        sql = _ENTITIES.replace("{piece}", piece).replace("{first}", first).replace("{s}", self.schema)
        rows: list[ListedEntity] = []
        examined, cursor = 0, after or ""
        while True:
            wanted = limit + 1 - len(rows)
            parameters: list[Any] = [type, cursor, per_shard, self.shard_count, status, waiting, since_us, wanted]
            (found,) = await read_plainly(session, [(sql, [*parameters, *([prefix] if prefix else [])])])
            count, edge = found[0][:2]
            examined += count
            rows += [
                ListedEntity(EntityId(type, key), *rest[:4], *(text or "" for text in rest[4:]))
                for _, _, key, *rest in found
                if key is not None
            ]
            if len(rows) > limit:
                return Listed(rows[:limit], rows[limit - 1].entity.key, examined)
            if edge is None or examined >= EXAMINE_MAX:
                return Listed(rows, edge, examined)
            cursor = edge

    def _piece(self, status: str, prefix: str, limit: int, *, is_plain: bool) -> tuple[str, int]:
        """Where rows come from, and how many of a shard (or of a rare kind) at once."""
        among = ' and {t}.key >= $9::text and {t}.key < $9::text || chr(1114111) collate "C"' if prefix else ""
        if status in ("parked", "failed", "damaged"):
            table = "parked" if status == "damaged" else "runs"
            rare = "" if status == "damaged" else f" and t.status = '{status}'"
            rare += among.replace("{t}", "t")
            return _OF_RARE.replace("{table}", table).replace("{rare}", rare), 2 * limit + 100
        rows = 3 * limit if is_plain else ROUND_ROWS
        return _OF_ALL.replace("{prefix}", among.replace("{t}", "e")), 4 + -(-rows // self.shard_count)

    async def due(
        self, session: Session, *, until_us: int, type: str, kind: str, after: DueCursor | None, limit: int
    ) -> Due:
        """See Survey.due."""
        rows_wanted = ROUND_ROWS if type or kind else 3 * limit
        per_shard = 4 + -(-rows_wanted // self.shard_count)
        cursor = after or DueCursor(0, "", "", "")
        rows: list[ReminderRow] = []
        examined = 0
        while True:
            wanted = limit + 1 - len(rows)
            parameters = (self.shard_count, *cursor, until_us, per_shard, type, kind, wanted)
            (found,) = await read_plainly(session, [(_DUE.replace("{s}", self.schema), parameters)])
            count, now_us, *edge = found[0][:6]
            examined += count
            rows += [_reminder(row[6:]) for row in found if row[6] is not None]
            if len(rows) > limit:
                last = rows[limit - 1]
                return Due(now_us, rows[:limit], DueCursor(last.due_us, *last.entity, last.name))
            following = None if edge[0] is None else DueCursor(*edge)
            if following is None or examined >= EXAMINE_MAX:
                return Due(now_us, rows, following)
            cursor = following


def _reminder(row: tuple[Any, ...]) -> ReminderRow:
    type_name, key, name, kind, *rest = row
    return ReminderRow(EntityId(type_name, key), name, ReminderKind(kind), *rest)
