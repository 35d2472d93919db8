"""A small world for workloads: engines on a memory store in virtual time, with crashes and failing commits.

The real simulation (simulation.world) has the whole cluster; this one is there to try workloads and checkers.
"""

import asyncio
import random
from collections.abc import Callable, Sequence

from perdure.entities import CallTimeout, Entity
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.messages import Envelope, Reply
from perdure.entities.store.rows import Batch
from perdure.entities.testing import PerdureTest
from perdure.entities.testing.faults import Fault
from simulation.audit import audit_memory
from simulation.contract import Audit, Violation, Workload
from simulation.record import Record

FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.BEFORE, Fault.AFTER, Fault.CONFLICT)
PATIENCE_S = 10.0
CALM = 15
"""Commits between two crashes: five in a row would convict what is being tried each time (docs/guarantees.md)."""


class Client:
    """One client process of the world."""

    default_timeout_s = PATIENCE_S

    def __init__(self, world: "LocalWorld", number: int) -> None:
        self.session = f"client-{number}"
        self._world = world

    @property
    def archive(self) -> object:
        return self._world.archive

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        return await self._world.travel(envelope, timeout_s)


class LocalWorld(PerdureTest):
    """`contract.Driver`, with cuts, deploys and a watch; faults until `heal`."""

    def __init__(
        self, entities: Sequence[type[Entity]], rng: random.Random, *, rate: float, settings: EngineSettings
    ) -> None:
        super().__init__(entities, hosts=2, seed=rng.randrange(1 << 30), settings=settings, check_resumes=False)
        self.rng = rng
        self.record = Record()
        self.clients = [Client(self, number) for number in range(3)]
        self._rate = rate
        self._chance = random.Random(rng.random())
        self._next_crash = 0
        self._watching: list[Callable[[Batch], None]] = []
        self._memory.pick = self._pick_any

    def _pick_any(self, number: int, _: Batch) -> Fault:
        fault = self._chance.choice(FAULTS) if self._chance.random() < self._rate else Fault.NONE
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            if number < self._next_crash:
                return Fault.NONE
            self._next_crash = number + CALM
        return fault

    async def _written(self, batch: Batch) -> None:
        for seen in self._watching:
            seen(batch)
        if self._rate:
            await asyncio.sleep(self._chance.expovariate(200))
        await super()._written(batch)

    async def travel(self, envelope: Envelope, timeout_s: float) -> Reply:
        """To a host and back; both take their time, and either may get lost."""
        chance, rate = self._chance, self._rate
        deadline = self.time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if rate:
                    await asyncio.sleep(chance.expovariate(50))
                if chance.random() < rate / 4:
                    await asyncio.Event().wait()
                reply = await self.request(envelope, timeout_s=max(0.0, deadline - self.time()))
                if chance.random() < rate / 4:
                    await asyncio.Event().wait()
                return reply
        except TimeoutError:
            raise CallTimeout(f"{envelope.entity}.{envelope.name}: no answer within {timeout_s:g} s") from None

    def heal(self) -> None:
        self._rate = 0.0

    def time(self) -> float:
        return self.clock.time()

    async def sleep(self, s: float) -> None:
        await asyncio.sleep(s)

    async def crash_somebody(self) -> None:
        if self._rate and self.engines and len(self._memory.commits) >= self._next_crash:
            self._next_crash = len(self._memory.commits) + CALM
            self._crasher.crash(self._chance.choice(self.engines).incarnation)

    async def cut(self) -> Audit:
        return audit_memory(self._memory)

    async def deploy(self, entities: Sequence[type[Entity]]) -> None:
        await self._crasher.settle()
        await self.restart(entities)

    def watch(self, seen: Callable[[Batch], None]) -> None:
        self._watching.append(seen)


async def play(
    make: type[Workload], seed: int, *, rate: float | None = None, evict: bool | None = None, size: int = 1
) -> tuple[Workload, Record, Audit]:
    """One run: faults, none, everything that is stored."""
    print(f"{make.__name__} seed {seed}")  # noqa: T201 - a failing seed is repeated by its number
    rng = random.Random(seed)
    rate = rng.choice([0.0, 0.03, 0.15]) if rate is None else rate
    evict = rng.random() < 0.3 if evict is None else evict
    workload = make(random.Random(rng.random()), size)
    settings = EngineSettings(mail_poll_s=0.2, evict_after_every_turn=evict)
    async with LocalWorld(workload.entities, rng, rate=rate, settings=settings) as world:
        await workload.drive(world)
        world.heal()
        await workload.settle(world)
        audit = await world.cut()
    return workload, world.record, audit


async def violations(make: type[Workload], seed: int, **options: object) -> list[Violation]:
    workload, record, audit = await play(make, seed, **options)  # type: ignore[arg-type]
    return workload.check(record, audit)
