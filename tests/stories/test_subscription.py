"""Story 3, subscription: every way in which it ends. Ten years of it: `test_subscription_years.py`."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from examples.subscription.activities import Receipt, bill, is_paying, send_trial_expired
from examples.subscription.app import app
from examples.subscription.entities import Status, Subscription
from perdure.entities import WorkflowFailed
from perdure.entities.testing import Fake, PerdureTest, crash_everywhere, fails, fake

from .client import client_of

PAID = Receipt(number="r")


def fakes(**behaviours: Any) -> list[Fake]:
    return [
        fake(is_paying, behaviours.get("is_paying", True)),
        fake(send_trial_expired, behaviours.get("send_trial_expired")),
        fake(bill, behaviours.get("bill", fails(1, then=PAID))),
    ]


async def test_who_does_not_pay_gets_a_mail_after_the_trial() -> None:
    stand_ins = fakes(is_paying=False, send_trial_expired=fails(3))
    async with PerdureTest([Subscription], activities=stand_ins) as world:
        start = world.now()
        assert await Subscription.ref("ada").run() == "Trial expired"
        assert stand_ins[0].calls[0].at - start == timedelta(days=14)
        assert len(stand_ins[1].results) == 1
        assert not stand_ins[2].calls


@pytest.mark.parametrize("days", [0, 13, 15, 43, 45, 100])
async def test_cancelled_in_the_middle_of_a_sleep(days: int) -> None:
    stand_ins = fakes()
    async with PerdureTest([Subscription], activities=stand_ins) as world:
        await Subscription.ref("ada").run.start()
        await world.advance(days=days)
        at = world.now()
        await Subscription.ref("ada").cancel()
        assert await Subscription.ref("ada").run.result() == "Cancelled"
        assert world.now() == at
        assert len(stand_ins[2].results) == max(0, (days - 14) // 30)


async def test_the_bank_says_cancelled() -> None:
    def at_the_third(customer: str, number: int, cents: int) -> Receipt:
        return Receipt(number="r", is_cancelled=len(bills.results) == 2)

    stand_ins = fakes(bill=at_the_third)
    bills = stand_ins[2]
    async with PerdureTest([Subscription], activities=stand_ins):
        assert await Subscription.ref("ada").run() == "Cancelled"
        assert (await Subscription.ref("ada").state()).billings == 2


async def test_ten_attempts_and_no_more() -> None:
    stand_ins = fakes(bill=ConnectionError("the bank is closed"))
    async with PerdureTest([Subscription], activities=stand_ins):
        with pytest.raises(WorkflowFailed, match="the bank is closed"):
            await Subscription.ref("ada").run()
        assert [call.attempt for call in stand_ins[2].calls] == list(range(1, 11))
        assert (await Subscription.ref("ada").state()).status == "Active"


async def test_a_bill_that_is_due_during_an_outage_is_sent_once_after_it() -> None:
    stand_ins = fakes()
    async with PerdureTest([Subscription], activities=stand_ins) as world:
        await Subscription.ref("ada").run.start()
        await world.advance(days=40)
        async with world.outage():
            await world.advance(days=20)
        await world.advance(minutes=1)
        assert len(stand_ins[2].results) == 1
        await world.advance(days=31)
        assert len(stand_ins[2].results) == 2


async def test_over_http() -> None:
    async with PerdureTest([Subscription], activities=fakes()) as world, client_of(app) as http:
        assert (await http.put("/subscriptions/ada", json={})).json()["status"] == "Trial"
        await world.advance(days=50)
        assert (await http.get("/subscriptions/ada/state")).json()["billings"] == 1
        waiting = asyncio.create_task(http.get("/subscriptions/ada/run/result"))
        await world.settled()
        await http.delete("/subscriptions/ada")
        assert (await waiting).json() == "Cancelled"


@pytest.mark.parametrize("paying", [True, False])
async def test_crash_at_every_point(paying: bool) -> None:
    async def story(world: PerdureTest) -> Status:
        ada = Subscription.ref("ada")
        await ada.run.start()
        if paying:
            await world.advance(days=80)
            await ada.cancel()
        return await ada.run.result()

    report = await crash_everywhere(
        lambda: PerdureTest([Subscription], activities=fakes(is_paying=paying), hosts=2), story
    )
    assert report.attempts == (5 if paying else 2)
