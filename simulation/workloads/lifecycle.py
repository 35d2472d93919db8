"""W8: lives of workflows: starts, cancels, ends, failures, restarts, continuing as new, in a race (I9, I16, I17).

Signals and notes come all the time: each that was acknowledged is received by one of the runs, or still lies in the
mailbox; none is lost at the end of a life.
"""

import json
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable

from perdure.entities import ApplicationError, Entity, Mailbox, handler, workflow
from perdure.entities.ids import EntityId
from simulation.checkers import set_full
from simulation.contract import Audit, Driver, Violation
from simulation.record import Came, Record

from .base import Base, together

REFUSALS = {"already_started", "no_such_run", "run_ended", "unavailable", "busy"}


class Life(Entity):
    got: list[str] = []
    notes: list[str] = []
    orders = Mailbox(str)

    @workflow
    async def run(self, number: int) -> str:
        while True:
            order = await self.orders.receive()
            self.got.append(order)
            match order.partition(" ")[0]:
                case "end":
                    return order
                case "fail":
                    raise ApplicationError(order)
                case "again":
                    await self.run.continue_as_new(number + 100)
                case _:
                    pass

    @handler
    async def note(self, uid: str) -> None:
        self.notes.append(uid)


class Lifecycle(Base):
    name = "W8 lifecycle"
    entities = (Life,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        keys = [f"l{number}" for number in range(rng.choice([1, 2, 4]))]
        hows = ["start"] * 3 + ["other start", "restart", "restart", "cancel", "terminate", "result"] + ["note"] * 2
        signals = ["carry on"] * 4 + ["end", "fail", "again", "again"]
        self.plans = [
            [
                (rng.choice([*hows, *signals]), self.key(keys), f"{client}-{number}", self.pause(), self.limit())
                for number in range(10 * size)
            ]
            for client in range(rng.choice([2, 4, 6]))
        ]

    async def drive(self, world: Driver) -> None:
        await together(self._client(world, number) for number in range(len(self.plans)))

    async def _client(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        for how, key, uid, pause, limit in self.plans[number]:
            await world.sleep(pause * self.pace_s)
            life = Life.ref(key)
            run, argument = life.run.options(timeout=limit), uid
            do: Callable[[], Awaitable[object]]
            match how:
                case "start":
                    do = lambda: run.start(1)  # noqa: E731
                case "other start":
                    do = lambda: run.start(2)  # noqa: E731
                case "restart":
                    again = life.run.options(restart=True, timeout=limit)
                    do = lambda: again.start(1)  # noqa: E731
                case "cancel":
                    do = run.cancel
                case "terminate":
                    do = lambda: run.terminate("enough")  # noqa: E731
                case "result":
                    do = lambda: life.run.result(timeout=self.pace_s)  # noqa: E731
                case "note":
                    do = lambda: life.note(uid)  # noqa: E731
                case _:
                    argument = f"{how} {uid}"
                    how = "signal"  # noqa: PLW2901
                    do = lambda: life.orders.send(argument)  # noqa: E731
            await self.call(world, caller, life, how, argument, do)

    async def settle(self, world: Driver) -> None:
        await self.quiet(world)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        final: dict[EntityId, list[str]] = defaultdict(list)
        noted: dict[EntityId, list[str]] = {}
        for entity, state in audit.states.items():
            final[entity] += json.loads(state)["got"]
            noted[entity] = json.loads(state)["notes"]
        for entity, item in audit.items:
            final[entity].append(json.loads(item.item))
        return [
            *self.check_all(record, audit),
            *set_full(record.of("signal"), final, promise="P1, I16"),
            *set_full(record.of("note"), noted, promise="P1, I16"),
            *_check_starts(record, audit),
        ]


def _check_starts(record: Record, audit: Audit) -> list[Violation]:
    """Whoever was told of a run was told of a real one; who was refused, with a definite reason."""
    known = {(resumed.entity, resumed.row.run_id) for resumed in audit.journal}
    known |= {(entity, run.run_id) for entity, run in audit.runs}
    texts = [
        f"it was told of a run that there is not: {op}"
        for op in record.of("start", "other start", "restart")
        if op.is_ok and (op.entity, op.result) not in known
    ]
    texts += [
        f"refused for an unexpected reason: {op}"
        for op in record.of("start", "other start", "restart", "cancel", "terminate", "signal", "note")
        if op.outcome is Came.FAIL and op.error not in REFUSALS
    ]
    received: dict[EntityId, set[str]] = defaultdict(set)
    for entity, state in audit.states.items():
        received[entity] |= set(json.loads(state)["got"])
    texts += [
        f"a result that no run can have had: {op}"
        for op in record.of("result")
        if op.is_ok and op.result not in received[op.entity]
    ]
    return [Violation("B chain", "I9, I16, I17", text) for text in texts]
