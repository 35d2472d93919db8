"""P9: whatever blocks a host's event loop is named, charged, and ends the process, and nothing else does."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from perdure.cluster.settings import ClusterSettings
from perdure.cluster.watchdog import Limits, Patience, Running, Step, Watchdog
from perdure.entities import Entity, EntityId, handler, query, workflow
from perdure.entities.engine.quarantine import POINTS_OF_BLOCKING
from perdure.entities.engine.subjects import Subject
from perdure.entities.store.rows import Suspicion
from perdure.entities.testing import LocalCluster

LIMITS = Limits(warn_s=1.0, charge_s=3.0, end_s=10.0)


blocked: list[str] = []
"""What still blocks, until the watchdog ends the process."""


def doze(seconds: float) -> None:
    """Outside of the class, where workflows are checked for what is not repeatable."""
    until = time.monotonic() + seconds
    while blocked and time.monotonic() < until:
        time.sleep(0.01)


class Sleeper(Entity):
    """Blocks its host in every place where user code runs."""

    @handler
    async def at_once(self, seconds: float) -> None:
        doze(seconds)

    @handler
    async def after_a_wait(self, seconds: float) -> None:
        await asyncio.sleep(0.001)
        doze(seconds)

    @query
    async def asked(self, seconds: float) -> None:
        doze(seconds)

    @query
    async def asked_with_a_wait(self, seconds: float) -> None:
        await asyncio.sleep(0)
        doze(seconds)

    @workflow
    async def run(self, seconds: float) -> None:
        await asyncio.sleep(0.001)
        doze(seconds)


# --- when to do what ---


def steps(patience: Patience, *looks: tuple[bool, object, float]) -> list[Step]:
    return [patience.look(is_alive=alive, mark=mark, elapsed_s=elapsed) for alive, mark, elapsed in looks]


def test_each_step_is_taken_once_and_in_order() -> None:
    patience = Patience(LIMITS, 0.5)
    seen = steps(patience, *[(False, "x", 0.5)] * 30)
    assert [step for step in seen if step is not Step.NOTHING] == [Step.WARN, Step.CHARGE, Step.END]
    assert seen.index(Step.WARN) == 2
    assert seen.index(Step.END) == 20


def test_a_sign_of_life_or_other_code_begins_anew() -> None:
    patience = Patience(LIMITS, 0.5)
    looks = [(False, "x", 0.5)] * 2 + [(False, "y", 0.5)] * 2 + [(True, None, 0.5)] + [(False, "y", 0.5)] * 2
    assert set(steps(patience, *looks)) == {Step.NOTHING}


def test_what_was_charged_is_taken_back_when_it_returns() -> None:
    patience = Patience(LIMITS, 0.5)
    assert steps(patience, *[(False, "x", 0.5)] * 7)[-1] is Step.CHARGE
    assert steps(patience, (True, None, 0.5), (True, None, 0.5)) == [Step.WITHDRAW, Step.NOTHING]


def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    patience = Patience(LIMITS, 0.25)
    assert set(steps(patience, (False, "x", 0.25), (False, "x", 3600.0))) == {Step.NOTHING}


def test_the_end_comes_after_the_lease() -> None:
    assert ClusterSettings().blocked_end_s == 10.0
    assert ClusterSettings(lease_s=20).blocked_end_s == 40.0
    with pytest.raises(ValidationError, match="must be more than lease_s"):
        ClusterSettings(lease_s=5, blocked_max_s=4)


# --- a real thread and a loop that is really blocked ---


@dataclass
class Host:
    """What a host is to a watchdog."""

    ended: threading.Event
    written: list[Suspicion]


@pytest.fixture
async def host(request: pytest.FixtureRequest) -> AsyncGenerator[Host]:
    limits: Limits = getattr(request, "param", Limits(warn_s=0.04, charge_s=0.08, end_s=0.16))
    async with LocalCluster([Sleeper]) as cluster:
        [engine] = cluster.engines

        def running(task: "asyncio.Task[Any] | None") -> Running | None:
            found = engine.running_code(task)
            return Running(*found) if found is not None else None

        async def testify(evidence: Suspicion) -> None:
            written.append(evidence)

        def end() -> None:
            blocked.clear()
            ended.set()

        blocked[:] = ["until the end"]
        ended = threading.Event()
        written: list[Suspicion] = []
        watchdog = Watchdog(limits=limits, running=running, testify=testify, end=end, interval_s=0.01)
        watchdog.start()
        yield Host(ended, written)
        watchdog.stop()


PLACES = {
    "at_once": "at_once:k",
    "after_a_wait": "after_a_wait:k",
    "asked": "",
    "asked_with_a_wait": "",
    "run": "run:run:",
}
"""Method → how its suspect id begins."""


async def block(name: str, seconds: float) -> None:
    sleeper = Sleeper.ref("s")
    match name:
        case "at_once":
            await sleeper.at_once.options(idempotency_key="k")(seconds)
        case "after_a_wait":
            await sleeper.after_a_wait.options(idempotency_key="k")(seconds)
        case "asked":
            await sleeper.asked(seconds)
        case "asked_with_a_wait":
            await sleeper.asked_with_a_wait(seconds)
        case _:
            await sleeper.run(seconds)


@pytest.mark.parametrize("name", PLACES)
async def test_what_blocks_is_named_charged_and_ends_the_process(
    host: Host, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "perdure.watchdog"):
        await block(name, 30.0)
    assert host.ended.is_set()
    [evidence] = host.written
    assert evidence.entity == EntityId("Sleeper", "s")
    assert evidence.message_id.startswith(PLACES[name])
    assert evidence.points == POINTS_OF_BLOCKING
    assert "test_watchdog.py" in evidence.reason
    warning, error = (record.getMessage() for record in caplog.records if record.name == "perdure.watchdog")
    assert f"Sleeper/s.{name} has blocked its host for" in warning
    assert "doze" in warning
    assert "the host ends" in error


@pytest.mark.parametrize("host", [Limits(warn_s=0.04, charge_s=0.08, end_s=60.0)], indirect=True)
async def test_code_that_returns_after_all_is_acquitted(host: Host) -> None:
    await Sleeper.ref("s").at_once(1.0)
    async with asyncio.timeout(30):
        while len(host.written) < 2:
            await asyncio.sleep(0.005)
    assert [evidence.points for evidence in host.written] == [POINTS_OF_BLOCKING, -POINTS_OF_BLOCKING]
    assert not host.ended.is_set()


@pytest.mark.parametrize("host", [Limits(warn_s=0.3, charge_s=0.5, end_s=0.7)], indirect=True)
async def test_a_busy_loop_is_not_a_blocked_one(host: Host) -> None:
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        await Sleeper.ref("s").at_once(0.002)
    assert not host.ended.is_set()
    assert host.written == []


async def test_a_database_that_hangs_does_not_keep_the_process_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.cluster.watchdog.WRITE_S", 0.05)
    ended = threading.Event()
    mark = object()

    async def testify(_: Suspicion) -> None:
        await asyncio.Event().wait()

    watchdog = Watchdog(
        limits=Limits(warn_s=0.04, charge_s=0.06, end_s=0.1),
        running=lambda _: Running(mark, Subject(EntityId("Sleeper", "s"), "m", "at_once")),
        testify=testify,
        end=ended.set,
        interval_s=0.01,
    )
    watchdog.start()
    assert ended.wait(60), "with the loop blocked all the time"
    watchdog.stop()
