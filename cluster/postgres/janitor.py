"""Removal of what nobody needs any more, in bounded pieces, so that no long transaction holds back vacuum."""

# ruff: noqa: S608 - only constants and the checked name of the schema are put together

from dataclasses import dataclass

from .exchange import Session

_BEFORE = "clock_timestamp() - $1::int8 * interval '1 microsecond'"

# By ctid: BRIN narrows the scan to old pages, and the rows found need no second look-up by key.
_HISTORY = f"""
with hit as (
    delete from {{s}}.history where ctid = any(array(
        select ctid from {{s}}.history where recorded_at < {_BEFORE} limit $2::int8
    )) and recorded_at < {_BEFORE} returning 1
) select count(*) from hit"""

# Of runs that ended as long ago, or were replaced by the next one. The row of the latest run of a workflow, with its
# outcome, stays as long as its entity: it is what makes a repeated start the same run.
_OF_RUNS = f"""
with hit as (
    delete from {{s}}.{{table}} where ctid = any(array(
        select t.ctid from {{s}}.{{table}} t
        where t.recorded_at < {_BEFORE} and not exists (
            select from {{s}}.runs r
            where (r.shard, r.type, r.key, r.workflow, r.run_id) = (t.shard, t.type, t.key, t.workflow, t.run_id)
                and (r.ended_at is null or r.ended_at >= {_BEFORE})
        ) limit $2::int8
    )) and recorded_at < {_BEFORE} returning 1
) select count(*) from hit"""
_JOURNAL, _STEPS = (_OF_RUNS.replace("{table}", table) for table in ("journal", "steps"))


# What is held against a parked run keeps it parked, so it stays until an operator decides.
_SUSPECTS = f"""
with hit as (
    delete from {{s}}.suspects where ctid = any(array(
        select t.ctid from {{s}}.suspects t
        where t.noted_at < {_BEFORE} and not exists (
            select from {{s}}.runs r where (r.shard, r.type, r.key) = (t.shard, t.type, t.key) and r.status = 'parked'
                and t.message_id = 'run:' || r.workflow || ':' || r.run_id
        ) limit $2::int8
    )) and noted_at < {_BEFORE} returning 1
) select count(*) from hit"""

# An entity that has been written since could be loaded again: the note is out of date.
_PARKED = """
with hit as (
    delete from {s}.parked t using {s}.entities e
    where (e.shard, e.type, e.key) = (t.shard, t.type, t.key) and e.updated_at > t.parked_at returning 1
) select count(*) from hit"""

# A note on an attempt whose commit took effect late, after that of the outcome: nobody else would ever delete it.
_ATTEMPTS = """
with hit as (
    delete from {s}.attempts t where not exists (
        select from {s}.runs r where (r.shard, r.type, r.key) = (t.shard, t.type, t.key)
            and r.status in ('running', 'parked') and starts_with(t.operation, r.workflow || '/' || r.run_id || '/')
    ) returning 1
) select count(*) from hit"""


@dataclass(frozen=True, kw_only=True)
class Janitor:
    """Prunes one namespace."""

    schema: str
    """Quoted."""

    async def prune(self, session: Session, *, older_than_us: int, limit: int) -> int:
        """See EntityStore.prune. Each table in a transaction of its own, at most `limit` rows of each."""
        parameters = (older_than_us, limit)
        deleted = 0
        for template in (_HISTORY, _JOURNAL, _STEPS, _SUSPECTS):
            (rows,) = await session.transact([(template.replace("{s}", self.schema), parameters)])
            deleted = max(deleted, *(count for (count,) in rows))
        for template in (_PARKED, _ATTEMPTS):
            await session.transact([(template.replace("{s}", self.schema), ())])
        return deleted
