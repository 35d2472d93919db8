"""The table of suspects: points against messages and runs over which hosts have died (promise P9)."""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...entities.ids import EntityId
from ...entities.shard import shard_of
from ...entities.store.rows import Suspicion
from .arrays import Array, int4s, texts
from .exchange import Session

_KEYS = "unnest($1::int4[], $2::text[], $3::text[], $4::text[])"
_SAME = "(t.shard, t.type, t.key, t.message_id) = (u.shard, u.type, u.key, u.message_id)"

CHANGES_MAX = 20
"""Ids of changes that a row keeps. Each death makes one or two, and five points end it."""

# In order, so that two that add points at once cannot deadlock.
_ADD = f"""
insert into {{s}}.suspects as t (shard, type, key, message_id, points, reason, changes, noted_at)
select shard, type, key, message_id, points, reason, array_remove(array[change], ''), clock_timestamp()
from unnest($1::int4[], $2::text[], $3::text[], $4::text[], $5::int4[], $6::text[], $7::text[])
    as u (shard, type, key, message_id, points, reason, change) order by 1, 2, 3, 4
on conflict (shard, type, key, message_id) do update set points = t.points + excluded.points,
    reason = coalesce(nullif(excluded.reason, ''), t.reason), noted_at = excluded.noted_at,
    changes = (excluded.changes || t.changes)[1:{CHANGES_MAX}]
where not t.changes && excluded.changes"""
_CLEAR = f"""
delete from {{s}}.suspects t using {_KEYS} as u (shard, type, key, message_id) where {_SAME} and t.points <= 0"""
_READ = f"""
select t.type, t.key, t.message_id, t.points, t.reason
from {_KEYS} as u (shard, type, key, message_id) join {{s}}.suspects t on {_SAME}"""
_ACQUIT = f"delete from {{s}}.suspects t using {_KEYS} as u (shard, type, key, message_id) where {_SAME}"

Key = tuple[EntityId, str]


@dataclass(frozen=True, kw_only=True)
class SuspectTable:
    """The suspects of one namespace. Every method takes the session to run on."""

    schema: str
    """Quoted."""
    shard_count: int

    async def add(self, session: Session, evidence: Sequence[Suspicion]) -> None:
        keys = self._keys((row.entity, row.message_id) for row in evidence)
        points, reasons = int4s([row.points for row in evidence]), texts([row.reason for row in evidence])
        changes = texts([row.change for row in evidence])
        await session.transact([(self._sql(_ADD), (*keys, points, reasons, changes)), (self._sql(_CLEAR), keys)])

    async def read(self, session: Session, keys: Sequence[Key]) -> dict[Key, Suspicion]:
        (rows,) = await session.transact([(self._sql(_READ), self._keys(dict.fromkeys(keys)))])
        found = [Suspicion(EntityId(row[0], row[1]), *row[2:]) for row in rows]
        return {(row.entity, row.message_id): row for row in found}

    async def acquit(self, session: Session, keys: Sequence[Key]) -> None:
        await session.transact([(self._sql(_ACQUIT), self._keys(keys))])

    def _sql(self, template: str) -> str:
        return template.replace("{s}", self.schema)

    def _keys(self, keys: Iterable[Key]) -> tuple[Array, Array, Array, Array]:
        keys = list(keys)
        return (
            int4s([shard_of(*entity, self.shard_count) for entity, _ in keys]),
            texts([entity.type for entity, _ in keys]),
            texts([entity.key for entity, _ in keys]),
            texts([message_id for _, message_id in keys]),
        )
