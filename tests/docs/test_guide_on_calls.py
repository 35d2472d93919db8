"""The lines of the guide on calls, runs, repair, search, history and mending, on the entity that they speak of."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal

import pytest

from perdure import entities
from perdure.entities import (
    ApplicationError,
    Entity,
    Mailbox,
    RetryPolicy,
    WorkflowCancelled,
    WorkflowTerminated,
    activity,
    handler,
    present,
    workflow,
)
from perdure.entities.store.memory import MemoryStore
from perdure.entities.testing import PerdureTest

from .blocks import block, defined, member, run, split_awaits, walked

GUIDE = "docs/guide.md"
PUBLIC = {name: getattr(entities, name) for name in entities.__all__}
"""What a block that shows no imports takes from `perdure.entities`."""


async def state_of(entity: Entity) -> Any:
    return json.loads(bytes((await present(entity)).state))


async def test_calls() -> None:
    deposit = (
        "@handler\nasync def deposit(self, amount: int) -> int:\n    self.balance += amount\n    return self.balance"
    )
    fields = block(GUIDE, "class Account(Entity, name=") + "\n" + member(deposit)
    account_type = defined(fields, **PUBLIC)["Account"]
    async with PerdureTest([account_type]) as world:
        account = account_type.ref("alice")
        await run(block(GUIDE, "await account.deposit(10)"), {"account": account, "timedelta": timedelta})
        await world.settled()
        before = await state_of(account)
        await world.advance(hours=1)
        after = await state_of(account)
    assert (before, after) == ({"balance": 30, "owner": None}, {"balance": 40, "owner": None})


class Order(Entity):
    status: str = "New"
    goes_on = Mailbox(str)

    @workflow
    async def run(self, product_id: int) -> str:
        if product_id != 3:
            await self.goes_on.receive()
        return f"product {product_id}"

    @handler
    async def become(self, status: str) -> None:
        self.status = status

    @handler(retry=RetryPolicy(attempts=1))
    async def lose(self, letter: str) -> None:
        raise ApplicationError(f"cannot {letter}")


async def test_runs() -> None:
    ended: list[type[Exception] | str] = []
    async with PerdureTest([Order]):
        order = Order.ref("o-1")
        space: dict[str, Any] = {"order": order}
        async for line in walked(block(GUIDE, "run_id = await order.run.start"), space):
            if line.startswith("await"):
                ended.append(await _outcome(order))
            if line.startswith(("await order.run.cancel", "await order.run.terminate")):
                await order.run.options(restart=True).start(product_id=5)
        await order.goes_on.send("now")
        ended.append(await order.run.result())
    assert space["result"] == "product 3"
    assert ended == ["product 3", WorkflowCancelled, WorkflowTerminated, "product 4"]


async def _outcome(order: Order) -> type[Exception] | str:
    """How its run ended; a run that goes on is an error of the test."""
    try:
        return await order.run.result()
    except Exception as error:
        return type(error)


@activity(retry=RetryPolicy(attempts=1, on_exhausted="pause"))
async def deposit(amount: int) -> str:
    raise ConnectionError("locked")


@activity
async def step(number: int) -> None:
    """Works."""


class Transfer(Entity):
    receipt: str = ""
    goes_on = Mailbox(str)

    @workflow
    async def run(self, amount: int) -> str:
        for number in range(3):
            await step(number)
        self.receipt = await deposit(amount)
        return self.receipt


async def test_repair(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, str, bool, int]] = []
    """Line, status, is it paused, attempts of the deposit."""
    async with PerdureTest([Transfer]) as world:
        run = Transfer.ref("t-1").run

        async def look(line: str) -> str:
            await world.settled()
            about = await run.operations()
            word = line.removeprefix("await ").split("(")[0].split()[0]
            seen.append((word, about.status, "audit" in about.paused, sum(one.attempts for one in about.operations)))
            return about.status

        line = await _begin(run, world)
        async for following in walked(block(GUIDE, "run = Transfer.ref("), {**PUBLIC, "Transfer": Transfer}):
            status = await look(line)
            if "rerun" in following and status == "running":
                await run.terminate()
                await world.settled()
            elif "rerun" not in following and status != "running":
                await _begin(run, world)
            line = following
        await look(line)
        steps = [attempt.activity for attempt in world.attempts]
    assert "3 deposit paused 1 " in capsys.readouterr().out
    assert seen == [
        ("start", "running", False, 1),
        ("for", "running", False, 1),
        ("run.retry", "running", False, 1),  # a new round of attempts
        ("run.complete", "completed", False, 0),
        ("run.fail", "failed", False, 0),
        ("run.pause", "running", True, 1),
        ("run.resume", "running", False, 1),
        ("run.cancel", "cancelled", False, 0),
        ("run.terminate", "terminated", False, 0),
        ("run.restart", "running", False, 1),
        ("run.rerun", "running", False, 1),
        ("run.rerun", "running", False, 1),
    ]
    anew = ["step", "step", "step", "deposit"]
    begun = [*anew, "deposit", *anew, *anew, *anew, *anew]  # retry; then fail, pause, cancel's and terminate's runs
    assert steps[: len(begun)] == begun
    assert steps[-5:] == [*anew, "deposit"], "from the deposit on: no step is repeated"


async def _begin(run: Any, world: PerdureTest) -> str:
    """A run whose deposit waits for a person."""
    await run.options(restart=True).start(7)
    await world.settled()
    return "start"


async def test_search(capsys: pytest.CaptureFixture[str]) -> None:
    text = block(GUIDE, "class Request(Entity, index=")
    ask = "@handler\nasync def ask(self, amount: int) -> None:\n    self.amount = amount"
    types, calls = split_awaits(text)
    request = defined(types.rstrip() + "\n\n" + member(ask), **PUBLIC, Literal=Literal)["Request"]
    async with PerdureTest([request]):
        for key, amount in (("low", 999), ("just", 1000), ("high", 2000)):
            await request.ref(key).ask(amount)
        space: dict[str, Any] = {**PUBLIC, "Request": request}
        await run(calls, space)
    assert sorted(capsys.readouterr().out.splitlines()) == ["high 1 2000", "just 1 1000"]
    assert space["page"].next is None
    assert {match.key for match in space["more"].matches} == {"low", "just", "high"}, "from the beginning: None"


async def test_history_and_mending(capsys: pytest.CaptureFixture[str]) -> None:
    async with PerdureTest([Order]) as world:
        order = Order.ref("o-1")
        for version in range(1, 10):
            await order.become(f"status {version}")
        space: dict[str, Any] = {**PUBLIC, "order": order, "Order": Order, "MemoryStore": MemoryStore}
        await run(block(GUIDE, "page = await history(order"), space)
        assert (space["now"].version, space["then"].status) == (9, "status 7")
        assert [(change.path, change.old, change.value) for change in space["changes"]] == [
            ("/status", "status 7", "status 9")
        ]
        assert await state_of(Order.ref("order-42-copy")) == {"status": "status 7"}
        assert capsys.readouterr().out.count("become") == 9
        versions: list[int] = []
        letters: list[int] = []
        async for line in walked(block(GUIDE, "await edit(order"), space):
            now = await present(order)
            versions.append(now.version)
            letters.append(len(now.dead_letters))
            if line.startswith("letters ="):
                for letter in ("arrive", "be read"):
                    with suppress(ApplicationError):  # what became of it at once
                        await order.lose.send(letter)
        await world.settled()
        left = (await present(order)).dead_letters
        assert (await state_of(order))["status"] == "Paid"
    assert versions[:2] == [9, 10]
    assert letters == [0, 0, 2, 1]
    assert [letter.message_id == space["letters"][1].message_id for letter in left] == [False], "the first, once more"
