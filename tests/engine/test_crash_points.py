"""One scenario with a little of everything, then again with the host dying before and after each of its commits."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from perdure.entities import (
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    activity_info,
    condition,
    handler,
    query,
    remind,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import Crasher, Fault, FaultyStore
from .waiting import eventually

QUICKLY = RetryPolicy(initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=2))


@dataclass
class Witness:
    """Sees what is executed, outside of everything that can be rolled back."""

    store: FaultyStore = field(default_factory=FaultyStore)
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    violations: list[str] = field(default_factory=list[str])

    def attempt(self) -> int:
        info = activity_info()
        key = info.idempotency_key
        if key in self.store.settled:
            self.violations.append(f"{info.activity} {key} was executed after its result had been committed")
        name = f"{info.entity} {info.activity} {info.operation.rpartition('/')[2]}"
        self.attempts[name] = self.attempts.get(name, 0) + 1
        return self.attempts[name]


witness = Witness()


@activity(retry=QUICKLY)
async def pay(amount: int) -> str:
    if witness.attempt() == 1:
        raise ConnectionError("first attempts fail")
    return f"paid {amount}"


@activity(retry=QUICKLY)
def cook(dish: str) -> str:
    witness.attempt()
    return f"cooked {dish}"


class Till(Entity):
    total: int = 0
    receipts: list[str] = []

    @handler
    async def put(self, amount: int) -> int:
        self.total += amount
        return self.total

    @handler
    async def note(self, text: str) -> None:
        self.receipts.append(text)


class Kitchen(Entity):
    dishes: list[str] = []

    @workflow
    async def prepare(self, dish: str) -> str:
        cooked = await cook(dish)
        self.dishes.append(cooked)  # `self.dishes.append(await ...)` would keep an alias over the await
        await asyncio.sleep(0.002)
        await Till.ref("main").note.send(dish)
        return dish.upper()


class Meal(Entity):
    log: list[str] = []
    is_fetched: bool = False
    reminded: int = 0
    decision = Mailbox(bool)

    @workflow
    async def run(self, dish: str) -> str:
        self.log.append("started")
        receipt, prepared = await asyncio.gather(pay(12), Kitchen.ref("k").prepare(dish))
        self.log += [receipt, prepared]
        total = await Till.ref("main").put(12)
        self.log.append(f"till {total}")
        remind(self.rate, after=timedelta(milliseconds=5), name="rate")
        await condition(lambda: self.is_fetched, timeout=60)
        if await self.decision.receive():
            async with asyncio.TaskGroup() as group:
                for amount in (1, 2):
                    group.create_task(pay(amount))
        try:
            async with asyncio.timeout(0.003):
                await self.decision.receive()
        except TimeoutError:
            self.log.append("no second decision")
        return "eaten"

    @handler
    async def fetch(self) -> None:
        self.is_fetched = True

    @handler
    async def rate(self) -> None:
        self.reminded += 1

    @query
    async def times_reminded(self) -> int:
        return self.reminded


async def play(store: FaultyStore, crasher_of: list[Crasher], hosts: int, *, is_evicting: bool) -> dict[str, object]:
    """The scenario; returns every entity's state at its end."""
    settings = EngineSettings(mail_poll_s=0.1, evict_after_every_turn=is_evicting)
    async with LocalCluster([Meal, Kitchen, Till], store=store, hosts=hosts, settings=settings) as cluster:
        crasher = Crasher(cluster, store)
        crasher_of.append(crasher)
        meal = Meal.ref("m")
        await meal.run.start("soup")
        await Till.ref("main").note.options(idempotency_key="k").send("from outside")
        await meal.fetch()
        await meal.decision.options(idempotency_key="d").send(True)
        assert await meal.run.result(timeout=10) == "eaten"
        await eventually(lambda: not store.waiting_messages() and not store.reminder_rows())
        await crasher.settle()
        await cluster.drained()
        assert await meal.times_reminded() == 1
    assert not witness.violations
    assert store.dead_letters == []
    assert store.attempt_rows() == []
    states: dict[str, object] = {}
    for entity, stored in sorted(store._entities.items()):
        state = json.loads(stored.state or b"null")
        states[str(entity)] = {**state, "receipts": sorted(state["receipts"])} if "receipts" in state else state
        numbers = [row.version for row in store.history(str(entity))]
        assert len(set(numbers)) == len(numbers)
        assert all(run.status == "completed" for run in stored.runs.values())
    return states


@pytest.mark.parametrize(("hosts", "is_evicting"), [(1, False), (2, True)], ids=["one host", "two hosts, evicting"])
@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.BEFORE, Fault.AFTER])
async def test_every_crash_point_leads_to_the_same_end(hosts: int, is_evicting: bool, fault: Fault) -> None:
    async def once(at: int | None) -> tuple[dict[str, object], int]:
        witness.__init__()  # type: ignore[misc]
        store = witness.store
        store.pick = lambda number, _: fault if number == at else Fault.NONE
        crashers: list[Crasher] = []
        states = await play(store, crashers, hosts, is_evicting=is_evicting)
        if at is not None and at < len(store.commits) and fault in (Fault.CRASH_AFTER, Fault.CRASH_BEFORE):
            assert crashers[0].crashes == 1, f"commit {at}"
        return states, len(store.commits)

    undisturbed, commits = await once(None)
    assert commits > 10
    for at in range(commits):
        try:
            states, _ = await once(at)
        except Exception as error:
            raise AssertionError(f"{fault.value} at commit {at}: {error!r}") from error
        assert states == undisturbed, f"{fault.value} at commit {at}"
