"""W3: money is moved between safes: by messages, by transactions over two of them, by sagas (P1, P2, P4, P7).

A `vault` is changed by messages and transactions: at every committed moment the vaults and what is on its way to them
are constant. A `till` is changed by sagas: never more than there was, and in the end as much.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from perdure.entities import ApplicationError, Entity, atomic, handler, query, saga, workflow
from perdure.entities.ids import EntityId
from perdure.entities.messages import Kind
from perdure.entities.store.rows import Batch, RunStatus
from simulation.checkers import (
    Part,
    Written,
    all_or_compensated,
    conserved,
    never_below,
    seen_at_once,
    within,
)
from simulation.checkers.sagas import Ended
from simulation.contract import Audit, Cuts, Driver, Violation, Watches
from simulation.record import Record

from .base import Base, together

EACH = 100
UNLUCKY = 13
"""Nobody takes this amount, so its saga is undone."""
CUTS_MAX = 12


class Vault(Entity):
    vault: int = Field(default=EACH, ge=0)
    till: int = EACH
    marks: list[str] = []

    @handler
    async def pay(self, to: str, amount: int) -> int:
        if amount > self.vault:
            raise ApplicationError("not enough", type="Poor")
        self.vault -= amount
        await Vault.ref(to).credit.send(amount)
        return self.vault

    @handler
    async def credit(self, amount: int) -> None:
        self.vault += amount

    @handler
    async def withdraw(self, amount: int, saga_id: str) -> None:
        if amount > self.till:
            raise ApplicationError("not enough", type="Poor")
        self.till -= amount
        self.marks.append(f"{saga_id} withdraw")

    @handler
    async def deposit(self, amount: int, saga_id: str) -> None:
        if amount == UNLUCKY:
            raise ApplicationError("not that number", type="Superstitious")
        self.till += amount
        self.marks.append(f"{saga_id} deposit")

    @handler
    async def give_back(self, amount: int, saga_id: str) -> None:
        self.till += amount
        self.marks.append(f"{saga_id} give_back")

    @handler
    async def take_back(self, amount: int, saga_id: str) -> None:
        self.till -= amount  # whoever has spent it meanwhile is in debt
        self.marks.append(f"{saga_id} take_back")

    @query
    async def balance(self) -> int:
        return self.vault


class Moving(Entity):
    """One transfer by saga; its key is the saga's id."""

    @workflow
    async def run(self, source: str, target: str, amount: int) -> None:
        key = self.key
        async with saga() as s:
            await s.step(Vault.ref(source).withdraw(amount, key), undo=lambda: Vault.ref(source).give_back(amount, key))
            # A run that is cancelled during its last step is undone as well: that step needs its undo, too.
            await s.step(Vault.ref(target).deposit(amount, key), undo=lambda: Vault.ref(target).take_back(amount, key))


@atomic
async def move(source: Vault, target: Vault, amount: int) -> int:
    if amount > source.vault:
        raise ApplicationError("not enough", type="Poor")
    source.vault -= amount
    target.vault += amount
    return source.vault


@dataclass(frozen=True)
class Transfer:
    how: str
    source: str
    target: str
    amount: int
    pause: float
    limit: float | None
    patience: float
    """Of a transaction: for getting its entities, and for its block."""


