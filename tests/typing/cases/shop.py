"""User code that must pass strict mypy and pyright: the shapes of the design."""

import asyncio
from datetime import timedelta
from typing import Any, Literal, assert_type

from pydantic import BaseModel, Field

from perdure.api import StripeSignature, SyncClient, WebhookEvent, webhook_router
from perdure.entities import (
    ApplicationError,
    Dedicated,
    Entity,
    EntityChange,
    Mailbox,
    RetryPolicy,
    activity,
    activity_info,
    cancel_reminder,
    condition,
    find,
    handler,
    now,
    patched,
    query,
    random,
    remind,
    upgrade,
    uuid4,
    watch,
    workflow,
)


class CardDeclined(Exception):
    pass


class Product(BaseModel):
    id: int
    name: str


class Decision(BaseModel):
    is_approved: bool
    by: str = ""


@activity(retry=RetryPolicy(non_retryable=[CardDeclined]), timeout=timedelta(seconds=30))
async def charge(product: Product) -> str:
    return activity_info().idempotency_key


@activity
async def refund(payment: str) -> None: ...


@activity(num_cpus=2.0)
def render(product: Product, *, size: int = 3) -> bytes:
    return b"x" * size


class Order(Entity):
    product_id: int | None = None
    status: Literal["New", "Paid", "Picked up"] = "New"
    notes: list[str] = Field(default_factory=list)
    decision = Mailbox(Decision)

    @workflow
    async def run(self, product_id: int, urgent: bool = False) -> str:
        product = Product(id=product_id, name="pen")
        self.product_id = product_id
        try:
            payment = await charge(product)
        except CardDeclined as declined:
            raise ApplicationError("card declined", type="Declined", product=product_id) from declined
        assert_type(payment, str)
        self.status = "Paid"
        if not await condition(lambda: self.status == "Picked up", timeout=timedelta(minutes=1)):
            await refund(payment)
        async with asyncio.timeout(7):
            decision = await self.decision.receive()
        assert_type(decision, Decision)
        image = await render.options(timeout=timedelta(seconds=1))(product, size=5)
        assert_type(image, bytes)
        await asyncio.sleep(1)
        results = await asyncio.gather(charge(product), Stock.ref("s").take(1))
        assert_type(results, tuple[str, int])
        assert_type(await Order.ref("other").run(5), str)
        if urgent:
            await Order.ref("other").run.start(6, urgent=True)
        return f"{now()} {uuid4()} {random().random()}"

    @handler
    async def pick_up(self) -> None:
        self.status = "Picked up"
        remind(self.ask, after=timedelta(hours=1), name="rating", arguments={"text": "ok?"})
        cancel_reminder("rating")
        await Stock.ref("s").take.options(delay=5).send(1)

    @handler(timeout=timedelta(seconds=1), retry=RetryPolicy(attempts=3))
    async def ask(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)

    @query
    async def state(self) -> str:
        return self.status


class Stock(Entity, hosting=Dedicated(num_gpus=1), name="Warehouse", version=2):
    left: int = 10

    @handler
    async def take(self, count: int) -> int:
        self.left -= count
        return self.left

    @workflow
    async def refill(self, rounds: int) -> int:
        if patched("twice"):
            self.left += 10
        if rounds:
            await self.refill.continue_as_new(rounds - 1)
        return self.left

    @upgrade(from_version=1)
    @staticmethod
    def left_is_an_int(state: dict[str, Any]) -> dict[str, Any]:
        return state | {"left": int(state["left"])}


async def use() -> None:
    order = Order.ref("o-1")
    assert_type(await order.run.start(product_id=3), str)
    assert_type(await order.run.start(3, urgent=True), str)
    assert_type(await order.run(3), str)
    assert_type(await order.run.result(timeout=5), str)
    await order.run.options(restart=True).start(3)
    await order.run.cancel()
    await order.run.terminate("enough")
    assert_type(await order.ask("x"), int)
    assert_type(await order.ask(text="x"), int)
    await order.ask.send(text="x")
    await order.pick_up()
    await order.pick_up.options(delay=timedelta(hours=1), idempotency_key="abc").send()
    assert_type(await order.state(), str)
    assert_type(await order.state.options(timeout=1)(), str)
    await order.decision.send(Decision(is_approved=True))
    await order.decision.options(idempotency_key="k").send(Decision(is_approved=False))
    assert_type(await Stock.ref("s").take(5), int)
    assert_type(order.key, str)


async def in_a_unit_test() -> None:
    order = Order(key="o-1", status="Paid")
    await order.pick_up()
    assert_type(await order.ask("x"), int)
    assert order.status == "Picked up"


def use_without_a_loop(client: SyncClient) -> None:
    order = Order.ref("o-1")
    assert_type(client.call(order.ask, "x"), int)
    assert_type(client.call(order.ask, text="x"), int)
    client.call(order.ask.send, "x")
    client.call(order.pick_up)
    client.call(order.pick_up.options(delay=5, idempotency_key="k").send)
    assert_type(client.call(order.state), str)
    assert_type(client.call(order.state.options(timeout=1)), str)
    assert_type(client.call(order.run, 3), str)
    assert_type(client.call(order.run.start, product_id=3), str)
    assert_type(client.call(order.run.result, timeout=5), str)
    client.call(order.decision.send, Decision(is_approved=True))
    assert_type(client.call(lambda: find(Order, status="Paid")).matches[0].state, Order)
    for change in client.each(watch, order):
        assert_type(change, EntityChange)


def delivered(event: WebhookEvent) -> Any:
    return Order.ref(event.json()["order"]).ask


router = webhook_router("/stripe", StripeSignature("whsec_x"), delivered)
to_a_workflow = webhook_router("/stripe", StripeSignature(["a", "b"]), lambda event: Order.ref(event.id).run)
to_a_mailbox = webhook_router("/stripe", StripeSignature("a"), lambda event: Order.ref(event.id).decision)
