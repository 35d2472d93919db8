"""What the workloads run: the smallest useful entities, and workflows of steps that do nothing."""

import asyncio
import os
from datetime import UTC, datetime, timedelta

from perdure.entities import Entity, Mailbox, activity, activity_info, handler, query, remind, workflow

STEPS = 5


@activity
async def no_op(step: int) -> int:
    """One step."""
    return step


@activity
async def counted(path: str) -> None:
    """One step that leaves a line for each of its executions, whoever executes it."""
    line = f"{activity_info().idempotency_key}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


class Counter(Entity):
    """Adds up."""

    value: int = 0

    @handler
    async def add(self, amount: int) -> int:
        """One durable turn."""
        self.value += amount
        return self.value

    @query
    async def read(self) -> int:
        """No turn."""
        return self.value


class Padded(Entity):
    """A counter with a state of any size."""

    value: int = 0
    padding: str = ""

    @handler
    async def fill(self, size: int) -> None:
        """From now on the state has about so many bytes."""
        self.padding = "x" * size

    @handler
    async def add(self, amount: int) -> int:
        """One durable turn, which writes the whole state."""
        self.value += amount
        return self.value


class Steps(Entity):
    """Five steps in a row."""

    @workflow
    async def run(self) -> int:
        """Returns the number of steps."""
        for step in range(STEPS):
            await no_op(step)
        return STEPS


class Patient(Entity):
    """Waits for a signal."""

    go = Mailbox(int)

    @workflow
    async def run(self) -> int:
        """Returns the signal."""
        return await self.go.receive()


class Sleeper(Entity):
    """Sleeps, as a suspended workflow."""

    @workflow
    async def run(self, seconds: float) -> None:
        """Returns after that time."""
        await asyncio.sleep(seconds)


class Interrupted(Entity):
    """Steps with a sleep among them, so that it is under way when its host is killed."""

    @workflow
    async def run(self, path: str, seconds: float) -> None:
        """Two steps, the sleep, three steps."""
        await counted(path)
        await counted(path)
        await asyncio.sleep(seconds)
        for _ in range(STEPS - 2):
            await counted(path)


class Alarm(Entity):
    """Has timers; what was due when is in the arguments of its turns, what ran when beside them in the history."""

    @handler
    async def arm(self, due_us: list[int]) -> None:
        """One reminder for each of these times."""
        for number, due in enumerate(due_us):
            at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=due)
            remind(self.ring, at=at, name=f"alarm-{number}", arguments={"due_us": due})

    @handler
    async def ring(self, due_us: int) -> None:
        """A reminder is due."""


ENTITIES = [f"bench.entities:{cls.__name__}" for cls in (Counter, Padded, Steps, Patient, Sleeper, Interrupted, Alarm)]
