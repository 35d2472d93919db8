"""W13: two releases of a class, forth, back and forth again, under load (I23, I24, P7, P9).

The newer release has another state (with an upgrade) and another workflow (with a patch). The older one meets states of
the newer: it must refuse with a definite error and leave the bytes alone, never cut them.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

from perdure.entities import Entity, Mailbox, handler, patched, query, upgrade, workflow
from perdure.entities.ids import EntityId
from perdure.entities.store.rows import RunStatus
from simulation.checkers import set_full
from simulation.contract import Audit, Deploys, Driver, Violation
from simulation.record import Came, Record

from .base import Base, together

REFUSALS = {"entity_parked", "unavailable", "busy", "unknown_handler", "run_parked"}


class DocA(Entity, name="Doc"):
    """The older release."""

    elements: list[str] = []
    done: list[str] = []
    words = Mailbox(str)

    @handler
    async def add(self, element: str) -> int:
        self.elements.append(element)
        return len(self.elements)

    @query
    async def look(self) -> list[str]:
        return self.elements

    @workflow
    async def run(self, rounds: int) -> list[str]:
        for _ in range(rounds):
            word = await self.words.receive()
            self.done.append(word)
            await asyncio.sleep(0.01)
        return self.done


class DocB(Entity, name="Doc", version=2):
    """The newer one: elements by their letter, and a pause less."""

    parts: dict[str, list[str]] = {}
    count: int = 0
    done: list[str] = []
    words = Mailbox(str)

    @upgrade(from_version=1)
    @staticmethod
    def by_letter(state: dict[str, Any]) -> dict[str, Any]:
        elements = state.pop("elements")
        state["count"] = len(elements)
        state["parts"] = {}
        for element in elements:
            state["parts"].setdefault(element[0], []).append(element)
        return state

    @handler
    async def add(self, element: str) -> int:
        self.parts.setdefault(element[0], []).append(element)
        self.count += 1
        return self.count

    @query
    async def look(self) -> list[str]:
        return [element for part in self.parts.values() for element in part]

    @workflow
    async def run(self, rounds: int) -> list[str]:
        for number in range(rounds):
            word = await self.words.receive()
            self.done.append(word)
            if not patched(f"no-pause-{number}"):
                await asyncio.sleep(0.01)
        return self.done


def _elements(state: dict[str, Any]) -> list[str]:
    """Of a state of either release."""
    parts = [state["elements"]] if "elements" in state else state["parts"].values()
    return [element for part in parts for element in part]


class Upgrades(Base):
    name = "W13 upgrade"
    entities: Sequence[type[Entity]] = (DocA,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.docs = [f"d{number}" for number in range(rng.choice([2, 5]))]
        again: list[type[Entity]] = [DocA, DocB]
        self.releases = [*again, *(again if rng.random() < 0.5 else ())]
        self.rounds = {doc: rng.randint(1, 5) for doc in self.docs}
        self.plans = [
            [
                [
                    (rng.choice(["add", "add", "send", "word"]), self.key(self.docs), self.pause())
                    for _ in range(4 * size)
                ]
                for _ in range(3)
            ]
            for _ in self.releases
        ]

    async def drive(self, world: Driver) -> None:
        for number, release in enumerate(self.releases):
            if number and not isinstance(world, Deploys):
                return
            self.entities = (release,)
            deploy = [self._deploy(world, release)] if number else [self._start(world)]
            await together([*deploy, *(self._client(world, number, client) for client in range(3))])

    async def _deploy(self, world: Driver, release: type[Entity]) -> None:
        await world.sleep(self.pace_s)
        if isinstance(world, Deploys):
            await world.deploy([release])

    async def _start(self, world: Driver) -> None:
        for doc in self.docs:
            ref = DocA.ref(doc)
            await self.call(world, world.clients[0], ref, "start", None, lambda: ref.run.start(self.rounds[doc]))

    async def _client(self, world: Driver, release: int, client: int) -> None:
        caller = world.clients[client % len(world.clients)]
        for number, (how, key, pause) in enumerate(self.plans[release][client]):
            await world.sleep(pause * self.pace_s)
            doc = DocA.ref(key)
            element = f"{'abc'[client]}{release}-{number}"
            if how == "word":
                await self.call(world, caller, doc, "word", element, lambda: doc.words.send(element))
            elif how == "send":
                await self.call(world, caller, doc, "add", element, lambda: doc.add.send(element))
            else:
                await self.call(world, caller, doc, "add", element, lambda: doc.add(element))

    async def settle(self, world: Driver) -> None:
        for doc in self.docs:
            ref = DocA.ref(doc)
            await self.final(world, ref, "start", lambda: ref.run.start(self.rounds[doc]))
            for number in range(self.rounds[doc]):  # whatever words have come: enough to end
                await self.final(world, ref, f"word {number}", lambda: ref.words.send(f"z{number}"))
            await self.final(world, ref, "look", ref.look)
            await self.final(world, ref, "result", lambda: ref.run.result(timeout=5.0))
        await self.quiet(world, is_over=True)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        final: dict[EntityId, list[str]] = {}
        words: dict[EntityId, list[str]] = {}
        for entity, data in audit.states.items():
            state = json.loads(data)
            final[entity] = _elements(state)
            words[entity] = list(state["done"])
        for entity, item in audit.items:
            words.setdefault(entity, []).append(json.loads(item.item))
        mine = {entity: [word for word in heard if not word.startswith("z")] for entity, heard in words.items()}
        texts = [
            f"refused for an unexpected reason: {op}"
            for op in record.of("add", "word", "start")
            if op.outcome is Came.FAIL and op.error not in REFUSALS
        ]
        texts += [
            f"{entity}.run ended as {run.status}: {run.outcome.decode()[:300]}"
            for entity, run in audit.runs
            if run.status is not RunStatus.COMPLETED
        ]
        return [
            *self.check_all(record, audit, is_over=True),
            *set_full(record.of("add"), final, promise="P1, I23"),
            *set_full(record.of("word"), mine, promise="P1, I23, I24"),
            *(Violation("A set-full", "I23, I24, P9", text) for text in texts),
        ]
