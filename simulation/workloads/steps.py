"""W7: workflows of steps that fail, are slow, or kill their host, against a witness outside (P7, I5)."""

import asyncio
import json
import random
from datetime import timedelta
from typing import Any

from perdure.entities import ActivityFailed, Entity, RetryPolicy, activity, activity_info, handler, workflow
from perdure.entities.store.rows import RunStatus
from simulation.checkers import results_agree, witness_join
from simulation.contract import Audit, Driver, Violation
from simulation.record import Record
from simulation.witness import new_witness, witness

from .base import Base, together

Step = list[Any]
"""[kind, failures, pause]"""


class Hopeless(Exception):
    """No retry helps."""


@activity(
    retry=RetryPolicy(initial=timedelta(milliseconds=5), maximum=timedelta(milliseconds=40), non_retryable=[Hopeless])
)
async def effect(kind: str, failures: int, pause: float) -> str:
    """Its result is one that no other attempt has."""
    info, seen = activity_info(), witness()
    value = seen.attempt(info.idempotency_key, info.attempt)
    seen.tries[info.idempotency_key] += 1
    if kind == "kills" and seen.tries[info.idempotency_key] == 1:
        seen.kill()
    if pause:
        await asyncio.sleep(pause)
    if kind == "hopeless":
        raise Hopeless(value)
    if seen.tries[info.idempotency_key] <= failures:
        raise ValueError("not yet")
    return seen.result(info.idempotency_key, info.attempt, value)


class Job(Entity):
    values: list[str] = []
    pokes: int = 0

    @workflow
    async def run(self, parts: list[list[Step]]) -> list[str]:
        """Parts one after the other, the steps of a part at once."""
        for part in parts:
            results = await asyncio.gather(*(self._do(step) for step in part))
            self.values.extend(results)
        return self.values

    async def _do(self, step: Step) -> str:
        try:
            return await effect(*step)
        except (ActivityFailed, Hopeless) as error:
            return f"failed: {type(error).__name__}"
        except Exception as error:
            return f"failed: {type(error).__name__}"

    @handler
    async def poke(self) -> int:
        """Another turn between two resumes."""
        self.pokes += 1
        return self.pokes


class Steps(Base):
    name = "W7 steps"
    entities = (Job,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.witness = new_witness()
        self.jobs = [
            (f"j{number}", [self._part() for _ in range(rng.randint(1, 4))], self.pause(), self.limit())
            for number in range(rng.choice([3, 6]) * size)
        ]

    def _part(self) -> list[Step]:
        return [self._step() for _ in range(self.rng.choice([1, 1, 1, 3]))]

    def _step(self) -> Step:
        rng = self.rng
        kind = rng.choice(["plain"] * 5 + ["hopeless", "kills"])
        return [kind, rng.choice([0, 0, 0, 1, 3]), rng.choice([0.0, 0.0, 0.2, 2.0]) * rng.random() * self.pace_s]

    async def drive(self, world: Driver) -> None:
        loop = asyncio.get_running_loop()
        killing: set[asyncio.Task[None]] = set()

        def kill() -> None:
            killing.add(loop.create_task(world.crash_somebody()))

        self.witness.kill = lambda: void(loop.call_soon_threadsafe(kill))
        self.witness.listen(world)
        await together(self._job(world, number, *job) for number, job in enumerate(self.jobs))
        self.witness.kill = lambda: None  # who asked may be dead by now, and its task with it: nobody waits for that

    async def _job(  # noqa: PLR0917 - a plan's line
        self, world: Driver, number: int, key: str, parts: list[list[Step]], pause: float, limit: float | None
    ) -> None:
        caller = world.clients[number % len(world.clients)]
        await world.sleep(3 * pause * self.pace_s)
        job = Job.ref(key)
        op = await self.call(world, caller, job, "start", None, lambda: job.run.start(parts))
        for _ in range(2):
            await world.sleep(pause * self.pace_s)
            await self.call(world, caller, job, "poke", None, job.poke)
        if op.is_ok:
            await self.call(world, caller, job, "result", None, lambda: job.run.result(timeout=limit))

    async def settle(self, world: Driver) -> None:
        await self.quiet(world, is_over=True)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        log = self.witness.log
        shown = {str(entity): json.loads(state)["values"] for entity, state in audit.states.items()}
        told = {f"{op.entity} told its client": op.result for op in record.of("result") if op.is_ok}
        committed = [
            problem
            for problem in results_agree(
                {where: [v for v in values if "failed: " not in v] for where, values in (shown | told).items()}, log
            )
            if self.witness.is_told
        ]
        return [
            *self.check_all(record, audit, is_over=True),
            *witness_join(log, is_told=self.witness.is_told),
            *committed,
            *self._complete(record, audit, shown),
        ]

    def _complete(self, record: Record, audit: Audit, shown: dict[str, list[str]]) -> list[Violation]:
        plans = {f"Job/{key}": sum(len(part) for part in parts) for key, parts, _, _ in self.jobs}
        runs = {str(entity): run for entity, run in audit.runs}
        texts = [f"{op}, but there is no run" for op in record.of("start") if op.is_ok and str(op.entity) not in runs]
        for entity, run in runs.items():
            if run.status is not RunStatus.COMPLETED:
                texts.append(f"{entity}.run is {run.status}: {run.outcome.decode()[:300]}")
            elif len(shown[entity]) != plans[entity] or len(set(shown[entity])) < len(
                [value for value in shown[entity] if "failed: " not in value]
            ):
                texts.append(f"{entity} has {len(shown[entity])} results of {plans[entity]} steps: {shown[entity]}")
        texts += [
            f"told another result than the recorded one: {op}"
            for op in record.of("result")
            if op.is_ok and op.result != json.loads(runs[str(op.entity)].outcome)
        ]
        return [Violation("G witness", "P1, P7", text) for text in texts]


def void(_: object) -> None:
    """Nothing comes of it."""
