"""An entity, as released."""

import asyncio

from perdure.entities import Entity, Mailbox, workflow


class Parcel(Entity):
    weight: int = 0
    letters = Mailbox(str)

    @workflow
    async def run(self, days: int) -> None:
        await asyncio.sleep(86_400 * days)
