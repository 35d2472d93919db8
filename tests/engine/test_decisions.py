"""Decisions of people (P1, P6, P7): asked durably, listed, taken once, checked, overdue in time, kept in the audit."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Literal

import pytest
from pydantic import BaseModel

from perdure.entities import (
    DecisionOverdue,
    Entity,
    InvalidArguments,
    NoSuchOperation,
    NotInWorkflow,
    OpenDecision,
    OperationSettled,
    PayloadTooLarge,
    WorkflowFailed,
    complete_activity,
    decide,
    decision,
    fail_activity,
    heartbeat_activity,
    open_decisions,
    workflow,
)
from perdure.entities.decisions import find_decision
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore
from .waiting import eventually


class Verdict(BaseModel):
    outcome: Literal["approve", "reject"]
    note: str = ""


class Claim(Entity):
    amount: int = 0
    outcome: str = ""

    @workflow
    async def process(self, amount: int, due_s: float | None = None) -> str:
        self.amount = amount
        due = None if due_s is None else timedelta(seconds=due_s)
        try:
            verdict = await decision("underwriting", Verdict, title="Pay?", due=due, show={"amount": amount})
        except DecisionOverdue as late:
            self.outcome = "overdue"
            return f"overdue: {type(late.__cause__).__name__}"
        assert isinstance(verdict, Verdict)
        self.outcome = verdict.outcome
        return f"{verdict.outcome}: {verdict.note}"

    @workflow
    async def too_much(self) -> None:
        await decision("underwriting", Verdict, show={"text": "x" * 70_000})

    @workflow
    async def wrong_group(self) -> None:
        await decision("no group", Verdict)


CLAIM = Claim.ref("c-1")


@pytest.fixture(params=["kept", "evicted"])
async def claims(request: pytest.FixtureRequest, store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    settings = EngineSettings(evict_after_every_turn=request.param == "evicted")
    async with LocalCluster([Claim], store=store, settings=settings) as cluster:
        yield cluster


async def the_decision() -> OpenDecision:
    async with asyncio.timeout(10):
        while not (page := await open_decisions("underwriting")).decisions:
            await asyncio.sleep(0.01)
    (found,) = page.decisions
    return found


async def test_a_decision_is_listed_with_what_it_takes_to_decide(claims: LocalCluster) -> None:
    await CLAIM.process.start(900, due_s=3600)
    found = await the_decision()
    assert (str(found.entity), found.group, found.workflow) == ("Claim/c-1", "underwriting", "process")
    assert (found.title, found.show) == ("Pay?", {"amount": 900})
    assert found.schema is not None
    assert found.schema["properties"]["outcome"]["enum"] == ["approve", "reject"]
    assert found.due_at is not None
    assert found.due_at - found.asked_at == timedelta(hours=1)
    assert await find_decision(found.id) == found
    assert (await open_decisions("legal")).decisions == []
    assert (await open_decisions("underwriting", type="Order")).decisions == []


async def test_it_is_taken_once_checked_and_audited(claims: LocalCluster, store: FaultyStore) -> None:
    await CLAIM.process.start(900)
    found = await the_decision()
    assert found.due_at is None
    with pytest.raises(InvalidArguments, match="does not fit the result"):
        await decide(found.id, {"outcome": "perhaps"})
    answers = await asyncio.gather(
        *(
            decide(found.id, {"outcome": word, "note": "n"}, operator="ann", reason="seen")
            for word in ("approve", "reject")
        ),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers].count(OperationSettled) == 1
    word = "approve" if answers[0] is None else "reject"
    assert await CLAIM.process.result() == f"{word}: n"
    assert (await open_decisions("underwriting")).decisions == []
    with pytest.raises(OperationSettled):
        await find_decision(found.id)
    with pytest.raises(OperationSettled):
        await decide(found.id, {"outcome": "approve"})
    (kept,) = await claims.survey.audit(limit=9)
    assert b'"action":"decide"' in kept.row.args
    assert b'"operator":"ann"' in kept.row.args


async def test_a_decision_outlives_every_host(store: FaultyStore) -> None:
    async with LocalCluster([Claim], store=store):
        await CLAIM.process.start(900)
        found = await the_decision()
    async with LocalCluster([Claim], store=store):
        await decide(found.id, {"outcome": "reject"})
        assert await CLAIM.process.result() == "reject: "


async def test_overdue_is_told_to_the_workflow(claims: LocalCluster) -> None:
    await CLAIM.process.start(900, due_s=0.2)
    found = await the_decision()
    assert await CLAIM.process.result(timeout=10) == "overdue: ActivityTimeout"
    with pytest.raises(OperationSettled):
        await decide(found.id, {"outcome": "approve"})
    assert (await open_decisions("underwriting")).decisions == []


async def test_who_has_only_the_token_may_not_take_it(claims: LocalCluster) -> None:
    """Whoever may start a workflow learns its run id, and could make the token of what it waits for."""
    await CLAIM.process.start(900)
    found = await the_decision()
    with pytest.raises(NoSuchOperation):
        await complete_activity(found.id, {"outcome": "approve"})
    with pytest.raises(NoSuchOperation):
        await fail_activity(found.id, "no")
    with pytest.raises(NoSuchOperation):
        await heartbeat_activity(found.id, {"title": "Say yes"})
    assert (await the_decision()).title == "Pay?"


async def test_cancelling_the_run_takes_it_off_the_list(claims: LocalCluster) -> None:
    await CLAIM.process.start(900)
    await the_decision()
    await CLAIM.process.terminate(reason="withdrawn")
    assert (await open_decisions("underwriting")).decisions == []
    (kept,) = await claims.survey.audit(limit=9)
    assert (kept.row.kind, kept.row.name) == ("terminate", "process")


async def test_a_question_that_cannot_be_put_fails_at_once(claims: LocalCluster) -> None:
    await CLAIM.too_much.start()
    with pytest.raises(WorkflowFailed) as large:
        await CLAIM.too_much.result()
    assert isinstance(large.value.__cause__, PayloadTooLarge)
    await CLAIM.wrong_group.start()
    with pytest.raises(WorkflowFailed) as wrong:
        await CLAIM.wrong_group.result()
    assert isinstance(wrong.value.__cause__, InvalidArguments)
    with pytest.raises(NotInWorkflow):
        await decision("underwriting", Verdict)


async def test_pages_of_the_work_list(claims: LocalCluster, store: FaultyStore) -> None:
    for number in range(5):
        await Claim.ref(f"c-{number}").process.start(number, due_s=1_000 - number if number < 3 else None)
    await eventually(
        lambda: (
            sum(row.status == "outside" for stored in store._entities.values() for row in stored.attempts.values()) == 5
        )
    )
    keys: list[str] = []
    after: str | None = None
    while True:
        page = await open_decisions("underwriting", after=after, limit=2)
        keys += [one.entity.key for one in page.decisions]
        after = page.next
        if after is None:
            break
    assert keys == ["c-2", "c-1", "c-0", "c-3", "c-4"]
    with pytest.raises(InvalidArguments):
        await open_decisions("underwriting", after="nonsense")
    with pytest.raises(InvalidArguments):
        await open_decisions("underwriting", limit=0)
