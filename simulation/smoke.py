"""A small workload of the simulator's own: unique adds by calls, numbered sends from client to entity to entity.

It needs no checker but its own dozen lines, so it tells troubles of the simulator from troubles of the checkers.
"""

import asyncio
import json
import random
from collections import Counter
from functools import partial
from typing import Any

from perdure.entities import Entity, handler
from perdure.entities.ids import EntityId

from .contract import Audit, Driver, Violation
from .record import Record


class Adder(Entity):
    """Holds every number that was added, in order."""

    numbers: list[int] = []

    @handler
    async def add(self, number: int) -> int:
        self.numbers.append(number)
        return len(self.numbers)


class Relay(Entity):
    """Passes numbers on, one after the other."""

    passed: int = 0

    @handler
    async def forward(self, to: str) -> int:
        self.passed += 1
        await Adder.ref(to).add.send(self.passed)
        return self.passed


class Smoke:
    """See the module."""

    name = "W0 smoke"
    entities = (Adder, Relay)

    def __init__(self, rng: random.Random, size: int) -> None:
        self._rng = rng
        self._each = 20 * size

    async def drive(self, world: Driver) -> None:
        """Four callers of adds, two of relays."""
        await asyncio.gather(*(self._add(world, n) for n in range(4)), *(self._relay(world, n) for n in range(2)))

    async def _add(self, world: Driver, number: int) -> None:
        client = world.clients[number % len(world.clients)]
        for index in range(self._each):
            ref = Adder.ref(f"a{self._rng.randrange(3)}")
            value = 1_000_000 * (number + 1) + index
            if index % 3:
                await world.record.call(world, client, ref, "send", value, partial(ref.add.send, value))
            else:
                await world.record.call(world, client, ref, "add", value, partial(ref.add, value))

    async def _relay(self, world: Driver, number: int) -> None:
        client = world.clients[number % len(world.clients)]
        ref = Relay.ref(f"r{number}")
        to = f"from-r{number}"
        for _ in range(self._each):
            await world.record.call(world, client, ref, "forward", to, partial(ref.forward, to))

    async def settle(self, world: Driver) -> None:
        """Nothing to do."""

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        """Acknowledged adds are there once, nothing else is; relays kept the order and lost nothing."""
        held: dict[EntityId, dict[str, Any]] = {entity: json.loads(state) for entity, state in audit.states.items()}
        counts = Counter(
            n for entity, it in held.items() if entity.type == "Adder" for n in it["numbers"] if n > 10_000
        )
        adds = [op for op in record.ops if op.name in {"add", "send"}]
        tried = {op.argument for op in adds}
        found = [f"{n} is there {count} times" for n, count in counts.items() if count > 1]
        found += [f"{op} is lost" for op in adds if op.is_ok and not counts[op.argument]]
        found += [f"{op} failed and is there" for op in adds if op.outcome == "fail" and counts[op.argument]]
        found += [f"{n} was never sent" for n in counts if n not in tried]
        violations = [Violation("smoke", "P1", text) for text in found]
        for entity, it in held.items():
            if entity.type == "Relay":
                arrived = held.get(EntityId("Adder", f"from-{entity.key}"), {"numbers": []})["numbers"]
                if arrived != list(range(1, it["passed"] + 1)):
                    violations.append(Violation("smoke", "P5", f"{entity} passed {it['passed']}, arrived: {arrived}"))
        return violations
