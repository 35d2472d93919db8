"""Crash at every point: tries what it says, and finds code that a crash leads elsewhere."""

import pytest

from perdure.entities import Entity, atomic, handler
from perdure.entities.testing import PerdureTest, crash_everywhere, fails, fake

from .shop import MEMORY, Forgetful, Order, Patient, charge, notify


async def fetch_in_time(world: PerdureTest) -> str:
    await Order.ref("o").run.start(5)
    await world.advance(days=3)
    await Order.ref("o").fetch()
    return await Order.ref("o").run.result()


@pytest.mark.parametrize(("hosts", "evict"), [(1, False), (2, True)])
async def test_every_commit_and_attempt_is_a_point(hosts: int, evict: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> PerdureTest:
        activities = [fake(charge, fails(2, then="pay-1")), fake(notify)]
        return PerdureTest([Order], activities=activities, hosts=hosts, evict=evict)

    report = await crash_everywhere(make, fetch_in_time)
    assert report.attempts == 4
    assert report.points == 2 * (report.commits + report.attempts)
    assert f"crashed at {report.points} points" in capsys.readouterr().out


async def test_what_is_only_in_memory_is_found_missing() -> None:
    def make() -> PerdureTest:
        MEMORY.clear()
        return PerdureTest([Forgetful], activities={charge: "pay-1"}, check_resumes=False)

    async def once(world: PerdureTest) -> None:
        await Forgetful.ref("f").run()

    with pytest.raises(AssertionError, match=r"crash before commit 0: other states: .*'count': 2"):
        await crash_everywhere(make, once)


async def test_an_effect_that_depends_on_the_crash_is_found() -> None:
    def make() -> PerdureTest:
        return PerdureTest([Order, Patient], activities=[fake(charge, "pay-1"), fake(notify)])

    async def once(world: PerdureTest) -> None:
        await Patient.ref("p").answer.send("yes")
        await Order.ref("o").run.start(5 + world.faults)

    with pytest.raises(AssertionError, match=r'crash before commit 0: effects .* not have: .*"cents": 6'):
        await crash_everywhere(make, once)


class Purse(Entity):
    coins: int = 0

    @handler
    async def put(self, coins: int) -> None:
        self.coins += coins


@atomic
async def fill_both(one: Purse, other: Purse) -> None:
    await one.put(1)
    await other.put(2)


async def test_the_commit_of_a_transaction_is_a_point() -> None:
    async def filled_again_and_again(world: PerdureTest) -> None:
        await fill_both(Purse.ref("one"), Purse.ref("other"))
        await fill_both.options(idempotency_key="k")(Purse.ref("one"), Purse.ref("other"))

    def make() -> PerdureTest:
        return PerdureTest([Purse])

    report = await crash_everywhere(make, filled_again_and_again, store_failures=True)
    assert report.points == 2 * 4  # crashed and failed, before and after each

    async def once_more_after_a_crash(world: PerdureTest) -> None:
        await fill_both(Purse.ref("one"), Purse.ref("other"))
        if world.faults:
            await fill_both(Purse.ref("one"), Purse.ref("other"))

    with pytest.raises(AssertionError, match=r"crash before commit 0: other states: .*'coins': 2"):
        await crash_everywhere(make, once_more_after_a_crash)
