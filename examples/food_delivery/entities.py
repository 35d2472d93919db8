"""The whole business: an order, its customer, and the board on which drivers find open orders.

Fields are durable, every handler is one atomic step, and `Order.run` outlives any process: after a crash it goes on
where it was.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Literal, Never

from pydantic import BaseModel, Field

from perdure.entities import ApplicationError, Entity, condition, handler, now, query, workflow

from .activities import charge_customer, refund, send_push_notification
from .menu import Product, product_by_id

Status = Literal["Charging card", "Paid", "Picked up", "Delivered", "Refunding"]


class Limits(BaseModel, frozen=True, extra="forbid"):
    """How long an order waits, in seconds. They are input of the order, so a crash or a new release keeps them."""

    pick_up_s: float = 60
    deliver_s: float = 60
    rating_s: float = 60


LIMITS = Limits()


class OrderStatus(BaseModel, from_attributes=True):
    """An order as its customer, the driver and the pages see it."""

    key: str
    customer_id: str
    product: Product | None
    status: Status
    problem: str
    ordered_at: datetime | None
    due_at: datetime | None
    delivered_at: datetime | None
    is_rating_wanted: bool
    stars: int | None


class Order(Entity):
    """One meal, from the tap on the menu to the rating."""

    customer_id: str = ""
    product: Product | None = None
    status: Status = "Charging card"
    problem: str = ""  # why the order failed, once it has
    ordered_at: datetime | None = None
    due_at: datetime | None = None  # until when the driver has time
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
        except ApplicationError as refusal:  # card declined, or no such product
            await self.fail(refusal)

        self.status = "Paid"
        await self.show_drivers(limits.pick_up_s)
        if not await condition(lambda: self.status == "Picked up", timeout=limits.pick_up_s):
            await self.give_back(payment, "not picked up in time")

        await self.show_drivers(limits.deliver_s)
        if not await condition(lambda: self.status == "Delivered", timeout=limits.deliver_s):
            await self.give_back(payment, "not delivered in time")

        await self.show_drivers()
        await Customer.ref(customer_id).remember.send(await self.state())
        await send_push_notification(customer_id, f"Your {product.name} has arrived. Enjoy!")

        await asyncio.sleep(limits.rating_s)  # a minute or a year: nothing runs and nothing is held meanwhile
        self.is_rating_wanted = True
        await send_push_notification(customer_id, f"Rate your meal. How was the {product.name}?")

    @handler
    async def pick_up(self) -> None:
        if self.status == "Paid":
            self.status = "Picked up"

    @handler
    async def deliver(self) -> None:
        if self.status == "Picked up":
            self.status = "Delivered"
            self.delivered_at = now()

    @handler
    async def rate(self, stars: Annotated[int, Field(ge=1, le=5)]) -> None:
        if self.is_rating_wanted:
            self.stars = stars

    @query
    async def state(self) -> OrderStatus:
        return OrderStatus.model_validate(self)

    # Steps of the workflow

    async def show_drivers(self, within_s: float | None = None) -> None:
        self.due_at = None if within_s is None else now() + timedelta(seconds=within_s)
        await Board.ref("main").update.send(await self.state())

    async def give_back(self, payment: str, reason: str) -> Never:
        self.status = "Refunding"
        await self.show_drivers()
        await refund(payment)
        await self.fail(ApplicationError(reason, type="TooLate"))

    async def fail(self, error: ApplicationError) -> Never:
        self.problem = error.message
        await Customer.ref(self.customer_id).remember.send(await self.state())
        await send_push_notification(self.customer_id, f"We are sorry, there is no meal today: {error.message}")
        raise error


class Account(BaseModel, from_attributes=True):
    """What a customer has eaten and spent."""

    key: str
    meals: int
    spent_cents: int
    history: list[OrderStatus]


class Customer(Entity):
    """One per customer, for life: totals of all orders, and the last hundred of them."""

    meals: int = 0
    spent_cents: int = 0
    history: list[OrderStatus] = []

    @handler
    async def remember(self, order: OrderStatus) -> None:
        """Plain counting is right: what an order sends arrives exactly once, whatever crashes in between."""
        self.history = [order, *self.history[:99]]
        if order.product and order.status == "Delivered":
            self.meals += 1
            self.spent_cents += order.product.price_cents

    @query
    async def account(self) -> Account:
        return Account.model_validate(self)


class Board(Entity):
    """The open orders of a city, so that the driver's page need not search for them."""

    orders: list[OrderStatus] = []

    @handler
    async def update(self, order: OrderStatus) -> None:
        self.orders = [other for other in self.orders if other.key != order.key]
        if order.status in ("Paid", "Picked up"):
            self.orders.append(order)

    @query
    async def open_orders(self) -> list[OrderStatus]:
        return self.orders
