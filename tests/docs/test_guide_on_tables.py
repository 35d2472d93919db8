"""What the guide writes into tables of the reader's own, on Postgres."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from perdure import entities
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.steps import PostgresSteps
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import Entity, StagedSqlFailed
from perdure.entities.testing import LocalCluster

from .blocks import block, defined, member

GUIDE = "docs/guide.md"
NAMESPACE = "guide"
PUBLIC = {name: getattr(entities, name) for name in entities.__all__}
TABLE = "create table orders (id text primary key, total int not null check (total > 0))"


@pytest.fixture
async def dsn(server: EmbeddedPostgres) -> AsyncIterator[str]:
    migrations.upgrade(server.dsn, NAMESPACE)
    with psycopg.connect(server.dsn) as connection:
        connection.execute(TABLE)
    yield server.dsn
    with psycopg.connect(server.dsn) as connection:
        connection.execute("drop table orders")


@asynccontextmanager
async def cluster_of(dsn: str, entity: type[Entity]) -> AsyncGenerator[None]:
    async with PostgresStore(SessionSettings(dsn=dsn), namespace=NAMESPACE) as store:
        steps = partial(PostgresSteps, dsn=dsn, namespace=NAMESPACE, incarnation="docs")
        async with LocalCluster([entity], store=store, steps=steps):
            yield


def orders(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select id, total from orders order by id").fetchall()


async def test_a_transactional_step(dsn: str) -> None:
    step, _, run = block(GUIDE, "async def save_order(").partition("@workflow\n")
    sale = defined(step + "class Sale(Entity):\n" + member("@workflow\n" + run), **PUBLIC)["Sale"]
    async with cluster_of(dsn, sale):
        for _ in range(2):  # the second is the same run
            await sale.ref("o-1").run(120)
    assert orders(dsn) == [("o-1", 120)]


async def test_a_staged_statement(dsn: str) -> None:
    text = f"class Purchase(Entity):\n    total: int = 0\n\n{member(block(GUIDE, 'async def place(self'))}"
    purchase = defined(text, **PUBLIC)["Purchase"]
    async with cluster_of(dsn, purchase):
        await purchase.ref("o-2").place(80)
        with pytest.raises(StagedSqlFailed):
            await purchase.ref("o-3").place(-1)
    assert orders(dsn) == [("o-2", 80)]
