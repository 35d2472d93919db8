"""A module for `perdure dev`: entity classes and no application."""

import asyncio

from pydantic import BaseModel

from perdure.entities import Entity, Mailbox, handler, query, workflow


class Item(BaseModel):
    name: str
    count: int = 1


class Basket(Entity):
    items: list[Item] = []
    word = Mailbox(str)

    @handler
    async def add(self, item: Item) -> int:
        self.items.append(item)
        return len(self.items)

    @handler
    async def fail(self) -> None:
        raise KeyError("what happened")

    @handler
    async def ponder(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @query
    async def count(self, at_least: int = 0) -> int:
        return sum(item.count for item in self.items if item.count >= at_least)

    @workflow
    async def run(self, times: int) -> str:
        for _ in range(times):
            await asyncio.sleep(0.05)
        return await self.word.receive()
