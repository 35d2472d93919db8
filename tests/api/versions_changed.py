"""The same entity, changed so that its live runs do not fit."""

from perdure.entities import Entity, Mailbox, workflow


class Parcel(Entity):
    weight: int = 0
    letters = Mailbox(str)

    @workflow
    async def run(self, days: int) -> None:
        await self.letters.receive()
