"""What the verbs are tried on."""

from datetime import timedelta
from enum import StrEnum

from perdure.entities import (
    ApplicationError,
    Entity,
    Mailbox,
    Rejected,
    RetryPolicy,
    activity,
    decision,
    handler,
    query,
    remind,
    workflow,
)


class Answer(StrEnum):
    """Of the customs."""

    CLEAR = "clear"
    REFUSE = "refuse"


broken: set[str] = set()
"""Keys whose deliveries fail."""


@activity(retry=RetryPolicy(attempts=1, on_exhausted="pause"))
async def deliver(key: str) -> str:
    """Fails where it has been told to."""
    if key in broken:
        raise ApplicationError("nobody at home")
    return f"{key} is there"


class Parcel(Entity, index=["status"]):
    """One parcel."""

    status: str = "new"
    grams: int = 0
    notes = Mailbox(str)

    @handler
    async def pack(self, grams: int, label: str = "") -> str:
        """Put it into a box."""
        if grams <= 0:
            raise Rejected("a parcel weighs something")
        self.status, self.grams = "packed", grams
        return label or "no label"

    @handler
    async def later(self) -> None:
        """Set a reminder for next year."""
        remind(self.expire, after=timedelta(days=365), name="expiry")

    @handler
    async def expire(self) -> None:
        """Too late."""
        self.status = "expired"

    @handler(retry=RetryPolicy(attempts=1))
    async def lose(self) -> None:
        """Never works."""
        raise ApplicationError("cannot be lost")

    @query
    async def weight(self, unit: str = "g") -> str:
        """How heavy it is."""
        return f"{self.grams} {unit}"

    @workflow
    async def bring(self) -> str:
        """To the door."""
        self.status = "on its way"
        place = await deliver(self.key)
        self.status = "delivered"
        return place

    @workflow
    async def read(self) -> str:
        """Wait for a note."""
        return await self.notes.receive()

    @workflow
    async def clear(self, due_s: float) -> str:
        """Have the customs decide."""
        return await decision("customs", Answer, title="clear it?", due=due_s)
