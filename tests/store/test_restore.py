"""What a restored backup owes: every promise, for all that was acknowledged before it; and no host of the old world."""

import asyncio
import itertools
import shutil
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from perdure.api.commands.restored import fence_all
from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.damage import find_damage
from perdure.cluster.postgres.guard import check_server
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import Entity, Mailbox, activity, handler, query, remind, workflow
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.store.port import HostFenced
from perdure.entities.testing import LocalCluster
from tests.engine.waiting import becomes, eventually

from .backup import account_of, dump, finished, program, restore
from .conftest import World, host
from .rows import A, B

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SETTINGS = EngineSettings(mail_poll_s=0.05)
PURSES = 4
COINS = 1_000
charged: Counter[str] = Counter()
"""How often the outside world was asked for what."""
NOT_YET: list[asyncio.Event] = []
"""Holds back what must not happen in the old world."""


@activity
async def charge(order: str) -> str:
    charged[order] += 1
    return f"receipt of {order}"


class Purse(Entity):
    coins: int = COINS
    payments: int = 0

    @handler
    async def pay(self, to: str) -> int:
        self.coins -= 1
        self.payments += 1
        await Purse.ref(to).take.send()
        return self.payments

    @handler
    async def take(self) -> None:
        self.coins += 1

    @query
    async def contents(self) -> tuple[int, int]:
        return self.coins, self.payments


class Parcel(Entity):
    collected = Mailbox(str)
    reminded: int = 0

    @workflow
    async def deliver(self) -> str:
        receipt = await charge(self.key)
        return f"{receipt}, collected by {await self.collected.receive()}"

    @handler
    async def remind_soon(self) -> None:
        remind(self.ring, after=timedelta(milliseconds=1), name="soon")

    @handler
    async def ring(self) -> None:
        await NOT_YET[0].wait()
        self.reminded += 1

    @query
    async def rings(self) -> int:
        return self.reminded


