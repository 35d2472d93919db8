"""W5: registers are read, written, compared and set; queries and a listing look on (P8, I11, I25, I27).

In the end, in some runs, a *siege*: a host is cut off for longer than its lease, and a client that has not heard of its
heir goes on asking it while another client writes.
"""

import json
import random
from collections.abc import Mapping
from typing import Any

from perdure.entities import Entity, find, handler, query
from perdure.entities.archive import HasArchive
from perdure.entities.client import Caller
from perdure.entities.store.archive import Archive
from simulation.checkers import Model, linearizable, version_order
from simulation.contract import Audit, Driver, Isolates, Violation
from simulation.record import Came, Op, Record

from .base import Base, together

FOUND_MAX = 200
PATIENCE_S = 10.0
SIEGES = 0.5
"""Share of runs with a siege."""
SIEGE_KEYS = 4
LOOK_S = 0.3
LOOKS_MAX = 60


class Register(Entity):
    value: int = 0

    @handler
    async def write(self, value: int) -> int:
        before, self.value = self.value, value
        return before

    @handler
    async def swap(self, expected: int, value: int) -> bool:
        if self.value != expected:
            return False
        self.value = value
        return True

    @handler
    async def read(self) -> int:
        return self.value

    @query
    async def look(self) -> int:
        return self.value

    @query
    async def spoil(self) -> int:
        self.value = -1
        return self.value


def apply(state: int, name: str, arguments: Mapping[str, Any]) -> tuple[int, Any]:
    """The register, as C's model."""
    match name:
        case "write":
            return arguments["value"], state
        case "swap" if state == arguments["expected"]:
            return arguments["value"], True
        case "swap":
            return state, False
        case _:
            return state, state


def step(state: Any, op: Op) -> tuple[Any, Any]:
    """The register, as D's model."""
    return apply(state, op.name, op.argument or {})


class Registers(Base):
    name = "W5 registers"
    entities = (Register,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        keys = [f"r{number}" for number in range(rng.choice([1, 2, 5]))]
        self.keys = keys
        names = ["write"] * 3 + ["swap"] * 3 + ["read"] * 2 + ["look"] * 4 + ["spoil"]
        values = iter(range(1, 100_000))
        self.plans = [
            [
                (rng.choice(names), self.key(keys), rng.randint(0, 6), next(values), self.pause(), self.limit())
                for _ in range(12 * size)
            ]
            for _ in range(rng.choice([2, 4, 5]))
        ]
        self.siege = [f"z{number}" for number in range(SIEGE_KEYS)] if rng.random() < SIEGES else []

    async def drive(self, world: Driver) -> None:
        await together(self._client(world, number) for number in range(len(self.plans)))
        if self.siege and isinstance(world, Isolates):
            await self._besiege(world)

    async def _besiege(self, world: Isolates) -> None:
        """What the deaf client looks at is in the memory of the zombie, and clean: a query waits for a write."""
        deaf, other = world.clients[0], world.clients[1]
        for key in self.siege:
            await self._write(world, other, key, 1, None)
        for key in self.siege:
            await self._look(world, deaf, key)
        lasts_s = world.isolate(deaf=0)
        until = world.time() + lasts_s

        async def look() -> None:
            for number in range(LOOKS_MAX):
                await world.sleep(lasts_s / LOOKS_MAX)
                await self._look(world, deaf, self.siege[number % SIEGE_KEYS])

        async def write() -> None:
            value = 1
            await world.sleep(lasts_s / 4)
            while world.time() < until:
                value += 1
                await self._write(world, other, self.siege[value % SIEGE_KEYS], value, until - world.time())
                await world.sleep(lasts_s / LOOKS_MAX)

        async def write_there() -> None:
            await world.sleep(lasts_s / 2)
            await self._write(world, deaf, self.siege[0], 1_000, None)

        await together([look(), write(), write_there()])

    async def _look(self, world: Driver, caller: Caller, key: str) -> None:
        register = Register.ref(key)
        await self.call(world, caller, register, "look", None, register.look.options(timeout=LOOK_S))

    async def _write(self, world: Driver, caller: Caller, key: str, value: int, limit: float | None) -> None:
        register = Register.ref(key)
        write = register.write.options(timeout=limit)
        await self.call(world, caller, register, "write", {"value": value}, lambda: write(value))

    async def _client(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        seen = 0
        for name, key, back, value, pause, limit in self.plans[number]:
            await world.sleep(pause * self.pace_s)
            register = Register.ref(key)
            match name:
                case "write":
                    write = register.write.options(timeout=limit)
                    op = await self.call(world, caller, register, name, {"value": value}, lambda: write(value))
                case "swap":
                    expected = seen if back else value
                    swap = register.swap.options(timeout=limit)
                    argument = {"expected": expected, "value": value}
                    op = await self.call(world, caller, register, name, argument, lambda: swap(expected, value))
                    seen = value if op.result else seen
                case "read":
                    read = register.read.options(timeout=limit)
                    op = await self.call(world, caller, register, name, None, read)
                    seen = op.result if op.is_ok else seen
                case "look":
                    look = register.look.options(timeout=limit or PATIENCE_S)
                    op = await self.call(world, caller, register, name, None, look)
                    seen = op.result if op.is_ok else seen
                case _:
                    await self.call(world, caller, register, name, None, register.spoil)

    async def settle(self, world: Driver) -> None:
        await self.quiet(world)
        for key in self.keys:
            await self.final(world, Register.ref(key), "look", Register.ref(key).look)
        caller = world.clients[0]
        if isinstance(caller, HasArchive):
            await self.final(world, Register.ref(self.keys[0]), "list", lambda: _list(caller.archive))

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        ops = [op for op in record.ops if op.name in ("write", "swap", "read", "look")]
        return [
            *self.check_all(record, audit),
            *version_order(ops, audit, Model(0, apply, lambda state, _: state), queries=("look",)),
            *linearizable(ops, 0, step),
            *_check_queries(record),
            *_check_list(record, audit),
        ]


async def _list(archive: Archive) -> dict[str, int]:
    found = await find(Register, limit=FOUND_MAX, archive=archive)
    return {match.key: match.state.value for match in found.matches}


def _check_queries(record: Record) -> list[Violation]:
    return [
        Violation("C version order", "P8, I25", f"a query that writes was not refused: {op}")
        for op in record.of("spoil")
        if op.outcome is Came.OK or (op.outcome is Came.FAIL and op.error not in ("read_only", "unavailable"))
    ]


def _check_list(record: Record, audit: Audit) -> list[Violation]:
    stored = {entity.key: json.loads(state)["value"] for entity, state in audit.states.items()}
    return [
        Violation("C version order", "I27", f"the listing has {op.result!r}, stored is {stored!r}")
        for op in record.of("final list")
        if op.is_ok and op.result != stored
    ]
