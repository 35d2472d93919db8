"""What all workloads share: clients that work through plans drawn beforehand, a calm end, and checks for any run.

A plan is drawn from the workload's own chance when it is made, so what happens meanwhile does not change what is tried.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from perdure.entities import Entity
from perdure.entities.client import Caller
from perdure.entities.ids import EntityId
from simulation.checkers import calls, chain, fidelity, journalled_once, quiescent, served, vacuity
from simulation.contract import Audit, Cuts, Driver, Violation
from simulation.record import Op, Record

FINAL = "final "
"""What the names of operations after healing begin with."""
TRIES_MAX = 40
QUIET_S = 300.0
SOON_US = 3_600_000_000
"""What is due within this is waited for; what is due later stays."""

FEW = 30
"""Operations of which none may be acknowledged by chance, where clients crash all the time."""


class Base:
    """Plans, clients, the end."""

    name = ""
    entities: Sequence[type[Entity]] = ()
    pace_s = 0.05
    """Mean pause of a client between two operations."""
    letters_allowed: Sequence[EntityId] = ()

    def __init__(self, rng: random.Random, size: int) -> None:
        self.rng = rng
        self.size = size

    def pause(self) -> float:
        """How long a client waits before its next operation; often not at all."""
        return self.rng.expovariate(1.0) if self.rng.random() < 0.7 else 0.0

    def limit(self) -> float | None:
        """A client's patience, s: mostly the default."""
        return self.rng.choice([None, None, None, 5.0, 1.0, 0.2])

    def key(self, keys: Sequence[str]) -> str:
        """A key by Zipf's law: the first one is hot."""
        return self.rng.choices(keys, [1 / rank for rank in range(1, len(keys) + 1)])[0]

    async def call(  # noqa: PLR0917 - the columns of a record's row
        self,
        world: Driver,
        caller: Caller,
        target: object,
        name: str,
        argument: object,
        do: Callable[[], Awaitable[Any]],
    ) -> Op:
        """See Record.call."""
        return await world.record.call(world, caller, target, name, argument, do)

    async def final(self, world: Driver, target: object, name: str, do: Callable[[], Awaitable[Any]]) -> Op:
        """After healing: try until it is acknowledged; `check_served` fails the run if it never is."""
        number = 0
        while True:
            client = world.clients[number % len(world.clients)]
            op = await self.call(world, client, target, f"{FINAL}{name}", None, do)
            number += 1
            if op.is_ok or number == TRIES_MAX:
                return op
            await world.sleep(0.5)

    async def quiet(self, world: Driver, *, is_over: bool = False) -> None:
        """After healing: wait until nothing moves any more (`is_over`: and no run lives), or patience ends."""
        if not isinstance(world, Cuts):
            await world.sleep(2.0)
            return
        pause_s, until = 0.01, world.time() + QUIET_S
        while world.time() < until:
            audit = await world.cut()
            if not _moves(audit, is_over=is_over):
                return
            await world.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 2.0)

    def check_all(
        self, record: Record, audit: Audit, *, is_over: bool = False, least_ok: float = 0.05
    ) -> list[Violation]:
        """What must hold after any workload."""
        return [
            *chain(audit),
            *fidelity(audit, self.entities),
            *journalled_once(audit),
            *calls(audit),
            *quiescent(audit, is_over=is_over, letters_allowed=self.letters_allowed),
            *served(last_tries(record)),
            *vacuity(record, least_ok=least_ok if len(record) >= FEW else 0.0),
        ]


def last_tries(record: Record) -> list[Op]:
    """Of each operation after healing the last try."""
    last = {(op.entity, op.name): op for op in record.ops if op.name.startswith(FINAL)}
    return list(last.values())


def _moves(audit: Audit, *, is_over: bool) -> bool:
    return bool(
        audit.inbox
        or audit.attempts
        or any(row.due_us < audit.at_us + SOON_US for row in audit.reminders)
        or any(run.in_flight or (is_over and not run.status.is_terminal) for _, run in audit.runs)
    )


async def together(parts: Iterable[Coroutine[Any, Any, object]]) -> None:
    """All at once; returns when all have ended; the first error (a bug of the workload) is raised."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
