"""Entities that the engine's tests share, and what the outside world saw of them."""

import asyncio
from collections import Counter as Tally
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import Field

from perdure.entities import ApplicationError, Entity, RetryPolicy, handler, query

SOON = RetryPolicy(initial=timedelta(milliseconds=5), maximum=timedelta(milliseconds=20), attempts=3)


class Refused(Exception):
    """What user code raises."""


@dataclass
class World:
    """Outside the system: never rolled back."""

    ran: Tally[str] = field(default_factory=Tally[str])
    """How often user code really ran."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Handlers that wait, wait for this."""
    failures: int = 0
    """How many of the next flaky runs fail."""

    def reset(self) -> None:
        self.ran.clear()
        self.gate = asyncio.Event()
        self.failures = 0

    def fail(self, what: str) -> None:
        self.ran[what] += 1
        if self.failures:
            self.failures -= 1
            raise Refused(f"{what}: not now")


world = World()


class Account(Entity):
    """A little of everything that one turn can do."""

    balance: int = Field(default=0, ge=0)
    seen: list[str] = []
    payload: object = None

    @handler
    async def deposit(self, amount: int) -> int:
        world.ran["deposit"] += 1
        self.balance += amount
        return self.balance

    @handler
    async def note(self, text: str) -> int:
        self.seen.append(text)
        return len(self.seen)

    @handler
    async def fail_after_changing(self, amount: int) -> None:
        self.balance += amount
        await Account.ref("other").note.send("leaked")
        raise Refused("after all")

    @handler
    async def refuse(self) -> None:
        self.balance += 1_000
        raise ApplicationError("no", type="Policy", reason="because")

    @handler
    async def make_negative(self) -> None:
        self.balance = -5
        await Account.ref("other").note.send("leaked")

    @handler
    async def keep_unserialisable(self) -> None:
        self.payload = asyncio.Event()

    @handler
    async def return_wrong_type(self) -> int:
        self.balance += 1
        return "five"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @handler
    async def return_none(self) -> int:
        self.balance += 1
        return None  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    @handler
    async def pay(self, to: str, amount: int) -> int:
        self.balance -= amount
        await Account.ref(to).deposit.send(amount)
        return self.balance

    @handler(retry=SOON)
    async def flaky(self, text: str) -> None:
        world.fail(f"flaky {text}")
        self.seen.append(text)

    @handler(retry=RetryPolicy(initial=timedelta(seconds=30)))
    async def flaky_slowly(self, text: str) -> None:
        world.fail(f"flaky {text}")
        self.seen.append(text)

    @handler(timeout=timedelta(seconds=5))
    async def wait(self, text: str) -> str:
        world.ran["wait"] += 1
        await world.gate.wait()
        self.seen.append(text)
        return text

    @handler(timeout=timedelta(milliseconds=30))
    async def hang(self) -> None:
        self.balance += 7
        await asyncio.Event().wait()

    @query
    async def total(self) -> int:
        return self.balance

    @query
    async def notes_sent(self) -> list[str]:
        """Those that no call has left."""
        return [text for text in self.seen if text != "a call"]

    @query
    async def notes(self) -> list[str]:
        return self.seen

    @query
    async def slow_total(self) -> int:
        await asyncio.sleep(0)
        return self.balance

    @query
    async def spend_in_a_query(self) -> int:
        self.balance += 1
        return self.balance

    @query
    async def spend_slowly_in_a_query(self) -> int:
        await asyncio.sleep(0)
        self.balance += 1
        return self.balance

    @query
    async def send_in_a_query(self) -> None:
        await Account.ref("other").note.send("leaked")

    @query
    async def fail_in_a_query(self) -> None:
        raise Refused("asked too much")
