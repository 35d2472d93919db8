"""P10: what loading an entity reads does not grow with its past. Rows are counted, not seconds."""

from typing import Any

import psycopg
from psycopg import RawCursor, sql

from perdure.cluster.postgres import reads
from perdure.entities.shard import shard_of

from .conftest import SHARDS, World
from .rows import A, run

PAST_RUNS = 300
ENTRIES_EACH = 50
LIVE_ENTRIES = 3


async def test_loading_reads_the_journal_of_the_live_run_and_no_other(postgres: World) -> None:
    """Its workflow has continued as new hundreds of times since yesterday; nobody has pruned or analysed anything."""
    await postgres.commit(postgres.write(A, runs=[run(run_id="live")]))
    shard = shard_of(*A, SHARDS)
    with psycopg.connect(postgres.dsn, cursor_factory=RawCursor) as connection:
        connection.execute(sql.SQL("set search_path to {}").format(sql.Identifier(postgres.namespace)))
        for runs, entries in ((PAST_RUNS, ENTRIES_EACH), (0, LIVE_ENTRIES)):
            connection.execute(
                "insert into journal (shard, type, key, workflow, run_id, number, version, entry, recorded_at)"
                " select $1, $2, $3, 'run', case when $4 = 0 then 'live' else 'past-' || r end, n, n, '{}', now()"
                " from generate_series(least($4, 1), $4) r, generate_series(1, $5) n",
                (shard, A.type, A.key, runs, entries),
            )
        statement = reads._JOURNAL.format(s=f'"{postgres.namespace}"')
        (plan,) = connection.execute(
            f"explain (analyze, format json) {statement}".encode(), ([shard], [A.type], [A.key])
        ).fetchone() or ([],)
    assert plan[0]["Plan"]["Actual Rows"] == LIVE_ENTRIES
    assert rows_read(plan[0]["Plan"], "journal") == LIVE_ENTRIES


def rows_read(node: dict[str, Any], table: str) -> int:
    """How many rows of the table a plan has looked at."""
    below = sum(rows_read(child, table) for child in node.get("Plans", []))
    if node.get("Relation Name") != table:
        return below
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return below + int((node["Actual Rows"] + dropped) * node["Actual Loops"])
