"""Story 1, food delivery, on virtual time: the rules of time, and a crash at every point of each way it can end."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from examples.food_delivery.activities import CardDeclined, charge_customer, refund, send_push_notification
from examples.food_delivery.entities import Board, Customer, Order
from perdure.entities import WorkflowFailed
from perdure.entities.testing import Fake, PerdureTest, crash_everywhere, fails, fake


def fakes(charge: Any = "pay-1") -> list[Fake]:
    return [
        fake(charge_customer, fails(1, ConnectionError("temporarily unavailable"), then=charge)),
        fake(refund),
        fake(send_push_notification, fails(1)),
    ]


def kitchen(stand_ins: list[Fake]) -> PerdureTest:
    return PerdureTest([Order, Customer, Board], activities=stand_ins)


async def delivered(world: PerdureTest) -> str:
    order = Order.ref("o")
    await order.run.start(1, "ada")
    await world.advance(seconds=20)
    await order.pick_up()
    await world.advance(seconds=20)
    await order.deliver()
    return await outcome()


async def never_picked_up(world: PerdureTest) -> str:
    await Order.ref("o").run.start(1, "ada")
    return await outcome()


async def never_delivered(world: PerdureTest) -> str:
    await Order.ref("o").run.start(1, "ada")
    await world.advance(seconds=20)
    await Order.ref("o").pick_up()
    return await outcome()


async def outcome() -> str:
    try:
        await Order.ref("o").run.result()
    except WorkflowFailed as failed:
        return str(failed.__cause__ or failed)
    return (await Order.ref("o").state()).status


async def test_not_picked_up_within_a_minute_is_refunded() -> None:
    stand_ins = fakes()
    async with kitchen(stand_ins) as world:
        assert "not picked up in time" in await never_picked_up(world)
        paid, refunded = stand_ins[0].calls[-1].at, stand_ins[1].calls[0].at
        assert refunded - paid == timedelta(minutes=1)
        assert (await Order.ref("o").state()).status == "Refunding"
        assert await Board.ref("main").open_orders() == []


async def test_a_minute_after_delivery_the_rating_is_asked_for() -> None:
    stand_ins = fakes()
    async with kitchen(stand_ins) as world:
        assert await delivered(world) == "Delivered"
        texts = [call.arguments["text"] for call in stand_ins[2].calls if call.attempt == 2]
        assert [text.split()[0] for text in texts] == ["Your", "Rate"]
        assert (await Customer.ref("ada").account()).meals == 1


@pytest.mark.parametrize(
    ("scenario", "charge"),
    [
        (delivered, "pay-1"),
        (never_picked_up, "pay-1"),
        (never_delivered, "pay-1"),
        (never_picked_up, CardDeclined("card declined")),
    ],
    ids=["delivered", "not picked up", "not delivered", "declined"],
)
async def test_crash_at_every_point(scenario: Callable[[PerdureTest], Awaitable[str]], charge: Any) -> None:
    report = await crash_everywhere(lambda: kitchen(fakes(charge)), scenario)
    assert report.points > 15
