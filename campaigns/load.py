"""Calling entities from this process while things break: what was acknowledged, what is unknown, what was refused."""

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from perdure.entities import OutcomeUnknown, PerdureError


class Came(Enum):
    """How a call ended for its caller."""

    OK = "ok"
    UNKNOWN = "unknown"
    REFUSED = "refused"


@dataclass
class Tally:
    """Calls by outcome."""

    count: dict[Came, int] = field(default_factory=lambda: dict.fromkeys(Came, 0))
    errors: dict[str, int] = field(default_factory=dict)

    async def call(self, call: Awaitable[Any]) -> tuple[Came, Any]:
        """Await a call; (OK, result), (UNKNOWN, None) or (REFUSED, error)."""
        value: Any = None
        try:
            value = await call
            came = Came.OK
        except OutcomeUnknown as error:
            self._note(error)
            came = Came.UNKNOWN
        except PerdureError as error:
            self._note(error)
            value = error
            came = Came.REFUSED
        self.count[came] += 1
        return came, value

    def _note(self, error: PerdureError) -> None:
        self.errors[error.code] = self.errors.get(error.code, 0) + 1

    @property
    def total(self) -> int:
        """All calls that ended."""
        return sum(self.count.values())

    @property
    def ok_rate(self) -> float:
        """Share of the calls that were acknowledged."""
        return self.count[Came.OK] / self.total if self.total else 0.0

    def __str__(self) -> str:
        parts = [f"{came.value} {count}" for came, count in self.count.items()]
        return ", ".join(parts) + (f" ({self.errors})" if self.errors else "")


async def limited(calls: Iterable[Awaitable[object]], at_once: int) -> None:
    """Await all of them, so many at a time; the first error ends it."""
    slots = asyncio.Semaphore(at_once)

    async def one(call: Awaitable[object]) -> None:
        async with slots:
            await call

    await asyncio.gather(*(one(call) for call in calls))
