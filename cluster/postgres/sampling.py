"""Counting without reading a table: exactly up to a bound, beyond it from some shards.

Entities are spread over the shards by a hash, so what some shards hold tells what all hold: from 3,000 rows seen the
total follows with an error of about 2 %. A turn pays nothing for it, which a table of counters would make it do.
"""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...entities.store.survey import Tally
from .arrays import int4s, texts
from .exchange import Session
from .plainly import read_plainly

EXACT_MAX = 2_000
"""Up to so many rows of a type are counted one by one."""
SEEN_MIN = 3_000
"""Rows that an estimate rests on, at least."""
FIRST_SHARDS = 1

# "offset 0" keeps the planner at one look into the index per shard, whatever it believes of the table's size.
_OF_SHARD = "select {column} as value from {s}.{table} t where t.shard = s.shard and t.type = u.type offset 0"
_BOUNDED = f"""
select u.type, c.value, c.count from unnest($1::text[]) as u (type) cross join lateral (
    select x.value, count(*) as count from (
        select x.value from generate_series(0, $2::int4 - 1) as s (shard) cross join lateral ({_OF_SHARD}) x
        limit $3::int8
    ) x group by x.value
) c"""
_SAMPLE = f"""
select x.value, count(*) from unnest($1::int4[]) as s (shard) cross join unnest($2::text[]) as u (type)
cross join lateral ({_OF_SHARD}) x group by x.value"""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Numbers of rows of a table by type, and by the value of one column."""

    schema: str
    """Quoted."""
    shard_count: int
    table: str
    column: str

    async def tally(self, session: Session, types: Sequence[str]) -> dict[str, dict[str, Tally]]:
        """Type → value of the column as text → number of rows."""
        (rows,) = await session.transact([(self._sql(_BOUNDED), (texts(list(types)), self.shard_count, EXACT_MAX + 1))])
        found: dict[str, dict[str, Tally]] = {type_name: {} for type_name in types}
        for type_name, value, count in rows:
            found[type_name][value] = Tally(count)
        for type_name, counts in found.items():
            if sum(count.value for count in counts.values()) > EXACT_MAX:
                found[type_name] = await self._sampled(session, type_name)
        return found

    async def _sampled(self, session: Session, type_name: str) -> dict[str, Tally]:
        wanted = min(FIRST_SHARDS, self.shard_count)
        while True:
            shards = [number * self.shard_count // wanted for number in range(wanted)]
            parameters: tuple[Any, ...] = (int4s(shards), texts([type_name]))
            (rows,) = await read_plainly(session, [(self._sql(_SAMPLE), parameters)])
            seen = sum(count for _, count in rows)
            if wanted == self.shard_count:
                return {value: Tally(count) for value, count in rows}
            if seen >= SEEN_MIN:
                share = self.shard_count / wanted
                return {value: Tally(round(count * share), is_exact=False) for value, count in rows}
            wanted = min(self.shard_count, max(2 * wanted, -(-wanted * 2 * SEEN_MIN // max(1, seen))))

    def _sql(self, template: str) -> str:
        return template.replace("{column}", self.column).replace("{table}", self.table).replace("{s}", self.schema)
