"""W4: calls from workflow to workflow and to handlers, with rings, self calls and impatient callers (I6, I18, I26)."""

import asyncio
import json
import random
from typing import Any

from perdure.entities import CallCycle, CallTimeout, Entity, WorkflowFailed, handler, query, workflow
from perdure.entities.ids import EntityId
from perdure.entities.store.rows import RunStatus
from simulation.checkers import set_full
from simulation.contract import Audit, Driver, Violation
from simulation.record import Op, Record

from .base import Base, together

Leg = list[Any]


class Hub(Entity):
    hits: list[str] = []

    @handler
    async def hit(self, uid: str, pause: float) -> int:
        if pause:
            await asyncio.sleep(pause)
        self.hits.append(uid)
        return len(self.hits)

    @query
    async def look(self) -> list[str]:
        return self.hits


class Trip(Entity):
    marks: list[str] = []

    @workflow
    async def run(self, legs: list[Leg]) -> list[Any]:
        """Its legs, one after the other or (`both`) at once; what became of each."""
        return [await self.go(leg) for leg in legs]

    async def go(self, leg: Leg) -> Any:
        match leg:
            case ["hit", hub, uid, pause]:
                await Hub.ref(hub).hit(uid, pause)
                return "hit"
            case ["impatient", hub, uid, pause]:
                try:
                    await Hub.ref(hub).hit.options(timeout=pause / 2)(uid, pause)
                except CallTimeout:
                    return "gave up"
                return "hit"
            case ["send", hub, uid, pause]:
                await Hub.ref(hub).hit.send(uid, pause)
                return "sent"
            case ["trip", key, *legs]:
                return await Trip.ref(key).run(legs)
            case ["mark", uid]:
                await Trip.ref(self.key).mark(uid)
                return "marked"
            case ["ring", key]:
                try:
                    await Trip.ref(key).run([])
                except (CallCycle, WorkflowFailed) as error:
                    return type(error).__name__
                return "went round"
            case ["both", *legs]:
                return await asyncio.gather(*(self.go(leg) for leg in legs))
            case _:
                raise ValueError(leg)

    @handler
    async def mark(self, uid: str) -> None:
        self.marks.append(uid)


class Graph(Base):
    name = "W4 call graph"
    entities = (Hub, Trip)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.hubs = [f"h{number}" for number in range(rng.choice([1, 3]))]
        self.count = 0
        self.wanted: dict[str, list[tuple[str, str]]] = {}
        """By trip what it does: (entity, element)."""
        self.trips = [
            [(f"t{client}-{number}", self._legs(f"t{client}-{number}", [f"t{client}-{number}"], 2), self.pause())
             for number in range(2 * size)]
            for client in range(rng.choice([2, 4]))
        ]  # fmt: skip

    def _legs(self, root: str, path: list[str], depth: int) -> list[Leg]:
        return [self._leg(root, path, depth) for _ in range(self.rng.randint(1, 4))]

    def _leg(self, root: str, path: list[str], depth: int) -> Leg:
        self.count += 1
        uid = f"u{self.count}"
        kinds = ["hit", "hit", "send", "mark", "impatient", "ring"] + ["trip", "trip", "both"] * (depth > 0)
        kind = self.rng.choice(kinds)
        match kind:
            case "ring":
                return ["ring", self.rng.choice(path)]
            case "trip":
                key = f"{path[-1]}.{self.count}"
                return ["trip", key, *self._legs(root, [*path, key], depth - 1)]
            case "both":
                return ["both", *self._legs(root, path, depth - 1)]
            case "mark":
                self.wanted.setdefault(root, []).append((f"Trip/{path[-1]}", uid))
                return ["mark", uid]
            case _:
                hub = self.key(self.hubs)
                self.wanted.setdefault(root, []).append((f"Hub/{hub}", uid))
                pause = self.pace_s * self.rng.random() if kind == "impatient" or self.rng.random() < 0.2 else 0.0
                return [kind, hub, uid, pause]

    async def drive(self, world: Driver) -> None:
        await together(self._client(world, number) for number in range(len(self.trips)))

    async def _client(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        for key, legs, pause in self.trips[number]:
            await world.sleep(pause * self.pace_s)
            trip = Trip.ref(key)
            run = trip.run.options(timeout=self.rng.choice([None, 2.0]))
            await self.call(world, caller, trip, "trip", legs, lambda: run(legs))

    async def settle(self, world: Driver) -> None:
        await self.quiet(world, is_over=True)
        for hub in self.hubs:
            await self.final(world, Hub.ref(hub), "look", Hub.ref(hub).look)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        began = {entity.key for entity, _ in audit.runs}
        adds = [
            Op(0, "", EntityId.parse(address), "hit", element, 0.0, 0.0, outcome=_came(op, began))
            for op in record.of("trip")
            for address, element in self.wanted.get(op.entity.key, ())
        ]
        final = {
            entity: json.loads(state)["hits" if entity.type == "Hub" else "marks"]
            for entity, state in audit.states.items()
        }
        return [
            *self.check_all(record, audit, is_over=True),
            *set_full(adds, final, promise="P1, I6, I18"),
            *_check_rings(record, audit),
        ]


def _came(op: Op, began: set[str]) -> Any:
    """What a trip has begun it does to the end, whoever still waits for it."""
    return "ok" if op.entity.key in began else op.outcome


def _check_rings(record: Record, audit: Audit) -> list[Violation]:
    texts = [
        f"{entity}.run ended as {run.status}: {run.outcome.decode()[:300]}"
        for entity, run in audit.runs
        if run.status is not RunStatus.COMPLETED
    ]
    outcomes = {entity: json.loads(run.outcome) for entity, run in audit.runs}
    texts += [f"a ring went round: {entity}" for entity, outcome in outcomes.items() if "went round" in str(outcome)]
    texts += [
        f"told another result than the recorded {outcomes.get(op.entity)!r}: {op}"
        for op in record.of("trip")
        if op.is_ok and op.result != outcomes.get(op.entity)
    ]
    return [Violation("K quiescence", "I18, I26", text) for text in texts]
