"""What lives in the installation beside the campaigns' entities: enough for a checker to see what was lost, doubled,
early or done after it was cancelled. Villain is where handlers misbehave on purpose.
"""

import asyncio
import json
import os
import time
from datetime import datetime, timedelta

from pydantic import BaseModel

from perdure.entities import (
    Entity,
    RetryPolicy,
    activity,
    activity_info,
    cancel_reminder,
    condition,
    handler,
    query,
    remind,
    workflow,
)

WITNESS = "CHAOS_WITNESS"
"""Port of the witness, in the environment of the hosts."""
FORGOTTEN_S = 0.4
ATTEMPT_S = 5.0


class Ledger(Entity):
    """Unique adds."""

    uids: list[str] = []

    @handler
    async def add(self, uid: str) -> int:
        self.uids.append(uid)
        return len(self.uids)

    @query
    async def seen(self) -> list[str]:
        return self.uids


async def tell_witness(**event: object) -> None:
    """One attempt of a step, written down outside before it counts as done."""
    info = activity_info()
    line = {"idempotency_key": info.idempotency_key, "attempt": info.attempt, "entity": str(info.entity), **event}
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ[WITNESS]))
    try:
        writer.write(json.dumps(line).encode() + b"\n")
        await writer.drain()
        if not await reader.readline():
            raise ConnectionError("the witness did not answer")
    finally:
        writer.close()


_PATIENT = RetryPolicy(initial=timedelta(milliseconds=100), maximum=timedelta(seconds=2))


@activity(retry=_PATIENT, timeout=timedelta(seconds=ATTEMPT_S))
async def charge(cents: int) -> str:
    await tell_witness(step="charge", cents=cents)
    return activity_info().idempotency_key


@activity(retry=_PATIENT, timeout=timedelta(seconds=ATTEMPT_S))
async def refund(receipt: str) -> None:
    await tell_witness(step="refund", receipt=receipt)


@activity(retry=_PATIENT, timeout=timedelta(seconds=ATTEMPT_S))
async def deliver(receipt: str) -> None:
    await tell_witness(step="deliver", receipt=receipt)


class Errand(Entity):
    """An order: paid, then fetched and delivered, or forgotten and refunded."""

    status: str = "new"
    is_fetched: bool = False

    @workflow
    async def run(self, cents: int, patience_s: float) -> str:
        receipt = await charge(cents)
        self.status = "paid"
        if await condition(lambda: self.is_fetched, timeout=patience_s):
            await asyncio.sleep(0.1)
            await deliver(receipt)
            self.status = "delivered"
        else:
            await refund(receipt)
            self.status = "refunded"
        return self.status

    @handler
    async def fetch(self) -> str:
        self.is_fetched = True
        return self.status

    @query
    async def state(self) -> str:
        return self.status


class Alarm(Entity):
    """Reminders, one for each uid."""

    rung: int = 0

    @handler
    async def set(self, uid: str, after_s: float) -> None:
        remind(self.ring, after=after_s, name=uid, arguments={"uid": uid})

    @handler
    async def cancel(self, uid: str) -> None:
        cancel_reminder(uid)

    @handler
    async def ring(self, uid: str) -> None:
        self.rung += 1


class Crowd(Entity):
    """Very many reminders that are due at one moment."""

    expected: int = 0
    rung: int = 0

    @handler
    async def expect(self, first: int, count: int, at: datetime) -> int:
        for number in range(first, first + count):
            remind(self.ring, at=at, name=f"r{number}")
        self.expected += count
        return self.expected

    @handler
    async def ring(self) -> None:
        self.rung += 1


class Flooded(Entity):
    """Gets more calls at once than may wait."""

    value: int = 0

    @handler
    async def add(self) -> int:
        self.value += 1
        return self.value

    @query
    async def value_now(self) -> int:
        return self.value


class Glance(BaseModel):
    """A host's own clocks."""

    pid: int
    wall: float
    monotonic: float


class Clock(Entity):
    """Says what time its host believes it is."""

    @query
    async def look(self) -> Glance:
        return Glance(pid=os.getpid(), wall=time.time(), monotonic=time.monotonic())


class Villain(Entity):
    """Misbehaves when asked to. What it leaves behind is expected, and cleared away by the fault that asked."""

    @handler
    async def crash(self) -> None:
        os._exit(77)

    @handler(retry=RetryPolicy(initial=timedelta(milliseconds=50), maximum=timedelta(milliseconds=200), attempts=5))
    async def refuse(self) -> None:
        raise RuntimeError("poison")

    @handler(timeout=timedelta(seconds=1), retry=RetryPolicy(initial=timedelta(milliseconds=50), attempts=2))
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @handler
    async def block(self, seconds: float) -> None:
        time.sleep(seconds)

    @handler
    async def greet(self) -> str:
        return self.key


ENTITIES = [
    "campaigns.entities:Source",
    "campaigns.entities:Relay",
    "campaigns.entities:Sink",
    "campaigns.safes:Safe",
    "campaigns.safes:Transfer",
    "chaos.entities",
]
