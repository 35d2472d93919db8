"""`perdure db`, and looking at a database before anything is started on it."""

import asyncio
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..cluster.postgres.guard import check_server
from ..cluster.postgres.migrations import upgrade, upgrade_sql
from ..cluster.postgres.names import masked, without_password
from ..cluster.postgres.sessions import SessionSettings
from ..cluster.postgres.store import PostgresStore
from ..entities.definition import Registry
from .exits import Exit
from .failures import Failure
from .target import load_target, put_on_path

CONNECT_TIMEOUT_S = 5


def reach(dsn: str) -> None:
    """Return if there is a database that takes writes; raise Failure saying what is wrong with the DSN otherwise."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        reason = without_password(str(error).strip(), dsn)
        raise Failure(
            "bad_dsn",
            f"{masked(dsn)!r} is not a DSN: {reason} (write it as postgresql://user:password@host:5432/database)",
            Exit.USAGE,
        ) from None
    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection:
            row = connection.execute("select current_setting('transaction_read_only'), pg_is_in_recovery()").fetchone()
    except (psycopg.Error, OSError, UnicodeError) as error:
        reason = " ".join(without_password(str(error).strip(), dsn).split())
        raise Failure(
            "database_unreachable",
            f"{reason} (is Postgres running, and are host, port, database, user and password of --dsn or PERDURE_DSN "
            f"right? `{masked(dsn)}`)",
            Exit.UNREACHABLE,
        ) from None
    if row is not None and (row[0] == "on" or row[1]):
        what = "is a standby" if row[1] else "makes all transactions read only"
        raise Failure(
            "database_read_only",
            f"the database {masked(dsn)} {what}; Perdure has to write (point the DSN to the primary, or set "
            "default_transaction_read_only to off)",
            Exit.CONFLICT,
        )


def upgrade_database(dsn: str, namespace: str, *, is_pooled: bool = False) -> None:
    """Create the namespace or bring it to the newest revision, then check that hosts may run on it."""
    reach(dsn)
    upgrade(dsn, namespace)
    check_database(dsn, namespace, is_pooled=is_pooled)


def check_database(dsn: str, namespace: str, *, is_pooled: bool = False) -> None:
    """Return if hosts may run on this database and namespace. Raises Failure, StartRefused."""
    reach(dsn)
    asyncio.run(check_server(dsn, namespace, is_pooled))


def database_sql(namespace: str) -> str:
    """The SQL of a new namespace, for a person to review."""
    return upgrade_sql(namespace)


def make_views(sessions: SessionSettings, namespace: str, module: str) -> tuple[list[str], dict[str, str]]:
    """The SQL views of a module's classes: the names of those that were made, and all by type."""
    put_on_path(Path.cwd())
    registry = load_target(module).registry
    reach(sessions.dsn)
    return asyncio.run(_make_views(sessions, namespace, registry))


async def _make_views(
    sessions: SessionSettings, namespace: str, registry: Registry
) -> tuple[list[str], dict[str, str]]:
    async with PostgresStore(sessions, namespace=namespace) as store:
        survey = store.survey()
        return await survey.make_views(list(registry)), await survey.views()
