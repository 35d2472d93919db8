"""P6: a reminder never fires early, fires at least once when due, once per occurrence, never after its cancellation."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Literal

import pytest

from perdure.entities import Entity, RetryPolicy, cancel_reminder, handler, now, query, remind
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Account, Refused, world
from .senders import Sender
from .waiting import becomes, eventually

MS = 1_000


class Alarm(Entity):
    rung: list[str] = []
    rung_us: list[int] = []
    due_us: int = 0

    @handler
    async def set(
        self, name: str, after_ms: int, every_ms: int = 0, catch_up: Literal["one", "all"] = "one", text: str = "ring"
    ) -> None:
        self.due_us = round(now().timestamp() * 1e6) + after_ms * MS
        remind(
            self.ring,
            after=timedelta(milliseconds=after_ms),
            every=timedelta(milliseconds=every_ms) if every_ms else None,
            name=name,
            arguments={"text": text},
            catch_up=catch_up,
        )

    @handler
    async def set_at_now(self) -> None:
        remind(self.ring, at=now(), arguments={"text": "at"})

    @handler
    async def set_and_fail(self) -> None:
        remind(self.ring, after=0, arguments={"text": "leaked"})
        raise Refused("no")

    @handler
    async def cancel(self, name: str) -> None:
        cancel_reminder(name)

    @handler
    async def wait(self) -> None:
        await world.gate.wait()

    @handler
    async def ring(self, text: str) -> None:
        world.ran[text] += 1
        self.rung.append(text)
        self.rung_us.append(round(now().timestamp() * 1e6))

    @handler
    async def set_three_times(self) -> None:
        async def ring_once_more() -> None:
            remind(self.ring_and_stop, every=timedelta(milliseconds=10), name="thrice")

        await ring_once_more()

    @handler
    async def ring_and_stop(self) -> None:
        self.rung.append("beat")
        if len(self.rung) == 3:
            cancel_reminder("thrice")

    @handler(retry=RetryPolicy(initial=timedelta(milliseconds=2), attempts=2))
    async def ring_badly(self) -> None:
        world.fail("bad ring")
        self.rung.append("late")

    @handler
    async def set_badly(self) -> None:
        remind(self.ring_badly, every=timedelta(milliseconds=10), name="bad")

    @query
    async def rings(self) -> list[str]:
        return self.rung

    @query
    async def times(self) -> tuple[int, list[int]]:
        return self.due_us, self.rung_us


A = Alarm.ref("a")


@pytest.fixture
async def alarms(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Alarm], store=store, settings=QUICK) as cluster:
        yield cluster


async def ring_count() -> int:
    return len(await A.rings())


async def test_it_fires_once_after_the_time_and_never_early(alarms: LocalCluster, store: FaultyStore) -> None:
    await A.set("r", 20)
    assert [row.name for row in store.reminder_rows()] == ["r"]
    await becomes(A.rings, ["ring"])
    due_us, (rung_us,) = await A.times()
    assert due_us <= rung_us < due_us + 500 * MS
    assert store.reminder_rows() == []


@pytest.mark.unfit("timers", reason="it hands out two reminders at once")
async def test_what_was_handed_out_does_not_fire_after_its_cancellation_or_replacement(
    alarms: LocalCluster, store: FaultyStore
) -> None:
    """It is due and waits for its turn, behind the turns that cancel and replace it."""
    await A.set("r", 200)
    await A.set("s", 200, text="old")
    waiting = asyncio.gather(A.wait(), A.cancel("r"), A.set("s", 3_600_000, text="new"))
    await eventually(lambda: alarms.engines[0].wheel.handed_out == 2)
    world.gate.set()
    await waiting
    await eventually(lambda: alarms.engines[0].wheel.handed_out == 0)
    await A.set("t", 1, text="later")
    await becomes(A.rings, ["later"])
    assert [row.name for row in store.reminder_rows()] == ["s"]


async def test_it_is_the_database_that_says_what_is_due() -> None:
    """The host's clock is an hour ahead of it."""
    store = FaultyStore(now_us=lambda: time.time_ns() // 1_000 - 3_600_000_000)
    async with LocalCluster([Alarm], store=store, settings=QUICK):
        await A.set("r", 20)
        ((_, due_us),) = [(row.name, row.due_us) for row in store.reminder_rows()]
        await becomes(A.rings, ["ring"])
        assert due_us <= await store.clock_us() < due_us + 60_000_000


async def test_times_are_precise_for_many(alarms: LocalCluster) -> None:
    await asyncio.gather(*(Alarm.ref(f"m{number}").set("r", 10 + number % 7) for number in range(200)))
    await eventually(lambda: world.ran["ring"] == 200)
    for number in range(200):
        due_us, rung = await Alarm.ref(f"m{number}").times()
        assert len(rung) == 1
        assert rung[0] >= due_us


async def test_at_a_moment_that_has_come_it_fires_at_once(alarms: LocalCluster) -> None:
    await A.set_at_now()
    await becomes(A.rings, ["at"])


async def test_a_failed_turn_sets_none(alarms: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(Exception, match="no"):
        await A.set_and_fail()
    assert store.reminder_rows() == []
    assert await A.rings() == []


async def test_the_same_name_replaces(alarms: LocalCluster) -> None:
    await A.set("r", 10, text="first")
    await A.set("r", 30, text="second")
    await A.set("other", 40, text="other")
    await becomes(A.rings, ["second", "other"])


async def test_replacing_by_an_earlier_time_fires_earlier(alarms: LocalCluster) -> None:
    await A.set("r", 60_000, text="first")
    await A.set("r", 5, text="second")
    await becomes(A.rings, ["second"])


async def test_a_cancelled_one_never_fires(alarms: LocalCluster, store: FaultyStore) -> None:
    await A.set("r", 150)
    await A.set("marker", 300, text="marker")
    await A.cancel("r")
    await A.cancel("unknown")
    await becomes(A.rings, ["marker"])
    assert world.ran["ring"] == 0


async def test_cancelling_and_firing_race_to_one_outcome(alarms: LocalCluster, store: FaultyStore) -> None:
    """By the versions of their turns: a query after the cancellation would not notice a ring right behind it."""
    for number in range(30):
        alarm = Alarm.ref(f"race-{number}")
        await alarm.set("r", 2, text=f"r{number}")
        await asyncio.sleep(number / 10_000)
        await alarm.cancel("r")
        await alarm.set("marker", 3, text="marker")
        await eventually(lambda: not store.reminder_rows())
        turns = [(row.version, row.name) for row in store.history(f"Alarm/race-{number}")]
        [cancelled] = [version for version, name in turns if name == "cancel"]
        rings = [version for version, name in turns if name == "ring"]
        assert len(rings) in (1, 2), "the marker, and perhaps the one that was faster"
        assert [version for version in rings[:-1] if version > cancelled] == []
        assert await alarm.rings() == [f"r{number}", "marker"][-len(rings) :]


async def test_a_recurring_one_keeps_its_grid(alarms: LocalCluster) -> None:
    await A.set("r", 10, every_ms=10)
    await eventually(lambda: world.ran["ring"] >= 5)
    await A.cancel("r")
    due_us, rung = await A.times()
    count = len(rung)
    for one in rung:
        assert one >= due_us
    steps = {(one - due_us) // (10 * MS) for one in rung}
    assert len(steps) == count, "no occurrence twice"
    await A.set("marker", 30, text="marker")
    await eventually(lambda: world.ran["marker"])
    assert await ring_count() == count + 1


async def test_a_recurring_one_can_cancel_itself(alarms: LocalCluster, store: FaultyStore) -> None:
    await A.set_three_times()
    await becomes(A.rings, ["beat"] * 3)
    await A.set("marker", 30, text="marker")
    await becomes(A.rings, [*["beat"] * 3, "marker"])
    assert store.reminder_rows() == []


@pytest.mark.parametrize(("catch_up", "expected"), [("one", 1), ("all", 6)])
async def test_catching_up_after_downtime(store: FaultyStore, catch_up: Literal["one", "all"], expected: int) -> None:
    """Down while six occurrences were due: one firing, or every one."""
    async with LocalCluster([Alarm], store=store, settings=QUICK):
        await A.set("r", 100, every_ms=1_000_000, catch_up=catch_up)
    entity = store.reminder_rows()[0].entity
    row = store._entities[entity].reminders["r"]
    past_us = time.time_ns() // 1_000 - 5_550 * MS
    store._entities[entity].reminders["r"] = row._replace(due_us=past_us, every_us=1_100 * MS)
    async with LocalCluster([Alarm], store=store, settings=QUICK):
        await eventually(lambda: world.ran["ring"] >= expected)
        await A.set("marker", 20, text="marker")
        await eventually(lambda: world.ran["marker"])
        assert world.ran["ring"] == expected
        (following,) = store.reminder_rows()
        assert following.due_us > time.time_ns() // 1_000 - 100 * MS
        assert (following.due_us - past_us) % following.every_us == 0


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_a_failed_commit_fires_it_once(alarms: LocalCluster, store: FaultyStore, fault: Fault) -> None:
    await A.set("r", 10)
    store.faults.append(fault)
    await becomes(A.rings, ["ring"])
    await A.set("marker", 20, text="marker")
    await becomes(A.rings, ["ring", "marker"])
    assert [row.name for row in store.history("Alarm/a") if row.name == "ring"] == ["ring", "ring"]


async def test_it_survives_a_crash(alarms: LocalCluster) -> None:
    await A.set("r", 30)
    await alarms.crash()
    assert await A.rings() == []
    await becomes(A.rings, ["ring"])


async def test_it_fires_for_an_entity_that_sleeps_after_everything_was_down(store: FaultyStore) -> None:
    async with LocalCluster([Alarm], store=store, settings=QUICK):
        await A.set("r", 20)
    await asyncio.sleep(0.03)
    async with LocalCluster([Alarm], store=store, settings=QUICK):
        await eventually(lambda: world.ran["ring"] == 1)
        assert await A.rings() == ["ring"]


async def test_beyond_the_window_in_memory_it_is_read_in_time(store: FaultyStore) -> None:
    settings = EngineSettings(timer_window_s=0.02, timer_batch=5)
    async with LocalCluster([Alarm], store=store, settings=settings) as cluster:
        for number in range(40):
            await Alarm.ref(f"w{number}").set("r", 60 + number)
        assert cluster.engines[0].stats()["reminders_loaded"] < 40
        await eventually(lambda: world.ran["ring"] == 40)


async def test_one_that_is_set_while_the_window_is_read_is_in_time(store: FaultyStore) -> None:
    store.read_pause_s = 0.1
    async with LocalCluster([Alarm], store=store, settings=QUICK):
        began = time.monotonic()
        await A.set("r", 20)
        await eventually(lambda: world.ran["ring"] == 1)
        assert time.monotonic() - began < 15  # half the window: it was not forgotten until the next one


async def test_a_failing_handler_is_retried_then_dead_lettered_and_the_next_occurrence_comes(
    alarms: LocalCluster, store: FaultyStore
) -> None:
    world.failures = 3
    await A.set_badly()
    await eventually(lambda: world.ran["bad ring"] >= 5)
    await A.cancel("bad")
    assert (await A.rings())[:1] == ["late"]
    assert [letter.attempts for letter in store.dead_letters] == [2]
    assert "bad" in store.dead_letters[0].envelope.id


async def test_a_delayed_message_comes_once_and_not_early(store: FaultyStore) -> None:
    async with LocalCluster([Account, Sender], store=store, hosts=2, settings=QUICK) as cluster:
        began = time.monotonic()
        await Account.ref("a").note.options(delay=0.03, idempotency_key="k").send("from outside")
        await Account.ref("a").note.options(delay=0.03, idempotency_key="k").send("from outside")
        await Sender.ref("s").send_later("b", 0.03)
        await cluster.crash()
        await becomes(Account.ref("a").notes, ["from outside"])
        assert time.monotonic() - began >= 0.03
        await becomes(Account.ref("b").notes, ["later"])
        await cluster.drained()
        assert store.waiting_messages() == []
        assert store.reminder_rows() == []


async def test_reads_that_fail_only_delay(alarms: LocalCluster, store: FaultyStore) -> None:
    store.read_faults = 6
    await A.set("r", 10)
    await A.set("s", 15)
    await becomes(A.rings, ["ring", "ring"])
