"""Transactional steps on Postgres: the user's rows and the step's result are one commit, made once (P7)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.steps import PostgresSteps
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import (
    ApplicationError,
    Entity,
    NotInWorkflow,
    RetryPolicy,
    WorkflowFailed,
    WorkflowTerminated,
    query,
    transactional,
    workflow,
)
from perdure.entities.testing import LocalCluster

QUICKLY = RetryPolicy(initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=5))


@dataclass
class World:
    """Outside the database."""

    runs: int = 0
    failures: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_waiting: bool = False
    is_open: bool = True

    async def pass_gate(self) -> None:
        while not self.is_open:
            self.is_waiting = True
            await asyncio.sleep(0.002)


world = World()


@transactional(retry=QUICKLY)
async def save_order(connection: AsyncConnection, order: str, total: int) -> int:
    world.runs += 1
    await connection.execute(text("insert into orders values (:order, :total)"), {"order": order, "total": total})
    if world.failures:
        world.failures -= 1
        raise ConnectionError("after writing")
    await world.pass_gate()
    return total * 2


@transactional(retry=QUICKLY)
async def count_orders(session: AsyncSession) -> int:
    await session.execute(text("insert into orders values ('by session', 1)"))
    return int((await session.execute(text("select count(*) from orders"))).scalar_one())


@transactional(retry=RetryPolicy(attempts=1))
async def refuse_order(connection: AsyncConnection, order: str) -> None:
    await connection.execute(text("insert into orders values (:order, 0)"), {"order": order})
    raise ApplicationError("no", type="Refused")


class Order(Entity):
    doubled: int = 0

    @workflow
    async def run(self, total: int) -> int:
        self.doubled = await save_order(self.key, total)
        return self.doubled

    @workflow
    async def several(self) -> list[int]:
        return [await save_order("one", 1), await save_order("two", 2), await count_orders()]

    @workflow
    async def refused(self) -> None:
        await refuse_order(self.key)

    @query
    async def total(self) -> int:
        return self.doubled


@dataclass
class Shop:
    """A cluster on Postgres, and the user's own table beside it."""

    cluster: LocalCluster
    dsn: str
    namespace: str

    def orders(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute("select * from orders order by 1").fetchall()

    def steps(self) -> int:
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(f'select count(*) from "{self.namespace}".steps'.encode()).fetchone()
        assert row is not None
        return int(row[0])


def open_steps(server: EmbeddedPostgres, namespace: str) -> PostgresSteps:
    return PostgresSteps(dsn=server.dsn, namespace=namespace, incarnation="test")


@pytest.fixture
async def shop(server: EmbeddedPostgres, namespace: str) -> AsyncIterator[Shop]:
    world.__init__()  # type: ignore[misc]
    with psycopg.connect(server.dsn) as connection:
        connection.execute("drop table if exists orders")
        connection.execute("create table orders (id text, total int)")
    async with (
        PostgresStore(SessionSettings(dsn=server.dsn), namespace=namespace) as store,
        LocalCluster([Order], store=store, hosts=2, steps=lambda: open_steps(server, namespace)) as cluster,
    ):
        yield Shop(cluster, server.dsn, namespace)


async def test_rows_and_result_are_committed_together(shop: Shop) -> None:
    assert await Order.ref("o").run(21) == 42
    assert await Order.ref("o").total() == 42
    assert shop.orders() == [("o", 21)]
    assert shop.steps() == 1


async def test_several_steps_and_a_session(shop: Shop) -> None:
    assert await Order.ref("o").several() == [2, 4, 3]
    assert shop.steps() == 3


async def test_a_failed_attempt_leaves_nothing(shop: Shop) -> None:
    world.failures = 3
    assert await Order.ref("o").run(1) == 2
    assert world.runs == 4
    assert shop.orders() == [("o", 1)]
    with pytest.raises(WorkflowFailed, match="no"):
        await Order.ref("r").refused()
    assert len(shop.orders()) == 1
    assert shop.steps() == 1


async def test_a_zombie_and_its_successor_write_once(shop: Shop) -> None:
    """The first host's attempt is still under way when the second host's begins."""
    world.is_open = False
    await Order.ref("o").run.start(5)
    await _until(lambda: world.is_waiting)
    zombie = next(engine for engine in shop.cluster.engines if engine.attempts.running)
    await _take_over(shop, zombie)
    await _until(lambda: world.runs == 2)
    world.is_open = True
    assert await Order.ref("o").run.result(timeout=10) == 10
    await _until(lambda: not zombie.attempts.running)
    assert shop.orders() == [("o", 5)]
    assert shop.steps() == 1
    zombie.kill()
    await zombie.stop()


async def test_a_result_that_got_lost_is_found_again(shop: Shop) -> None:
    """The step is committed, and its host dies before the run hears of it."""
    engines = list(shop.cluster.engines)
    for engine in engines:
        engine.arrivals.offer = lambda *_: None  # type: ignore[method-assign]
    await Order.ref("o").run.start(5)
    await _until(lambda: shop.steps() == 1)
    for _ in engines:
        await shop.cluster.add_host()
        await shop.cluster.crash(0)
    assert await Order.ref("o").run.result(timeout=10) == 10
    assert world.runs == 1
    assert shop.orders() == [("o", 5)]


async def test_a_terminated_run_writes_nothing(shop: Shop) -> None:
    world.is_open = False
    await Order.ref("o").run.start(5)
    await _until(lambda: world.is_waiting)
    zombie = next(engine for engine in shop.cluster.engines if engine.attempts.running)
    await _take_over(shop, zombie)
    await Order.ref("o").run.terminate("enough")
    world.is_open = True
    await _until(lambda: not zombie.attempts.running)
    with pytest.raises(WorkflowTerminated):
        await Order.ref("o").run.result(timeout=10)
    assert shop.orders() == []
    assert shop.steps() == 0
    zombie.kill()
    await zombie.stop()


async def test_steps_go_with_their_runs(shop: Shop) -> None:
    await Order.ref("o").run(1)
    store = shop.cluster.store
    await store.prune(older_than_us=3_600_000_000, limit=100)
    assert shop.steps() == 1
    await store.prune(older_than_us=0, limit=100)
    assert shop.steps() == 0


async def test_only_workflows_have_steps(shop: Shop) -> None:
    with pytest.raises(NotInWorkflow, match="only a workflow"):
        await save_order("o", 1)


async def _take_over(shop: Shop, zombie: Any) -> None:
    """Others own its shards from now on; it has not noticed, and its attempts go on."""
    shop.cluster.engines.remove(zombie)
    await shop.cluster.store.fence(zombie.incarnation, is_dead=True)
    await shop.cluster.balance()


async def _until(predicate: Any) -> None:
    async with asyncio.timeout(10):
        while not predicate():
            await asyncio.sleep(0.005)
