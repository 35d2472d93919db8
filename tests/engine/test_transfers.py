"""Transfers between a hundred accounts while hosts die: money is conserved at every consistent cut, none is negative.

Each account has money in its `vault`, moved by atomic transactions, and in its `till`, moved by sagas. A cut is a
transaction over all of them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from pydantic import Field

from perdure.entities import (
    ApplicationError,
    Entity,
    OutcomeUnknown,
    TransactionConflict,
    Unavailable,
    WorkflowFailed,
    atomic,
    handler,
    saga,
    transaction,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.store.memory import MemoryStore
from perdure.entities.testing import LocalCluster

ACCOUNTS = 100
EACH = 100


class Account(Entity):
    vault: int = Field(default=EACH, ge=0)
    till: int = Field(default=EACH, ge=0)

    @handler
    async def withdraw(self, amount: int) -> None:
        if amount > self.till:
            raise ApplicationError("not enough", type="Poor")
        self.till -= amount

    @handler
    async def deposit(self, amount: int) -> None:
        if amount == 13:
            raise ApplicationError("not that number", type="Superstitious")
        self.till += amount

    @handler
    async def give_back(self, amount: int) -> None:
        self.till += amount


class Transfer(Entity):
    @workflow
    async def run(self, source: str, target: str, amount: int) -> None:
        async with saga() as s:
            await s.step(Account.ref(source).withdraw(amount), undo=lambda: Account.ref(source).give_back(amount))
            await s.step(Account.ref(target).deposit(amount))


class Poor(Exception):
    """Not enough in the vault."""


@atomic
async def move(source: Account, target: Account, amount: int) -> None:
    if amount > source.vault:
        raise Poor
    source.vault -= amount
    await asyncio.sleep(0)
    target.vault += amount


async def cut() -> tuple[int, int]:
    """(money in vaults, money in tills) at one moment; fails if any account is in debt."""
    async with transaction(*(Account.ref(f"a{number}") for number in range(ACCOUNTS)), timeout=20) as accounts:
        assert min(account.vault for account in accounts) >= 0
        assert min(account.till for account in accounts) >= 0
        return sum(account.vault for account in accounts), sum(account.till for account in accounts)


class Campaign:
    """What goes on at once, and how often it did."""

    def __init__(self, cluster: LocalCluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.done = Counter[str]()
        self.is_over = asyncio.Event()

    def pair(self) -> tuple[str, str]:
        first, second = self.rng.sample(range(ACCOUNTS), 2)
        return f"a{first}", f"a{second}"

    async def atomically(self) -> None:
        for _ in range(20):
            source, target = self.pair()
            try:
                await move(Account.ref(source), Account.ref(target), self.rng.randrange(1, 60))
                self.done["atomic"] += 1
            except Poor:
                self.done["refused"] += 1
            except (TransactionConflict, Unavailable, OutcomeUnknown):
                self.done["unlucky"] += 1  # for long; whatever happened is all or nothing

    async def by_saga(self, number: int) -> None:
        for again in range(6):
            source, target = self.pair()
            try:
                await Transfer.ref(f"t{number}-{again}").run(source, target, self.rng.choice([5, 13, 40, 90]))
                self.done["saga"] += 1
            except WorkflowFailed:
                self.done["refused"] += 1

    async def look(self) -> None:
        while not self.is_over.is_set():
            try:
                vaults, tills = await cut()
            except (TransactionConflict, Unavailable):
                continue
            assert vaults == ACCOUNTS * EACH
            assert tills <= ACCOUNTS * EACH  # a saga's money can be on its way
            self.done["cuts"] += 1

    async def crash(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0.05)
            await self.cluster.crash(self.rng.randrange(len(self.cluster.engines)))
            await self.cluster.add_host()
            await self.cluster.balance()
            self.done["crashes"] += 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_money_is_conserved(seed: int) -> None:
    settings = EngineSettings(mail_poll_s=0.05)
    store = MemoryStore(shards=32)
    async with LocalCluster([Account, Transfer], store=store, hosts=4, settings=settings) as cluster:
        this = Campaign(cluster, seed)
        looking, crashing = asyncio.create_task(this.look()), asyncio.create_task(this.crash())
        await asyncio.gather(*(this.atomically() for _ in range(16)), *(this.by_saga(number) for number in range(16)))
        await crashing
        this.is_over.set()
        await looking
        await cluster.drained()
        print(f"seed {seed}: {dict(this.done)}")  # noqa: T201 - shown if it fails
        assert await _settles(cut) == (ACCOUNTS * EACH, ACCOUNTS * EACH)
    done = this.done
    assert done["crashes"] == 8
    assert done["cuts"] >= 2
    assert done["atomic"] > 100
    assert done["saga"] > 20
    assert done["refused"] > 5


async def _settles(ask: Callable[[], Awaitable[object]]) -> object:
    """Every saga has ended by now: two cuts that agree."""
    before: object = None
    while (now := await ask()) != before:
        before = now
    return now
