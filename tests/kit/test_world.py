"""The test world: virtual time, repeatable order, checks that need no assertion, and what it says when it is stuck."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from perdure.entities import (
    ActivityTimeout,
    CallTimeout,
    Entity,
    Mailbox,
    NotConnected,
    WorkflowFailed,
    query,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import NotRepeatable, PerdureTest, Stuck, UntimelyEffect, fails, fake, in_turn
from perdure.entities.testing import world as world_module

from .shop import YEAR, Clock, Echo, Gambler, Order, Patient, charge, cook, dawdle, notify

FAKES = {charge: "pay-1", notify: None}


async def test_years_pass_in_milliseconds() -> None:
    began = time.monotonic()
    async with PerdureTest([Order], activities=FAKES) as world:
        start = world.now()
        assert await Order.ref("o").run(5) == "forgotten"
        assert world.now() - start == YEAR
        assert await world.advance(days=10 * 365) == start + 11 * YEAR
    assert time.monotonic() - began < 60
    await asyncio.wait_for(asyncio.sleep(0.01), 5)  # the loop has its own time back
    assert abs(asyncio.get_running_loop().time() - time.monotonic()) < 1


async def test_time_stands_still_while_anything_can_run() -> None:
    async with PerdureTest([Order], activities=FAKES) as world:
        order = Order.ref("o")
        await order.run.start(5)
        await world.settled()
        assert await order.state() == "paid with pay-1"
        await order.fetch()
        assert await order.run.result() == "fetched"
        assert world.now() == datetime(2030, 1, 1, tzinfo=UTC)


async def test_retries_wait_in_virtual_time() -> None:
    charging = fake(charge, fails(4, then="pay-1"))
    async with PerdureTest([Order], activities=[charging, fake(notify)]) as world:
        await Order.ref("o").run(5)
        start = charging.calls[0].at
        assert [round((call.at - start).total_seconds()) for call in charging.calls] == [0, 1, 3, 7, 15]
        assert [call.attempt for call in charging.calls] == [1, 2, 3, 4, 5]
        assert len({call.idempotency_key for call in charging.calls}) == 1
        assert sum(world.effects().values()) == 2


async def test_reminders_fire_to_the_microsecond() -> None:
    async with PerdureTest([Clock]) as world:
        start = world.now()
        await Clock.ref("c").begin()
        await world.advance(days=100)
        ticks = world.states()["Clock/c"]["ticks"]
        assert [datetime.fromisoformat(tick) - start for tick in ticks] == [timedelta(days=n) for n in range(1, 101)]


async def test_an_activity_in_a_thread_stops_the_clock() -> None:
    async with PerdureTest([Order]) as world:
        before = world.now()
        assert (await Order.ref("o").cooked()).startswith("soup by perdure-activity")
        assert world.now() == before
        assert [attempt.activity for attempt in world.attempts] == ["cook"]


async def test_time_limits_of_activities_are_virtual() -> None:
    async with PerdureTest([Order]) as world:
        before = world.now()
        with pytest.raises(WorkflowFailed) as failed:
            await Order.ref("o").slow()
        assert isinstance(failed.value.__cause__, ActivityTimeout)
        assert world.now() - before == timedelta(seconds=30 + 1 + 30)
        assert [attempt.activity for attempt in world.attempts] == [dawdle.name] * 2


async def test_a_clients_time_limit_is_virtual() -> None:
    async with PerdureTest([Patient]) as world:
        before = world.now()
        await Patient.ref("p").run.start()
        with pytest.raises(CallTimeout):
            await Patient.ref("p").run.result(timeout=timedelta(days=3))
        assert world.now() - before == timedelta(days=3)


@pytest.mark.parametrize("evict", [False, True])
async def test_the_same_seed_is_the_same_world(evict: bool) -> None:
    async def play() -> list[object]:
        async with PerdureTest([Order, Patient], activities=FAKES, seed=7, evict=evict, hosts=2) as world:
            runs = [await Order.ref(f"o-{n}").run.start(n) for n in range(5)]
            await asyncio.gather(*(Order.ref(f"o-{n}").fetch() for n in (3, 1, 4)))
            results = await asyncio.gather(*(Order.ref(f"o-{n}").run.result() for n in range(5)))
            return [runs, results, world.attempts, world.commits, world.now()]

    assert await play() == await play()


async def test_a_wait_without_end_fails_and_says_who_waits_for_what() -> None:
    async with PerdureTest([Order, Patient], activities=FAKES) as world:
        with pytest.raises(Stuck) as stuck:
            await Patient.ref("p").run()
        assert "Patient/p.run waits for receive answer" in str(stuck.value)
        assert "a client waits for Patient/p.run (result)" in str(stuck.value)
        await Patient.ref("p").answer.send("late")  # the world goes on
        assert await Patient.ref("p").run.result() == "late"
        assert world.faults == 0


def test_a_test_that_waits_for_nothing_is_ended() -> None:
    async def wait_for_ever() -> None:
        async with PerdureTest([Patient]):
            await asyncio.Event().wait()

    with pytest.raises(Stuck, match="No workflow is running"):
        asyncio.run(wait_for_ever())


@pytest.mark.unfit("poll", reason="between two looks time passes")
async def test_a_loop_without_end_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "SPIN_MAX", 200)

    async def shout() -> None:
        async with PerdureTest([Echo, Patient]) as world:
            await Echo.ref("e").shout.send()
            await world.settled()

    with pytest.raises(Stuck, match="200 commits without any time passing"):
        await shout()


class Diary(Entity):
    lines: list[str] = []
    line = Mailbox(str)

    @workflow
    async def run(self) -> list[str]:
        while len(self.lines) < 6:
            line = await self.line.receive()
            self.lines.append(line)
        return self.lines


async def test_what_is_noted_for_people_is_no_other_outcome() -> None:
    """That a journal is long, or that an operator has paused the run."""
    diary, settings = Diary.ref("d"), EngineSettings(journal_warn_entries=2)
    async with PerdureTest([Diary], settings=settings) as world:
        for line in "abcd":
            await diary.line.send(line)
        await asyncio.gather(diary.run.start(), diary.run.pause(reason="let me see", operator="ann"))
        await world.settled()
        await diary.run.resume()
        for line in "ef":
            await diary.line.send(line)
        assert await diary.run.result() == list("abcdef")


@pytest.mark.unfit("replay", reason="its code is wrong on purpose")
async def test_code_that_is_not_repeatable_is_found_with_its_line() -> None:
    with pytest.raises(NotRepeatable) as found:
        async with PerdureTest([Gambler], activities=FAKES):
            await Gambler.ref("g").run()
    assert "Gambler/g.run is not repeatable: journal entry" in str(found.value)
    assert "shop.py:" in str(found.value)


async def test_an_effect_after_its_commit_is_found() -> None:
    async with PerdureTest([Order], activities={charge: fails(1, then="pay-1"), notify: None}) as world:
        run = await Order.ref("o").run.start(5)
        world._memory.settled.add(f"Order/o/run/{run}/0")
        with pytest.raises(UntimelyEffect, match=r"activity charge .* began after its result had been committed"):
            await Order.ref("o").run.result()
        world._failure = None


async def test_a_crash_loses_nothing() -> None:
    async with PerdureTest([Order], activities=FAKES, hosts=2) as world:
        order = Order.ref("o")
        await order.run.start(5)
        for _ in range(3):
            await world.crash()
            await world.advance(days=30)
        await order.fetch()
        assert await order.run.result() == "fetched"
        assert sum(world.effects().values()) == 2


async def test_while_everything_is_down_callers_wait_and_time_passes() -> None:
    async with PerdureTest([Patient]) as world:
        await Patient.ref("p").run.start()
        async with world.outage():
            answer = asyncio.create_task(Patient.ref("p").answer.send("from outside"))
            await world.advance(days=2)
            assert not answer.done()
        await answer
        assert await Patient.ref("p").run.result() == "from outside"


async def test_what_came_due_while_everything_was_down_happens_after() -> None:
    async with PerdureTest([Order], activities=FAKES) as world:
        await Order.ref("o").run.start(5)
        await world.settled()
        async with world.outage():
            await world.advance(YEAR * 2)
        assert await Order.ref("o").run.result() == "forgotten"


async def test_a_restart_brings_other_code() -> None:
    class NewOrder(Entity, name="Order"):
        status: str = ""

        @query
        async def state(self) -> str:
            return self.status.upper()

    async with PerdureTest([Order]) as world:
        await Order.ref("o").fetch()
        await world.restart([NewOrder])
        assert await Order.ref("o").state() == "FETCHED"


async def test_one_world_at_a_time() -> None:
    async with PerdureTest([Order]):
        with pytest.raises(RuntimeError, match="one at a time"):
            async with PerdureTest([Order]):
                pass
    with pytest.raises(NotConnected):
        await Order.ref("o").state()


async def test_a_list_of_behaviours_and_real_functions_go_together() -> None:
    charging = fake(charge, in_turn(ConnectionError("down"), "first", "second"))
    async with PerdureTest([Order], activities={charge: charging, notify: lambda text: None}) as world:
        for key in ("a", "b"):
            await Order.ref(key).run.start(1)
            await world.advance(seconds=5)
            assert await Order.ref(key).cooked()
        assert [await Order.ref(key).state() for key in ("a", "b")] == ["paid with first", "paid with second"]
        assert [attempt.activity for attempt in world.attempts].count(cook.name) == 2
