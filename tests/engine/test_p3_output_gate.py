"""P3: nothing derived from uncommitted state leaves the host."""

import asyncio
from datetime import timedelta

import pytest

from perdure.entities import Entity, IdempotencyMismatch, activity, handler, query, remind, workflow
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Account, world
from .waiting import eventually

A = Account.ref("a")


@activity
async def outside(text: str) -> str:
    world.ran[f"outside {text}"] += 1
    return text


class Shop(Entity):
    sold: int = 0

    @workflow
    async def run(self) -> str:
        self.sold += 1
        return await outside("run")

    @handler
    async def sell(self) -> None:
        self.sold += 1
        await Account.ref("till").deposit.send(1)
        await Shop.ref("branch").run.start()
        remind(self.restock, after=timedelta(0))

    @handler
    async def restock(self) -> None:
        world.ran["restock"] += 1

    @query
    async def count(self) -> int:
        return self.sold


S = Shop.ref("s")


async def settle() -> None:
    """Let the loop do whatever it could do."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_another_payload_is_refused_only_once_the_first_is_committed(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    keyed = A.deposit.options(idempotency_key="k")
    store.hold_commits()
    first = asyncio.create_task(keyed(5))
    await store.waiting.wait()
    second = asyncio.create_task(keyed(6))
    await settle()
    assert not second.done(), "refused for a use of the key that is not committed"
    first.cancel()  # its client is gone, and so is its host: nobody has used the key
    store.let_commits_go()
    store.faults.append(Fault.BEFORE)
    await cluster.crash()
    assert await second == 6
    assert await A.total() == 6


async def test_another_payload_is_refused_after_the_commit_of_the_first(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    keyed = A.deposit.options(idempotency_key="k")
    store.hold_commits()
    first = asyncio.create_task(keyed(5))
    await store.waiting.wait()
    second = asyncio.create_task(keyed(6))
    await settle()
    store.let_commits_go()
    assert await first == 5
    with pytest.raises(IdempotencyMismatch):
        await second
    assert await A.total() == 5


async def test_a_reply_waits_for_the_commit(cluster: LocalCluster, store: FaultyStore) -> None:
    store.hold_commits()
    call = asyncio.create_task(A.deposit(5))
    await store.waiting.wait()
    await settle()
    assert world.ran["deposit"] == 1
    assert not call.done()
    store.let_commits_go()
    assert await call == 5


async def test_an_error_waits_for_the_commit(cluster: LocalCluster, store: FaultyStore) -> None:
    store.hold_commits()
    call = asyncio.create_task(A.refuse())
    await store.waiting.wait()
    await settle()
    assert not call.done()
    store.let_commits_go()
    with pytest.raises(Exception, match="no"):
        await call


@pytest.mark.parametrize("name", ["total", "slow_total"])
async def test_a_query_that_sees_uncommitted_state_waits_for_its_commit(
    cluster: LocalCluster, store: FaultyStore, name: str
) -> None:
    await A.deposit(1)
    store.hold_commits()
    call = asyncio.create_task(A.deposit(5))
    await store.waiting.wait()
    asked = asyncio.create_task(getattr(A, name)())
    await settle()
    assert not asked.done()
    assert not call.done()
    store.let_commits_go()
    assert await asked == 6


async def test_a_query_of_settled_state_waits_for_nobody(cluster: LocalCluster, store: FaultyStore) -> None:
    await A.deposit(1)
    store.hold_commits()
    other = asyncio.create_task(Account.ref("b").deposit(5))
    await store.waiting.wait()
    assert await A.total() == 1
    store.let_commits_go()
    await other


async def test_messages_reminders_and_activities_wait_for_the_commit(store: FaultyStore) -> None:
    async with LocalCluster([Account, Shop], store=store, settings=QUICK):
        store.hold_commits()
        call = asyncio.create_task(S.sell())
        start = asyncio.create_task(Shop.ref("t").run.start())
        await store.waiting.wait()
        await settle()
        assert store.waiting_messages() == []
        assert store.reminder_rows() == []
        assert world.ran == {}
        store.let_commits_go()
        await asyncio.gather(call, start)
        assert await Shop.ref("t").run.result() == "run"
        assert await Shop.ref("branch").run.result() == "run"
        await eventually(lambda: world.ran["deposit"] and world.ran["restock"])


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.CONFLICT])
async def test_nobody_sees_a_turn_that_was_lost(cluster: LocalCluster, store: FaultyStore, fault: Fault) -> None:
    """The lost turns run again; versions that anybody was told of are versions that exist."""
    await A.deposit(1)
    store.faults.append(fault)
    store.hold_commits()
    calls = [asyncio.create_task(A.deposit(5))]
    await store.waiting.wait()
    calls += [asyncio.create_task(A.deposit(5)), asyncio.create_task(A.total())]
    await settle()
    assert not any(call.done() for call in calls)
    store.let_commits_go()
    assert await asyncio.gather(*calls) == [6, 11, 11]
    assert world.ran["deposit"] > 3, "they ran again"
    assert [row.outcome for row in store.history("Account/a")] == [b"1", b"6", b"11"]


async def test_a_crash_before_the_commit_leaves_no_trace(store: FaultyStore) -> None:
    async with LocalCluster([Account, Shop], store=store, settings=QUICK) as cluster:
        store.hold_commits()
        call = asyncio.create_task(S.sell())
        await store.waiting.wait()
        call.cancel()
        store.faults.append(Fault.NONE)
        crashing = asyncio.create_task(cluster.crash())
        await crashing
        store.let_commits_go()
        assert await S.count() == 0
        assert store.version("Shop/s") == 0
        assert store.waiting_messages() == []


@pytest.mark.unfit("one", reason="it is about many turns between two looks")
async def test_many_turns_of_one_entity_go_into_one_commit(cluster: LocalCluster, store: FaultyStore) -> None:
    await A.deposit(1)
    store.hold_commits()
    first = asyncio.create_task(A.deposit(1))
    await store.waiting.wait()
    rest = [asyncio.create_task(A.deposit(1)) for _ in range(100)]
    await settle()
    store.let_commits_go()
    assert await asyncio.gather(first, *rest) == list(range(2, 103))
    assert len(store.commits) == 3
    write = store.commits[-1].writes[0]
    assert (write.expected_version, write.version) == (2, 102)
    assert [row.version for row in write.history] == list(range(3, 103))
    assert b'"balance":102' in write.state


@pytest.mark.unfit("one", reason="it is about large group commits")
async def test_many_entities_go_into_one_commit(cluster: LocalCluster, store: FaultyStore) -> None:
    store.hold_commits()
    first = asyncio.create_task(A.deposit(1))
    await store.waiting.wait()
    rest = [asyncio.create_task(Account.ref(f"a{number}").deposit(1)) for number in range(100)]
    await settle()
    store.let_commits_go()
    await asyncio.gather(first, *rest)
    assert len(store.commits) == 2
