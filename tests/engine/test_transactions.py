"""Transactions over several entities (P1-P4, P8): what they do, and that they leave nothing behind."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from perdure.entities import (
    AlreadyCommitted,
    Entity,
    IdempotencyMismatch,
    InvalidTransaction,
    StateNotSerialisable,
    TransactionTimeout,
    activity,
    activity_info,
    atomic,
    condition,
    handler,
    query,
    remind,
    run_transaction,
    transaction,
    workflow,
)
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .waiting import becomes

T = TypeVar("T")


class Poor(Exception):
    """Not enough money."""


class Purse(Entity):
    balance: int = 100
    notes: list[str] = []
    told: int = 0

    @handler
    async def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise Poor(f"{amount} > {self.balance}")
        self.balance -= amount
        return self.balance

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def note(self, text: str) -> None:
        self.notes.append(text)

    @handler
    async def tell(self, whom: str, text: str) -> None:
        await Purse.ref(whom).note.send(f"{self.key}: {text}")
        remind(self.remember, after=timedelta(milliseconds=5), name="remember")

    @handler
    async def remember_weekly(self) -> None:
        remind(self.remember, cron="0 8 * * MON", name="weekly")

    @handler
    async def remember(self) -> None:
        self.told += 1

    @query
    async def total(self) -> int:
        return self.balance

    @query
    async def all_notes(self) -> list[str]:
        return self.notes

    @query
    async def times_told(self) -> int:
        return self.told

    @workflow
    async def until_rich(self, limit: int) -> int:
        await condition(lambda: self.balance >= limit)
        return self.balance

    @workflow
    async def pay_in_a_workflow(self, to: str, amount: int) -> int:
        return await move(self.key, to, amount)


@atomic
async def transfer(source: Purse, target: Purse, amount: int) -> int:
    await source.withdraw(amount)
    await target.deposit(amount)
    return source.balance


@activity
async def move(source: str, target: str, amount: int) -> int:
    once = transfer.options(idempotency_key=activity_info().idempotency_key)
    return await once(Purse.ref(source), Purse.ref(target), amount)


@pytest.fixture(params=["kept", "evicted"])
async def cluster(request: pytest.FixtureRequest, store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    """Two hosts with purses."""
    settings = replace(QUICK, evict_after_every_turn=request.param == "evicted")
    async with LocalCluster([Purse], store=store, hosts=2, settings=settings) as cluster:
        yield cluster


def outside(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Somebody else's call, while a block is open."""
    return asyncio.create_task(call, context=contextvars.Context())


async def totals(*keys: str) -> list[int]:
    return [await Purse.ref(key).total() for key in keys]


async def test_all_of_it_is_one_commit_and_seen_at_once(cluster: LocalCluster, store: FaultyStore) -> None:
    await Purse.ref("a").deposit(1)
    async with transaction(Purse.ref("b"), Purse.ref("a")) as (b, a):
        assert (a.balance, b.balance, a.key, b.key) == (101, 100, "a", "b")
        await a.withdraw(30)
        b.balance += 30
    assert await totals("a", "b") == [71, 130]
    assert await Purse.ref("a").deposit(1) == 72
    rows = [store.history(f"Purse/{key}") for key in "ab"]
    assert [row.kind for row in rows[0]] == ["call", "transaction", "call"]
    assert [row.kind for row in rows[1]] == ["transaction"]
    assert rows[0][1].message_id == rows[1][0].message_id


async def test_nothing_happens_if_the_block_raises(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(Poor):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, b):
            await b.deposit(500)
            await b.tell("c", "leaked")
            await a.withdraw(500)
    assert await totals("a", "b") == [100, 100]
    assert await Purse.ref("c").all_notes() == []
    assert store.version("Purse/a") == store.version("Purse/b") == 0


async def test_a_state_that_would_not_load_is_refused(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(StateNotSerialisable):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, b):
            a.balance = "much"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
            b.balance = 0
    assert await totals("a", "b") == [100, 100]


async def test_messages_and_reminders_leave_with_the_commit(cluster: LocalCluster) -> None:
    async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, b):
        await a.tell("c", "hello")
        await b.tell("c", "good bye")
        await Purse.ref("d").note.send("from the block")
    await becomes(Purse.ref("c").all_notes, ["a: hello", "b: good bye"])
    await becomes(Purse.ref("d").all_notes, ["from the block"])
    await becomes(Purse.ref("a").times_told, 1)
    await becomes(Purse.ref("b").times_told, 1)


async def test_what_the_block_may_not_do(cluster: LocalCluster) -> None:
    async with transaction(Purse.ref("a")) as (a,):
        for ask in (Purse.ref("c").total, Purse.ref("a").total):
            with pytest.raises(InvalidTransaction, match="while its own entities wait"):
                await ask()
        with pytest.raises(InvalidTransaction, match="a transaction cannot run"):
            async with transaction(Purse.ref("c")):
                pass
        with pytest.raises(InvalidTransaction, match="belongs to one entity"):
            remind(a.remember, after=1)


