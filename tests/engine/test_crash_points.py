"""One scenario with a little of everything, then again with a crash or a store failure at each of its points.

What is executed after its result was committed, and code that a replay leads elsewhere, the world finds by itself.
"""

import asyncio
from datetime import timedelta

import pytest

from perdure.entities import Entity, Mailbox, activity, condition, handler, query, remind, workflow
from perdure.entities.testing import PerdureTest, crash_everywhere, fails


@activity
async def pay(amount: int) -> str:
    raise AssertionError("a fake stands in")


@activity
def cook(dish: str) -> str:
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
        self.receipts = sorted([*self.receipts, text])  # two senders: no order between them is promised


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


async def play(world: PerdureTest) -> str:
    """The scenario."""
    meal = Meal.ref("m")
    await meal.run.start("soup")
    await Till.ref("main").note.options(idempotency_key="k").send("from outside")
    await meal.fetch()
    await meal.decision.options(idempotency_key="d").send(True)
    result = await meal.run.result()
    await world.advance(minutes=1)
    assert await meal.times_reminded() == 1
    store = world._memory
    assert not store.waiting_messages()
    assert not store.reminder_rows()
    assert store.dead_letters == []
    assert store.attempt_rows() == []
    assert all(row.status == "completed" for _, row in store.runs())
    for entity in world.states():
        numbers = [row.version for row in store.history(entity)]
        assert len(set(numbers)) == len(numbers)
    return result


@pytest.mark.parametrize(("hosts", "is_evicting"), [(1, False), (2, True)], ids=["one host", "two hosts, evicting"])
async def test_every_crash_point_leads_to_the_same_end(hosts: int, is_evicting: bool) -> None:
    def make() -> PerdureTest:
        return PerdureTest(
            [Meal, Kitchen, Till],
            activities={pay: fails(1, then=lambda amount: f"paid {amount}")},
            hosts=hosts,
            evict=is_evicting,
        )

    report = await crash_everywhere(make, play, store_failures=True)
    assert report.commits > 10
    assert report.points == 4 * report.commits + 2 * report.attempts
