"""The whole business: an order, its customer, and the board on which drivers find open orders.

All of this survives the death of any process: fields are durable, and `Order.run` goes on where it was.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Literal, Never

from perdure.entities import ApplicationError, Entity, condition, handler, now, query, workflow
from pydantic import BaseModel

from .activities import CardDeclined, charge_customer, refund, send_push_notification
from .menu import Product, product_by_id

Status = Literal["Charging card", "Paid", "Picked up", "Delivered", "Refunding"]


class Limits(BaseModel, frozen=True):
    """How long an order waits, in seconds. Part of its input, so that it is the same after a crash."""

    pick_up_s: float = 60
    deliver_s: float = 60
    rating_s: float = 60


LIMITS = Limits()


class OrderStatus(BaseModel):
    """What the pages show of an order."""

    order_id: str
    customer_id: str
    product: Product | None
    """None: nobody has ordered under this id."""
    status: Status
    problem: str
    """Why the order failed, or empty."""
    is_refunded: bool
    ordered_at: datetime | None
    due_at: datetime | None
    """Until when somebody must act, where somebody must."""
    delivered_at: datetime | None
    is_rating_wanted: bool
    stars: int | None


class Order(Entity):
    customer_id: str = ""
    product: Product | None = None
    status: Status = "Charging card"
    problem: str = ""
    is_refunded: bool = False
    ordered_at: datetime | None = None
    due_at: datetime | None = None
    delivered_at: datetime | None = None
    is_rating_wanted: bool = False
    stars: int | None = None

    @workflow
    async def run(
        self, product_id: int, customer_id: str = "guest", card: str = "4242", limits: Limits = LIMITS
    ) -> None:
        self.customer_id = customer_id
        self.ordered_at = now()
        try:
            self.product = product = product_by_id(product_id)
            payment = await charge_customer(product, card)
        except ApplicationError as error:  # CardDeclined, or no such product: there is nothing to give back
            await self.fail(str(error))

        await self.enter("Paid", within_s=limits.pick_up_s)
        if not await condition(lambda: self.status == "Picked up", timeout=limits.pick_up_s):
            await self.give_back(payment, "no driver picked it up in time")

        await self.enter("Picked up", within_s=limits.deliver_s)
        if not await condition(lambda: self.status == "Delivered", timeout=limits.deliver_s):
            await self.give_back(payment, "it was not delivered in time")

        await self.close()
        await send_push_notification(customer_id, f"Your {product.name} is here. Enjoy!")

        await asyncio.sleep(limits.rating_s)  # a minute or a year: it costs nothing meanwhile
        self.is_rating_wanted = True
        await send_push_notification(customer_id, f"How was the {product.name}? Rate your meal.")

    @handler
    async def pick_up(self) -> None:
        if self.status == "Paid":
            self.status = "Picked up"

    @handler
    async def deliver(self) -> None:
        if self.status == "Picked up":
            self.status = "Delivered"
            self.delivered_at = now()
