"""What the store does when Postgres fails, refuses or does not answer."""

import asyncio
import os
import signal
from pathlib import Path

import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.port import NotStorable, StoreUnavailable, WriteConflict

from .blocking import HOLD_HOST, really_blocked, transaction_of
from .conftest import SHARDS, World
from .rows import A, B, C, envelope, history


async def end_sessions(world: World) -> None:
    async with await psycopg.AsyncConnection.connect(world.dsn, autocommit=True) as connection:
        await connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'perdure:h1'"
        )


async def test_store_works_again_after_postgres_was_killed(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        migrations.upgrade(server.dsn, "perdure", shard_count=SHARDS)
        store = PostgresStore(SessionSettings(dsn=server.dsn, incarnation="h1"))
        world = await World(store, dsn=server.dsn, namespace="perdure").prepare()
        await world.commit(world.write(A))
        await store.load([A])
        server.stop(immediate=True)  # every process ends at once, as in a crash
        with pytest.raises(StoreUnavailable) as refused:
            await world.commit(world.write(A, 1))
        assert refused.value.details["maybe_applied"] is False
        with pytest.raises(StoreUnavailable):
            await store.load([A])
        server.start()
        assert (await store.load([A]))[0].version == 1
        await world.commit(world.write(A, 1))
        await store.renew("h1", lease_s=5)
        await world.close()


async def test_sessions_that_broke_while_idle_are_replaced(postgres: World) -> None:
    await postgres.commit(postgres.write(A))
    await postgres.store.load([A])
    await end_sessions(postgres)
    await postgres.commit(postgres.write(A, 1))
    assert (await postgres.store.load([A]))[0].version == 2
    await postgres.store.renew("h1", lease_s=5)


async def test_commit_whose_answer_is_lost_may_have_been_applied(postgres: World) -> None:
    await postgres.commit(postgres.write(A))
    async with transaction_of(postgres) as blocker:
        await blocker.execute("select from entities for update")
        commit = asyncio.create_task(postgres.commit(postgres.write(A, 1)))
        await really_blocked(postgres)
        await end_sessions(postgres)
        with pytest.raises(StoreUnavailable) as lost:
            await commit
        assert lost.value.details["maybe_applied"] is True
    await postgres.commit(postgres.write(A, 1))


async def test_reads_are_repeated_when_their_session_breaks(postgres: World) -> None:
    await postgres.commit(postgres.write(A))
    async with transaction_of(postgres) as blocker:
        await blocker.execute("lock table entities in access exclusive mode")
        load = asyncio.create_task(postgres.store.load([A]))
        (pid,) = await really_blocked(postgres)
        await blocker.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        await really_blocked(postgres)
        await blocker.rollback()
        assert (await load)[0].version == 1


async def test_frozen_server_is_given_up_in_time(postgres: World) -> None:
    store = postgres.as_host("frozen", answer_timeout_s=0.3)
    await store.commit(postgres.batch(postgres.write(A)))
    async with await psycopg.AsyncConnection.connect(postgres.dsn, autocommit=True) as connection:
        rows = await (
            await connection.execute("select pid from pg_stat_activity where application_name = 'perdure:frozen'")
        ).fetchall()
    for (pid,) in rows:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable) as lost:
            await asyncio.wait_for(store.commit(postgres.batch(postgres.write(A, 1))), 60)
        assert lost.value.details["maybe_applied"] is True
    finally:
        for (pid,) in rows:
            os.kill(pid, signal.SIGCONT)
    assert (await store.load([A]))[0].version in (1, 2)


async def test_cancelled_commit_leaves_a_store_that_works(postgres: World) -> None:
    await postgres.commit(postgres.write(A))
    async with transaction_of(postgres) as blocker:
        await blocker.execute("select from entities for update")
        commit = asyncio.create_task(postgres.commit(postgres.write(A, 1)))
        await really_blocked(postgres)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        await blocker.rollback()
    await postgres.commit(postgres.write(A, (await postgres.store.load([A]))[0].version))


async def test_waiting_for_a_lock_is_bounded(postgres: World) -> None:
    store = postgres.as_host("h1", lock_timeout_s=0.2)
    async with transaction_of(postgres) as fence:
        await fence.execute(HOLD_HOST.replace("key share", "update"))
        with pytest.raises(StoreUnavailable) as busy:
            await store.commit(postgres.batch(postgres.write(A)))
        assert busy.value.details["maybe_applied"] is False


async def test_waiting_for_a_session_is_bounded(postgres: World) -> None:
    store = postgres.as_host("h1", acquire_timeout_s=0.2)
    async with transaction_of(postgres) as fence:
        await fence.execute(HOLD_HOST.replace("key share", "update"))
        commits = [asyncio.create_task(store.commit(postgres.batch(postgres.write(e)))) for e in (A, B)]
        await really_blocked(postgres, count=2)
        with pytest.raises(StoreUnavailable) as busy:
            await store.commit(postgres.batch(postgres.write(C)))
        assert busy.value.details["maybe_applied"] is False
        await fence.rollback()
        await asyncio.gather(*commits)


async def test_unreachable_server_is_reported_without_the_password() -> None:
    store = PostgresStore(SessionSettings(dsn="postgresql://me:s3cret@127.0.0.1:1/x"))
    with pytest.raises(StoreUnavailable, match="cannot connect") as error:
        await store.clock_us()
    assert error.value.details["maybe_applied"] is False
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "state",
    [b'{"nul": "\\u0000"}', b'{"lone": "\\ud800"}', b"not json", b"[" * 100_000 + b"]" * 100_000, b"\xff"],
    ids=["nul", "surrogate", "garbage", "nested", "not utf-8"],
)
async def test_value_that_postgres_refuses_is_blamed_on_its_entity(postgres: World, state: bytes) -> None:
    with pytest.raises(NotStorable) as error:
        await postgres.commit(postgres.write(B), postgres.write(A, state=state), postgres.write(C))
    assert error.value.entities == (A,)
    assert [loaded.version for loaded in await postgres.store.load([A, B, C])] == [0, 0, 0]
    await postgres.commit(postgres.write(B), postgres.write(C))


async def test_text_that_cannot_be_sent_is_blamed_on_its_entity(postgres: World) -> None:
    shard = shard_of(*C, SHARDS)
    for bad in (postgres.write(A, history=[history(name="\ud800")]), postgres.write(A, clock=2**63)):
        with pytest.raises(NotStorable) as error:
            await postgres.commit(postgres.write(B), bad, arrivals=[(shard, envelope(C))])
        assert error.value.entities == (A,)


async def test_conflicts_come_before_values_that_are_refused(postgres: World) -> None:
    with pytest.raises(WriteConflict) as error:
        await postgres.commit(postgres.write(B, 1), postgres.write(A, state=b"not json"))
    assert error.value.entities == (B,)


async def test_big_batch_with_many_conflicts_is_diagnosed(postgres: World) -> None:
    entities = [EntityId("Order", f"big-{number}") for number in range(300)]
    await postgres.commit(*(postgres.write(entity) for entity in entities))
    with pytest.raises(WriteConflict) as error:
        await postgres.commit(*(postgres.write(entity, number % 3) for number, entity in enumerate(entities)))
    assert set(error.value.entities) == {entity for number, entity in enumerate(entities) if number % 3 != 1}
    await postgres.commit(*(postgres.write(entity, 1) for entity in entities))
