"""W9: random programs in three layers, whose sums are known beforehand (P1, P2, P7).

A program increments counters: its own, others' by call, by message, by delayed message, through a child workflow,
through a promise that another entity keeps, after sleeps, retried and failing steps, several at once. Whatever goes
wrong, each program that has begun ends, and every counter has its sum.
"""

import asyncio
import json
import random
from collections import Counter
from datetime import timedelta
from typing import Any

from perdure.entities import (
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    activity_info,
    condition,
    handler,
    query,
    workflow,
)
from perdure.entities.store.rows import RunStatus
from simulation.checkers import witness_join
from simulation.contract import Audit, Driver, Violation
from simulation.record import Came, Record
from simulation.witness import new_witness, witness

from .base import Base, together

Command = list[Any]
LAYERS = 3


class Broken(Exception):
    """No retry helps."""


@activity(
    retry=RetryPolicy(initial=timedelta(milliseconds=3), maximum=timedelta(milliseconds=20), non_retryable=[Broken])
)
async def toil(failures: int) -> str:
    info, seen = activity_info(), witness()
    value = seen.attempt(info.idempotency_key, info.attempt)
    seen.tries[info.idempotency_key] += 1
    if failures < 0:
        raise Broken
    if seen.tries[info.idempotency_key] <= failures:
        raise ValueError("not yet")
    return seen.result(info.idempotency_key, info.attempt, value)


class Cell(Entity):
    """A counter of one layer."""

    total: int = 0

    @handler
    async def add(self, number: int) -> int:
        self.total += number
        return number

    @handler
    async def pass_on(self, to: str, number: int) -> None:
        self.total += number
        await Cell.ref(to).add.send(number)

    @handler
    async def keep(self, to: str, promise: str) -> None:
        await Interpreter.ref(to).promises.send(promise)

    @query
    async def look(self) -> int:
        return self.total


class Interpreter(Entity):
    """Runs one program; its own counter is part of its state."""

    total: int = 0
    promises = Mailbox(str)

    @workflow
    async def run(self, commands: list[Command]) -> int:
        for command in commands:
            await self._do(command)
        return self.total

    async def _do(self, command: Command) -> None:  # noqa: C901 - one case per command
        match command:
            case ["add", number]:
                self.total += number
            case ["call", cell, number]:
                added = await Cell.ref(cell).add(number)
                self.total += added  # not `+= await`: that would read the total before the await
            case ["send", cell, number]:
                await Cell.ref(cell).add.send(number)
            case ["later", cell, number, delay]:
                await Cell.ref(cell).add.options(delay=delay).send(number)
            case ["relay", cell, other, number]:
                await Cell.ref(cell).pass_on.send(other, number)
            case ["sleep", pause]:
                await asyncio.sleep(pause)
            case ["toil", failures, number]:
                try:
                    await toil(failures)
                    self.total += number
                except Exception:
                    self.total += 1
            case ["promise", cell, name]:
                await Cell.ref(cell).keep.send(self.key, name)
                await self.promises.receive()
            case ["child", key, *commands]:
                below = await Interpreter.ref(key).run(commands)
                self.total += below
            case ["wait", pause]:
                await condition(lambda: self.total < 0, timeout=pause)
            case ["all", *parts]:
                await asyncio.gather(*(self._do(part) for part in parts))
            case _:
                raise ValueError(command)


