"""The activities of the guide, in workflows as the reader would write them; the outside world is a stand-in."""

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from perdure import entities
from perdure.entities import Entity, WorkflowFailed, activity, handler, workflow
from perdure.entities.testing import PerdureTest

from .blocks import ROOT, block, defined, member, python_blocks, run, walked

GUIDE = "docs/guide.md"
PUBLIC = {name: getattr(entities, name) for name in entities.__all__}


async def test_a_thread_may_block() -> None:
    slept: list[float] = []
    names = defined(block(GUIDE, "def render("), **PUBLIC, time=SimpleNamespace(sleep=slept.append))
    async with PerdureTest([names["Invoice"]]):
        invoice = names["Invoice"].ref("i-1")
        await invoice.make("o-1")
        assert (await entities.state_at(invoice, await _version(invoice))).path == "invoices/o-1.pdf"
    assert slept == [5]


class CardDeclined(Exception):
    """The bank's word for no."""


class Bank:
    """Refuses as often as it is told to."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.keys: list[str] = []

    async def charge(self, amount: int, *, idempotency_key: str) -> str:
        self.keys.append(idempotency_key)
        if self.errors:
            raise self.errors.pop(0)
        return f"{amount} charged"


async def test_retries() -> None:
    bank = Bank()
    charge = defined(
        block(GUIDE, "async def charge(amount: int)"),
        **PUBLIC,
        timedelta=timedelta,
        bank=bank,
        CardDeclined=CardDeclined,
    )["charge"]

    class Order(Entity):
        @workflow
        async def run(self, amount: int) -> str:
            return str(await charge(amount))

    async with PerdureTest([Order]) as world:
        start = world.now()
        bank.errors = [ConnectionError()] * 9
        assert await Order.ref("patient").run(5) == "5 charged"
        assert world.now() - start == timedelta(seconds=1 + 2 + 4 + 8 + 16 + 32 + 64 + 100 + 100)
        assert (len(bank.keys), len(set(bank.keys))) == (10, 1)
        bank.errors = [ConnectionError()] * 10
        with pytest.raises(WorkflowFailed):
            await Order.ref("unlucky").run(5)
        assert (len(bank.keys), len(set(bank.keys))) == (20, 2)
        bank.errors = [CardDeclined()]
        with pytest.raises(WorkflowFailed):
            await Order.ref("declined").run(5)
        assert len(bank.keys) == 21


@pytest.mark.parametrize("fails_after", [0, 2, 4])
async def test_heartbeats(fails_after: int) -> None:
    stored: list[str] = []
    told: list[int] = []

    def heartbeat(number: int) -> None:
        entities.heartbeat(number)
        told.append(number)
        if len(told) == fails_after:
            raise ConnectionError

    names = PUBLIC | {
        "timedelta": timedelta,
        "read": list,
        "store": stored.append,
        "heartbeat": heartbeat,
    }
    import_rows = defined(block(GUIDE, "def import_rows("), **names)["import_rows"]

    class Import(Entity):
        @workflow
        async def run(self, path: str) -> int:
            return int(await import_rows(path))

    async with PerdureTest([Import]):
        assert await Import.ref("i").run("abcd") == 4
        assert await Import.ref("nothing").run("") == 0
    assert stored == list("abcd"), "none again, whenever it failed"


async def test_completed_from_outside() -> None:
    mails: list[str] = []

    async def mail(to: str, text: str) -> None:
        mails.append(text)

    text = block(GUIDE, "async def ask_for_review(")
    space: dict[str, Any] = {**PUBLIC, "timedelta": timedelta, "mail": mail, "reviewers": "all", "link": str}

    class Review(Entity):
        answer: bool | None = None

        @workflow
        async def run(self, document: str) -> None:
            self.answer = await space["ask_for_review"](document)

    seen: list[tuple[str, list[Any]]] = []
    async with PerdureTest([Review]) as world:
        async for line in walked(text, space):
            review = Review.ref(line.split("(")[0].removeprefix("await "))
            await review.run.start(review.key)
            await world.settled()
            space["token"] = mails[-1].removeprefix(f"{review.key}: ")
        await world.settled()
        for key in ("complete_activity", "fail_activity", "heartbeat_activity"):
            about = await Review.ref(key).run.operations()
            waits = [(one.status, one.last_error and one.last_error.message, one.heartbeat) for one in about.operations]
            seen.append((about.status, waits))
        answer = (await entities.state_at(review := Review.ref("complete_activity"), await _version(review))).answer
    assert answer is True
    assert seen == [
        ("completed", []),
        ("running", [("retrying", "the reviewer has left", None)]),
        ("running", [("outside", None, {"page": 12})]),
    ]


async def _version(entity: Entity) -> int:
    return (await entities.present(entity)).version


async def test_saga() -> None:
    done: list[str] = []

    class Account(Entity):
        balance: int = 100

        @handler
        async def withdraw(self, amount: int) -> None:
            self.balance -= amount

        @handler
        async def deposit(self, amount: int) -> None:
            self.balance += amount

    @activity
    async def book_car(trip: str) -> str:
        done.append(f"car to {trip}")
        return "car 7"

    @activity
    async def release_car(car: str) -> None:
        done.append(f"release {car}")

    @activity
    async def book_flight(trip: str, car: str) -> None:
        if trip == "the moon":
            raise entities.ApplicationError("no flight", non_retryable=True)
        done.append(f"flight to {trip} with {car}")

    @activity
    async def cancel_flight() -> None:
        done.append("cancel flight")

    names = PUBLIC | {"Account": Account, "book_car": book_car, "release_car": release_car}
    names |= {"book_flight": book_flight, "cancel_flight": cancel_flight}
    text = "class Trip(Entity):\n" + member(block(GUIDE, "async def book(self, trip: str)"))
    trip = defined(text, **names)["Trip"]
    async with PerdureTest([trip, Account]):
        await trip.ref("ann").book("Rome")
        with pytest.raises(WorkflowFailed, match="no flight"):
            await trip.ref("bob").book("the moon")
        balances = [json.loads(bytes((await entities.present(Account.ref(key))).state)) for key in ("ann", "bob")]
    assert done == ["car to Rome", "flight to Rome with car 7", "car to the moon", "release car 7"]
    assert balances == [{"balance": 10}, {"balance": 100}]


async def test_the_test_of_the_guide() -> None:
    [shown] = python_blocks(ROOT / "docs/testing.md")
    space = defined(shown)
    await run(block(GUIDE, "async with PerdureTest([Order]"), space)
