"""What must hold before a host starts: a database that keeps the promises, and a schema that fits the code.

Everything is refused with what is wrong, where, and the command that puts it right. No message holds a password.
"""

import logging
from collections.abc import Mapping
from typing import Any

import psycopg

from ...entities.errors import StartRefused
from . import advice, checksums, migrations
from .majors import MAJOR_MIN, major_of
from .names import check_namespace, masked, quoted, without_password

log = logging.getLogger("perdure.start")

CONNECT_TIMEOUT_S = 10

_SETTINGS = """
select current_setting('server_version'), current_setting('server_version_num'), current_setting('fsync'),
       current_setting('full_page_writes'), current_setting('synchronous_commit'), pg_is_in_recovery()::text,
       current_setting('default_transaction_read_only'), current_setting('server_encoding'),
       current_setting('default_transaction_isolation'), pg_backend_pid()"""
_NAMES = (
    "server_version",
    "server_version_num",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "in_recovery",
    "default_transaction_read_only",
    "server_encoding",
    "default_transaction_isolation",
    "backend_pid",
)

_SYSTEM_WIDE = "ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();"
_PER_ROLE = "ALTER ROLE CURRENT_USER SET {name} = '{value}'; (and look for ALTER DATABASE … SET {name})"


async def check_server(dsn: str, namespace: str, is_pooled: bool = False) -> None:
    """Return if hosts of this code may run on the namespace; raise StartRefused with the reason otherwise.

    is_pooled: we have been told of a pooler in between, and keep nothing in a session.
    """
    check_namespace(namespace)
    where = masked(dsn)
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None
        ) as connection:
            row = await (await connection.execute(_SETTINGS)).fetchone()
            assert row is not None
            settings: dict[str, str] = dict(zip(_NAMES, map(str, row), strict=True))
            _check_settings(settings, where)
            if not is_pooled:
                _check_direct(connection.info.backend_pid, int(settings["backend_pid"]), where)
            revision = await _revision(connection, namespace)
            if revision == migrations.head():
                await _check_rights(connection, namespace, where)
                await _check_probe(connection, namespace, where)
            for warning in advice.warnings(await advice.facts(connection), is_pooled=is_pooled):
                log.warning("%s", warning)
    except psycopg.errors.InsufficientPrivilege as error:
        raise _no_rights(namespace, where, str(error).splitlines()[0]) from None
    except (psycopg.Error, OSError, UnicodeError) as error:
        reason = without_password(str(error).strip() or type(error).__name__, dsn)
        raise StartRefused(
            f"cannot use Postgres at {where}: {reason}. Check that the server runs and that the DSN names its host,"
            f' port, database, user and password; try: psql "{where}"'
        ) from None
    _check_revision(revision, namespace, where)


def _check_settings(settings: Mapping[str, str], where: str) -> None:
    if major_of(int(settings["server_version_num"])) < MAJOR_MIN:
        raise StartRefused(
            f"Postgres {settings['server_version']} at {where} is too old: Perdure needs {MAJOR_MIN} or newer."
            " Upgrade the server (pg_upgrade)."
        )
    if settings["in_recovery"] == "true":
        raise StartRefused(
            f"Postgres at {where} is a standby (in recovery) and takes no writes. Point the DSN to the primary, or"
            " promote this server: SELECT pg_promote();"
        )
    for name, why in (
        ("fsync", "a power failure would destroy acknowledged messages, or the whole database"),
        ("full_page_writes", "a power failure could tear pages apart and destroy entities"),
    ):
        if settings[name] == "off":
            fix = _SYSTEM_WIDE.format(name=name, value="on")
            raise StartRefused(f"Postgres at {where} runs with {name}=off: {why}. Turn it on: {fix}")
    if settings["synchronous_commit"] == "off":
        # `local` is refused no more than a server without standbys: what is on this server's disk is durable.
        fix = _PER_ROLE.format(name="synchronous_commit", value="on")
        raise StartRefused(
            f"Postgres at {where} runs with synchronous_commit=off: a crash of the server would lose messages that"
            f" were acknowledged. Turn it on: {_SYSTEM_WIDE.format(name='synchronous_commit', value='on')} or {fix}"
        )
    if settings["default_transaction_read_only"] == "on":
        fix = _PER_ROLE.format(name="default_transaction_read_only", value="off")
        raise StartRefused(f"Postgres at {where} makes all transactions read only. Allow writing: {fix}")
    if settings["default_transaction_isolation"] != "read committed":
        fix = _PER_ROLE.format(name="default_transaction_isolation", value="read committed")
        raise StartRefused(
            f"Postgres at {where} has default_transaction_isolation={settings['default_transaction_isolation']!r};"
            f" Perdure's commits are made for 'read committed' and would fail at random. Set it back: {fix}"
        )
    if settings["server_encoding"] != "UTF8":
        raise StartRefused(
            f"the database at {where} is encoded in {settings['server_encoding']}, which cannot hold every text."
            " Use a database in UTF-8: CREATE DATABASE perdure ENCODING 'UTF8' TEMPLATE template0;"
        )


