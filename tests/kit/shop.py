"""Entities for the tests of the test kit."""

import asyncio
import random
import threading
from datetime import timedelta

from perdure.entities import (
    ApplicationError,
    Entity,
    Mailbox,
    RetryPolicy,
    activity,
    condition,
    handler,
    now,
    query,
    remind,
    workflow,
)

YEAR = timedelta(days=365)


class Declined(ApplicationError):
    """No, for good."""


@activity(retry=RetryPolicy(non_retryable=[Declined]))
async def charge(cents: int) -> str:
    raise AssertionError("tests fake this")


@activity
def cook(dish: str) -> str:
    return f"{dish} by {threading.current_thread().name}"


@activity(timeout=timedelta(seconds=30), retry=RetryPolicy(attempts=2))
async def dawdle() -> None:
    await asyncio.sleep(3600)


@activity
async def notify(text: str) -> None:
    raise AssertionError("tests fake this")


class Order(Entity):
    status: str = "new"
    log: list[str] = []

    @workflow
    async def run(self, cents: int) -> str:
        payment = await charge(cents)
        self.status = f"paid with {payment}"
        if not await condition(lambda: self.status == "fetched", timeout=YEAR):
            self.status = "forgotten"
        await notify(self.status)
        return self.status

    @workflow
    async def cooked(self) -> str:
        return await cook("soup")

    @workflow
    async def slow(self) -> None:
        await dawdle()

    @handler
    async def fetch(self) -> None:
        self.status = "fetched"

    @query
    async def state(self) -> str:
        return self.status


class Patient(Entity):
    answers: list[str] = []
    answer = Mailbox(str)

    @workflow
    async def run(self) -> str:
        self.answers = [*self.answers, await self.answer.receive()]
        return self.answers[-1]


class Clock(Entity):
    ticks: list[str] = []

    @handler
    async def begin(self) -> None:
        remind(self.tick, every=timedelta(days=1))

    @handler
    async def tick(self) -> None:
        self.ticks.append(now().isoformat())


class Echo(Entity):
    @handler
    async def shout(self) -> None:
        await Echo.ref(self.key).shout.send()


def toss() -> bool:
    return random.random() < 0.5


class Gambler(Entity):
    @workflow
    async def run(self) -> None:
        for _ in range(20):
            if toss():
                await charge(1)
            else:
                await notify("lost")


class Forgetful(Entity):
    count: int = 0

    @workflow
    async def run(self) -> None:
        MEMORY.append("begun")  # a process's memory is not durable: after a crash this runs again
        await charge(1)
        self.count = len(MEMORY)


MEMORY: list[str] = []
