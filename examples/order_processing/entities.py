"""An order is paid, created, confirmed and taken from the shelves: four steps, each done once."""

import asyncio
from typing import Literal

from pydantic import BaseModel

from perdure.entities import Entity, query, workflow

from .activities import Cart, charge_payment, create_order, send_confirmation, update_inventory

Step = Literal["New", "Charging", "Creating", "Confirming", "Taking from stock", "Done"]


class Confirmation(BaseModel, frozen=True):
    order_id: str
    payment_id: str


class Order(Entity, name="ShopOrder"):
    step: Step = "New"

    # Started by a call, or by the event "order:create", whose payload is a cart with the id of the order.
    @workflow(on_event="order:create", key=lambda event: event["order_id"])
    async def process(self, cart: Cart) -> Confirmation:
        """One after the other. After a crash it goes on at the step whose result is not known yet."""
        self.step = "Charging"
        payment_id = await charge_payment(cart)
        self.step = "Creating"
        order_id = await create_order(cart, payment_id)
        self.step = "Confirming"
        await send_confirmation(cart.email, order_id)
        self.step = "Taking from stock"
        await update_inventory(cart.items)
        self.step = "Done"
        return Confirmation(order_id=order_id, payment_id=payment_id)

    @workflow
    async def process_as_graph(self, cart: Cart) -> Confirmation:
        """The same steps as a graph: each begins as soon as its parents have ended."""

        async def created() -> str:
            return await create_order(cart, await payment)

        async def confirmed() -> None:
            await send_confirmation(cart.email, await order)

        async def in_stock() -> None:
            await payment  # nobody's shelves are emptied for nothing
            await update_inventory(cart.items)

        async with asyncio.TaskGroup() as graph:
            payment = graph.create_task(charge_payment(cart))
            order = graph.create_task(created())
            graph.create_task(confirmed())
            graph.create_task(in_stock())
        self.step = "Done"
        return Confirmation(order_id=order.result(), payment_id=payment.result())

    @query
    async def at(self) -> Step:
        return self.step
