"""A subscription of ten years on virtual time: three releases, a migration of its state, more than fifty restarts.

P7: a period is billed once, whatever crashes and whatever is released. P9: a release that does not fit executes
nothing, says why, and the right one goes on.
"""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from examples.subscription import entities as first
from examples.subscription import second, third, wrong
from examples.subscription.activities import Receipt, announce, bill, is_paying, send_thanks
from examples.subscription.entities import Plan
from perdure.entities import Entity, EntityParked, RunParked
from perdure.entities.testing import Fake, PerdureTest, fails, fake

LEG = timedelta(days=73)
"""Between two restarts; five make a year."""
LEGS = 51
SECOND_AT, THIRD_AT = 17, 34
"""After so many legs: in the fourth and in the seventh year, in the middle of a journal."""
MONTH = timedelta(days=30)
WHILE_WRONG = timedelta(days=40)
"""So long a wrong release is there: a bill falls due meanwhile."""
NEVER = 1_000
"""Bills until the journal begins anew."""
RECEIPT = Receipt(number="r")


def year_stand_ins() -> list[Fake]:
    return [
        fake(is_paying, True),
        fake(bill, fails(1, then=RECEIPT)),
        fake(send_thanks),
        fake(announce),
    ]


def done(stand_in: Fake, customer: str) -> dict[int, datetime]:
    """When each numbered thing was first tried for the customer, in order. Fails if one has two idempotency keys."""
    times: dict[int, datetime] = {}
    keys: dict[int, str] = {}
    for call in stand_in.calls:
        arguments = dict(call.arguments)
        if arguments.pop("customer") == customer:
            number = next(iter(arguments.values()))
            times.setdefault(number, call.at)
            assert keys.setdefault(number, call.idempotency_key) == call.idempotency_key, f"{customer} {number}: twice"
    assert set(keys.values()) <= set(stand_in.results), "what was begun was done"
    return times


async def pass_legs(world: PerdureTest, legs: int, releases: dict[int, type[Entity]]) -> None:
    """Years go by; after every leg everything is stopped in order, or dies, and is there again."""
    for leg in range(1, legs + 1):
        await world.advance(LEG)
        if leg in releases:
            await world.restart([releases[leg]])
        elif leg % 2:
            await world.restart()
        else:
            await world.crash()


async def test_ten_years_with_restarts_releases_and_a_migration() -> None:
    _, bills, thanks, announced = stand_ins = year_stand_ins()
    async with PerdureTest([first.Subscription], activities=stand_ins, check_resumes=False) as world:
        ada = first.Subscription.ref("ada")
        began = world.now()
        await ada.run.start()
        await pass_legs(world, LEGS, {SECOND_AT: second.Subscription, THIRD_AT: third.Subscription})
        assert world.now() - began >= timedelta(days=3650)
        at = world.now()
        await ada.cancel()
        assert await ada.run.result() == "Cancelled"
        assert world.now() == at, "in the middle of a sleep"
        await world.advance(LEG)

        times = done(bills, "ada")
        assert list(times) == list(range(1, len(times) + 1)), "every period, none twice"
        assert len(times) == len(bills.results) >= 120
        assert times[1] - began == timedelta(days=14) + MONTH
        assert all(MONTH <= b - a < MONTH + timedelta(minutes=1) for a, b in pairwise(times.values()))
        state = world.states()["Subscription/ada"]
        assert "billings" not in state
        assert state["paid"] == {"bills": len(times), "last": RECEIPT.model_dump()}
        assert (await ada.state()).billings == len(times)
        # The releases came at the bills 40 and 82. What they bring reaches the loop where its journal begins anew.
        assert list(done(thanks, "ada")) == [5, 6, 7, 8, 9, 10]
        assert list(done(announced, "ada")) == list(range(97, len(times) + 1))


async def test_a_journal_that_both_releases_find_keeps_the_old_branches() -> None:
    _, bills, thanks, announced = stand_ins = year_stand_ins()
    async with PerdureTest([first.Subscription], activities=stand_ins) as world:
        ada, bob = first.Subscription.ref("ada"), first.Subscription.ref("bob")
        await ada.run.start(Plan(bills_per_journal=NEVER))
        await pass_legs(world, 3, {3: second.Subscription})
        await bob.run.start(Plan(bills_per_journal=NEVER))
        await pass_legs(world, 6, {6: third.Subscription})
        await pass_legs(world, 3, {})
        assert list(done(bills, "ada")) == list(range(1, (await ada.state()).billings + 1)) == list(range(1, 29))
        assert list(done(bills, "bob")) == list(range(1, (await bob.state()).billings + 1)) == list(range(1, 22))
        assert (list(done(thanks, "ada")), list(done(thanks, "bob"))) == ([], [1]), "bob began under the second"
        assert not announced.calls


async def test_a_wrong_release_executes_nothing_and_the_right_one_goes_on() -> None:
    _, bills, _, announced = stand_ins = year_stand_ins()
    async with PerdureTest([second.Subscription], activities=stand_ins) as world:
        ada, eve = second.Subscription.ref("ada"), second.Subscription.ref("eve")
        for subscription in (ada, eve):
            await subscription.run.start()
        await world.advance(days=14 + 95)
        attempts = len(world.attempts)
        await world.restart([wrong.Subscription])
        await world.advance(WHILE_WRONG)  # the fourth bill falls due
        assert len(world.attempts) == attempts, "nothing is executed"
        for subscription in (ada, eve):
            with pytest.raises(RunParked, match=r"recorded #\d+ activity bill.*activity announce"):
                await subscription.run.result()
        assert (await ada.state()).billings == 3, "queries answer, and the state is of version 2"
        await eve.cancel()

        await world.restart([third.Subscription])
        assert await eve.run.result() == "Cancelled", "what a handler did meanwhile is seen"
        await world.advance(minutes=1)
        assert list(done(bills, "ada")) == [1, 2, 3, 4]
        assert list(done(bills, "eve")) == [1, 2, 3]
        assert not announced.calls, "the branch of a run that lived before is the old one"
        await world.advance(days=31)
        assert (await ada.state()).billings == 5


async def test_code_older_than_the_state_refuses_and_changes_nothing() -> None:
    stand_ins = year_stand_ins()
    async with PerdureTest([third.Subscription], activities=stand_ins) as world:
        ada = third.Subscription.ref("ada")
        await ada.run.start()
        await world.advance(days=14 + 65)
        before = world.states()
        await world.restart([second.Subscription])
        with pytest.raises(EntityParked, match="Subscription/ada: its state was written by schema version 2"):
            await ada.state()
        await world.advance(days=40)
        assert world.states() == before
        await world.restart([third.Subscription])
        await world.advance(minutes=1)
        assert (await ada.state()).billings == len(stand_ins[1].results) == 3, "the bill that was due is sent at once"