class Load:
    """Payments round a ring of purses, each with a key of its own, one after the other at each purse."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.acknowledged: dict[tuple[int, str], int] = {}
        self._is_over = asyncio.Event()

    @staticmethod
    async def pay(number: int, key: str) -> int:
        pay = Purse.ref(f"p{number}").pay.options(idempotency_key=key)
        return await pay(f"p{(number + 1) % PURSES}")

    async def run(self, number: int) -> None:
        for count in itertools.count():
            if self._is_over.is_set():
                return
            payment = number, f"k{count}"
            self.asked.append(payment)
            self.acknowledged[payment] = await self.pay(*payment)

    @asynccontextmanager
    async def going_on(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(PURSES):
                tasks.create_task(self.run(number))
            try:
                yield
            finally:
                self._is_over.set()


async def settled() -> None:
    """Every coin has arrived."""
    async with asyncio.timeout(60):
        while sum([(await Purse.ref(f"p{n}").contents())[0] for n in range(PURSES)]) != PURSES * COINS:
            await asyncio.sleep(0.01)


async def test_a_dump_made_under_load_is_a_whole_world_that_goes_on(
    server: EmbeddedPostgres, namespace: str, tmp_path: Path
) -> None:
    charged.clear()
    NOT_YET[:] = [asyncio.Event()]
    load, file = Load(), tmp_path / "perdure.dump"
    async with PostgresStore(SessionSettings(dsn=server.dsn), namespace=namespace) as store:
        async with LocalCluster([Purse, Parcel], store=store, settings=SETTINGS) as cluster:
            run = await Parcel.ref("x").deliver.start()
            await Parcel.ref("x").remind_soon()
            await eventually(lambda: charged["x"])
            await cluster.drained()
            async with load.going_on():
                await eventually(lambda: len(load.acknowledged) > 20)
                before = dict(load.acknowledged)
                await dump(server, namespace, file)
                seen = len(load.acknowledged)
                await eventually(lambda: len(load.acknowledged) > seen + 20)  # these are lost with the old world
            cluster.kill()
        assert run is not None

    dsn = await restore(server, file, f"{namespace}_restored")
    await check_server(dsn, namespace)
    assert await find_damage(dsn, namespace) == []
    assert len(await fence_all(SessionSettings(dsn=dsn), namespace)) == 1
    NOT_YET[0].set()
    async with (
        PostgresStore(SessionSettings(dsn=dsn), namespace=namespace) as store,
        LocalCluster([Purse, Parcel], store=store, settings=SETTINGS),
    ):
        await becomes(Parcel.ref("x").rings, 1)
        await settled()
        paid = [(await Purse.ref(f"p{n}").contents())[1] for n in range(PURSES)]
        assert sum(paid) < len(load.acknowledged), "something has to be lost, or this shows nothing"
        assert {payment: await load.pay(*payment) for payment in before} == before, "each has its first outcome"
        assert [(await Purse.ref(f"p{n}").contents())[1] for n in range(PURSES)] == paid, "… and no further effect"

        for payment in load.asked:  # callers who repeat what the restore has taken from them
            assert await load.pay(*payment) == load.acknowledged[payment]
        await settled()
        asked = Counter(number for number, _ in load.asked)
        assert [await Purse.ref(f"p{n}").contents() for n in range(PURSES)] == [
            (COINS - asked[n] + asked[(n - 1) % PURSES], asked[n]) for n in range(PURSES)
        ]

        await Parcel.ref("x").collected.send("ann")
        assert await Parcel.ref("x").deliver.result() == "receipt of x, collected by ann"
        assert charged == {"x": 1}, "its outcome was in the journal"


async def test_a_host_of_the_old_world_cannot_touch_the_restored_database(
    postgres: World, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    await postgres.commit(postgres.write(A))
    await dump(server, postgres.namespace, tmp_path / "dump")
    await postgres.commit(postgres.write(A, 1))
    dsn = await restore(server, tmp_path / "dump", f"{postgres.namespace}_restored")
    old = PostgresStore(SessionSettings(dsn=dsn, incarnation="h1"), namespace=postgres.namespace)
    async with old:
        await old.renew("h1", lease_s=60)  # nothing tells it that the database has gone back in time …
        await old.commit(postgres.batch(postgres.write(B)))
        assert await fence_all(SessionSettings(dsn=dsn), postgres.namespace) == ["h1"]
        with pytest.raises(HostFenced):
            await old.renew("h1", lease_s=60)
        with pytest.raises(HostFenced):
            await old.commit(postgres.batch(postgres.write(B, 1)))
        await old.register(host("h2"), lease_s=60)
        epochs = await old.claim("h2", postgres.epochs)
        assert epochs == {shard: epoch + 1 for shard, epoch in postgres.epochs.items()}
        assert [loaded.version for loaded in await old.load([A, B])] == [1, 1]
        assert await fence_all(SessionSettings(dsn=dsn), postgres.namespace) == ["h2"], "and again, whoever is there"
    await postgres.commit(postgres.write(A, 2))  # the old database is none of its business


@asynccontextmanager
async def archiving(directory: Path) -> AsyncGenerator[tuple[EmbeddedPostgres, Path]]:
    """A server that archives its log into the second of the two."""
    with EmbeddedPostgres(directory / "old") as server:
        archive = server.data_directory.parent / "archive"
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("alter system set archive_mode = on")
            connection.execute(
                f"alter system set archive_command = 'mkdir -p {archive} && cp %p {archive}/%f'".encode()
            )
        server.stop()
        yield server.start(), archive


async def test_a_recovery_to_a_point_in_time_has_what_was_acknowledged_before_it_and_nothing_after(
    directory: Path, tables: str
) -> None:
    async with archiving(directory) as (server, archive):
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(tables.encode())
        namespace = "stands_for_a_namespace"
        base = server.data_directory.parent / "base"
        async with (
            PostgresStore(SessionSettings(dsn=server.dsn), namespace=namespace) as store,
            LocalCluster([Purse], store=store, settings=SETTINGS) as cluster,
        ):
            first = await Load.pay(0, "before the backup")
            backup = [program(server, "pg_basebackup"), f"--pgdata={base}", "--checkpoint=fast", "--wal-method=none"]
            await finished([*backup, f"--dbname={server.dsn}"], account_of(server))
            assert await Load.pay(0, "before the point") == first + 1
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("select pg_create_restore_point('here')")
            assert await Load.pay(0, "after the point") == first + 2
            await cluster.drained()
            cluster.kill()
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                name = connection.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
            assert name is not None
            await eventually((archive / str(name[0])).exists)

    restored = directory / "old" / "server" / "data"
    shutil.rmtree(restored)
    base.rename(restored)
    (restored / "recovery.signal").touch()
    with (restored / "postgresql.auto.conf").open("a") as file:
        file.write(f"archive_mode = off\nrestore_command = 'cp {archive}/%f %p'\n")
        file.write("recovery_target_name = 'here'\nrecovery_target_action = promote\n")
    with EmbeddedPostgres(directory / "old") as server:
        await eventually(lambda: not is_in_recovery(server.dsn))
        await check_server(server.dsn, namespace)
        assert await find_damage(server.dsn, namespace) == []
        settings = SessionSettings(dsn=server.dsn)
        assert len(await fence_all(settings, namespace)) == 1
        async with (
            PostgresStore(settings, namespace=namespace) as store,
            LocalCluster([Purse], store=store, settings=SETTINGS),
        ):
            assert (await Purse.ref("p0").contents())[1] == 2
            assert await Load.pay(0, "before the point") == 2
            assert await Load.pay(0, "after the point") == 3, "it runs anew: nobody here knows of it"


def is_in_recovery(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("select pg_is_in_recovery()").fetchone()
    return row is not None and bool(row[0])
