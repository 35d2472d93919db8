"""P1, P2, P3 and P6 on a real Postgres, with the engine: the host dies at each commit, or its answer is lost.

Small beside the suites of tests/engine; here because the mutants of simulation/mutants.py have to be found in SQL, too.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import Entity, cancel_reminder, handler, query, remind
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.ids import EntityId
from perdure.entities.sources import sources
from perdure.entities.store.port import StoreUnavailable
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster
from tests.engine.waiting import becomes, eventually

SETTINGS = EngineSettings(handler_grace_s=0.05, mail_poll_s=0.05)


class Purse(Entity):
    coins: int = 100
    rung: list[str] = []

    @handler
    async def pay(self, to: str, coins: int) -> int:
        self.coins -= coins
        await Purse.ref(to).take.send(coins)
        return self.coins

    @handler
    async def take(self, coins: int) -> None:
        self.coins += coins

    @handler
    async def alarm(self, name: str, after_ms: int) -> None:
        remind(self.ring, after=timedelta(milliseconds=after_ms), name=name, arguments={"text": name})

    @handler
    async def wait_for_the_gate(self) -> None:
        await GATE[0].wait()

    @handler
    async def no_alarm(self, name: str) -> None:
        cancel_reminder(name)

    @handler
    async def ring(self, text: str) -> None:
        self.rung.append(text)

    @query
    async def total(self) -> int:
        return self.coins

    @query
    async def rings(self) -> list[str]:
        return self.rung


GATE: list[asyncio.Event] = []
A = Purse.ref("a")


class Failing(PostgresStore):
    """Something happens to one of the commits."""

    what = ""
    at = -1
    commits = 0
    cluster: LocalCluster
    recovering: asyncio.Task[None] | None = None

    async def commit(self, batch: Batch) -> int:
        if batch.writes:
            self.commits += 1
        if not batch.writes or self.commits - 1 != self.at:
            return await super().commit(batch)
        await asyncio.sleep(0.05)  # whatever must not happen before it has time to
        if self.what != "crash before":
            await super().commit(batch)
        if self.what == "answer lost":
            raise StoreUnavailable("injected")
        self._crash(batch.incarnation)
        await asyncio.Event().wait()
        raise AssertionError("a dead host goes on")

    def _crash(self, incarnation: str) -> None:
        names = [engine.incarnation for engine in self.cluster.engines]
        if incarnation in names:
            engine = self.cluster.kill(names.index(incarnation))
            self.recovering = asyncio.create_task(self.cluster.recover(engine))


@pytest.fixture
async def store(server: EmbeddedPostgres, namespace: str) -> AsyncIterator[Failing]:
    async with Failing(SessionSettings(dsn=server.dsn), namespace=namespace) as store:
        yield store


@pytest.mark.parametrize("what", ["crash before", "crash after", "answer lost"])
async def test_whatever_happens_to_a_commit_all_is_applied_once(store: Failing, what: str) -> None:
    for at in range(5):
        store.what, store.at, store.commits, store.recovering = what, at, 0, None
        async with LocalCluster([Purse], store=store, settings=SETTINGS) as cluster:
            store.cluster = cluster
            await pays(store, str(at))


async def pays(store: Failing, round_: str) -> None:
    """Calls, repeats and one-way messages of one round, each with purses of its own."""
    a, b, c = (Purse.ref(f"{name}{round_}") for name in "abc")
    first = a.pay.options(idempotency_key="first")
    assert await first(b.key, 10) == 90
    assert await first(b.key, 10) == 90
    await a.pay.options(idempotency_key="second").send(b.key, 20)
    assert await a.pay(c.key, 1) == 69
    if store.recovering is not None:
        await store.recovering
    shards = range(await store.shard_count())
    async with asyncio.timeout(10):
        while await store.with_mail(shards, limit=10):
            await asyncio.sleep(0.01)
    assert await first(b.key, 10) == 90
    assert [await purse.total() for purse in (a, b, c)] == [69, 130, 101]


async def test_a_reminder_fires_neither_after_its_cancellation_nor_by_the_clock_of_the_host(
    store: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "time_ns", lambda: time.time_ns() + 3_600_000_000_000)
    GATE[:] = [asyncio.Event()]
    async with LocalCluster([Purse], store=store, settings=SETTINGS) as cluster:
        await A.alarm("r", 300)
        (row,) = (await store.due(range(await store.shard_count()), until_us=1 << 62, limit=10))[1]
        assert row.due_us < await store.clock_us() + 60_000_000, "by the database's clock"
        waiting = asyncio.gather(A.wait_for_the_gate(), A.no_alarm("r"))
        await eventually(lambda: cluster.engines[0].wheel.handed_out == 1)
        GATE[0].set()
        await waiting
        await A.alarm("s", 50)
        await becomes(A.rings, ["s"])
        assert await store.outcomes([(EntityId("Purse", "a"), "r")]) == {}
