"""Story 6, money transfer: patiently, as a saga, in one commit. However it goes, the money is somewhere, once."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from examples.money_transfer import bank
from examples.money_transfer.activities import Patience
from examples.money_transfer.app import app
from examples.money_transfer.bank import Account
from examples.money_transfer.entities import FEES, Order, Transfer, move
from perdure.entities import ApplicationError, WorkflowFailed, activity_info
from perdure.entities.testing import PerdureTest, Point, crash_everywhere

from .client import client_of

ORDER = Order(source="ada", target="bob", amount=30, fee=1)
HASTY = ORDER.model_copy(update={"patience": Patience(attempts=3)})


class World(PerdureTest):
    """Nothing is faked but chance."""

    def states(self) -> dict[str, Any]:
        """A reference holds the id of its run, which is another one in each world: their number counts."""
        states = super().states()
        for state in states.values():
            if "references" in state:
                state["references"] = len(state["references"])
        return states


def world_of_banks() -> PerdureTest:
    return World([Transfer, Account])


@pytest.fixture(autouse=True)
def is_reliable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "FAILURE_RATE", 0.0)


@pytest.fixture
def is_flaky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every booking the first request is lost, and the answer to the second."""

    def stumble(what: str) -> None:
        if (activity_info().attempt, what) in ((1, "request"), (2, "answer")):
            raise ConnectionError(f"the bank's API lost the {what}")

    monkeypatch.setattr(bank, "stumble", stumble)


