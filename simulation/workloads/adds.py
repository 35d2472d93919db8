"""W1: unique elements are added to sets, most of them to a few (P1, P2)."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass

from perdure.entities import ApplicationError, Entity, handler, query
from perdure.entities.ids import EntityId
from simulation.checkers import set_full
from simulation.contract import Audit, Driver, Violation
from simulation.record import Op, Record

from .base import Base, together


class Bag(Entity):
    elements: list[str] = []

    @handler
    async def add(self, element: str) -> int:
        self.elements.append(element)
        return len(self.elements)

    @handler
    async def add_in_vain(self, element: str) -> None:
        self.elements.append(element)
        raise ApplicationError("after all not")

    @query
    async def look(self) -> list[str]:
        return self.elements


@dataclass(frozen=True)
class Addition:
    how: str
    bag: str
    element: str
    pause: float
    limit: float | None
    delay: float


class Adds(Base):
    name = "W1 unique adds"
    entities = (Bag,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        bags = [f"b{number}" for number in range(rng.choice([1, 3, 8]))]
        hows = ["call"] * 9 + ["send"] * 5 + ["later"] * 2 + ["keyed"] * 2 + ["again"] * 2 + ["vain"] * 2
        self.plans = [
            [
                Addition(
                    rng.choice(hows),
                    self.key(bags),
                    f"e{client}-{number}",
                    self.pause(),
                    self.limit(),
                    rng.random() * 3,
                )
                for number in range(12 * size)
            ]
            for client in range(rng.choice([3, 6, 10]))
        ]

    async def drive(self, world: Driver) -> None:
        await together(self._client(world, number) for number in range(len(self.plans)))

    async def _client(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        for one in self.plans[number]:
            await world.sleep(one.pause * self.pace_s)
            bag = Bag.ref(one.bag)
            key = one.element if one.how in ("keyed", "again") else ""
            add = bag.add.options(timeout=one.limit, idempotency_key=key)
            later = bag.add.options(timeout=one.limit, delay=3 * one.delay * self.pace_s)
            vain = bag.add_in_vain.options(timeout=one.limit)
            do = {
                "send": lambda: add.send(one.element),
                "later": lambda: later.send(one.element),
                "vain": lambda: vain(one.element),
            }.get(one.how, lambda: add(one.element))
            op = await self.call(world, caller, bag, "add", one.element, do)
            if one.how == "again" or (one.how == "keyed" and not op.is_ok):
                await self.call(world, caller, bag, "add", one.element, do)

    async def settle(self, world: Driver) -> None:
        await self.quiet(world)
        for bag in sorted({one.bag for plan in self.plans for one in plan}):
            await self.final(world, Bag.ref(bag), "look", Bag.ref(bag).look)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        final = {entity: json.loads(state)["elements"] for entity, state in audit.states.items()}
        return [
            *self.check_all(record, audit),
            *set_full(record.of("add"), final),
            *shown_is_stored(record.of("final look"), final),
        ]


def shown_is_stored(looks: Iterable[Op], final: dict[EntityId, list[str]]) -> list[Violation]:
    """The last answer of a query is what is stored."""
    last = {op.entity: op for op in looks if op.is_ok}
    return [
        Violation("A set-full", "P8", f"{op} shows something else than is stored: {final.get(entity, [])!r}")
        for entity, op in last.items()
        if op.result != final.get(entity, [])
    ]
