"""One suite for both stores: `world` is the store under test, in memory or on Postgres (a namespace per test)."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import migrations
from perdure.cluster.postgres.schema import metadata
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import EncryptionCodec, PayloadCodec
from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.encoded import EncodedStore
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import Batch, EntityWrite, HostRow
from simulation.store import SimStore, execute, frozen
from tests.scratch import scratch_directory

from . import pooler

SHARDS = 16
NAMESPACE = "stands_for_a_namespace"
_numbers = itertools.count(1)


class World:
    """A namespace with one registered host, `h1`, that owns all shards at the epochs in `epochs`."""

    def __init__(
        self,
        store: MemoryStore | PostgresStore,
        *,
        dsn: str = "",
        namespace: str = "",
        codec: PayloadCodec | None = None,
        sessions: SessionSettings | None = None,
    ) -> None:
        self.raw = store
        self.store = store if codec is None else cast("Any", EncodedStore(store, codec, namespace=namespace))
        self.codec = codec
        self.dsn = dsn
        """Of the server itself, for looking at what was stored."""
        self.sessions = sessions or SessionSettings(dsn=dsn)
        """The store's way to it."""
        self.namespace = namespace
        self.epochs: dict[int, int] = {}
        self._opened: list[PostgresStore] = []

    async def prepare(self) -> World:
        await self.store.register(host("h1"), lease_s=60)
        self.epochs = await self.store.claim("h1", range(SHARDS))
        return self

    def as_host(self, incarnation: str, **settings: Any) -> MemoryStore | PostgresStore:
        """The same namespace, seen by another process."""
        if isinstance(self.raw, MemoryStore):
            return self.store
        other = PostgresStore(replace(self.sessions, incarnation=incarnation, **settings), namespace=self.namespace)
        self._opened.append(other)
        return other if self.codec is None else cast("Any", EncodedStore(other, self.codec, namespace=self.namespace))

    async def close(self) -> None:
        for store in self._opened:
            await store.close()
        await self.raw.close()

    def write(self, entity: EntityId, expected: int = 0, **more: Any) -> EntityWrite:
        fields: dict[str, Any] = {"version": expected + 1, "state": b'{"n": %d}' % (expected + 1)} | more
        return EntityWrite(entity=entity, shard=shard_of(*entity, SHARDS), expected_version=expected, **fields)

    def batch(self, *writes: EntityWrite, incarnation: str = "h1", **more: Any) -> Batch:
        return Batch(incarnation=incarnation, epochs=more.pop("epochs", self.epochs), writes=list(writes), **more)

    async def commit(self, *writes: EntityWrite, **more: Any) -> int:
        return await self.store.commit(self.batch(*writes, **more))

    def everything(self) -> object:
        """All that is stored, for comparing before and after."""
        if isinstance(self.raw, MemoryStore):
            return repr(self.raw._entities), repr(self.raw.dead_letters), repr(self.raw.parked)
        with psycopg.connect(self.dsn) as connection:
            return {
                table: connection.execute(
                    sql.SQL("select t::text from {} t order by 1").format(sql.Identifier(self.namespace, table))
                ).fetchall()
                for table in metadata.tables
                if table not in ("hosts", "shards")
            }


def host(incarnation: str) -> HostRow:
    return HostRow(incarnation, f"actor-{incarnation}", "node-1", 4_242, "active", 0, 3)


def meaning(value: bytes | None) -> object:
    return None if value is None else json.loads(value)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    with scratch_directory("perdure-store-") as directory, EmbeddedPostgres(directory) as running:
        yield running


@pytest.fixture(scope="session")
def pooled(server: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a way to the server through PgBouncer; skips what needs that where there is none."""
    if pooler.PROGRAM is None:
        pytest.skip(pooler.WHY_NOT)
    with pooler.pgbouncer(server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def tables() -> str:
    """The SQL that makes a namespace called NAMESPACE: in one message, which is ten times as fast as the upgrade.

    test_migrations.py shows that both make the same.
    """
    return migrations.upgrade_sql(NAMESPACE, shard_count=SHARDS)


@pytest.fixture
def namespace(server: EmbeddedPostgres, tables: str) -> str:
    name = f"ns_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(tables.replace(NAMESPACE, name).encode())
    return name


@pytest.fixture
async def postgres(server: EmbeddedPostgres, namespace: str) -> AsyncIterator[World]:
    """A namespace on Postgres, for what only Postgres has to prove."""
    store = PostgresStore(SessionSettings(dsn=server.dsn, incarnation="h1"), namespace=namespace)
    world = await World(store, dsn=server.dsn, namespace=namespace).prepare()
    yield world
    await world.close()


class NoDistance:
    """The way to a simulated database on which nothing goes wrong."""

    def __init__(self, tables: MemoryStore) -> None:
        self.tables = tables

    async def carry(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(args[0] if args else None, Batch):
            args = (frozen(args[0]), *args[1:])
        await asyncio.sleep(0)
        return execute(self.tables, name, args, kwargs)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        kinds = ["memory", "simulated", "postgres", "postgres-pooled", "memory-encrypted"]
        if metafunc.config.getoption("--encrypted"):
            kinds.append("postgres-encrypted")
        metafunc.parametrize("world", kinds, indirect=True)


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    codec = a_codec() if request.param.endswith("encrypted") else None
    if request.param.startswith("memory"):
        yield await World(MemoryStore(shards=SHARDS), codec=codec).prepare()
        return
    if request.param == "simulated":
        tables = MemoryStore(shards=SHARDS)
        yield await World(SimStore(tables, NoDistance(tables))).prepare()
        return
    server: EmbeddedPostgres = request.getfixturevalue("server")
    namespace: str = request.getfixturevalue("namespace")
    settings = SessionSettings(dsn=server.dsn, incarnation="h1")
    if request.param == "postgres-pooled":
        # Where there is no pooler, at least what is said to one is good for the server.
        way = request.getfixturevalue("pooled") if pooler.PROGRAM is not None else server.dsn
        settings = replace(settings, dsn=way, is_pooled=True)
    store = PostgresStore(settings, namespace=namespace)
    world = await World(store, dsn=server.dsn, namespace=namespace, codec=codec, sessions=settings).prepare()
    yield world
    await world.close()


def a_codec() -> EncryptionCodec:
    """With a searchable field, so that both forms of a stored state occur."""
    return EncryptionCodec({"k1": b"\x07" * 32}, searchable={"Loan": ["status"], "Order": ["status", "total"]})


@pytest.fixture
def directory() -> Iterator[Path]:
    """For a server of the test's own."""
    with scratch_directory("perdure-store-") as path:
        yield path
