"""Sagas: undone in reverse order, durably (P7), whatever ends the block."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from perdure.entities import (
    ApplicationError,
    Entity,
    RetryPolicy,
    SagaFailed,
    WorkflowCancelled,
    WorkflowFailed,
    activity,
    condition,
    handler,
    query,
    saga,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import Crasher, Fault, FaultyStore
from .scenes import world
from .waiting import becomes, eventually

QUICKLY = RetryPolicy(initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=2))
ONCE = RetryPolicy(attempts=1)


@activity(retry=QUICKLY)
async def book(what: str) -> str:
    world.ran[f"book {what}"] += 1
    return f"{what}-1"


@activity(retry=QUICKLY)
async def release(booking: str) -> None:
    world.fail(f"release {booking}")


@activity(retry=ONCE)
async def release_once(booking: str) -> None:
    raise RuntimeError(f"{booking} cannot be released")


@activity(retry=ONCE)
async def refuse(what: str) -> str:
    raise ApplicationError(f"no {what}", type="SoldOut")


@activity(retry=ONCE, timeout=timedelta(milliseconds=10))
async def hang(what: str) -> str:
    await asyncio.Event().wait()
    return what


@activity(retry=ONCE)
async def wait_for_the_gate(what: str) -> str:
    world.ran[f"began {what}"] += 1
    while not world.gate.is_set():
        await asyncio.sleep(0.001)
    return what


class Trip(Entity):
    log: list[str] = []
    is_ready: bool = False

    @handler
    async def note(self, text: str) -> int:
        self.log.append(text)
        return len(self.log)

    @query
    async def lines(self) -> list[str]:
        return self.log

    @workflow
    async def run(self, last: str) -> list[str]:
        async with saga() as trip:
            car = await trip.step(book("car"), undo=release)
            hotel = await trip.step(book("hotel"), undo=lambda: release("hotel-1"))
            await trip.step(Trip.ref("book-keeper").note("booked"), undo=lambda: Trip.ref("book-keeper").note("undone"))
            match last:
                case "fails":
                    await trip.step(refuse("flight"), undo=lambda: release("never"))
                case "waits":
                    await condition(lambda: self.is_ready)
                case "is under way":
                    await trip.step(wait_for_the_gate("flight"), undo=release)
                    await asyncio.sleep(3600)
                case "is unknown":
                    await trip.step(hang("flight"), undo=release, name="the flight")
                case "cannot be undone":
                    await trip.step(book("flight"), undo=release_once, name="the flight")
                    raise ApplicationError("changed my mind")
                case _:
                    pass
        return [car, hotel]

    @workflow
    async def within_a_limit(self) -> str:
        try:
            async with asyncio.timeout(0.02), saga() as trip:
                await trip.step(book("car"), undo=release)
                await asyncio.sleep(3600)
        except TimeoutError:
            return "timed out"
        return "?"


@pytest.fixture(params=["kept", "evicted"])
async def cluster(request: pytest.FixtureRequest, store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    settings = EngineSettings(handler_grace_s=0.05, evict_after_every_turn=request.param == "evicted")
    async with LocalCluster([Trip], store=store, settings=settings) as cluster:
        yield cluster


def undone() -> list[str]:
    return [name for name in world.ran if name.startswith("release")]


async def test_nothing_is_undone_if_all_goes_well(cluster: LocalCluster) -> None:
    assert await Trip.ref("t").run("ends") == ["car-1", "hotel-1"]
    assert await Trip.ref("book-keeper").lines() == ["booked"]
    assert undone() == []


async def test_undone_in_reverse_order_and_retried(cluster: LocalCluster) -> None:
    world.failures = 3
    with pytest.raises(WorkflowFailed, match="no flight") as failed:
        await Trip.ref("t").run("fails")
    assert failed.value.error_type == "SoldOut"
    assert undone() == ["release hotel-1", "release car-1"]
    assert world.ran["release hotel-1"] == 4
    assert world.ran["release car-1"] == 1
    assert await Trip.ref("book-keeper").lines() == ["booked", "undone"]


async def test_a_cancelled_run_is_undone(cluster: LocalCluster) -> None:
    await Trip.ref("t").run.start("waits")
    await becomes(Trip.ref("book-keeper").lines, ["booked"])
    await Trip.ref("t").run.cancel()
    with pytest.raises(WorkflowCancelled):
        await Trip.ref("t").run.result(timeout=30)
    assert undone() == ["release hotel-1", "release car-1"]


async def test_a_step_under_way_is_awaited_and_undone(cluster: LocalCluster) -> None:
    await Trip.ref("t").run.start("is under way")
    await eventually(lambda: world.ran["began flight"])
    await Trip.ref("t").run.cancel()
    await Trip.ref("t").note("still running")
    assert undone() == []
    world.gate.set()
    with pytest.raises(WorkflowCancelled):
        await Trip.ref("t").run.result(timeout=30)
    assert undone() == ["release flight", "release hotel-1", "release car-1"]


async def test_a_time_limit_around_it(cluster: LocalCluster) -> None:
    assert await Trip.ref("t").within_a_limit() == "timed out"
    assert undone() == ["release car-1"]


async def test_what_could_not_be_undone_is_named_and_the_rest_is(cluster: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="the undo of the flight failed: flight-1 cannot be released") as failed:
        await Trip.ref("t").run("cannot be undone")
    saga_failed = failed.value.__cause__
    assert isinstance(saga_failed, SagaFailed)
    assert saga_failed.details == {"failed": ["the flight"], "unknown": []}
    assert "changed my mind" in str(failed.value)
    assert undone() == ["release hotel-1", "release car-1"]


async def test_an_unknown_step_is_named(cluster: LocalCluster) -> None:
    with pytest.raises(WorkflowFailed, match="whether the flight was done is unknown"):
        await Trip.ref("t").run("is unknown")
    assert undone() == ["release hotel-1", "release car-1"]


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.AFTER])
async def test_every_crash_point_leads_to_the_same_end(fault: Fault) -> None:
    async def once(at: int | None) -> int:
        world.reset()
        store = FaultyStore()
        store.pick = lambda number, _: fault if number == at else Fault.NONE
        async with LocalCluster([Trip], store=store, hosts=2, settings=EngineSettings(mail_poll_s=0.1)) as cluster:
            crasher = Crasher(cluster, store)
            with pytest.raises(WorkflowFailed, match="no flight"):
                await Trip.ref("t").run("fails")
            await crasher.settle()
            assert await Trip.ref("book-keeper").lines() == ["booked", "undone"]
        assert undone() == ["release hotel-1", "release car-1"], at
        return len(store.commits)

    for at in range(await once(None)):
        await once(at)
