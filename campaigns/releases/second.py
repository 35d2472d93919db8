"""The second release: the same state, and a member more, which neither hosts nor gateways of the first one know."""

from perdure.entities import handler, query

from . import first

RELEASE = "second"


class Meter(first.Meter, name="Meter"):
    """Counts calls."""

    @handler
    async def add(self) -> first.Reading:
        return self.counted(RELEASE)

    @query
    async def release(self) -> str:
        return RELEASE
