"""Entity classes for tests of the gateway. Nothing runs them here: a fake caller answers."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel

from perdure.entities import Entity, Mailbox, handler, query, workflow


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Item(BaseModel):
    name: str
    count: int = 1
    parts: list["Item"] = []


class Receipt(BaseModel):
    total: int
    items: list[Item]


class Order(Entity):
    """One order."""

    items: list[Item] = []
    decision = Mailbox(Item)
    note = Mailbox(str)

    @handler
    async def pick_up(self) -> None:
        """Take it."""

    @handler
    async def add(self, item: Item, times: int = 1) -> Receipt:
        return Receipt(total=times, items=[item])

    @query
    async def state(self) -> str:
        return ""

    @query
    async def find(
        self, size: Size, at_least: int = 0, since: datetime | None = None, is_open: bool = False
    ) -> list[Item]:
        return []

    @query
    async def like(self, item: Item) -> bool:
        return False

    @query
    async def wait_for(self, timeout: float) -> float:
        return timeout

    @workflow
    async def run(self, product_id: int, gift: bool = False) -> str:
        """Deliver it."""
        return ""


class Customer(Entity):
    orders: int = 0

    @handler
    async def ordered(self, amount: int) -> int:
        return amount
