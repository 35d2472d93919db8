"""W11: poison, handlers that hang or end their host, huge payloads, floods and fan-out; bystanders must not notice (P9,
I15, I20).
"""

import asyncio
import json
import random
from collections import defaultdict
from datetime import timedelta
from functools import partial

from perdure.entities import Entity, RetryPolicy, handler, query
from perdure.entities.definition import STATE_BYTES_MAX
from perdure.entities.ids import EntityId
from perdure.entities.signature import PAYLOAD_BYTES_MAX
from simulation.checkers import bijection, set_full
from simulation.contract import Audit, Driver, Ends, Violation
from simulation.record import Came, Record
from simulation.witness import new_witness, witness

from .base import Base, together

TWICE = RetryPolicy(initial=timedelta(milliseconds=2), maximum=timedelta(milliseconds=5), attempts=2)
HANGS_S = 0.05
KILLS_MAX = 10
"""Five hosts are the bound (docs/guarantees.md), but two of them may run the same message, and a point against it that
was not answered for may be lost to a client that counts nothing: the doubled bound tells a bound from none."""
REFUSALS = {
    "hang": {"handler_timeout"},
    "refuse": {"handler_failed"},
    "huge argument": {"payload_too_large"},
    "huge result": {"payload_too_large", "unserialisable_result"},
    "huge state": {"unserialisable_state", "payload_too_large"},
    "nonsense": {"unserialisable_result"},
    "kill": {"host_killed"},
}
"""Definite answers to what can never work."""


class Victim(Entity):
    touched: list[str] = []

    @handler(retry=TWICE)
    async def poison(self, uid: str) -> None:
        self.touched.append(uid)
        await Bystander.ref("b0").add.send(f"leak of {uid}")
        raise ValueError("poison")

    @handler
    async def refuse(self, uid: str) -> None:
        self.touched.append(uid)
        raise ValueError("never")

    @handler(timeout=timedelta(seconds=HANGS_S))
    async def hang(self, uid: str) -> None:
        self.touched.append(uid)
        await asyncio.Event().wait()

    @handler
    async def swallow(self, text: str) -> None:
        self.touched.append(text[:10])

    @handler
    async def spit(self, uid: str) -> str:
        self.touched.append(uid)
        return "x" * (PAYLOAD_BYTES_MAX + 1)

    @handler
    async def grow(self, uid: str) -> None:
        self.touched.append(uid + "x" * (STATE_BYTES_MAX + 1))

    @handler
    async def babble(self, uid: str) -> int:
        self.touched.append(uid)
        return uid  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @handler
    async def kill(self, uid: str) -> None:
        """Ends the process that runs it, each time."""
        self.touched.append(uid)
        end_host = witness().end_host
        assert end_host is not None
        witness().tries[uid] += 1
        end_host()
        await asyncio.Event().wait()

    @query
    async def look(self) -> list[str]:
        return self.touched


class Bystander(Entity):
    elements: list[str] = []

    @handler
    async def add(self, element: str) -> int:
        self.elements.append(element)
        return len(self.elements)


class Spreader(Entity):
    spread: int = 0

    @handler
    async def fan_out(self, uid: str, count: int) -> int:
        for number in range(count):
            await Bystander.ref(f"b{number % 5}").add.send(f"{uid}-{number}")
        self.spread += count
        return count