def _check_direct(told_pid: int, backend_pid: int, where: str) -> None:
    """Refuse a pooler that nobody has told us of: it names itself, not the server's process, as who serves the session.

    One in transaction mode gives the session of the last transaction to somebody else: a statement that is prepared
    there under the same name would be another one, and would be executed with our values.
    """
    if told_pid != backend_pid:
        raise StartRefused(
            f"there is a connection pooler (PgBouncer?) between here and Postgres at {where}. Say so, for every host,"
            " gateway and command: PERDURE_POOLED=true (in code: is_pooled=True); then nothing is kept in sessions."
            " Or connect to Postgres itself"
        )


async def _revision(connection: psycopg.AsyncConnection[Any], namespace: str) -> str | None:
    table = f"{quoted(namespace)}.{migrations.VERSION_TABLE}"
    found = await (await connection.execute("select to_regclass(%s) is not null", (table,))).fetchone()
    if found is None or not found[0]:
        return None
    row = await (await connection.execute(f"select version_num from {table}".encode())).fetchone()  # noqa: S608
    return None if row is None else str(row[0])


async def _check_rights(connection: psycopg.AsyncConnection[Any], namespace: str, where: str) -> None:
    tables = await advice.tables_without_rights(connection, namespace)
    if tables:
        raise _no_rights(namespace, where, f"it may not read and write {', '.join(tables)}")


def _no_rights(namespace: str, where: str, reason: str) -> StartRefused:
    return StartRefused(
        f"the role of {where} lacks rights on namespace {namespace!r}: {reason}. As the owner of its tables: GRANT"
        f" USAGE ON SCHEMA {quoted(namespace)} TO …; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA"
        f" {quoted(namespace)} TO …;"
    )


async def _check_probe(connection: psycopg.AsyncConnection[Any], namespace: str, where: str) -> None:
    """Refuse a server that computes other checksums than the one that wrote the rows: all would seem damaged."""
    sql = f"select value = {checksums.PROBE} from {quoted(namespace)}.meta where name = %s"  # noqa: S608
    row = await (await connection.execute(sql.encode(), (checksums.META,))).fetchone()
    if row is not None and not row[0]:
        raise StartRefused(
            f"namespace {namespace!r} at {where} was written by another kind of server, whose checksums differ (another"
            " byte order?). If the data was moved here on purpose, accept it: perdure db accept --all"
        )


def _check_revision(revision: str | None, namespace: str, where: str) -> None:
    newest = migrations.head()
    if revision == newest:
        return
    if revision is None:
        raise StartRefused(
            f"there is no namespace {namespace!r} in the database at {where}. Create it: perdure db upgrade"
        )
    if revision in migrations.known():
        raise StartRefused(
            f"namespace {namespace!r} at {where} has schema revision {revision}; this code needs {newest}."
            " Upgrade it: perdure db upgrade"
        )
    raise StartRefused(
        f"namespace {namespace!r} at {where} has schema revision {revision}, which is newer than this code (newest"
        f" known: {newest}). Install the release that made it: pip install --upgrade perdure"
    )
