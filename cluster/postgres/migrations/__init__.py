"""Creating and changing the tables of a namespace.

Policy: changes are additive. A revision adds tables, nullable or defaulted columns and indexes; it never renames,
drops or retypes what the previous release reads or writes, so that hosts of both releases run on the new schema
during a rolling upgrade. What is no longer used is dropped one release later.

An upgrade is one transaction: killed half-way it leaves nothing, and two at once run one after the other.
"""

import io
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.exc import SQLAlchemyError

from ....entities.errors import StartRefused
from ..names import check_namespace, masked, quoted, without_password

SHARD_COUNT = 256
SHARD_COUNT_MAX = 4_096
VERSION_TABLE = "schema_revision"
CONNECT_TIMEOUT_S = 10


def upgrade(dsn: str, namespace: str, *, shard_count: int = SHARD_COUNT) -> None:
    """Create the namespace, or bring it to the newest revision; does nothing if it is there already.

    `shard_count` counts only when the namespace is created. Raises StartRefused if the database cannot be reached or
    refuses, or if it has been upgraded by a newer release.
    """
    schema = quoted(namespace)
    engine = _engine(dsn)
    try:
        with engine.begin() as connection:
            # Held to the end of the transaction; works behind a pooler, unlike a session's lock.
            connection.execute(
                sa.text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"perdure:{namespace}"}
            )
            _refuse_newer(_revision(connection, namespace), namespace, dsn)
            connection.execute(sa.text(f"create schema if not exists {schema}"))
            with _environment(namespace, shard_count) as environment:
                environment.configure(
                    connection=connection, version_table=VERSION_TABLE, version_table_schema=namespace
                )
                environment.run_migrations()
    except SQLAlchemyError as error:
        raise _refused(error, dsn, "db upgrade") from None
    finally:
        engine.dispose()


def upgrade_sql(namespace: str, *, shard_count: int = SHARD_COUNT) -> str:
    """The SQL that creates the namespace from nothing, for a person to review and run through psql."""
    schema = quoted(namespace)
    output = io.StringIO()
    output.write(f"BEGIN;\n\nCREATE SCHEMA IF NOT EXISTS {schema};\n\n")
    with _environment(namespace, shard_count, as_sql=True) as environment:
        environment.configure(
            dialect_name="postgresql",
            as_sql=True,
            output_buffer=output,
            version_table=VERSION_TABLE,
            version_table_schema=namespace,
            transactional_ddl=False,  # no second BEGIN: the schema is part of the transaction too
        )
        environment.run_migrations()
    output.write("COMMIT;\n")
    return output.getvalue()


def head() -> str:
    """The newest revision that this code knows."""
    revision = _scripts().get_current_head()
    assert revision is not None
    return revision


def known() -> frozenset[str]:
    """All revisions that this code knows."""
    return frozenset(script.revision for script in _scripts().walk_revisions())


def current(dsn: str, namespace: str) -> str | None:
    """The revision of the namespace, None if it has not been created. Raises StartRefused if there is no answer."""
    check_namespace(namespace)
    engine = _engine(dsn)
    try:
        with engine.connect() as connection:
            return _revision(connection, namespace)
    except SQLAlchemyError as error:
        raise _refused(error, dsn, "db status") from None
    finally:
        engine.dispose()


def _revision(connection: sa.Connection, namespace: str) -> str | None:
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "version_table_schema": namespace}
    )
    return context.get_current_revision()


def _refuse_newer(revision: str | None, namespace: str, dsn: str) -> None:
    if revision is not None and revision not in known():
        raise StartRefused(
            f"namespace {namespace!r} in {masked(dsn)} has schema revision {revision}, which is newer than this code"
            f" (newest known: {head()}). Install the release that made it: pip install --upgrade perdure"
        )


def _environment(namespace: str, shard_count: int, *, as_sql: bool = False) -> EnvironmentContext:
    check_namespace(namespace)
    if not 1 <= shard_count <= SHARD_COUNT_MAX:
        raise StartRefused(f"a namespace has 1 to {SHARD_COUNT_MAX} shards, not {shard_count}")
    scripts = _scripts()
    config = _config()
    config.attributes["shard_count"] = shard_count

    def to_head(revision: Any, _: object) -> list[Any]:
        return list(scripts._upgrade_revs("head", revision))  # noqa: SLF001 - what alembic's own command does

    return EnvironmentContext(config, scripts, fn=to_head, as_sql=as_sql, starting_rev=None, destination_rev="head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _engine(dsn: str) -> sa.Engine:
    try:
        arguments = conninfo_to_dict(dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="perdure:upgrade")
    except Exception as error:  # noqa: BLE001 - whatever the driver dislikes about it
        raise StartRefused(f"the DSN {masked(dsn)} is not usable: {without_password(str(error), dsn)}") from None
    return sa.create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=sa.NullPool)


def _refused(error: SQLAlchemyError, dsn: str, command: str) -> StartRefused:
    reason = without_password(str(getattr(error, "orig", None) or error).strip(), dsn)
    return StartRefused(f"`perdure {command}` on {masked(dsn)} failed: {reason}")
