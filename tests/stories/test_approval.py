"""Story 4, approval: decided before, during and after the wait, or not at all."""

import asyncio
from datetime import timedelta

import pytest

from examples.approval.activities import ask, notify, process
from examples.approval.app import app
from examples.approval.entities import Approval, Decision, Request, Status
from perdure.entities.testing import Fake, PerdureTest, crash_everywhere, fails, fake

from .client import client_of

LAPTOP = Request(subject="a laptop", requester="ada", approver="grace")
YES = Decision(is_approved=True, by="grace")
NO = Decision(is_approved=False, by="grace", reason="too dear")


def fakes() -> list[Fake]:
    return [fake(ask), fake(notify, fails(2)), fake(process, "receipt-1")]


def told(fakes: list[Fake]) -> list[str]:
    return [call.arguments["text"] for call in fakes[1].calls if call.attempt == 3]


async def decide(decision: Decision, key: str = "a") -> None:
    await Approval.ref(key).decisions.send(decision)


@pytest.mark.parametrize(
    ("decision", "status", "text"),
    [
        (YES, "Approved", "a laptop: approved by grace"),
        (NO, "Rejected", "a laptop: rejected by grace: too dear"),
    ],
)
@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_decision_counts_whenever_it_comes(decision: Decision, status: Status, text: str, when: str) -> None:
    stand_ins = fakes()
    async with PerdureTest([Approval], activities=stand_ins) as world:
        if when == "before":
            await decide(decision)
        await Approval.ref("a").run.start(LAPTOP)
        if when == "during":
            await world.advance(days=6)
            assert (await Approval.ref("a").state()).status == "Waiting"
            await decide(decision)
        assert await Approval.ref("a").run.result() == status
        assert told(stand_ins) == [text]
        assert len(stand_ins[2].results) == int(decision.is_approved)


async def test_silence_is_a_rejection_after_exactly_a_week() -> None:
    stand_ins = fakes()
    async with PerdureTest([Approval], activities=stand_ins) as world:
        asked = world.now()
        await Approval.ref("a").run.start(LAPTOP)
        assert await Approval.ref("a").run.result() == "Expired"
        assert stand_ins[1].calls[0].at - asked == timedelta(days=7)
        assert told(stand_ins) == ["a laptop: rejected, because nobody decided in time"]
        await decide(YES)  # too late: nothing changes
        await world.advance(days=1)
        assert (await Approval.ref("a").state()).status == "Expired"
        assert not stand_ins[2].calls


async def test_decided_while_everything_is_down() -> None:
    async with PerdureTest([Approval], activities=fakes()) as world:
        await Approval.ref("a").run.start(LAPTOP)
        await world.advance(days=1)
        async with world.outage():
            decision = asyncio.create_task(decide(YES))
            await world.advance(days=3)
        await decision
        assert await Approval.ref("a").run.result() == "Approved"


async def test_a_week_that_ends_during_an_outage_ends_after_it() -> None:
    async with PerdureTest([Approval], activities=fakes()) as world:
        await Approval.ref("a").run.start(LAPTOP)
        await world.settled()
        async with world.outage():
            await world.advance(days=30)
        assert await Approval.ref("a").run.result() == "Expired"


async def test_only_the_first_decision_counts() -> None:
    async with PerdureTest([Approval], activities=fakes()):
        await decide(NO)
        await decide(YES)
        assert await Approval.ref("a").run(LAPTOP) == "Rejected"


async def test_two_hundred_approvals_across_a_restart_of_everything() -> None:
    stand_ins = fakes()
    async with PerdureTest([Approval], activities=stand_ins, hosts=2, check_resumes=False) as world:
        keys = [f"a-{n}" for n in range(200)]
        await asyncio.gather(*(decide(YES, key) for key in keys[:50]))
        await asyncio.gather(*(Approval.ref(key).run.start(LAPTOP) for key in keys))
        await world.advance(days=1)
        await asyncio.gather(*(decide(NO, key) for key in keys[50:100]))
        await world.restart()
        await asyncio.gather(*(decide(YES, key) for key in keys[100:150]))
        statuses = await asyncio.gather(*(Approval.ref(key).run.result() for key in keys))
        assert statuses == ["Approved"] * 50 + ["Rejected"] * 50 + ["Approved"] * 50 + ["Expired"] * 50
        assert len(stand_ins[0].results) == len(stand_ins[1].results) == 200
        assert len(stand_ins[2].results) == 100


async def test_over_http() -> None:
    async with PerdureTest([Approval], activities=fakes()), client_of(app) as http:
        body = LAPTOP.model_dump()
        assert (await http.put("/approvals/a", json=body)).json()["status"] == "Waiting"
        assert (await http.put("/approvals/a", json=body)).json()["status"] == "Waiting"
        await http.put("/approvals/a/decision", json=YES.model_dump())
        await http.put("/approvals/a/decision", json=YES.model_dump())
        assert (await http.get("/approvals/a/run/result")).json() == "Approved"
        state = (await http.get("/approvals/a/state")).json()
        assert (state["receipt"], state["decision"]["by"]) == ("receipt-1", "grace")


@pytest.mark.parametrize(
    ("decision", "status"), [(YES, "Approved"), (NO, "Rejected"), (None, "Expired")], ids=["yes", "no", "silence"]
)
async def test_crash_at_every_point(decision: Decision | None, status: Status) -> None:
    async def story(world: PerdureTest) -> Status:
        await Approval.ref("a").run.start(LAPTOP)
        await world.advance(days=2)
        if decision is not None:
            await decide(decision)
        return await Approval.ref("a").run.result()

    def make() -> PerdureTest:
        return PerdureTest([Approval], activities=fakes())

    async with make() as world:
        assert await story(world) == status
    report = await crash_everywhere(make, story)
    assert report.attempts >= 4
