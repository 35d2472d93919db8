"""Schedules and cron reminders: each occurrence started once, at its time, as the policies say (P1, P6)."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.entities import (
    AlreadyStarted,
    ApplicationError,
    Conflict,
    DefinitionError,
    Entity,
    InvalidArguments,
    InvalidReminder,
    NoSuchSchedule,
    Registry,
    Schedule,
    ScheduleExists,
    ScheduleSpec,
    UnknownHandler,
    cancel_reminder,
    handler,
    query,
    remind,
    reminder_info,
    schedule,
    uuid4,
    workflow,
)
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import world
from .waiting import becomes, eventually

DAY_US = 86_400_000_000


class MovableStore(FaultyStore):
    """Its clock can be put forward."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_us = 0
        self._now_us = lambda: time.time_ns() // 1_000 + self.ahead_us


class Report(Entity):
    ran: list[str] = []
    gate: bool = False

    @workflow
    async def run(self, day: str = "") -> str:
        world.ran["run"] += 1
        self.ran.append(day)
        if day == "bad":
            raise ApplicationError("no data")
        return day

    @workflow
    async def long(self) -> None:
        world.ran[f"long {uuid4()}"] = 1  # the same in a replay of the same run
        await asyncio.get_running_loop().create_future()

    @handler
    async def note(self, text: str) -> None:
        world.ran["note"] += 1
        self.ran.append(text)

    @handler
    async def set_up(self) -> None:
        await schedule("inside", self.note, every=0.02, arguments={"text": "x"})
        await schedule("other", Report.ref("elsewhere").note, every=3600, arguments={"text": "y"})

    @query
    async def days(self) -> list[str]:
        return self.ran


class Clerk(Entity):
    seen: list[tuple[int, bool]] = []

    @handler
    async def begin(self, cron: str, tz: str, catch_up_all: bool = False) -> None:
        remind(self.tick, cron=cron, tz=tz, name="tick", catch_up="all" if catch_up_all else "one")

    @handler
    async def begin_badly(self, kwargs: dict[str, Any]) -> None:
        remind(self.tick, name="tick", **kwargs)

    @handler
    async def stop(self) -> None:
        cancel_reminder("tick")

    @handler
    async def tick(self) -> None:
        world.ran["tick"] += 1
        info = reminder_info()
        if info is None:
            self.seen.append((-1, False))
            return
        assert info.name == "tick"
        assert info.next_at is not None
        assert info.next_at > info.due_at
        self.seen.append((info.missed, info.due_at.microsecond == 0))

    @query
    async def ticks(self) -> list[tuple[int, bool]]:
        return self.seen


def long_runs() -> int:
    """How many runs of `long` have begun."""
    return sum(what.startswith("long ") for what in world.ran)


@pytest.fixture
def moving() -> MovableStore:
    return MovableStore()


@pytest.fixture
async def cluster(moving: MovableStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Report, Clerk], store=moving, settings=QUICK) as cluster:
        yield cluster


# --- Cron reminders ---------------------------------------------------------------------------------------------------


async def test_a_cron_reminder_fires_on_its_grid_and_goes_on(cluster: LocalCluster, moving: MovableStore) -> None:
    clerk = Clerk.ref("c")
    await clerk.begin("* * * * * *", "Europe/Berlin")
    (row,) = moving.reminder_rows()
    assert row.cron == "* * * * * * Europe/Berlin"
    assert row.due_us % 1_000_000 == 0
    await eventually(lambda: world.ran["tick"] >= 2)
    await clerk.stop()
    assert set(await clerk.ticks()) == {(0, True)}
    await clerk.tick()
    assert (await clerk.ticks())[-1] == (-1, False), "called, not fired"


@pytest.mark.parametrize("catch_up_all", [False, True])
async def test_after_downtime_it_fires_once_with_the_missed_count_or_for_each(
    moving: MovableStore, catch_up_all: bool
) -> None:
    clerk = Clerk.ref("c")
    async with LocalCluster([Clerk], store=moving, settings=QUICK):
        await clerk.begin("0 9 * * *", "Europe/Berlin", catch_up_all=catch_up_all)
    (row,) = moving.reminder_rows()
    moving.ahead_us = row.due_us + 4 * DAY_US + DAY_US // 2 - time.time_ns() // 1_000
    async with LocalCluster([Clerk], store=moving, settings=QUICK):
        expected = [(0, True)] * 5 if catch_up_all else [(4, True)]
        await becomes(clerk.ticks, expected)
        (following,) = moving.reminder_rows()
        assert DAY_US * 9 // 2 < following.due_us - row.due_us < DAY_US * 11 // 2, "the next morning"