class Programs(Base):
    name = "W9 random programs"
    entities = (Cell, Interpreter)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.witness = new_witness()
        self.cells = [f"c{number}" for number in range(rng.choice([1, 3, 6]))]
        self.names = 0
        self.programs = [
            (f"p{number}", self._program(f"p{number}", 0), self.pause(), self.limit())
            for number in range(rng.choice([4, 8]) * size)
        ]

    def _program(self, key: str, layer: int) -> list[Command]:
        return [self._command(key, layer) for _ in range(self.rng.randint(1, 5))]

    def _command(self, key: str, layer: int) -> Command:
        rng = self.rng
        self.names += 1
        number, cell = rng.randint(1, 9), rng.choice(self.cells)
        pause = rng.random() * self.pace_s
        leaves: list[Command] = [
            ["add", number],
            ["call", cell, number],
            ["send", cell, number],
            ["later", cell, number, pause],
            ["relay", cell, rng.choice(self.cells), number],
            ["sleep", pause],
            ["toil", rng.choice([0, 0, 1, 2, -1]), number],
            ["promise", cell, f"promise {self.names}"],
            ["wait", pause],
        ]
        if layer + 1 < LAYERS and rng.random() < 0.3:
            child = f"{key}.{self.names}"
            if rng.random() < 0.6:
                return ["child", child, *self._program(child, layer + 1)]
            return ["all", *(self._command(key, layer + 1) for _ in range(rng.randint(1, 3)))]
        return rng.choice(leaves)

    async def drive(self, world: Driver) -> None:
        self.witness.listen(world)
        await together(self._start(world, number, *one) for number, one in enumerate(self.programs))

    async def _start(  # noqa: PLR0917 - a plan's line
        self, world: Driver, number: int, key: str, commands: list[Command], pause: float, limit: float | None
    ) -> None:
        caller = world.clients[number % len(world.clients)]
        await world.sleep(4 * pause * self.pace_s)
        run = Interpreter.ref(key).run.options(timeout=limit)
        await self.call(world, caller, Interpreter.ref(key), "program", None, lambda: run(commands))

    async def settle(self, world: Driver) -> None:
        await self.quiet(world, is_over=True)
        for cell in self.cells:
            await self.final(world, Cell.ref(cell), "look", Cell.ref(cell).look)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        began = {entity.key: run for entity, run in audit.runs}
        expected: Counter[str] = Counter()
        for key, commands, _, _ in self.programs:
            if key in began:
                expected += tally(key, commands)
        held = {str(entity): json.loads(state)["total"] for entity, state in audit.states.items()}
        texts = [
            f"{entity} counted {held.get(entity, 0)}, its programs come to {expected[entity]}"
            for entity in sorted({*held, *expected})
            if held.get(entity, 0) != expected[entity]
        ]
        texts += [
            f"Interpreter/{key}.run is {run.status}: {run.outcome.decode()[:300]}"
            for key, run in began.items()
            if run.status is not RunStatus.COMPLETED
        ]
        for op in record.of("program"):
            if op.is_ok and op.result != expected[str(op.entity)]:
                texts.append(f"told another sum than {expected[str(op.entity)]}: {op}")
            if op.outcome is Came.FAIL and op.entity.key in began:
                texts.append(f"refused, but it ran: {op}")
        return [
            *self.check_all(record, audit, is_over=True),
            *witness_join(self.witness.log, is_told=self.witness.is_told),
            *(Violation("A set-full", "P1, P2, P7", text) for text in texts),
        ]


def tally(key: str, commands: list[Command]) -> Counter[str]:
    """What these commands of the interpreter `key` add to whom."""
    sums: Counter[str] = Counter()
    me = f"Interpreter/{key}"
    for command in commands:
        match command:
            case ["add", number]:
                sums[me] += number
            case ["call", cell, number]:
                sums[me] += number
                sums[f"Cell/{cell}"] += number
            case ["send", cell, number] | ["later", cell, number, _]:
                sums[f"Cell/{cell}"] += number
            case ["relay", cell, other, number]:
                sums[f"Cell/{cell}"] += number
                sums[f"Cell/{other}"] += number
            case ["toil", failures, number]:
                sums[me] += number if failures >= 0 else 1
            case ["child", child, *inner]:
                below = tally(child, inner)
                sums += below
                sums[me] += below[f"Interpreter/{child}"]
            case ["all", *parts]:
                sums += tally(key, parts)
            case _:
                pass
    return sums