async def test_a_transaction_that_cannot_be(cluster: LocalCluster) -> None:
    with pytest.raises(InvalidTransaction, match="twice"):
        transaction(Purse.ref("a"), Purse.ref("a"))
    with pytest.raises(InvalidTransaction, match="1 to 100"):
        transaction(*(Purse.ref(str(number)) for number in range(101)))
    with pytest.raises(InvalidTransaction, match="1 to 100"):
        transaction()
    with pytest.raises(InvalidTransaction, match="refs"):
        transaction(Purse(key="a"))
    with pytest.raises(InvalidTransaction, match="time limit"):
        transaction(Purse.ref("a"), timeout=0)
    once = transaction(Purse.ref("a"))
    async with once:
        pass
    with pytest.raises(InvalidTransaction, match="enter it once"):
        async with once:
            pass


async def test_calls_and_queries_wait_for_the_end(cluster: LocalCluster) -> None:
    await Purse.ref("a").deposit(0)
    async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, b):
        asked = (Purse.ref("a").total(), Purse.ref("a").deposit(1), Purse.ref("b").total())
        waiting = [outside(call) for call in asked]
        await outside(Purse.ref("b").note.send("one-way"))  # acknowledged by its inbox row
        assert await outside(Purse.ref("c").total()) == 100
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in waiting)
        await a.withdraw(50)
        await b.deposit(50)
    assert [await task for task in waiting] == [50, 51, 150]
    await becomes(Purse.ref("b").all_notes, ["one-way"])


@pytest.mark.unfit("retention", reason="it counts rows of the history")
async def test_opposite_orders_do_not_wait_for_each_other(cluster: LocalCluster, store: FaultyStore) -> None:
    await asyncio.gather(
        *(transfer(Purse.ref("a"), Purse.ref("b"), 1) for _ in range(20)),
        *(transfer(Purse.ref("b"), Purse.ref("a"), 1) for _ in range(20)),
        *(transfer(Purse.ref("b"), Purse.ref("c"), 1) for _ in range(20)),
        *(transfer(Purse.ref("c"), Purse.ref("a"), 1) for _ in range(20)),
    )
    assert await totals("a", "b", "c") == [120, 80, 100]
    assert [row.kind for row in store.history("Purse/b")] == ["transaction"] * 60


async def test_many_entities(cluster: LocalCluster) -> None:
    keys = [f"p{number}" for number in range(100)]
    async with transaction(*(Purse.ref(key) for key in keys)) as purses:
        for number, purse in enumerate(purses):
            purse.balance = number
    assert await totals(*keys) == list(range(100))


async def test_a_repeat_with_the_same_key_gets_the_first_result(cluster: LocalCluster) -> None:
    once = transfer.options(idempotency_key="k")
    assert await once(Purse.ref("a"), Purse.ref("b"), 60) == 40
    assert await once(Purse.ref("a"), Purse.ref("b"), 60) == 40  # there would not be enough for another
    assert await totals("a", "b") == [40, 160]
    with pytest.raises(IdempotencyMismatch):
        await once(Purse.ref("a"), Purse.ref("b"), 61)
    async with transaction(Purse.ref("a"), Purse.ref("b"), idempotency_key="block") as (a, _):
        a.balance = 1
    with pytest.raises(AlreadyCommitted):
        async with transaction(Purse.ref("a"), Purse.ref("b"), idempotency_key="block") as (a, _):
            a.balance = 2
    assert await totals("a", "b") == [1, 160]
    both = await asyncio.gather(
        *(transfer.options(idempotency_key="2")(Purse.ref("b"), Purse.ref("a"), 9) for _ in "ab")
    )
    assert both == [151, 151]


async def test_run_transaction(cluster: LocalCluster) -> None:
    async def swap(a: Purse, b: Purse) -> list[int]:
        a.balance, b.balance = b.balance, a.balance
        return [a.balance, b.balance]

    await Purse.ref("a").deposit(1)
    assert await run_transaction(swap, Purse.ref("a"), Purse.ref("b"), idempotency_key="s") == [100, 101]
    assert await run_transaction(swap, Purse.ref("a"), Purse.ref("b"), idempotency_key="s") == [100, 101]
    with pytest.raises(Poor):
        await transfer(Purse.ref("a"), Purse.ref("b"), 1_000)
    assert await transfer(Purse(key="x"), Purse(key="y"), 1) == 99  # a plain function in a unit test


async def test_a_workflow_uses_an_activity(cluster: LocalCluster) -> None:
    assert await Purse.ref("a").pay_in_a_workflow("b", 10) == 90
    assert await totals("a", "b") == [90, 110]


async def test_a_run_that_waits_for_the_new_state_goes_on(cluster: LocalCluster) -> None:
    await Purse.ref("b").until_rich.start(150)
    await transfer(Purse.ref("a"), Purse.ref("b"), 60)
    assert await Purse.ref("b").until_rich.result(timeout=30) == 160


async def test_a_block_that_takes_too_long(cluster: LocalCluster) -> None:
    with pytest.raises(TransactionTimeout, match="nothing was changed"):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), timeout=0.05) as (a,):
            a.balance = 0
            await asyncio.Event().wait()
    assert await totals("a") == [100]


async def test_a_cron_reminder_of_a_transaction_is_one(cluster: LocalCluster, store: FaultyStore) -> None:
    async with transaction(Purse.ref("a")) as (a,):
        await a.remember_weekly()
    assert [(row.name, row.cron != "") for row in store.reminder_rows()] == [("weekly", True)]