@pytest.fixture
def is_forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every booking the first answer is lost: it was booked, and nobody knows."""

    def stumble(what: str) -> None:
        if (activity_info().attempt, what) == (1, "answer"):
            raise ConnectionError("the bank's API lost the answer")

    monkeypatch.setattr(bank, "stumble", stumble)


async def accounts() -> None:
    await Account.ref("ada").deposit(100, "first")


async def balances() -> tuple[int, int, int]:
    """Of ada, bob and the bank."""
    ada, bob, fees = [(await Account.ref(key).statement()).balance for key in ("ada", "bob", FEES)]
    return ada, bob, fees


def waits(world: PerdureTest) -> list[float]:
    """Seconds between attempts."""
    at = [attempt.at for attempt in world.attempts]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(at)]


# --- (a) Withdraw, then deposit ---


@pytest.mark.usefixtures("is_flaky")
async def test_ten_seconds_between_attempts_and_booked_once_each() -> None:
    async with world_of_banks() as world:
        await accounts()
        await Transfer.ref("t").run(ORDER)
        assert await balances() == (70, 30, 0)
        assert waits(world) == [10, 10, 0, 10, 10]
        assert await Transfer.ref("t").at() == "Done"


async def test_a_crash_after_the_withdrawal_resumes_at_the_deposit() -> None:
    async with world_of_banks() as world:
        await accounts()
        world.fault_at = Point("attempt", 1, "before")
        await Transfer.ref("t").run(ORDER)
        assert world.faults == 1
        assert [attempt.activity for attempt in world.attempts] == ["withdraw", "deposit", "deposit"]
        assert await balances() == (70, 30, 0)


async def test_after_a_hundred_attempts_it_pauses_until_a_person_unlocks_and_retries() -> None:
    async with world_of_banks() as world:
        await accounts()
        await Account.ref("bob").lock()
        await Transfer.ref("t").run.start(ORDER)
        await world.advance(hours=1)
        assert len(world.attempts) == 1 + 100
        assert set(waits(world)[1:]) == {10.0}
        [deposit] = (await Transfer.ref("t").run.operations()).operations
        assert (deposit.name, deposit.status, deposit.attempts) == ("deposit", "paused", 100)
        assert deposit.last_error is not None
        assert deposit.last_error.message == "bob is locked"

        await world.advance(days=30)  # nobody looks, nothing happens
        await world.restart()
        assert len(world.attempts) == 101
        assert await balances() == (70, 0, 0)

        await Account.ref("bob").lock(is_locked=False)
        await Transfer.ref("t").run.retry(deposit.number, reason="unlocked", operator="grace")
        await Transfer.ref("t").run.result()
        assert await balances() == (70, 30, 0)
        assert len(world.attempts) == 102


async def test_a_lost_answer_before_the_pause_is_not_booked_again_a_month_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world_of_banks() as world:
        await accounts()
        lost = ["answer"] * 3

        def stumble(what: str) -> None:
            if activity_info().activity == "deposit" and what in lost:
                lost.remove(what)
                raise ConnectionError("lost")

        monkeypatch.setattr(bank, "stumble", stumble)
        await Transfer.ref("t").run.start(HASTY)
        await world.advance(days=30)  # outcomes of calls are forgotten by then, the bank's books are not
        assert await balances() == (70, 30, 0)
        [deposit] = (await Transfer.ref("t").run.operations()).operations
        await Transfer.ref("t").run.retry(deposit.number)
        await Transfer.ref("t").run.result()
        assert await balances() == (70, 30, 0)


async def test_without_enough_money_nothing_is_tried_twice() -> None:
    async with world_of_banks() as world:
        await accounts()
        with pytest.raises(WorkflowFailed, match="ada has less than 101"):
            await Transfer.ref("t").run(ORDER.model_copy(update={"amount": 101}))
        assert len(world.attempts) == 1
        assert await balances() == (100, 0, 0)


# --- (b) As a saga ---


@pytest.mark.usefixtures("is_flaky")
async def test_a_closed_account_takes_everything_back_in_reverse_order() -> None:
    async with world_of_banks() as world:
        await accounts()
        await Account.ref("bob").close()
        with pytest.raises(WorkflowFailed, match="bob is closed"):
            await Transfer.ref("t").run_as_saga(ORDER)
        assert await balances() == (100, 0, 0)
        done = [(a.activity, a.arguments["account"], a.arguments["amount"]) for a in world.attempts if a.attempt == 3]
        assert done == [("withdraw", "ada", 31), ("deposit", FEES, 1), ("withdraw", FEES, 1), ("deposit", "ada", 31)]
        assert await Transfer.ref("t").at() == "Refused"


async def test_the_saga_of_an_open_account_takes_nothing_back() -> None:
    async with world_of_banks() as world:
        await accounts()
        await Transfer.ref("t").run_as_saga(ORDER)
        assert await balances() == (69, 30, 1)
        assert len(world.attempts) == 3
        assert await Transfer.ref("t").at() == "Done"


async def test_what_cannot_be_taken_back_now_waits_for_a_person_too() -> None:
    async with world_of_banks() as world:
        await accounts()
        await Account.ref("bob").lock()
        await Transfer.ref("t").run_as_saga.start(ORDER)
        await world.advance(seconds=15)
        await Account.ref("ada").lock()
        await Account.ref("bob").close()
        await world.advance(days=1)
        [refund] = (await Transfer.ref("t").run_as_saga.operations()).operations
        assert (refund.name, refund.status) == ("deposit", "paused")
        assert await balances() == (69, 0, 0)
        await Account.ref("ada").lock(is_locked=False)
        await Transfer.ref("t").run_as_saga.retry(refund.number)
        with pytest.raises(WorkflowFailed, match="bob is closed"):
            await Transfer.ref("t").run_as_saga.result()
        assert await balances() == (100, 0, 0)


# --- (c) At once ---


async def move_once(amount: int = 30) -> int:
    return await move.options(idempotency_key="t")(Account.ref("ada"), Account.ref("bob"), amount, "t")


async def test_at_once_is_both_or_nothing_and_once() -> None:
    async with world_of_banks():
        await accounts()
        assert await move_once() == await move_once() == 70
        assert await balances() == (70, 30, 0)
        await Account.ref("bob").close()
        with pytest.raises(ApplicationError, match="bob is closed"):
            await move(Account.ref("ada"), Account.ref("bob"), 30, "another")
        assert await balances() == (70, 30, 0)


# --- Over HTTP ---


async def test_pause_and_retry_over_http() -> None:
    body = HASTY.model_dump()
    async with world_of_banks() as world, client_of(app) as http:
        await http.post("/accounts/ada/deposit", json={"amount": 100, "reference": "first"})
        await http.post("/accounts/bob/lock", json={})
        assert (await http.put("/transfers/t", json=body)).json() == "Withdrawing"
        await world.advance(minutes=5)
        assert (await http.put("/transfers/t", json=body)).json() == "Depositing"
        [stuck] = (await http.get("/stuck")).json()
        assert (stuck["transfer"], stuck["problem"]) == ("t", "bob is locked")
        await http.post("/accounts/bob/lock", json={"is_locked": False})
        why = {"operation": stuck["operation"], "reason": "unlocked", "operator": "grace"}
        await http.post("/transfers/t/run/retry", json=why)
        assert (await http.get("/transfers/t/run/result")).json() is None
        assert (await http.get("/stuck")).json() == []
        assert (await http.get("/accounts/bob")).json()["balance"] == 30

        for _ in range(2):
            assert (await http.put("/transfers/u/at-once", json=body)).json() == {"left": 40}
        assert (await http.put("/transfers/v/as-saga", json=body)).json() == "Withdrawing"
        assert (await http.get("/transfers/v/run_as_saga/result")).json() is None
        assert await balances() == (9, 90, 1)


# --- Crashes: the money is counted at the end of each, and crash_everywhere compares every account ---


async def patiently(world: PerdureTest) -> tuple[int, int, int]:
    await accounts()
    await Transfer.ref("t").run(ORDER)
    return await balances()


async def paused_and_retried(world: PerdureTest) -> tuple[int, int, int]:
    await accounts()
    await Account.ref("bob").lock()
    await Transfer.ref("t").run.start(HASTY)
    await world.advance(days=1)
    await Account.ref("bob").lock(is_locked=False)
    [deposit] = (await Transfer.ref("t").run.operations()).operations
    await Transfer.ref("t").run.retry(deposit.number)
    await Transfer.ref("t").run.result()
    return await balances()


async def taken_back(world: PerdureTest) -> tuple[int, int, int]:
    await accounts()
    await Account.ref("bob").close()
    with pytest.raises(WorkflowFailed, match="bob is closed"):
        await Transfer.ref("t").run_as_saga(ORDER)
    return await balances()


async def at_once(world: PerdureTest) -> tuple[int, int, int]:
    await accounts()
    await move_once()
    return await balances()


@pytest.mark.parametrize(
    ("scenario", "end"),
    [
        (patiently, (70, 30, 0)),
        (paused_and_retried, (70, 30, 0)),
        (taken_back, (100, 0, 0)),
        (at_once, (70, 30, 0)),
    ],
)
@pytest.mark.usefixtures("is_forgetful")
async def test_crash_at_every_point(
    scenario: Callable[[PerdureTest], Awaitable[tuple[int, int, int]]], end: tuple[int, int, int]
) -> None:
    async def story(world: PerdureTest) -> tuple[int, int, int]:
        found = await scenario(world)
        assert found == end
        return found

    report = await crash_everywhere(world_of_banks, story, store_failures=scenario is at_once)
    assert report.commits >= 2  # the money's arrival, and the transfer


async def test_a_crash_does_not_begin_the_hundred_attempts_anew() -> None:
    async with world_of_banks() as world:
        await accounts()
        await Account.ref("bob").lock()
        began = world.now()
        await Transfer.ref("t").run.start(ORDER)
        await world.advance(minutes=8)
        tried = len(world.attempts)
        await world.crash()
        await world.advance(hours=1)
        assert len(world.attempts) <= 1 + 100 + 1
        assert 0 < tried < 100
        last = world.attempts[-1].at - began
        assert timedelta(seconds=980) <= last <= timedelta(seconds=1020)
