"""W2: numbered messages, several senders to several receivers, some of whom fail now and then (P1, P5).

Senders are entities and clients. A client sends the next number when the last one is acknowledged; where the driver
says that it keeps the order of what is in flight, some at a time. A client that died and came back is another sender.
"""

import json
import random
from collections import defaultdict
from datetime import timedelta
from functools import partial

from perdure.entities import Entity, RetryPolicy, handler
from simulation.checkers import bijection, complete, in_order
from simulation.contract import Audit, Driver, Pipelines, Violation
from simulation.record import Record
from simulation.witness import new_witness, witness

from .base import Base, together

OFTEN = RetryPolicy(initial=timedelta(milliseconds=4), maximum=timedelta(milliseconds=20), attempts=50)


class Listener(Entity):
    heard: list[tuple[str, int]] = []

    @handler(retry=OFTEN)
    async def hear(self, source: str, number: int, failures: int) -> None:
        self.heard.append((source, number))
        attempt = f"{self.key} {source} {number}"
        witness().tries[attempt] += 1
        if witness().tries[attempt] <= failures:
            raise ValueError("not now")


class Talker(Entity):
    sent: int = 0

    @handler
    async def emit(self, count: int, listeners: int, failures: list[int]) -> list[int]:
        first = self.sent + 1
        for index in range(count):
            self.sent += 1
            for number in range(listeners):
                await Listener.ref(f"l{number}").hear.send(self.key, self.sent, failures[index % len(failures)])
        return [first, self.sent]


class Streams(Base):
    name = "W2 numbered streams"
    entities = (Talker, Listener)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        new_witness()
        self.listeners = rng.choice([1, 2, 3])
        flaky = rng.choice([0.0, 0.1])

        def draw() -> int:
            return 2 if rng.random() < flaky else 0

        self.turns = [
            [(self.pause(), self.limit(), rng.choice([1, 1, 3]), [draw() for _ in range(3)]) for _ in range(6 * size)]
            for _ in range(rng.choice([1, 3, 4]))
        ]
        self.own = [
            [(self.pause(), self.limit(), rng.choice([1, 1, 4]), draw()) for _ in range(8 * size)]
            for _ in range(rng.choice([1, 2, 3]))
        ]

    async def drive(self, world: Driver) -> None:
        await together(
            [
                *(self._have_sent(world, number) for number in range(len(self.turns))),
                *(self._send(world, number) for number in range(len(self.own))),
            ]
        )

    async def _have_sent(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        talker = Talker.ref(f"t{number}")
        for pause, limit, count, failures in self.turns[number]:
            await world.sleep(pause * self.pace_s)
            emit = talker.emit.options(timeout=limit)
            await self.call(world, caller, talker, "emit", count, lambda: emit(count, self.listeners, failures))

    async def _send(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        listener, sent = Listener.ref("l0"), 0
        for pause, limit, count, failures in self.own[number]:
            await world.sleep(pause * self.pace_s)
            numbers = range(sent + 1, sent + 1 + (count if isinstance(world, Pipelines) else 1))
            sent, source = numbers[-1], f"c{number} of {caller.session}"
            hear = listener.hear.options(timeout=limit)
            await together(
                self.call(world, caller, listener, "hear", (source, one), partial(hear.send, source, one, failures))
                for one in numbers
            )

    async def settle(self, world: Driver) -> None:
        await self.quiet(world)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        states = {entity: json.loads(state) for entity, state in audit.states.items()}
        heard: dict[tuple[str, str], list[int]] = defaultdict(list)
        for entity, state in states.items():
            for source, number in state.get("heard", ()):
                heard[str(entity), source].append(number)
        sent = {
            (f"Listener/l{number}", entity.key): state["sent"]
            for entity, state in states.items()
            if entity.type == "Talker"
            for number in range(self.listeners)
        }
        emitted = [
            f"{past.entity.key}-{number} to l{listener}"
            for past in audit.history
            if past.row.name == "emit" and past.row.ok
            for number in range(json.loads(past.row.outcome)[0], json.loads(past.row.outcome)[1] + 1)
            for listener in range(self.listeners)
        ]
        consumed = [
            f"{args['source']}-{args['number']} to {past.entity.key}"
            for past in audit.history
            if past.row.name == "hear" and past.row.sender.startswith("Talker/")
            for args in [json.loads(past.row.args)]
        ]
        internal = {stream: numbers for stream, numbers in heard.items() if stream[1].startswith("t")}
        return [
            *self.check_all(record, audit),
            *complete(internal, sent),
            *in_order(heard, record.of("hear")),
            *bijection(emitted, consumed),
        ]
