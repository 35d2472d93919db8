"""Entity classes with every kind of argument, result and member that the gateway describes."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from perdure.entities import (
    ApplicationError,
    CompleteLater,
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    activity_info,
    handler,
    query,
    workflow,
)

tokens: list[str] = []
"""Of activities that wait for the outside."""


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Sample(BaseModel):
    name: str = Field(min_length=1, max_length=40)
    grams: float = Field(default=1.0, ge=0, le=1e6)
    colour: Colour = Colour.RED
    parts: list["Sample"] = Field(default=[], max_length=3)


class Report(BaseModel):
    at: datetime
    total: Decimal
    by_colour: dict[str, int]
    last: Sample | None


@activity
async def weigh(sample: Sample) -> float:
    return sample.grams


@activity(retry=RetryPolicy(attempts=1))
async def ask_outside() -> str:
    tokens.append(activity_info().token)
    raise CompleteLater


class Bench(Entity, index=["count"]):
    """A bench in a laboratory."""

    count: int = 0
    colour: Colour = Colour.RED
    day: date | None = None
    last: Sample | None = None
    decision = Mailbox(Sample)
    note = Mailbox(str)

    @handler
    async def clear(self) -> None:
        self.count = 0

    @handler
    async def put(self, sample: Sample, times: Annotated[int, Field(ge=1, le=100)] = 1) -> Report:
        """Put something on it."""
        if self.count > 1_000_000:
            raise ApplicationError("the bench is full")
        self.count += times
        self.last = sample
        return self.make_report()

    @handler(retry=RetryPolicy(attempts=1))
    async def fall(self) -> None:
        raise ApplicationError("the bench fell over", type="Broken", legs=3)

    @handler
    async def plan(  # noqa: PLR0917 - arguments travel by name
        self,
        day: date,
        at: datetime | None = None,
        within: timedelta = timedelta(days=1),
        owner: UUID | None = None,
        mode: Literal["strict", "loose"] = "strict",
        labels: Annotated[dict[str, str], Field(max_length=5)] | None = None,
    ) -> str:
        self.day = day
        return f"{day} {mode} {len(labels or {})}"

    @query
    async def report(self) -> Report:
        return self.make_report()

    @query
    async def among(
        self, colour: Colour, at_least: int = 0, is_open: bool = False, since: datetime | None = None
    ) -> int:
        return self.count if self.colour == colour and self.count >= at_least else 0

    @query
    async def fits(self, sample: Sample) -> bool:
        return sample.grams > self.count

    @workflow
    async def run(self, sample: Sample, fast: bool = True) -> float:
        grams = await weigh(sample)
        if not fast:
            await asyncio.sleep(3_600)
        self.last = sample
        return grams

    @workflow
    async def outside(self) -> str:
        return await ask_outside()

    def make_report(self) -> Report:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return Report(at=at, total=Decimal(self.count), by_colour={self.colour: self.count}, last=self.last)