@pytest.mark.unfit("retention", reason="it counts rows of the history")
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_a_lost_commit_fires_an_occurrence_once(
    cluster: LocalCluster, moving: MovableStore, fault: Fault
) -> None:
    clerk = Clerk.ref("c")
    await clerk.begin("* * * * * *", "UTC")
    moving.faults.append(fault)
    await eventually(lambda: len([row for row in moving.history("Clerk/c") if row.name == "tick"]) >= 2)
    await clerk.stop()
    ids = [row.message_id for row in moving.history("Clerk/c") if row.name == "tick"]
    assert len(ids) == len(set(ids)) == len(await clerk.ticks())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cron": "0 9 * *"}, "five fields"),
        ({"cron": "0 25 * * *"}, "not a cron expression: Bad hour"),
        ({"cron": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"cron": "0 9 * * *", "tz": "Europe/Berlon"}, "no time zone 'Europe/Berlon'"),
        ({"cron": "0 9 * * *", "tz": "../etc"}, "no time zone"),
        ({"cron": "0 9 * * *", "every": 5}, "`every` or `cron`, not both"),
        ({}, "give one of after, at, every, cron"),
    ],
)
async def test_wrong_cron_reminders_say_what_is_wrong(
    cluster: LocalCluster, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidReminder, match=rf"Clerk/c: reminder tick.*{message}"):
        await Clerk.ref("c").begin_badly(kwargs)


# --- Schedules --------------------------------------------------------------------------------------------------------


async def test_a_schedule_starts_a_run_per_occurrence_with_key_and_arguments_of_its_time(
    cluster: LocalCluster, moving: MovableStore
) -> None:
    nightly = await schedule(
        "nightly", Report.ref("r-{time:%Y-%m-%d}").run, cron="* * * * * *", arguments={"day": "{time:%H:%M:%S}"}
    )
    await eventually(lambda: world.ran["run"] >= 2)
    await nightly.pause("enough")
    while len((about := await nightly.describe()).last) < about.started:
        await asyncio.sleep(0.001)  # the end of a run is told by a message
    key = f"r-{about.last[0].due_at:%Y-%m-%d}"
    assert about.last[0].entity == f"Report/{key}"
    assert {run.status for run in about.last} == {"completed"}
    assert about.started == len(about.last) == world.ran["run"]
    assert (await Report.ref(key).days())[0] == f"{about.last[0].due_at:%H:%M:%S}"
    assert all(run.started_at >= run.due_at for run in about.last), "never early"
    assert (about.is_paused, about.note, about.next) == (True, "enough", [])
    assert moving.reminder_rows() == []


async def test_a_handler_is_sent_to(cluster: LocalCluster) -> None:
    await Report.ref("a").set_up()
    await eventually(lambda: world.ran["note"] >= 3)
    await Schedule.ref("inside").delete()
    with pytest.raises(NoSuchSchedule, match="there is no schedule 'inside'"):
        await Schedule.ref("inside").describe()
    assert {run.status for run in (await Schedule.ref("other").describe()).last} == set()
    assert set(await Report.ref("a").days()) == {"x"}


async def test_every_keeps_its_grid_from_start_to_end(cluster: LocalCluster) -> None:
    start = datetime.now(UTC) + timedelta(milliseconds=40)
    short = await schedule(
        "short", Report.ref("s").note, every=0.02, start_at=start, end_at=start + timedelta(milliseconds=70),
        arguments={"text": "{time}"},
    )  # fmt: skip
    await eventually(lambda: world.ran["note"] >= 4)
    about = await short.describe()
    assert [run.due_at for run in about.last] == [start + timedelta(milliseconds=20 * n) for n in range(4)]
    assert about.next == []


