"""Story 2, order processing: four steps, each done once; in a row and as a graph."""

from datetime import timedelta
from typing import Any

import pytest

from examples.order_processing.activities import (
    Cart,
    charge_payment,
    create_order,
    send_confirmation,
    update_inventory,
)
from examples.order_processing.app import app
from examples.order_processing.entities import Confirmation, Order
from perdure.entities import AlreadyStarted, InvalidArguments, WorkflowFailed, publish
from perdure.entities.testing import Fake, PerdureTest, Point, crash_everywhere, fails, fake

from .client import client_of

CART = Cart(customer="ada", email="ada@example.org", items={"lamp": 1}, cents=4200)
DONE = Confirmation(order_id="o-1", payment_id="p-1")
STEPS = ["charge_payment", "create_order", "send_confirmation", "update_inventory"]


def fakes(failures: int = 0, *, mail: Any = None) -> list[Fake]:
    return [
        fake(charge_payment, fails(failures, then="p-1")),
        fake(create_order, fails(failures, then="o-1")),
        fake(send_confirmation, mail if mail is not None else fails(failures)),
        fake(update_inventory, fails(failures)),
    ]


def sequence(world: PerdureTest) -> list[str]:
    return [attempt.activity for attempt in world.attempts]


async def test_four_steps_in_a_row() -> None:
    stand_ins = fakes()
    async with PerdureTest([Order], activities=stand_ins) as world:
        assert await Order.ref("a").process(CART) == DONE
        assert sequence(world) == STEPS
        assert stand_ins[1].calls[0].arguments["payment_id"] == "p-1"
        assert await Order.ref("a").at() == "Done"


async def test_each_step_may_fail_twice() -> None:
    async with PerdureTest([Order], activities=fakes(2)) as world:
        start = world.now()
        assert await Order.ref("a").process(CART) == DONE
        assert sequence(world) == [step for step in STEPS for _ in range(3)]
        assert world.now() - start == timedelta(seconds=4 * (1 + 2))


async def test_only_the_mail_is_retried_and_it_is_the_mail_that_fails() -> None:
    stand_ins = fakes(mail=ConnectionError("no mail today"))
    async with PerdureTest([Order], activities=stand_ins) as world:
        with pytest.raises(WorkflowFailed, match="no mail today"):
            await Order.ref("a").process(CART)
        assert sequence(world) == [*STEPS[:2], *[STEPS[2]] * 3]
        assert await Order.ref("a").at() == "Confirming"


async def test_processed_anew_it_is_the_same_payment() -> None:
    payments: list[str] = []

    async def charge(cart: Cart) -> str:
        payments.append(await charge_payment.fn(cart))
        return payments[-1]

    broken = fake(send_confirmation, fails(3))
    async with PerdureTest([Order], activities={charge_payment: charge, send_confirmation: broken}):
        with pytest.raises(WorkflowFailed):
            await Order.ref("a").process(CART)
        broken.behaviour = None
        await Order.ref("a").process.options(restart=True).start(CART)
        await Order.ref("a").process.result()
        assert payments == ["payment-of-a"] * 2


async def test_a_crash_between_charge_and_create_resumes_at_create() -> None:
    async with PerdureTest([Order], activities=fakes()) as world:
        world.fault_at = Point("attempt", 1, "before")
        assert await Order.ref("a").process(CART) == DONE
        assert world.faults == 1
        assert sequence(world) == ["charge_payment", "create_order", "create_order", *STEPS[2:]]


async def test_the_same_cart_is_the_same_order_and_another_one_a_conflict() -> None:
    async with PerdureTest([Order], activities=fakes()) as world:
        assert await Order.ref("a").process(CART) == await Order.ref("a").process(CART) == DONE
        assert len(world.attempts) == 4
        with pytest.raises(AlreadyStarted):
            await Order.ref("a").process(CART.model_copy(update={"cents": 1}))


async def test_in_the_graph_a_step_begins_when_its_parents_have_ended() -> None:
    stand_ins = fakes(mail=fails(2))
    async with PerdureTest([Order], activities=stand_ins) as world:
        assert await Order.ref("a").process_as_graph(CART) == DONE
        assert sequence(world)[0] == "charge_payment"
        assert set(sequence(world)[1:3]) == {"create_order", "update_inventory"}  # side by side
        assert sequence(world)[3:] == ["send_confirmation"] * 3


EVENT = CART.model_dump() | {"order_id": "a"}


async def test_the_event_starts_the_order_once() -> None:
    async with PerdureTest([Order], activities=fakes(1)) as world:
        for _ in range(2):
            assert await publish("order:create", EVENT, idempotency_key="a") == 1
        assert await Order.ref("a").process.result() == DONE
        assert sequence(world) == [step for step in STEPS for _ in range(2)]
        assert await publish("order:create", EVENT) == 1  # another event of the same order, long after
        await world.settled()
        assert len(world.attempts) == 8


async def test_an_event_without_a_cart_is_refused_and_starts_nothing() -> None:
    async with PerdureTest([Order], activities=fakes()) as world:
        with pytest.raises(InvalidArguments, match="order:create"):
            await publish("order:create", {"order_id": "a"})
        with pytest.raises(InvalidArguments, match="key function"):
            await publish("order:create", CART)
        await world.settled()
        assert not world.attempts
        assert await Order.ref("a").at() == "New"


async def test_over_http() -> None:
    async with PerdureTest([Order], activities=fakes()) as world, client_of(app) as http:
        for _ in range(2):
            assert (await http.put("/orders/a", json=CART.model_dump())).json() == DONE.model_dump()
        assert len(world.attempts) == 4
        await http.post("/orders/b/process_as_graph/start", json={"cart": CART.model_dump()})
        assert (await http.get("/orders/b/process_as_graph/result")).json() == DONE.model_dump()
        for _ in range(2):
            assert (await http.post("/events/order:create", json=EVENT | {"order_id": "c"})).json() == 1
        assert (await http.get("/orders/c/process/result")).json() == DONE.model_dump()
        assert len(world.attempts) == 12


@pytest.mark.parametrize("form", ["process", "process_as_graph", "event"])
@pytest.mark.parametrize("evict", [False, True])
async def test_crash_at_every_point(form: str, evict: bool) -> None:
    async def story(world: PerdureTest) -> Confirmation:
        order = Order.ref("a")
        if form == "event":
            await publish("order:create", EVENT)
            await world.settled()
            return await order.process.result()
        return await (order.process if form == "process" else order.process_as_graph)(CART)

    report = await crash_everywhere(lambda: PerdureTest([Order], activities=fakes(1), evict=evict), story)
    assert report.attempts == 8
