"""Entities of the cluster tests; hosts import them."""

import asyncio
import os
import time

from perdure.entities import Entity, handler, query


class Counter(Entity):
    value: int = 0
    seen: list[str] = []

    @handler
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @handler
    async def note(self, text: str) -> None:
        self.seen.append(text)

    @handler
    async def dawdle(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @handler
    async def block(self, seconds: float) -> None:
        """What nobody should write: the host can do nothing else meanwhile."""
        time.sleep(seconds)

    @handler
    async def block_while(self, path: str) -> None:
        """The same for as long as there is such a file."""
        while os.path.exists(path):  # noqa: PTH110 - in a hurry
            time.sleep(0.01)

    @handler
    async def vanish(self) -> None:
        """As a segmentation fault would."""
        os._exit(1)

    @handler
    async def make_vanish(self, other: str, witness: str) -> None:
        await Counter.ref(other).add.send(1)
        await Counter.ref(other).vanish.send()
        await Counter.ref(other).add.send(10)
        await Counter.ref(witness).add.send(100)

    @handler
    async def tell(self, other: str, amount: int) -> None:
        await Counter.ref(other).add.send(amount)

    @query
    async def get(self) -> int:
        return self.value

    @query
    async def notes(self) -> list[str]:
        return self.seen