class Bank(Base):
    name = "W3 bank"
    entities = (Vault, Moving)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.vaults = [f"v{number}" for number in range(rng.choice([2, 4, 8]))]
        self.cuts: list[Audit] = []
        self.transactions: list[Written] = []
        hows = ["pay"] * 4 + rng.choice([[], ["move"] * 2, ["move"] * 6]) + ["saga"] * 2 + ["cancelled saga", "look"]
        self.plans = [[self._transfer(rng.choice(hows)) for _ in range(6 * size)] for _ in range(rng.choice([2, 5]))]

    def _transfer(self, how: str) -> Transfer:
        source, target = self.rng.sample(self.vaults, 2)
        amount = UNLUCKY if how != "pay" and self.rng.random() < 0.2 else self.rng.randint(1, 60)
        patience = self.rng.choice([5.0, 0.5, 0.1])
        return Transfer(how, source, target, amount, self.pause(), self.limit(), patience)

    async def drive(self, world: Driver) -> None:
        if isinstance(world, Watches):
            world.watch(lambda batch: self._note(world.time(), batch))
        looking = [self._cut(world)] if isinstance(world, Cuts) else []
        await together([*(self._client(world, number) for number in range(len(self.plans))), *looking])

    def _note(self, at: float, batch: Batch) -> None:
        self.transactions += [
            (at, write.entity, row.version)
            for write in batch.writes
            for row in write.history
            if row.kind is Kind.TRANSACTION and row.ok
        ]

    async def _cut(self, world: Driver) -> None:
        assert isinstance(world, Cuts)
        for _ in range(CUTS_MAX):
            await world.sleep(6 * self.size * self.pace_s / CUTS_MAX)
            self.cuts.append(await world.cut())

    async def _client(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        for index, one in enumerate(self.plans[number]):
            await world.sleep(one.pause * self.pace_s)
            source, target = Vault.ref(one.source), Vault.ref(one.target)
            moving = Moving.ref(f"m{number}-{index}")
            match one.how:
                case "pay":
                    pay = source.pay.options(timeout=one.limit)
                    await self.call(world, caller, source, "pay", one.amount, lambda: pay(one.target, one.amount))
                case "move":
                    now = move.options(timeout=one.patience)
                    await self.call(world, caller, source, "move", one.amount, lambda: now(source, target, one.amount))
                    # Whatever has become of it: a commit that comes late must not be hidden by what was held.
                    for vault, pause in ((source, 0.0), (target, one.patience)):
                        await world.sleep(pause * self.pace_s)
                        await self.call(world, caller, vault, "balance", None, vault.balance)
                case "look":
                    await self.call(world, caller, source, "balance", None, source.balance)
                case "saga":
                    run = moving.run.options(timeout=one.limit)
                    arguments = one.source, one.target, one.amount
                    await self.call(world, caller, moving, "saga", one.amount, lambda: run(*arguments))
                case _:
                    arguments = one.source, one.target, one.amount
                    await self.call(world, caller, moving, "saga", one.amount, lambda: moving.run.start(*arguments))
                    await self.call(world, caller, moving, "cancel", None, moving.run.cancel)

    async def settle(self, world: Driver) -> None:
        await self.quiet(world, is_over=True)
        for key in self.vaults:
            await self.final(world, Vault.ref(key), "balance", Vault.ref(key).balance)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        problems = [*self.check_all(record, audit, is_over=True), *_check_cut(audit, "in the end")]
        tills = EACH * sum(entity.type == "Vault" for entity in audit.states)
        problems += within(audit, _till, least=tills, most=tills)
        for number, cut in enumerate(self.cuts):
            problems += _check_cut(cut, f"in cut {number}")
        problems += seen_at_once(self.transactions, list(record.of("balance")))
        return problems + _check_sagas(record, audit)


_UNDOES = {"give_back": "withdraw", "take_back": "deposit"}


def _vault(entity: EntityId, state: Mapping[str, Any]) -> int:
    return int(state["vault"]) if entity.type == "Vault" else 0


def _till(entity: EntityId, state: Mapping[str, Any]) -> int:
    return int(state["till"]) if entity.type == "Vault" else 0


def _check_cut(cut: Audit, when: str) -> list[Violation]:
    total = EACH * sum(entity.type == "Vault" for entity in cut.states)
    carried = lambda name, args: int(args["amount"]) if name == "credit" else 0  # noqa: E731
    return [
        *conserved(cut, total, _vault, carried, when=when),
        *within(cut, _till, most=total, when=when),
        *never_below(cut, _vault, when=when),
    ]


def _check_sagas(record: Record, audit: Audit) -> list[Violation]:
    marks: list[Part] = []
    for entity, state in audit.states.items():
        for mark in json.loads(state)["marks"] if entity.type == "Vault" else ():
            saga_id, what = mark.split(" ")
            undone = _UNDOES.get(what)
            marks.append(Part(saga_id, undone or what, undone is not None))
    known = {op.entity.key: ("withdraw", "deposit") for op in record.of("saga")}
    ended: dict[str, Ended] = {
        entity.key: "done" if run.status is RunStatus.COMPLETED else "undone" for entity, run in audit.runs
    }
    told = [
        Violation("J sagas", "P1, I9", f"it was acknowledged, but ended otherwise: {op}")
        for op in record.of("saga")
        if op.is_ok and op.result is None and ended.get(op.entity.key) != "done"
    ]
    return told + all_or_compensated(marks, known, ended)