class Abuse(Base):
    name = "W11 abuse"
    entities = (Victim, Bystander, Spreader)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.victims = [f"v{number}" for number in range(2)]
        self.letters_allowed = [EntityId("Victim", key) for key in self.victims]
        hows = ["poison"] * 4 + ["refuse"] * 3 + ["hang"] * 2 + ["nonsense"]
        rare = ["huge argument", "huge result", "huge state"]
        self.attacks = [
            [
                (rng.choice(rare) if rng.random() < 0.03 else rng.choice(hows), f"u{client}-{number}", self.pause())
                for number in range(6 * size)
            ]
            for client in range(2)
        ]
        self.killers = [(rng.choice(["kill", "sent kill"]), f"k{number}", self.pause()) for number in range(size)]
        self.witness = new_witness()
        self.floods = [(f"f{number}", rng.choice([20, 60]), self.pause()) for number in range(size)]
        self.fans = [(f"s{number}", rng.choice([5, 40]), self.pause()) for number in range(2 * size)]
        self.innocent = [
            [(f"b{rng.randrange(5)}", f"i{client}-{number}", self.pause()) for number in range(10 * size)]
            for client in range(2)
        ]

    async def drive(self, world: Driver) -> None:
        if isinstance(world, Ends):
            self.witness.end_host = world.end_host
        await together(
            [
                *(self._attack(world, number) for number in range(len(self.attacks))),
                *(self._kill(world, *killer) for killer in self.killers if isinstance(world, Ends)),
                *(self._flood(world, *flood) for flood in self.floods),
                *(self._fan(world, *fan) for fan in self.fans),
                *(self._add(world, number) for number in range(len(self.innocent))),
            ]
        )

    async def _attack(self, world: Driver, client: int) -> None:
        caller = world.clients[client % len(world.clients)]
        for how, uid, pause in self.attacks[client]:
            await world.sleep(pause * self.pace_s)
            victim = Victim.ref(self.victims[client])
            do = {
                "poison": lambda: victim.poison.send(uid),
                "refuse": lambda: victim.refuse(uid),
                "hang": lambda: victim.hang(uid),
                "huge argument": lambda: victim.swallow("x" * (PAYLOAD_BYTES_MAX + 1)),
                "huge result": lambda: victim.spit(uid),
                "huge state": lambda: victim.grow(uid),
                "nonsense": lambda: victim.babble(uid),
            }[how]
            await self.call(world, caller, victim, how, uid, do)

    async def _kill(self, world: Driver, how: str, uid: str, pause: float) -> None:
        await world.sleep(3 * pause * self.pace_s)
        victim = Victim.ref(self.victims[0])
        do = (lambda: victim.kill.send(uid)) if how == "sent kill" else (lambda: victim.kill(uid))
        await self.call(world, world.clients[-1], victim, how, uid, do)

    async def _flood(self, world: Driver, uid: str, count: int, pause: float) -> None:
        await world.sleep(pause * self.pace_s)
        target = Bystander.ref("b1")
        await together(
            self.call(
                world,
                world.clients[number % len(world.clients)],
                target,
                "add",
                f"{uid}-{number}",
                partial(target.add.send, f"{uid}-{number}"),
            )
            for number in range(count)
        )

    async def _fan(self, world: Driver, uid: str, count: int, pause: float) -> None:
        await world.sleep(pause * self.pace_s)
        spreader = Spreader.ref("s")
        await self.call(
            world, world.clients[0], spreader, "fan out", (uid, count), lambda: spreader.fan_out(uid, count)
        )

    async def _add(self, world: Driver, client: int) -> None:
        caller = world.clients[-1 - client % len(world.clients)]
        for bystander, element, pause in self.innocent[client]:
            await world.sleep(pause * self.pace_s)
            target = Bystander.ref(bystander)
            await self.call(world, caller, target, "add", element, lambda: target.add(element))

    async def settle(self, world: Driver) -> None:
        await self.quiet(world)
        for key in self.victims:
            await self.final(world, Victim.ref(key), "look", Victim.ref(key).look)

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        states = {entity: json.loads(state) for entity, state in audit.states.items()}
        fans = {uid for uid, _, _ in self.fans}
        added: dict[EntityId, list[str]] = defaultdict(list)
        fanned: list[str] = []
        for entity, state in states.items():
            for element in state.get("elements", ()):
                (fanned if element.rpartition("-")[0] in fans else added[entity]).append(element)
        sent = [
            f"{args['uid']}-{number}"
            for past in audit.history
            if past.row.name == "fan_out" and past.row.ok
            for args in [json.loads(past.row.args)]
            for number in range(args["count"])
        ]
        return [
            *self.check_all(record, audit),
            *set_full(record.of("add"), added, promise="P1, P9, I15"),
            *bijection(sent, fanned, what="fanned out"),
            *self._check_victims(record, audit),
        ]

    def _check_victims(self, record: Record, audit: Audit) -> list[Violation]:
        texts = [
            f"{entity} kept something of a turn that failed: {touched[:5]}"
            for entity, state in audit.states.items()
            if entity.type == "Victim" and (touched := json.loads(state)["touched"])
        ]
        dead = {
            json.loads(letter.letter.envelope.args)["uid"]: letter.letter
            for letter in audit.dead_letters
            if letter.letter.envelope.name in ("poison", "kill")
        }
        for op in record.of("poison", "sent kill"):
            letter = dead.get(op.argument)
            code, reason = ("handler_failed", b"poison") if op.name == "poison" else ("host_killed", b"host_killed")
            if op.is_ok and letter is None:
                texts.append(f"accepted poison is not among the dead letters: {op}")
            # Used up before it was acknowledged, it is a dead letter, and its sender is told so.
            if letter is not None and (op.error not in ("", "timeout", code) or reason not in letter.error):
                texts.append(f"a dead letter without its reason, or of what was refused: {op}, {letter.error!r}")
        texts += [
            f"it ended {kills} hosts, and should have been refused after 5: {uid}"
            for uid, kills in sorted(self.witness.tries.items())
            if kills > KILLS_MAX
        ]
        texts += [
            f"not refused for what it is ({sorted(codes)}): {op}"
            for how, codes in REFUSALS.items()
            for op in record.of(how)
            if op.is_ok or (op.outcome is Came.FAIL and op.error not in codes | {"busy", "unavailable"})
        ]
        return [Violation("A set-full", "P2, P9, I15, I20", text) for text in texts]
