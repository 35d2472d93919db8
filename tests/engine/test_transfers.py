"""Transfers between a hundred accounts while hosts die: money is conserved at every consistent cut, none is negative.

Each account has money in its `vault`, moved by atomic transactions, and in its `till`, moved by sagas. A cut is a
transaction over all of them.
"""

import asyncio
import random
from collections.abc import Callable

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


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_money_is_conserved(seed: int) -> None:
    rng = random.Random(seed)
    done = {"atomic": 0, "saga": 0, "refused": 0, "cuts": 0, "crashes": 0}
    store = MemoryStore(shards=32)
    settings = EngineSettings(mail_poll_s=0.05)
    async with LocalCluster([Account, Transfer], store=store, hosts=4, settings=settings) as cluster:
        is_over = asyncio.Event()

        def pair() -> tuple[str, str]:
            first, second = rng.sample(range(ACCOUNTS), 2)
            return f"a{first}", f"a{second}"

        async def atomically() -> None:
            for _ in range(20):
                source, target = pair()
                try:
                    await move(Account.ref(source), Account.ref(target), rng.randrange(1, 60))
                    done["atomic"] += 1
                except Poor:
                    done["refused"] += 1
                except (TransactionConflict, Unavailable, OutcomeUnknown):
                    pass  # it was unlucky for long; whatever happened is all or nothing

        async def by_saga(number: int) -> None:
            for round_number in range(6):
                source, target = pair()
                try:
                    await Transfer.ref(f"t{number}-{round_number}").run(source, target, rng.choice([5, 13, 40, 90]))
                    done["saga"] += 1
                except WorkflowFailed:
                    done["refused"] += 1

        async def look() -> None:
            while not is_over.is_set():
                try:
                    vaults, tills = await cut()
                except (TransactionConflict, Unavailable):
                    continue
                assert vaults == ACCOUNTS * EACH
                assert tills <= ACCOUNTS * EACH  # a saga's money can be on its way
                done["cuts"] += 1

        async def crash() -> None:
            for _ in range(8):
                await asyncio.sleep(0.05)
                await cluster.crash(rng.randrange(len(cluster.engines)))
                await cluster.add_host()
                await cluster.balance()
                done["crashes"] += 1

        looking, crashing = asyncio.create_task(look()), asyncio.create_task(crash())
        await asyncio.gather(*(atomically() for _ in range(16)), *(by_saga(number) for number in range(16)))
        await crashing
        is_over.set()
        await looking
        await cluster.drained()
        print(f"seed {seed}: {done}")
        assert await _settles(cut) == (ACCOUNTS * EACH, ACCOUNTS * EACH)
    assert done["crashes"] == 8
    assert done["cuts"] >= 2
    assert done["atomic"] > 100
    assert done["saga"] > 20
    assert done["refused"] > 5


async def _settles(ask: Callable[[], object]) -> object:
    """Every saga has ended by now: two cuts that agree."""
    before: object = None
    while (now := await ask()) != before:  # type: ignore[misc]
        before = now
    return now
