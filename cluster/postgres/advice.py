"""What is worth a word at start although nothing has to be refused: clocks, connections, open files, rights, versions.

Missing rights are refused (see guard), since the first commit would fail. The rest is a warning in the log: nothing
that Perdure promises depends on a machine's clock, and a full server only makes hosts wait.
"""

import logging
import resource
import time
from typing import Any, NamedTuple

import psycopg

from .majors import major_of, untested

log = logging.getLogger("perdure.start")

CLOCK_DIFFERENCE_S = 5.0
SESSIONS_OF_HOST = 12
"""Connections that one host opens at most (store.py), and one to look with."""
OPEN_FILES_MIN = 1_024

_FACTS = """
select extract(epoch from clock_timestamp())::float8, current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int, (select count(*) from pg_stat_activity)"""

_RIGHTS = """
select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relkind in ('r', 'p') and not (
    has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert')
    and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete'))
order by 1"""


class Facts(NamedTuple):
    """What a start depends on, or nearly."""

    clock_ahead_s: float
    """The database's clock minus this machine's."""
    connections_max: int
    connections_used: int
    open_files: int
    major: int
    """Of the server's version."""


async def facts(connection: psycopg.AsyncConnection[Any]) -> Facts:
    """Ask the server and this process."""
    before = time.time()
    row = await (await connection.execute(_FACTS)).fetchone()
    assert row is not None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = soft if soft != resource.RLIM_INFINITY else 2**31
    return Facts(
        row[0] - (before + time.time()) / 2, row[1], row[2], open_files, major_of(connection.info.server_version)
    )


def warnings(found: Facts, *, is_pooled: bool = False) -> list[str]:
    """Sentences for the log, with numbers. is_pooled: a pooler decides about connections, not we."""
    told: list[str] = []
    if abs(found.clock_ahead_s) > CLOCK_DIFFERENCE_S:
        where = "ahead of" if found.clock_ahead_s > 0 else "behind"
        told.append(
            f"the database's clock is {abs(found.clock_ahead_s):.1f} s {where} this machine's. Reminders and leases go "
            "by the database's, so nothing breaks, but times in logs will not match: check NTP"
        )
    free = found.connections_max - found.connections_used
    if free < SESSIONS_OF_HOST and not is_pooled:
        told.append(
            f"Postgres has {max(0, free)} of {found.connections_max} connections free, and one host opens up to "
            f"{SESSIONS_OF_HOST}: raise max_connections, run fewer hosts, or put PgBouncer in between"
        )
    if found.open_files < OPEN_FILES_MIN:
        told.append(
            f"this process may open {found.open_files} files, connections included; under load it needs "
            f"{OPEN_FILES_MIN}: ulimit -n {OPEN_FILES_MIN}"
        )
    if (doubt := untested(found.major)) is not None:
        told.append(doubt)
    return told


async def tables_without_rights(connection: psycopg.AsyncConnection[Any], namespace: str) -> list[str]:
    """Tables that this role may not read and write."""
    rows = await (await connection.execute(_RIGHTS, (namespace,))).fetchall()
    return [name for (name,) in rows]
