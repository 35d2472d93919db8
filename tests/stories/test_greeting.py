"""Story 7, a greeting with approval: the approval comes early, late, or while everything is down."""

import asyncio
from datetime import timedelta

import pytest

from examples.greeting.app import app
from examples.greeting.entities import Greeting, greet
from perdure.entities.testing import PerdureTest, crash_everywhere

from .client import client_of

HELLO = "Hello Ada! Grace said I may greet you."


async def test_approved_after_a_century() -> None:
    async with PerdureTest([Greeting]) as world:
        ada = Greeting.ref("ada")
        await ada.run.start("Ada")
        await world.advance(timedelta(days=36_500))
        assert await ada.words() == "not approved yet"
        await ada.approval.send("Grace")
        assert await ada.run.result() == HELLO
        assert await ada.words() == HELLO


async def test_approved_before_it_was_asked_for() -> None:
    async with PerdureTest([Greeting]):
        await Greeting.ref("ada").approval.send("Grace")
        assert await Greeting.ref("ada").run("Ada") == HELLO


async def test_approved_while_everything_is_down() -> None:
    async with PerdureTest([Greeting]) as world:
        await Greeting.ref("ada").run.start("Ada")
        async with world.outage():
            approval = asyncio.create_task(Greeting.ref("ada").approval.send("Grace"))
            await world.advance(days=1)
        await approval
        assert await Greeting.ref("ada").run.result() == HELLO


async def test_over_http() -> None:
    async with PerdureTest([Greeting]), client_of(app) as http:
        await http.post("/greetings/ada/run/start", json={"name": "Ada"})
        await http.post("/greetings/ada/approval", json="Grace")
        assert (await http.get("/greetings/ada/run/result")).json() == HELLO
        assert (await http.get("/greetings/ada/words")).json() == HELLO


@pytest.mark.parametrize("evict", [False, True])
async def test_crash_at_every_point(evict: bool) -> None:
    async def story(world: PerdureTest) -> str:
        ada = Greeting.ref("ada")
        await ada.run.start("Ada")
        await world.advance(days=1)
        await ada.approval.options(idempotency_key="approval").send("Grace")
        return await ada.run.result()

    report = await crash_everywhere(lambda: PerdureTest([Greeting], activities={greet: HELLO}, evict=evict), story)
    assert report.attempts == 1
    assert report.commits >= 3
