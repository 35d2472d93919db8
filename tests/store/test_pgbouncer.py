"""Through PgBouncer in transaction mode. The conformance suite goes the same way, as `postgres-pooled`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner

from perdure.api.cli import app as command
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.guard import check_server
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.steps import PostgresSteps
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import Entity, handler, query, transactional, workflow
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.errors import StartRefused
from perdure.entities.store.port import HostFenced
from perdure.entities.testing import LocalCluster
from tests.engine.waiting import eventually

from . import pooler
from .blocking import HOLD_HOST
from .conftest import SHARDS, World
from .rows import A

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(pooler.PROGRAM is None, reason=pooler.WHY_NOT),
]

SETTINGS = EngineSettings(mail_poll_s=0.05)


class Purse(Entity):
    coins: int = 0

    @handler
    async def earn(self, to: str) -> int:
        self.coins += 1
        await Purse.ref(to).take.send()
        return self.coins

    @handler
    async def take(self) -> None:
        self.coins += 1

    @query
    async def contents(self) -> int:
        return self.coins


@transactional
async def note(connection: AsyncConnection, order: str) -> str:
    await connection.execute(text("insert into pooled_orders values (:order)"), {"order": order})
    return order


class Order(Entity):
    @workflow
    async def run(self) -> str:
        return await note(self.key)


@pytest.fixture
async def pooled_world(server: EmbeddedPostgres, namespace: str, pooled: str) -> AsyncIterator[World]:
    sessions = SessionSettings(dsn=pooled, incarnation="h1", is_pooled=True)
    store = PostgresStore(sessions, namespace=namespace)
    world = await World(store, dsn=server.dsn, namespace=namespace, sessions=sessions).prepare()
    yield world
    await world.close()


async def test_a_pooler_that_nobody_has_told_us_of_is_refused(
    server: EmbeddedPostgres, namespace: str, pooled: str
) -> None:
    await check_server(server.dsn, namespace)
    await check_server(pooled, namespace, is_pooled=True)
    with pytest.raises(StartRefused, match="PERDURE_POOLED=true"):
        await check_server(pooled, namespace)


async def test_also_if_it_takes_the_settings_of_a_session_and_forgets_them(
    server: EmbeddedPostgres, namespace: str
) -> None:
    """Then nothing else would tell, until a statement meets one that another session has prepared under its name."""
    with (
        pooler.pgbouncer(server, ignore_startup_parameters="options") as careless,
        pytest.raises(StartRefused, match="PERDURE_POOLED=true"),
    ):
        await check_server(careless, namespace)


def test_commands_say_what_to_do_and_then_do_it(pooled: str, namespace: str) -> None:
    environment = {"PERDURE_DSN": pooled, "PERDURE_NAMESPACE": namespace}
    for words in (["db", "check"], ["db", "verify"], ["db", "fence", "--yes"], ["doctor"]):
        refused = CliRunner().invoke(command, words, env=environment)
        assert refused.exit_code == 5, refused.output
        assert "PERDURE_POOLED=true" in " ".join(refused.output.split()), refused.output
        told = CliRunner().invoke(command, words, env=environment | {"PERDURE_POOLED": "true"})
        assert told.exit_code == 0, told.output
        assert ("through a pooler" in " ".join(told.output.split())) == (words == ["doctor"])
    assert CliRunner().invoke(command, ["status"], env=environment | {"PERDURE_POOLED": "true"}).exit_code == 0


async def test_a_namespace_is_made_through_it_and_leaves_nothing_in_the_session(server: EmbeddedPostgres) -> None:
    with pooler.pgbouncer(server, default_pool_size=1) as one:
        for _ in range(2):
            migrations.upgrade(one, "made_through_a_pooler", shard_count=SHARDS)
        with psycopg.connect(one) as connection:
            assert connection.execute("select name from pg_prepared_statements").fetchall() == []
    await check_server(server.dsn, "made_through_a_pooler")


async def test_a_fence_finds_the_hanging_commit_of_its_host_and_no_other(pooled_world: World, pooled: str) -> None:
    """By the name of the session, which the pooler hands on to whichever it uses for it."""
    spared = await psycopg.AsyncConnection.connect(pooled, application_name="perdure:h11", prepare_threshold=None)
    hanging = await psycopg.AsyncConnection.connect(pooled, application_name="perdure:h1", prepare_threshold=None)
    async with spared, hanging:
        await spared.execute("select 1")
        await hanging.execute(f'set local search_path to "{pooled_world.namespace}"'.encode())
        await hanging.execute(HOLD_HOST)
        assert await pooled_world.as_host("").fence("h1", is_dead=True)
        with pytest.raises(psycopg.OperationalError):
            await hanging.execute("select 1")
        await spared.execute("select 1")
    with pytest.raises(HostFenced):
        await pooled_world.commit(pooled_world.write(A))


async def test_the_settings_hold_for_the_transaction_and_are_left_to_nobody(
    pooled_world: World, server: EmbeddedPostgres
) -> None:
    with pooler.pgbouncer(server, default_pool_size=1) as one:
        sessions = SessionSettings(dsn=one, is_pooled=True, lock_timeout_s=0.05)
        async with PostgresStore(sessions, namespace=pooled_world.namespace) as store:
            await store.clock_us()
        with psycopg.connect(one) as connection:
            names = ("lock_timeout", "enable_seqscan")
            assert [connection.execute(f"show {name}".encode()).fetchone() for name in names] == [("0",), ("on",)]
            assert connection.execute("select name from pg_prepared_statements").fetchall() == []


async def test_steps_run_through_it(server: EmbeddedPostgres, namespace: str, pooled: str) -> None:
    with psycopg.connect(server.dsn) as connection:
        connection.execute("drop table if exists pooled_orders; create table pooled_orders (name text)")
    store = PostgresStore(SessionSettings(dsn=pooled, is_pooled=True), namespace=namespace)

    def steps() -> PostgresSteps:
        return PostgresSteps(dsn=pooled, namespace=namespace, is_pooled=True)

    async with store, LocalCluster([Order], store=store, steps=steps) as cluster:
        keys = [f"o{number:02}" for number in range(30)]
        await asyncio.gather(*(Order.ref(key).run() for key in keys))
        await cluster.drained()
    with psycopg.connect(server.dsn) as connection:
        found = connection.execute("select name from pooled_orders order by 1").fetchall()
    assert found == [(key,) for key in keys]


async def test_more_sessions_than_the_pooler_has_and_one_that_drops_them_all_lose_and_double_nothing(
    server: EmbeddedPostgres, namespace: str
) -> None:
    earned.clear()
    with pooler.pgbouncer(server, default_pool_size=2, admin_users="perdure") as dsn:
        stores = [PostgresStore(SessionSettings(dsn=dsn, is_pooled=True), namespace=namespace) for _ in range(6)]
        async with LocalCluster([Purse], store=stores[0], settings=SETTINGS, hosts=2) as cluster:
            for engine, store in zip(cluster.engines, stores[1:], strict=False):
                assert await store.renew(engine.incarnation, lease_s=3_600)
            reading = asyncio.gather(*(look(store) for store in stores[1:]))
            async with asyncio.TaskGroup() as tasks:
                for number in range(PURSES):
                    tasks.create_task(earn(number))
                for count in (8, 24):
                    await eventually(partial(has_earned, count))
                    await drop_everybody(dsn)
            reading.cancel()
            expected = Counter({f"p{number}": 2 * EARNED for number in range(PURSES)})
            async with asyncio.timeout(60):
                while Counter({key: await Purse.ref(key).contents() for key in expected}) != expected:
                    await asyncio.sleep(0.01)
        for store in stores:
            await store.close()


EARNED = 10
PURSES = 4
earned: Counter[int] = Counter()
"""Acknowledged, by purse."""


def has_earned(count: int) -> bool:
    return earned.total() >= count


async def earn(number: int) -> None:
    purse = Purse.ref(f"p{number}")
    for count in range(EARNED):
        await purse.earn.options(idempotency_key=f"k{count}", timeout=60)(f"p{(number + 1) % PURSES}")
        earned[number] += 1


async def look(store: PostgresStore) -> None:
    """What gateways and supervisors ask all the time."""
    while True:
        try:
            await store.owners()
        except Exception:  # the pooler has just dropped it
            await asyncio.sleep(0.01)


async def drop_everybody(dsn: str) -> None:
    """KILL ends all sessions of a database, on both sides, in the middle of whatever they do."""
    admin = make_conninfo(dsn, dbname="pgbouncer")
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True, prepare_threshold=None) as console:
        await console.execute("kill perdure")
        await console.execute("resume perdure")
