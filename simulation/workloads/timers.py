"""W6: reminders, once and periodic, cancelled, replaced, chained, past due and far in the future (P6, I4)."""

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perdure.entities import Entity, cancel_reminder, handler, now, remind, reminder_info
from perdure.entities.recurrence import to_us
from simulation.checkers import CancelCommand, Firing, SetCommand, occurrences
from simulation.checkers.occurrences import Event
from simulation.contract import Audit, Consumed, Cuts, Driver, Violation
from simulation.record import Record

from .base import Base, together

FAR_S = 365 * 86400.0


class Alarm(Entity):
    rings: int = 0

    @handler
    async def put(self, name: str, after: float, every: float, is_all: bool, left: int) -> dict[str, Any]:
        return self._arm(name, after, every, is_all, left)

    @handler
    async def cancel(self, name: str) -> None:
        cancel_reminder(name)

    @handler
    async def cancel_and_put(self, name: str, after: float) -> dict[str, Any]:
        cancel_reminder(name)
        remind(self.ring, after=after / 2, name=name, arguments={"left": 0, "after": after})
        return self._arm(name, after, 0.0, False, 0)

    @handler
    async def put_and_cancel(self, name: str, after: float) -> None:
        self._arm(name, after, 0.0, False, 0)
        cancel_reminder(name)

    @handler
    async def put_in_vain(self, name: str, after: float) -> None:
        self._arm(name, after, 0.0, False, 0)
        raise ValueError("after all not")

    @handler
    async def ring(self, left: int, after: float) -> dict[str, Any]:
        """`left`: how many more one-shot reminders follow in a chain."""
        info = reminder_info()
        assert info is not None
        self.rings += 1
        following = self._arm(info.name, after, 0.0, False, left - 1) if left else None
        return {"due_us": to_us(info.due_at), "missed": info.missed, "next": following}

    def _arm(self, name: str, after: float, every: float, is_all: bool, left: int) -> dict[str, Any]:
        due = now() + timedelta(seconds=after)
        period = timedelta(seconds=every) if every else None
        arguments = {"left": left, "after": after}
        remind(self.ring, at=due, every=period, name=name, arguments=arguments, catch_up="all" if is_all else "one")
        every_us = period // timedelta(microseconds=1) if period else 0
        return {"name": name, "due_us": to_us(due), "every_us": every_us, "is_all": is_all}


@dataclass(frozen=True)
class Order:
    how: str
    alarm: str
    reminder: str
    after: float
    every: float
    is_all: bool
    pause: float
    limit: float | None


class Timers(Base):
    name = "W6 timers"
    entities = (Alarm,)

    def __init__(self, rng: random.Random, size: int) -> None:
        super().__init__(rng, size)
        self.alarms = [f"a{number}" for number in range(rng.choice([1, 3]))]
        self.reminders = [f"n{number}" for number in range(rng.choice([1, 2, 5]))]
        self.plans = [[self._order() for _ in range(8 * size)] for _ in range(rng.choice([2, 4]))]

    def _order(self) -> Order:
        rng = self.rng
        hows = ["once"] * 5 + ["periodic"] * 3 + ["chain", "past", "far"] + ["cancel"] * 4
        how = rng.choice([*hows, "cancel_and_put", "put_and_cancel", "put_in_vain"])
        after = {"past": 0.0, "far": FAR_S}.get(how, rng.choice([0.0, 0.1, 1.0, 3.0]) * rng.random())
        every = rng.choice([0.2, 0.7, 2.0]) if how == "periodic" else 0.0
        pause, limit = self.pause(), self.limit()
        return Order(
            how, rng.choice(self.alarms), rng.choice(self.reminders), after, every, rng.random() < 0.5, pause, limit
        )

    async def drive(self, world: Driver) -> None:
        await together(self._client(world, number) for number in range(len(self.plans)))
        await world.sleep(4 * self.pace_s)

    async def _client(self, world: Driver, number: int) -> None:
        caller = world.clients[number % len(world.clients)]
        for one in self.plans[number]:
            await world.sleep(4 * one.pause * self.pace_s)
            alarm = Alarm.ref(one.alarm)
            after, every = one.after if one.how == "far" else one.after * self.pace_s * 10, one.every * self.pace_s * 10
            left = 3 if one.how == "chain" else 0
            do: Callable[[], Awaitable[object]]
            match one.how:
                case "cancel":
                    cancel = alarm.cancel.options(timeout=one.limit)
                    do = lambda: cancel(one.reminder)  # noqa: E731
                case "cancel_and_put":
                    do = lambda: alarm.cancel_and_put(one.reminder, after)  # noqa: E731
                case "put_and_cancel":
                    do = lambda: alarm.put_and_cancel(one.reminder, after)  # noqa: E731
                case "put_in_vain":
                    do = lambda: alarm.put_in_vain(one.reminder, after)  # noqa: E731
                case _:
                    put = alarm.put.options(timeout=one.limit)
                    do = lambda: put(one.reminder, after, every, one.is_all, left)  # noqa: E731
            await self.call(world, caller, alarm, one.how, one.reminder, do)

    async def settle(self, world: Driver) -> None:
        # What recurs would never be quiet. What comes once has its time.
        await world.sleep(5 * self.pace_s)
        if not isinstance(world, Cuts):
            await self._cancel(world, [(alarm, name) for alarm in self.alarms for name in self.reminders])
        while isinstance(world, Cuts):  # again: what its caller has given up may be set while others are cancelled
            recurring = [(row.entity.key, row.name) for row in (await world.cut()).reminders if row.is_recurring]
            if not recurring:
                break
            await self._cancel(world, recurring)
        await self.quiet(world)

    async def _cancel(self, world: Driver, recurring: list[tuple[str, str]]) -> None:
        for key, name in recurring:
            await self.final(world, Alarm.ref(key), f"cancel {name}", lambda: Alarm.ref(key).cancel(name))

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        fired = [
            Violation("H occurrences", "P6", f"{past.entity}: what is due in a year has fired: {past.row.message_id}")
            for past in audit.history
            if past.row.name == "ring" and json.loads(past.row.args)["after"] >= FAR_S
        ]
        return [*self.check_all(record, audit), *occurrences(audit, read_turn), *fired]


def read_turn(past: Consumed) -> list[Event]:
    """What a turn of an Alarm did to its reminders."""
    row = past.row
    if not row.ok:
        return []
    arguments, outcome = json.loads(row.args), json.loads(row.outcome)
    match row.name:
        case "put" | "cancel_and_put":
            return [_set(outcome)]
        case "cancel" | "put_and_cancel":
            return [CancelCommand(arguments["name"])]
        case "ring":
            name, generation, due = row.message_id.rsplit(":", 2)
            firing = Firing(name, int(generation), int(due), outcome["missed"])
            return [firing, _set(outcome["next"])] if outcome["next"] else [firing]
        case _:
            return []


def _set(command: dict[str, Any]) -> SetCommand:
    return SetCommand(command["name"], command["due_us"], command["every_us"], command["is_all"])
