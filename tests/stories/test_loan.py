"""Story 5, loan application: papers, reminders, a slow check, a person who decides today or in a year."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from examples.loan.activities import Application, FraudReport, Mail, check_fraud, send_mail
from examples.loan.app import app
from examples.loan.entities import PAPERS, Decision, Loan, Paper, Rules, Status, Summary
from perdure.entities import find
from perdure.entities.testing import Fake, PerdureTest, crash_everywhere, fails, fake

from .client import client_of

SMALL = Application(user="ada", email="ada@example.org", amount=5_000, purpose="an engine")
LARGE = SMALL.model_copy(update={"amount": 5_001})
COMPLETE: dict[Paper, str] = dict.fromkeys(PAPERS, "scan")
YES = Decision(is_approved=True, by="grace", reason="a sound engine")
NO = Decision(is_approved=False, by="grace", reason="no engines")


def bank(**options: Any) -> PerdureTest:
    """Nothing is faked: mail goes into `Mail`, the bureau takes two seconds."""
    return PerdureTest([Loan, Mail], **options)


async def seen(key: str = "a") -> Summary:
    return await Loan.ref(key).summary()


async def letters(address: str = "ada@example.org") -> list[str]:
    return await Mail.ref(address).read()


# --- Papers ---


async def test_a_small_amount_with_all_papers_is_approved_by_nobody() -> None:
    async with bank() as world:
        began = world.now()
        assert await Loan.ref("a").process(SMALL, COMPLETE) == "Approved"
        assert world.now() - began == timedelta(seconds=2)  # the bureau's
        assert (await seen()).decided_by == "the system"
        assert await letters() == ["Approved: Congratulations!"]


async def test_missing_papers_are_asked_for_every_day_for_a_week() -> None:
    async with bank() as world:
        began = world.now()
        assert await Loan.ref("a").process(SMALL, {"identity": "scan"}) == "Rejected"
        assert world.now() - began == timedelta(days=7)
        mails = [attempt for attempt in world.attempts if attempt.activity == "send_mail"]
        assert [mail.at - began for mail in mails] == [timedelta(days=day) for day in range(8)]
        assert await letters() == [
            *["Please send: income proof, bank statement."] * 7,
            "Rejected: Papers are missing: income proof, bank statement.",
        ]


async def test_it_goes_on_as_soon_as_the_papers_are_complete() -> None:
    async with bank() as world:
        began = world.now()
        await Loan.ref("a").process.start(SMALL, {"identity": "scan"})
        await world.advance(days=2, hours=1)
        assert (await seen()).status == "Waiting for papers"
        assert await Loan.ref("a").upload("income proof", "scan") == ["bank statement"]
        await world.advance(hours=1)
        assert await Loan.ref("a").upload("bank statement", "scan") == []
        assert await Loan.ref("a").process.result() == "Approved"
        assert world.now() - began == timedelta(days=2, hours=2, seconds=2)
        assert [text.split(":")[0] for text in await letters()] == ["Please send"] * 3 + ["Approved"]


async def test_papers_that_come_while_everything_is_down() -> None:
    async with bank() as world:
        await Loan.ref("a").process.start(SMALL, {"identity": "scan", "income proof": "scan"})
        await world.settled()
        async with world.outage():
            uploading = asyncio.create_task(_upload_last())
            await world.advance(days=3)
        assert await uploading == []
        assert await Loan.ref("a").process.result() == "Approved"


async def _upload_last() -> list[Paper]:
    return await Loan.ref("a").upload("bank statement", "scan")


# --- The check ---


async def test_the_suspicious_are_rejected_whatever_the_amount() -> None:
    async with bank() as world:
        mallory = LARGE.model_copy(update={"user": "Mallory"})
        assert await Loan.ref("a").process(mallory, COMPLETE) == "Rejected"
        assert await letters() == ["Rejected: We cannot offer you a loan."]  # not why
        assert [attempt.activity for attempt in world.attempts] == ["check_fraud", "send_mail"]


async def test_a_bureau_that_is_down_for_a_day_delays_and_loses_nothing() -> None:
    bureau = fake(check_fraud, fails(300, then=FraudReport(is_suspicious=False)))
    async with bank(activities=[bureau], check_resumes=False) as world:
        began = world.now()
        assert await Loan.ref("a").process(SMALL, COMPLETE) == "Approved"
        assert world.now() - began > timedelta(days=1)
        assert len(bureau.results) == 1


# --- The person ---


@pytest.mark.parametrize(("decision", "status"), [(YES, "Approved"), (NO, "Rejected")], ids=["yes", "no"])
@pytest.mark.parametrize("when", ["before", "during the check", "a year later", "down"])
async def test_above_the_threshold_a_person_decides(decision: Decision, status: Status, when: str) -> None:
    async with bank() as world:
        if when == "before":
            await Loan.ref("a").decision.send(decision)
        await Loan.ref("a").process.start(LARGE, COMPLETE)
        await world.advance(seconds=1)
        assert (await seen()).status == "Checking for fraud"
        if when == "during the check":
            await Loan.ref("a").decision.send(decision)
        if when == "a year later":
            await world.advance(days=365)
            assert (await seen()).status == "Waiting for a person"
            await Loan.ref("a").decision.send(decision)
        if when == "down":
            async with world.outage():
                deciding = asyncio.create_task(_decide(decision))
                await world.advance(days=3)
            await deciding
        assert await Loan.ref("a").process.result() == status
        assert (await seen()).decided_by == "grace"
        assert await letters() == [f"{status}: {decision.reason}"]


async def _decide(decision: Decision) -> None:
    await Loan.ref("a").decision.send(decision)


async def test_the_rules_of_a_request_are_those_of_its_day() -> None:
    strict = Rules(decides_alone_up_to=0)
    async with bank() as world:
        await Loan.ref("a").process.start(SMALL, COMPLETE, strict)
        await world.advance(days=1)
        assert (await seen()).status == "Waiting for a person"
        await _decide(NO)
        assert await Loan.ref("a").process.result() == "Rejected"


async def test_those_that_wait_for_a_person_are_found_awake_or_asleep() -> None:
    async with bank(evict=True) as world:
        for number in range(12):
            await Loan.ref(f"l-{number}").process.start(LARGE if number % 2 else SMALL, COMPLETE)
        await world.advance(days=1)
        await Loan.ref("l-1").decision.send(YES)
        await world.settled()
        page = await find(Loan, status="Waiting for a person")
        assert {match.key for match in page.matches} == {f"l-{number}" for number in (3, 5, 7, 9, 11)}
        assert all(match.state.application == LARGE for match in page.matches)


# --- Over HTTP ---


@pytest.mark.unfit("retention", reason="it shows the history")
async def test_over_http() -> None:
    async with bank() as world, client_of(app) as http:
        body = LARGE.model_dump() | {"documents": {"identity": "scan", "income proof": "scan"}}
        began = world.now()
        for _ in range(2):  # the second time the first answer was lost
            receipt = (await http.post("/loans", json=body, headers={"Idempotency-Key": "a"})).json()
            assert receipt == {
                "id": "a",
                "status": "Waiting for papers",
                "message": "Please send: bank statement.",
            }
        assert world.now() == began  # at once
        await world.settled()
        assert (await http.put("/loans/a/documents/bank statement", json={"content": "scan"})).json() == []
        await world.advance(minutes=1)
        waiting = (await http.get("/loans")).json()
        assert [(found["key"], found["status"]) for found in waiting["loans"]] == [("a", "Waiting for a person")]
        for _ in range(2):
            await http.post("/loans/a/approve", params={"by": "grace", "reason": "a sound engine"})
        await world.settled()
        assert (await http.get("/loans")).json()["loans"] == []
        assert (await http.get("/loans/a")).json()["status"] == "Approved"
        timeline = (await http.get("/loans/a/timeline")).json()
        assert [f"{event['what']} {event['name']}".strip() for event in timeline] == [
            *["message process", "started process", "scheduled send_mail", "completed send_mail"],
            *["timer_started", "waiting", "message upload", "condition_met"],
            *["scheduled check_fraud", "completed check_fraud", "scheduled decision"],
            *["message decision", "received decision", "scheduled send_mail", "completed send_mail", "ended process"],
        ]
        assert timeline[9]["output"] == {"is_suspicious": False, "reason": ""}
        assert (await http.get("/mail/ada@example.org")).json()[-1] == "Approved: a sound engine"


async def test_over_http_nobody_decides_about_a_request_that_does_not_exist() -> None:
    async with bank() as world, client_of(app) as http:
        for attempt in (
            http.get("/loans/b"),
            http.post("/loans/b/approve", params={"by": "grace"}),
            http.put("/loans/b/documents/identity", json={"content": "scan"}),
        ):
            with pytest.raises(AssertionError, match=r"404: .*no loan request b"):
                await attempt
        assert world.states() == {}


# --- Crashes ---


async def approved_alone(world: PerdureTest) -> Status:
    return await Loan.ref("a").process(SMALL, COMPLETE)


async def never_complete(world: PerdureTest) -> Status:
    return await Loan.ref("a").process(SMALL, {}, Rules(reminders=3))


async def complete_after_two_days(world: PerdureTest) -> Status:
    await Loan.ref("a").process.start(LARGE, {"identity": "scan"})
    await world.advance(days=2, hours=1)
    await Loan.ref("a").upload("income proof", "scan")
    await Loan.ref("a").upload("bank statement", "scan")
    await world.advance(days=30)
    await _decide(YES)
    return await Loan.ref("a").process.result()


async def decided_early(world: PerdureTest) -> Status:
    await _decide(NO)
    return await Loan.ref("a").process(LARGE, COMPLETE)


@pytest.mark.parametrize("scenario", [approved_alone, never_complete, complete_after_two_days, decided_early])
async def test_crash_at_every_point(scenario: Callable[[PerdureTest], Awaitable[Status]]) -> None:
    def make() -> PerdureTest:
        return bank(activities=flaky())

    report = await crash_everywhere(make, scenario)
    assert report.attempts >= 4


def flaky() -> list[Fake]:
    """Each mail and each check fails once. What is mailed is mailed by the real activity."""

    async def mail(address: str, text: str) -> None:
        await send_mail.fn(address, text)

    return [
        fake(send_mail, fails(1, then=mail)),
        fake(check_fraud, fails(1, then=FraudReport(is_suspicious=False))),
    ]
