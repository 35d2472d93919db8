"""An entity that really runs, for tests of clients: over HTTP, from threads, from webhooks."""

import dataclasses
import functools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel, SecretStr

from perdure.api import Settings, create_app
from perdure.entities import ApplicationError, Entity, Mailbox, handler, query, workflow
from perdure.entities.client import Caller
from perdure.entities.testing import LocalCluster

OPEN = Settings(port=0, streams_max=2)


class Account(Entity):
    balance: int = 0
    seen: list[str] = []
    notes = Mailbox(str)

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise ApplicationError("not enough", type="TooLittle", missing=amount - self.balance)
        self.balance -= amount
        return self.balance

    @handler
    async def crash(self) -> None:
        raise RuntimeError("a secret of the code")

    @handler
    async def received(self, event: dict[str, Any]) -> None:
        self.seen.append(str(event["id"]))

    @query
    async def total(self) -> int:
        return self.balance

    @query
    async def events_seen(self) -> list[str]:
        return self.seen

    @workflow
    async def save(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @workflow
    async def wait_for_note(self) -> str:
        return await self.notes.receive()

    @workflow
    async def fail(self) -> None:
        raise ApplicationError("the bank is closed", type="Closed")


class Colour(StrEnum):
    RED = "red"


class Level(Enum):
    HIGH = 3


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    at: datetime


class Money(BaseModel):
    amount: Decimal
    currency: str = "EUR"


class Everything(NamedTuple):
    """Values of all the types that people pass."""

    money: Money
    point: Point
    colour: Colour
    level: Level
    when: datetime
    day: date
    span: timedelta
    price: Decimal
    data: bytes


EVERYTHING = Everything(
    Money(amount=Decimal("12.30")),
    Point(1, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    Colour.RED,
    Level.HIGH,
    datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC),
    date(2026, 1, 2),
    timedelta(days=1, seconds=2),
    Decimal("0.10"),
    b"caf\xc3\xa9",
)


class Typed(Entity):
    """Takes and gives back every kind of value."""

    kept: Money | None = None

    @handler
    async def echo(  # noqa: PLR0917 - one of each
        self,
        money: Money,
        point: Point,
        colour: Colour,
        level: Level,
        when: datetime,
        day: date,
        span: timedelta,
        price: Decimal,
        data: bytes,
    ) -> Everything:
        self.kept = money
        return Everything(money, point, colour, level, when, day, span, price, data)


class BehindState:
    """The application with its caller in the state of each request, as a server and a lifespan put it there.

    Its own lifespan does nothing: the caller is there already.
    """

    def __init__(self, app: FastAPI, caller: Caller) -> None:
        self.app = app
        self.caller = caller

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope | {"state": {"perdure": self.caller}}, receive, send)
            return
        for answer in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            await receive()
            await send({"type": answer})


KEY = "k" * 40
LOCKED = Settings(api_keys=(SecretStr(KEY),))


@functools.cache
def gateway(*, is_locked: bool = False) -> FastAPI:
    """The application; made once, because that takes longer than most tests."""
    return create_app([Account, Typed], settings=LOCKED if is_locked else OPEN, console=False)


@asynccontextmanager
async def bank(*, is_locked: bool = False) -> AsyncGenerator[tuple[LocalCluster, BehindState]]:
    """A cluster in memory, and a gateway in front of it."""
    async with LocalCluster([Account, Typed]) as cluster:
        yield cluster, BehindState(gateway(is_locked=is_locked), cluster)
