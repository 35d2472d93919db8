"""What Postgres says, asked directly: every version of every entity once, in one chain, and nothing left waiting."""

from typing import Any

from .harness import Scene
from .verdict import Verdict

_CHAIN = """
with turns as (
    select type, key, version, 'message' as what from history
    union all
    select type, key, version, workflow from journal
), chains as (
    select type, key, count(distinct version) as versions, min(version) as lowest, max(version) as highest
    from turns group by type, key
), doubles as (
    select type, key, count(*) as doubles from (
        select 1 as one, type, key from turns group by type, key, version, what having count(*) > 1
    ) as twice group by type, key
)
select type, key, e.version, versions, lowest, highest, coalesce(doubles, 0) as doubles
from entities e full join chains using (type, key) left join doubles using (type, key)
"""
"""A turn consumes one message (a history row), resumes a run (a journal row), or both at once."""

_WRONG = """
where e.version is null or versions is null or versions <> e.version or lowest <> 1 or highest <> e.version
    or doubles > 0
"""


async def audit_chains(verdict: Verdict, scene: Scene) -> None:
    """Versions are 1, 2, … up to the snapshot's, each made by exactly one turn (I3)."""
    [total] = await scene.sql(f"select count(*) as entities, coalesce(sum(version), 0) as versions from ({_CHAIN}) t")
    wrong = await scene.sql(_CHAIN + _WRONG + "limit 20")
    verdict.none_of(
        "versions gap-free, each once", wrong, f"{total['versions']} versions of {total['entities']} entities"
    )


async def audit_leftovers(verdict: Verdict, scene: Scene) -> None:
    """No message waits, none was given up, no entity is parked."""
    left: list[Any] = []
    for table in ("inbox", "dead_letters", "parked"):
        rows = await scene.sql(f"select type, key, count(*) from {table} group by 1, 2 limit 5")
        left += [{"table": table, **row} for row in rows]
    verdict.none_of("nothing waits or was given up", left, "inbox, dead letters and parked are empty")
