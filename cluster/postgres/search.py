"""Searching entities by fields of their state: bounded scans shard by shard, and the expression indexes for them.

A scan goes by (shard, key). Without a usable index it looks at rows in the order of the primary key, some shards per
round trip, at most so many rows; with one only at those that the index finds. Conditions only narrow: the reader loads
each candidate and decides. They must therefore let pass whatever the reader could accept.

An index entry holds the first 64 characters of the field's text: no value, however long, can make a turn's commit fail
because its index entry would be too large.
"""

# ruff: noqa: S608 - only constants, checked names and numbers are put together

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ...entities.store.archive import FIND_PREFIX, Narrow, ScanCursor, Scanned, Snapshot
from .arrays import texts
from .exchange import Session

SHARDS_AT_ONCE = 16

_SERVED = ("text_in", "text_from", "text_to", "is_null")

_EXISTING = """
select i.relname::text from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid
join pg_namespace n on n.oid = t.relnamespace
where n.nspname = $1::text and t.relname = 'entities' and i.relname like 'find\\_%' and x.indisvalid"""


def _text_of(field: str) -> str:
    """The expression that indexes hold. Field names are Python identifiers: there is nothing to escape."""
    return f"left(state->>'{field}', {FIND_PREFIX}) collate \"C\""


@dataclass(frozen=True)
class Search:
    """Scans and indexes of one type."""

    schema: str
    """Quoted."""
    type: str
    shard_count: int

    # --- Scanning -----------------------------------------------------------------------------------------------------

    async def scan(
        self,
        session: Session,
        *,
        narrow: Sequence[Narrow],
        schema_version: int,
        indexed: Sequence[str],
        after: ScanCursor | None,
        limit: int,
        examine_max: int,
    ) -> Scanned:
        """See Archive.scan."""
        usable = await self._usable(session, [c.field for c in narrow if c.field in indexed], schema_version)
        inner, outer, values = self._conditions(narrow, schema_version, usable)
        cursor = after or ScanCursor(0, "")
        if inner:
            return await self._by_index(session, inner, outer, values, cursor, limit, examine_max)
        return await self._by_shard(session, outer, values, cursor, limit, examine_max)

    async def _by_index(  # noqa: PLR0917 - private: the parts of one statement
        self,
        session: Session,
        inner: str,
        outer: str,
        values: list[object],
        cursor: ScanCursor,
        limit: int,
        examine_max: int,
    ) -> Scanned:
        """One look-up over all shards: the index is in the order of the scan."""
        room = examine_max if outer else min(limit, examine_max)
        sql = self._piece("shard, key", f'(shard, key) > ($1::int4, $2::text collate "C"){inner}', outer)
        (rows,) = await session.transact([(sql, (*cursor, room, *values))])
        count, last_shard, last_key = rows[0][:3]
        found = [(shard, key, Snapshot(*snapshot)) for _, _, _, shard, key, *snapshot in rows if key]
        following = ScanCursor(last_shard, last_key) if count >= room else None
        if len(found) > limit:
            found = found[:limit]
            following = ScanCursor(*found[-1][:2])
        return Scanned(found, following, count, is_indexed=True)

    async def _by_shard(  # noqa: PLR0917 - as above
        self, session: Session, outer: str, values: list[object], cursor: ScanCursor, limit: int, examine_max: int
    ) -> Scanned:
        """Shard by shard in the order of the primary key, some shards per round trip."""
        sql = self._piece("key", 'shard = $1::int4 and key > $2::text collate "C"', outer)
        found: list[tuple[int, str, Snapshot]] = []
        examined, width = 0, SHARDS_AT_ONCE
        while cursor.shard < self.shard_count and examined < examine_max and len(found) < limit:
            shards = range(cursor.shard, min(cursor.shard + width, self.shard_count))
            room = max(1, (examine_max - examined) // len(shards))
            if not outer:
                room = min(room, limit - len(found))  # every row that is read comes back
            answers = await session.transact(
                [(sql, (shard, cursor.key if shard == cursor.shard else "", room, *values)) for shard in shards],
                is_snapshot=True,
            )
            for shard, rows in zip(shards, answers, strict=True):
                count, _, last_key = rows[0][:3]
                examined += count
                found += [(shard, key, Snapshot(*snapshot)) for _, _, _, _, key, *snapshot in rows if key]
                if count >= room:
                    cursor, width = ScanCursor(shard, last_key), 1
                    break
                cursor = ScanCursor(shard + 1, "")
            else:
                width = min(2 * width, 4 * SHARDS_AT_ONCE)
        if len(found) > limit:
            found = found[:limit]
            cursor = ScanCursor(*found[-1][:2])
        return Scanned(found, cursor if cursor.shard < self.shard_count else None, examined)

    def _piece(self, order: str, where: str, outer: str) -> str:
        """SQL for a piece of at most $3 rows, and those of it that fulfil `outer`. Also without any: one row then says
        how many there were and which was the last.
        """
        # The type is part of the text, because the indexes are partial: the planner has to see that they apply.
        return f"""
with piece as materialized (
    select shard, key, version, state, schema_version, updated_at from {self.schema}.entities
    where type = '{self.type}' and {where} order by {order} limit $3::int8
), seen as (
    select (select count(*) from piece) as count, shard, key from piece order by shard desc, key desc limit 1
)
select coalesce(seen.count, 0), seen.shard, seen.key,
    p.shard, p.key, p.version, p.state, p.schema_version, p.updated_at
from (select) one left join seen on true left join piece p on true{outer} order by p.shard, p.key"""

    def _conditions(
        self, narrow: Sequence[Narrow], schema_version: int, usable: Collection[str]
    ) -> tuple[str, str, list[object]]:
        """Conditions that an index serves, others, and the values of both from $4 on."""
        inner, outer = "", ""
        values: list[object] = []
        old = f"schema_version < {int(schema_version)} or " if schema_version > 1 else ""
        for condition in narrow:
            number = 4 + len(values)
            is_served = condition.field in usable and condition.test in _SERVED
            values.append(texts(condition.values) if condition.test == "text_in" else _first(condition))
            missing = f" or {_text_of(condition.field)} is null" if condition.or_missing else ""
            clause = f" and ({old}{_test(condition, number)}{missing})"
            if is_served:
                inner += clause
            else:
                outer += clause
        return inner, outer, values

    async def _usable(self, session: Session, wanted: list[str], schema_version: int) -> list[str]:
        """Those fields whose index exists."""
        if not wanted:
            return []
        existing = await self._existing(session)
        if schema_version > 1 and self._name(f"/{schema_version}") not in existing:
            return []
        return [field for field in wanted if self._name(field) in existing]

    # --- Indexes ------------------------------------------------------------------------------------------------------

    async def index(self, session: Session, fields: Sequence[str], schema_version: int) -> None:
        """See Archive.index. One transaction: it holds back writes to `entities` while it builds a new index."""
        wanted = {self._name(field): f"({_text_of(field)})" for field in fields}
        statements = {
            name: f"create index if not exists {name} on {self.schema}.entities"
            f" ({expression}, shard, key) where type = '{self.type}'"
            for name, expression in wanted.items()
        }
        if fields and schema_version > 1:
            name = self._name(f"/{schema_version}")
            statements[name] = (
                f"create index if not exists {name} on {self.schema}.entities (shard, key)"
                f" where type = '{self.type}' and schema_version < {int(schema_version)}"
            )
        existing = await self._existing(session)
        stale = [name for name in existing if name.startswith(self._prefix) and name not in statements]
        changes = [(f"drop index if exists {self.schema}.{name}", ()) for name in stale]
        changes += [(sql, ()) for name, sql in statements.items() if name not in existing]
        if changes:
            lock = (f"select pg_advisory_xact_lock(hashtextextended('perdure:index:{self.type}', 0))::text", ())
            await session.transact([lock, *changes])

    async def _existing(self, session: Session) -> frozenset[str]:
        (rows,) = await session.transact([(_EXISTING, (self.schema.strip('"'),))])
        return frozenset(name for (name,) in rows)

    @property
    def _prefix(self) -> str:
        return f"find_{_digest(self.type)}_"

    def _name(self, field: str) -> str:
        return self._prefix + _digest(field)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=6).hexdigest()


def _first(condition: Narrow) -> Any:
    return condition.values[0] if condition.values else ""


def _test(condition: Narrow, number: int) -> str:
    field, text = condition.field, _text_of(condition.field)
    match condition.test:
        case "text_in":
            return f"{text} = any(${number}::text[])"
        case "text_from":
            return f"{text} >= left(${number}::text, {FIND_PREFIX})"
        case "text_to":
            return f"{text} <= left(${number}::text, {FIND_PREFIX})"
        case "number_from":
            return f"state->'{field}' >= (${number}::text)::jsonb"
        case "number_to":
            return f"state->'{field}' <= (${number}::text)::jsonb"
        case "is_null":
            return f"{text} is null and ${number}::text = ''"
        case "not_null":
            return f"{text} is not null and ${number}::text = ''"
