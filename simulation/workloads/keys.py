"""W10: idempotency storms: one key from eight clients, across a crash, later again, and with another payload (I10).

Keys are few, and the same at every entity: a key counts for its entity alone.

After the retention a repeat runs anew (docs/guarantees.md): that is not tried here, see tests/engine/test_retention.py.
"""

import json
import random
from collections import defaultdict

from perdure.entities import Entity, handler, query
from simulation.checkers import one_effect
from simulation.contract import Audit, Driver, Violation
from simulation.record import Op, Record

from .base import Base, together

CLIENTS = 8


class Cashbox(Entity):
    receipts: list[tuple[str, int]] = []

    @handler
    async def charge(self, key: str, amount: int) -> str:
        self.receipts.append((key, amount))
        return f"receipt {len(self.receipts)}"

    @query
    async def look(self) -> list[tuple[str, int]]:
        return self.receipts


class Keys(Base):
    name = "W10 idempotency storm"
    entities = (Cashbox,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.boxes = [f"x{number}" for number in range(rng.choice([2, 3]))]
        self.storms = [
            (f"k{number // 2}", box, rng.choice(["call", "call", "send"]), rng.random() < 0.3)
            for number, box in enumerate(self._two_each(2 * size))
        ]
        self.plans = {
            (key, box): [
                (self.pause(), 1 + (rng.random() < 0.15), rng.choice([1, 1, 2]), self.limit()) for _ in range(CLIENTS)
            ]
            for key, box, _, _ in self.storms
        }

    def _two_each(self, keys: int) -> list[str]:
        """For each key the two boxes that it is used at."""
        return [box for _ in range(keys) for box in self.rng.sample(self.boxes, 2)]

    async def drive(self, world: Driver) -> None:
        await together(self._storm(world, *storm) for storm in self.storms)

    async def _storm(self, world: Driver, key: str, box: str, how: str, crashes: bool) -> None:
        await together(
            [
                *(self._client(world, number, key, box, how) for number in range(CLIENTS)),
                *([self._crash(world)] if crashes else []),
            ]
        )

    async def _crash(self, world: Driver) -> None:
        await world.sleep(self.pace_s / 2)
        await world.crash_somebody()

    async def _client(self, world: Driver, number: int, key: str, box: str, how: str) -> None:
        caller = world.clients[number % len(world.clients)]
        pause, amount, times, limit = self.plans[key, box][number]
        cashbox = Cashbox.ref(box)
        charge = cashbox.charge.options(idempotency_key=key, timeout=limit)
        for _ in range(times):
            await world.sleep(pause * self.pace_s)
            do = (lambda: charge.send(key, amount)) if how == "send" else (lambda: charge(key, amount))
            op = await self.call(world, caller, cashbox, f"charge {key}", amount, do)
            op.client = f"{op.client}/{number}"

    async def settle(self, world: Driver) -> None:
        await self.quiet(world)
        for key, box, how, _ in self.storms:
            if how == "call" and any(amount == 1 for _, amount, _, _ in self.plans[key, box]):
                charge = Cashbox.ref(box).charge.options(idempotency_key=key)
                # Once more, long after: the same answer, or that another payload came first.
                await self.call(world, world.clients[0], Cashbox.ref(box), f"charge {key}", 1, lambda: charge(key, 1))
        for box in self.boxes:
            await self.final(world, Cashbox.ref(box), "look", Cashbox.ref(box).look)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        by_key: dict[str, list[Op]] = defaultdict(list)
        for op in record.ops:
            if op.name.startswith("charge "):
                by_key[f"{op.name.partition(' ')[2]} at {op.entity.key}"].append(op)
        effects = [
            (f"{key} at {entity.key}", amount)
            for entity, state in audit.states.items()
            for key, amount in json.loads(state)["receipts"]
        ]
        return [*self.check_all(record, audit), *one_effect(by_key, effects)]