async def test_the_same_schedule_again_changes_nothing_and_another_replaces_it(cluster: LocalCluster) -> None:
    first = await schedule("s", Report.ref("r").run, cron="0 2 * * *", tz="Europe/Berlin")
    before = await first.describe()
    await schedule("s", Report.ref("r").run, cron="0 2 * * *", tz="Europe/Berlin")
    assert await first.describe() == before
    with pytest.raises(ScheduleExists, match="schedule s exists and says something else"):
        await schedule("s", Report.ref("r").run, cron="0 3 * * *", replace=False)
    await schedule("s", Report.ref("r").run, every=3600)
    about = await first.describe()
    assert about.spec.every == timedelta(hours=1)
    assert len(about.next) == 5
    assert about.next[1] - about.next[0] == timedelta(hours=1)
    assert issubclass(ScheduleExists, Conflict)


async def test_skip_leaves_out_what_comes_while_a_run_goes_on(cluster: LocalCluster) -> None:
    busy = await schedule("busy", Report.ref("b").long, every=0.02)
    await eventually(lambda: long_runs() == 1)

    async def skipped() -> bool:
        return (await busy.describe()).skipped >= 3

    await becomes(skipped, True)
    assert long_runs() == 1
    await Report.ref("b").long.terminate("enough")
    await eventually(lambda: long_runs() == 2)
    about = await busy.describe()
    assert about.last[0].status == "failed"
    assert "was terminated: enough" in about.last[0].error
    await busy.delete()


async def test_buffer_one_starts_one_more_afterwards(cluster: LocalCluster) -> None:
    busy = await schedule("busy", Report.ref("b").long, every=3600, overlap="buffer_one")
    for _ in range(3):
        await busy.trigger()
    about = await busy.describe()
    assert (len(about.running), len(about.waiting), about.skipped) == (1, 1, 1)
    await Report.ref("b").long.cancel()
    await eventually(lambda: long_runs() == 2)
    about = await busy.describe()
    assert (len(about.running), len(about.waiting)) == (1, 0)
    assert "cancelled" in about.last[0].error


async def test_cancel_previous_ends_the_run_and_starts_the_new_one(cluster: LocalCluster) -> None:
    busy = await schedule("busy", Report.ref("b").long, every=3600, overlap="cancel_previous")
    await busy.trigger()
    await eventually(lambda: long_runs() == 1)
    await busy.trigger()
    await eventually(lambda: long_runs() == 2)

    async def runs() -> tuple[int, int]:
        about = await busy.describe()
        return len(about.running), len(about.last)

    await becomes(runs, (1, 1))


async def test_allow_starts_beside_the_run(cluster: LocalCluster) -> None:
    busy = await schedule("busy", Report.ref("b-{time:%H%M%S.%f}").long, every=3600, overlap="allow")
    await busy.trigger()
    await busy.trigger()
    await eventually(lambda: long_runs() == 2)
    assert len((await busy.describe()).running) == 2


