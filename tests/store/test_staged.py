"""Staged SQL on Postgres: one transaction with the turn (P2), and a refusal is its own turn's alone (P9)."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import Entity, InvalidStatement, StagedSqlFailed, handler, query, remind, stage, transaction
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster


class Shop(Entity):
    sold: int = 0

    @handler
    async def sell(self, order: str, total: int = 1) -> int:
        self.sold += 1
        stage("insert into sales (id, total, doubled) values (:id, :total, :total::int * 2)", id=order, total=total)
        return self.sold

    @handler
    async def count(self) -> int:
        self.sold += 1
        return self.sold

    @handler
    async def log(self) -> None:
        stage(
            "update sales set note = cast(:note as jsonb), at = :at, is_paid = :is_paid, raw = :raw where id = :id",
            note={"a": [1, None]},
            at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            is_paid=True,
            raw=b"\x00\xff",
            id="values",
        )

    @handler
    async def bad_sql(self) -> None:
        self.sold += 1
        stage("insert into no_such_table values (1)")

    @handler
    async def sell_deferred(self, order: str) -> None:
        stage("insert into parcels (sale) values (:id)", id=order)

    @handler
    async def remember(self) -> None:
        remind(self.bad_sql, after=timedelta(milliseconds=5), name="bad")

    @query
    async def total(self) -> int:
        return self.sold


@pytest.fixture
async def dsn(server: EmbeddedPostgres, namespace: str) -> AsyncIterator[str]:
    with psycopg.connect(server.dsn) as connection:
        connection.execute("drop table if exists sales, parcels")
        connection.execute(
            "create table sales (id text primary key, total int check (total > 0), doubled int, note jsonb,"
            " at timestamptz, is_paid bool, raw bytea)"
        )
        connection.execute("create table parcels (sale text references sales deferrable initially deferred)")
    async with PostgresStore(SessionSettings(dsn=server.dsn), namespace=namespace) as store:
        settings = EngineSettings(mail_poll_s=0.1)
        async with LocalCluster([Shop], store=store, settings=settings):
            yield server.dsn


def rows(dsn: str, columns: str = "id, total, doubled") -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"select {columns} from sales order by id".encode()).fetchall()


async def test_it_is_written_with_the_turn(dsn: str) -> None:
    assert await Shop.ref("s").sell("o1", 5) == 1
    assert rows(dsn) == [("o1", 5, 10)]
    await Shop.ref("s").sell("values")
    await Shop.ref("s").log()
    assert rows(dsn, "note, at, is_paid, raw")[1] == (
        {"a": [1, None]}, dt.datetime(2026, 1, 2, tzinfo=dt.UTC), True, b"\x00\xff",
    )  # fmt: skip


async def test_a_refused_statement_fails_its_turn_and_nobody_elses(dsn: str) -> None:
    """Also not those of the same entity that share a batch with it."""
    calls = [
        call
        for number in range(20)
        for call in (
            Shop.ref("s").sell(f"s{number}"),
            Shop.ref("s").sell("twice"),
            Shop.ref("s").count(),
            Shop.ref(f"other-{number}").sell(f"other-{number}"),
            Shop.ref(f"bad-{number}").bad_sql(),
        )
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert len(failed) == 19 + 20
    assert all(isinstance(error, StagedSqlFailed) for error in failed), failed
    assert any("duplicate key" in str(error) and "Shop/s.sell" in str(error) for error in failed)
    assert any("no_such_table" in str(error) and "Shop/bad-" in str(error) for error in failed)
    assert await Shop.ref("s").total() == 20 + 1 + 20
    assert await Shop.ref("bad-1").total() == 0
    assert len(rows(dsn)) == 20 + 1 + 20


async def test_a_deferred_constraint_is_checked_in_time(dsn: str) -> None:
    with pytest.raises(StagedSqlFailed, match="foreign key"):
        await Shop.ref("s").sell_deferred("nothing")
    assert await Shop.ref("s").count() == 1


async def test_a_lock_is_not_waited_for_long(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as other:
        await other.execute("lock table sales in access exclusive mode")
        with pytest.raises(StagedSqlFailed, match="lock timeout"):
            await Shop.ref("s").sell("o1")
        assert await Shop.ref("t").count() == 1
    assert await Shop.ref("s").sell("o1") == 1


async def test_a_reminded_turn_becomes_a_dead_letter(dsn: str, namespace: str) -> None:
    with pytest.raises(StagedSqlFailed):  # it was not acknowledged yet
        await Shop.ref("s").bad_sql.send()
    await Shop.ref("s").remember()
    letters: list[Any] = []
    left: list[Any] = []
    for _ in range(200):
        with psycopg.connect(dsn) as connection:
            letters = connection.execute(f"select error->>'code' from {namespace}.dead_letters".encode()).fetchall()
            left = connection.execute(f"select 1 from {namespace}.reminders".encode()).fetchall()
        if len(letters) == 1 and not left:
            break
        await asyncio.sleep(0.02)
    assert letters == [("staged_sql_failed",)]
    assert left == []
    assert await Shop.ref("s").count() == 1


async def test_where_it_does_not_work(dsn: str) -> None:
    with pytest.raises(InvalidStatement, match="outside a turn"):
        stage("select 1")
    with pytest.raises(Exception, match="staged SQL, which a transaction cannot execute"):
        async with transaction(Shop.ref("s")) as (shop,):
            await shop.sell("o")
    assert rows(dsn) == []
