"""The first release."""

from pydantic import BaseModel

from perdure.entities import Entity, handler, query


class Reading(BaseModel):
    """What a call has made of a meter, and which code did it."""

    total: int
    release: str


class Meter(Entity):
    """Counts calls."""

    total: int = 0

    @handler
    async def add(self) -> Reading:
        return self.counted("first")

    @query
    async def read(self) -> int:
        return self.total

    def counted(self, release: str) -> Reading:
        self.total += 1
        return Reading(total=self.total, release=release)