async def test_backfill_starts_what_would_have_been_due_one_after_the_other(cluster: LocalCluster) -> None:
    daily = await schedule("daily", Report.ref("d").run, cron="0 9 * * *", tz="Europe/Berlin",
                           arguments={"day": "{time:%Y-%m-%d %H:%M}"})  # fmt: skip
    count = await daily.backfill(datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC))
    assert count == 4
    await eventually(lambda: world.ran["run"] == 4)
    assert await Report.ref("d").days() == [f"2026-03-{day} 09:00" for day in (27, 28, 29, 30)]
    with pytest.raises(InvalidArguments, match="too many occurrences"):
        await daily.backfill(datetime(2000, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidArguments, match="need time zones"):
        await daily.backfill(datetime(2026, 1, 1), datetime(2026, 1, 2))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize(("catch_up", "started", "missed"), [("one", 1, 4), ("all", 5, 0), ("none", 0, 5)])
async def test_catching_up_after_downtime(moving: MovableStore, catch_up: Any, started: int, missed: int) -> None:
    async with LocalCluster([Report], store=moving, settings=QUICK):
        hourly = await schedule("h", Report.ref("r").note, every=3600, catch_up=catch_up, arguments={"text": "{time}"})
    moving.ahead_us = 5 * 3_600_000_000 + 1_800_000_000
    async with LocalCluster([Report], store=moving, settings=QUICK):

        async def counts() -> tuple[int, int]:
            about = await hourly.describe()
            return about.started, about.missed

        await becomes(counts, (started, missed))
        await eventually(lambda: world.ran["note"] == started)
        (row,) = moving.reminder_rows()
        assert row.due_us > moving._now_us()


async def test_a_pause_is_not_made_up_for(moving: MovableStore) -> None:
    async with LocalCluster([Report], store=moving, settings=QUICK):
        hourly = await schedule("h", Report.ref("r").note, every=3600, arguments={"text": "x"})
        await hourly.pause("holiday")
    moving.ahead_us = 5 * 3_600_000_000
    async with LocalCluster([Report], store=moving, settings=QUICK):
        await hourly.trigger()
        await eventually(lambda: world.ran["note"] == 1)
        await hourly.unpause("back")
        about = await hourly.describe()
        assert (about.started, about.missed, about.note, about.is_paused) == (1, 0, "back", False)
        assert about.next[0] > datetime.now(UTC) + timedelta(hours=5)


async def test_each_occurrence_is_started_once_whatever_crashes(cluster: LocalCluster, moving: MovableStore) -> None:
    often = await schedule("often", Report.ref("o-{time:%S.%f}").run, every=0.03, arguments={"day": "{time:%S.%f}"})
    for number in range(6):
        moving.faults.append([Fault.BEFORE, Fault.AFTER, Fault.CONFLICT][number % 3])
        await cluster.crash()
        await asyncio.sleep(0.02)
    await often.pause()

    async def is_over() -> bool:
        return not (await often.describe()).running

    await becomes(is_over, True)
    about = await often.describe()
    due = [run.due_at for run in about.last]
    assert len(due) == len(set(due)) > 0
    assert {run.status for run in about.last} == {"completed"}
    for run in about.last:
        started = [row for row in moving.history(run.entity) if row.kind == "start"]
        assert len(started) == 1, "once"


async def test_jitter_is_later_only_and_repeatable() -> None:
    spec = ScheduleSpec(type="Report", key="r", name="run", every=timedelta(hours=1), jitter=timedelta(minutes=5))
    starts = [spec.starts_us("s", due_us) - due_us for due_us in range(0, 100 * 3_600_000_000, 3_600_000_000)]
    assert all(0 <= late < 300_000_000 for late in starts)
    assert len(set(starts)) > 50
    assert starts[7] == spec.starts_us("s", 7 * 3_600_000_000) - 7 * 3_600_000_000


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "needs `every` or `cron`"),
        ({"cron": "x"}, "five fields"),
        ({"every": 0.001}, "every="),
        ({"every": 5, "jitter": 6}, "jitter"),
        ({"every": 5, "tz": "Nowhere"}, "no time zone"),
        ({"every": 5, "overlap": "maybe"}, "overlap"),
        ({"every": 5, "arguments": {"days": 1}}, "Report.run was called with wrong arguments: days"),
        (
            {"every": 5, "start_at": datetime(2026, 1, 2, tzinfo=UTC), "end_at": datetime(2026, 1, 1, tzinfo=UTC)},
            "end_at",
        ),
    ],
)
async def test_wrong_schedules_say_what_is_wrong(cluster: LocalCluster, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArguments, match=rf"(?s)schedule s: .*{message}"):
        await schedule("s", Report.ref("r").run, **kwargs)


async def test_a_schedule_of_something_unknown_is_refused(cluster: LocalCluster) -> None:
    spec = ScheduleSpec(type="Report", key="r", name="nonsense", every=timedelta(hours=1))
    with pytest.raises(UnknownHandler, match="Report has no handler 'nonsense'"):
        await Schedule.ref("s").create(spec)


async def test_a_refused_start_ends_its_run(cluster: LocalCluster) -> None:
    await Report.ref("r").run.start(day="other")
    await Report.ref("r").long.start()
    daily = await schedule("d", Report.ref("r").run, every=3600, arguments={"day": "bad"})
    await daily.trigger()

    async def last() -> list[str]:
        return [run.error for run in (await daily.describe()).last]

    await becomes(last, ["Report/r.run failed: no data"])
    assert AlreadyStarted.code == "already_started"


def test_an_application_may_import_the_built_in_classes() -> None:
    assert [definition.name for definition in Registry([Schedule])] == []
    assert Registry([Schedule]).get("PerdureSchedule").cls is Schedule


@pytest.mark.parametrize("taken", ["PerdureSchedule", "PerdureEvents", "PerdureHost"])
def test_the_names_of_the_built_in_types_are_taken(taken: str) -> None:
    class Mine(Entity, name=taken):
        pass

    with pytest.raises(DefinitionError, match=f"{taken} is Perdure's own; rename the class"):
        Registry([Mine])
    assert [definition.name for definition in Registry([Report])] == ["Report"]
