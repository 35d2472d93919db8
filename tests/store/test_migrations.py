"""Creating a namespace: repeatable, concurrent, all or nothing."""

import shutil
import subprocess
import sys

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.conninfo import conninfo_to_dict

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.guard import check_server
from perdure.cluster.postgres.schema import metadata
from perdure.entities.errors import StartRefused

from .conftest import SHARDS

UPGRADE = "import sys; from perdure.cluster.postgres import migrations; migrations.upgrade(sys.argv[1], sys.argv[2])"

UPGRADE_THAT_STOPS_IN_THE_MIDDLE = """
import sys, time
from alembic import op
from perdure.cluster.postgres import migrations
execute, calls = op.execute, []
def counted(statement):
    execute(statement)
    calls.append(statement)
    if len(calls) == 7:
        print("middle", flush=True)
        time.sleep(600)
op.execute = counted
migrations.upgrade(sys.argv[1], sys.argv[2])
"""


def differences(dsn: str, namespace: str) -> list[object]:
    arguments = conninfo_to_dict(dsn, options=f"-c search_path={namespace}")
    engine = sa.create_engine("postgresql+psycopg://", connect_args=arguments, poolclass=sa.NullPool)

    def ours(thing: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind == "table" and name == migrations.VERSION_TABLE)

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "include_object": ours}
        )
        found = list(compare_metadata(context, metadata))
    engine.dispose()
    return found


def shard_rows(dsn: str, namespace: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(f'select count(*) from "{namespace}".shards'.encode()).fetchone()
    assert row is not None
    return int(row[0])


def schemas(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {name for (name,) in connection.execute("select nspname from pg_namespace").fetchall()}


async def test_upgrade_twice_changes_nothing(server: EmbeddedPostgres, namespace: str) -> None:
    migrations.upgrade(server.dsn, namespace, shard_count=99)
    assert shard_rows(server.dsn, namespace) == SHARDS
    assert migrations.current(server.dsn, namespace) == migrations.head()
    await check_server(server.dsn, namespace)


def test_revisions_make_exactly_the_declared_tables(server: EmbeddedPostgres, namespace: str) -> None:
    assert differences(server.dsn, namespace) == []


def test_upgrades_of_several_processes_at_once(server: EmbeddedPostgres) -> None:
    upgrades = [
        subprocess.Popen([sys.executable, "-c", UPGRADE, server.dsn, "at_once"], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for upgrade in upgrades:
        _, errors = upgrade.communicate(timeout=60)
        assert upgrade.returncode == 0, errors.decode()
    assert shard_rows(server.dsn, "at_once") == migrations.SHARD_COUNT


def test_upgrade_killed_in_the_middle_leaves_nothing(server: EmbeddedPostgres) -> None:
    code = UPGRADE_THAT_STOPS_IN_THE_MIDDLE
    with subprocess.Popen(
        [sys.executable, "-c", code, server.dsn, "killed"], stdout=subprocess.PIPE, text=True
    ) as upgrade:
        assert upgrade.stdout is not None
        assert upgrade.stdout.readline() == "middle\n"
        assert migrations.current(server.dsn, "killed") is None
        upgrade.kill()
    migrations.upgrade(server.dsn, "killed", shard_count=SHARDS)  # waits until the server has noticed
    assert differences(server.dsn, "killed") == []


async def test_sql_for_psql_makes_the_same_namespace(server: EmbeddedPostgres) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("there is no psql here")
    script = migrations.upgrade_sql("by_hand", shard_count=SHARDS)
    subprocess.run([psql, server.dsn, "-v", "ON_ERROR_STOP=1", "-q"], input=script, text=True, check=True)
    assert differences(server.dsn, "by_hand") == []
    assert shard_rows(server.dsn, "by_hand") == SHARDS
    await check_server(server.dsn, "by_hand")
    migrations.upgrade(server.dsn, "by_hand")


@pytest.mark.parametrize("name", ["order", "user", "a", "x" * 48])
def test_reserved_words_are_good_namespaces(server: EmbeddedPostgres, name: str) -> None:
    migrations.upgrade(server.dsn, name, shard_count=1)
    assert name in schemas(server.dsn)


@pytest.mark.parametrize("name", ["", "A", "1a", 'a"; drop schema public; --', "a-b", "a" * 49, "pg_x", "public", "é"])
def test_bad_namespaces_are_refused(server: EmbeddedPostgres, name: str) -> None:
    before = schemas(server.dsn)
    with pytest.raises(StartRefused, match="cannot be a namespace"):
        migrations.upgrade(server.dsn, name)
    with pytest.raises(StartRefused, match="cannot be a namespace"):
        migrations.upgrade_sql(name)
    with pytest.raises(StartRefused, match="cannot be a namespace"):
        migrations.current(server.dsn, name)
    assert schemas(server.dsn) == before


@pytest.mark.parametrize("count", [0, -1, 5_000])
def test_bad_shard_counts_are_refused(server: EmbeddedPostgres, count: int) -> None:
    with pytest.raises(StartRefused, match="shards"):
        migrations.upgrade(server.dsn, "shards", shard_count=count)


def test_namespace_of_a_newer_release_is_not_touched(server: EmbeddedPostgres, namespace: str) -> None:
    with psycopg.connect(server.dsn) as connection:
        connection.execute(f"update {namespace}.{migrations.VERSION_TABLE} set version_num = '9999'".encode())
    with pytest.raises(StartRefused, match="newer than this code"):
        migrations.upgrade(server.dsn, namespace)


def test_unreachable_server_is_reported_without_the_password() -> None:
    with pytest.raises(StartRefused, match=r"db upgrade.* failed") as error:
        migrations.upgrade("postgresql://me:s3cret@127.0.0.1:1/x", "perdure")
    assert "s3cret" not in str(error.value)
