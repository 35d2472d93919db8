"""P10: an idle entity costs no memory; cost does not grow with the number of messages handled."""

import asyncio
import gc
import weakref
from datetime import timedelta

import pytest

from perdure.entities import Entity, condition, handler, query, workflow
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore
from .scenes import Account
from .waiting import becomes, eventually

in_memory = pytest.mark.unfit("evict", reason="it looks at what an activation holds in memory")
SLEEPY = EngineSettings(idle_s=0.01)


class Sleeper(Entity):
    count: int = 0
    log: list[str] = []

    @workflow
    async def run(self) -> int:
        kept = [1, 2, 3]
        await condition(lambda: self.count >= 3)
        self.log.append("counted")
        await asyncio.sleep(0.05)
        self.log.append("slept")
        return self.count + sum(kept)

    @handler
    async def add(self) -> int:
        self.count += 1
        return self.count

    @query
    async def lines(self) -> list[str]:
        return self.log


S = Sleeper.ref("s")


@in_memory
async def test_idle_entities_leave_memory_and_come_back(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=SLEEPY) as cluster:
        accounts = [Account.ref(f"a{number}") for number in range(50)]
        await asyncio.gather(*(account.deposit(1) for account in accounts))
        entity = weakref.ref(next(iter(cluster.engines[0].active.values())).entity)
        await eventually(lambda: cluster.engines[0].stats()["activations"] == 0)
        gc.collect()
        assert entity() is None, "something still holds it"
        assert await asyncio.gather(*(account.deposit(1) for account in accounts)) == [2] * 50


async def test_a_suspended_run_leaves_memory_and_goes_on(store: FaultyStore) -> None:
    async with LocalCluster([Sleeper], store=store, settings=SLEEPY) as cluster:
        engine = cluster.engines[0]
        await S.run.start()
        for number in range(1, 4):
            await eventually(lambda: engine.stats()["activations"] == 0)
            assert await S.add() == number
        await becomes(S.lines, ["counted"])
        await eventually(lambda: engine.stats()["activations"] == 0)
        assert await S.run.result(timeout=timedelta(seconds=5)) == 9
        assert await S.lines() == ["counted", "slept"]


async def test_what_is_not_written_yet_does_not_leave_memory(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=EngineSettings(idle_s=0.0)) as cluster:
        store.hold_commits()
        first = asyncio.create_task(Account.ref("a").deposit(1))
        await store.waiting.wait()
        second = asyncio.create_task(Account.ref("a").deposit(1))
        await eventually(lambda: cluster.engines[0].turns == 2)
        cluster.engines[0].sweep()
        store.let_commits_go()
        async with asyncio.timeout(30):
            assert (await first, await second) == (1, 2)


async def test_too_many_entities_push_out_the_longest_idle(store: FaultyStore) -> None:
    settings = EngineSettings(idle_s=60, activations_max=10)
    async with LocalCluster([Account], store=store, settings=settings) as cluster:
        for number in range(30):
            await Account.ref(f"a{number}").deposit(1)
        engine = cluster.engines[0]
        engine.sweep()
        assert engine.stats()["activations"] <= 10
        assert await Account.ref("a0").total() == 1
        assert await Account.ref("a29").total() == 1


@in_memory
async def test_messages_do_not_grow_state_journal_or_activation(store: FaultyStore) -> None:
    async with LocalCluster([Sleeper], store=store, settings=EngineSettings()) as cluster:
        await S.run.start()
        await asyncio.gather(*(Sleeper.ref("t").add() for _ in range(2)))
        journal = store.journal_length("Sleeper/s")
        quiet = Sleeper.ref("quiet")
        await quiet.run.start()
        await asyncio.gather(*(quiet.add() for _ in range(2)))
        assert store.journal_length("Sleeper/quiet") == journal, "handlers never grow the journal"
        activation = next(a for e, a in cluster.engines[0].active.items() if e.key == "t")
        for _ in range(3):
            await asyncio.gather(*(Sleeper.ref("t").add() for _ in range(200)))
        assert not activation.by_id
        assert not activation.mailbox
        assert not activation.turns
        assert not activation.reminders
        assert len(store.state("Sleeper/t")) < 100


async def test_nothing_is_written_for_reading(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=SLEEPY) as cluster:
        await Account.ref("a").deposit(1)
        commits = len(store.commits)
        for _ in range(5):
            await Account.ref("a").total()
            await Account.ref("a").slow_total()
        await eventually(lambda: cluster.engines[0].stats()["activations"] == 0)
        await Account.ref("a").total()
        assert len(store.commits) == commits
