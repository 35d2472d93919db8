"""A funding request, from its submission to the decision."""

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel

from perdure.entities import Entity, Mailbox, condition, handler, query, workflow

from .activities import Application, check_fraud, send_mail

Status = Literal["Checking", "Waiting for papers", "Checking for fraud", "Waiting for a person", "Approved", "Rejected"]
Paper = Literal["identity", "income proof", "bank statement"]
PAPERS: tuple[Paper, ...] = ("identity", "income proof", "bank statement")


class Rules(BaseModel, frozen=True):
    """How the bank works. Input of each request, so that a new release does not change requests under way."""

    decides_alone_up_to: int = 5_000
    remind_every: timedelta = timedelta(hours=24)
    reminders: int = 7


RULES = Rules()


class Decision(BaseModel, frozen=True):
    is_approved: bool
    by: str
    reason: str = ""


class Summary(BaseModel, from_attributes=True):
    """A request as applicants and clerks see it."""

    key: str
    application: Application | None
    status: Status
    message: str
    documents: dict[Paper, str]
    decided_by: str


class Loan(Entity, index=["status"]):
    """One request."""

    application: Application | None = None
    status: Status = "Checking"
    message: str = "We have received your request."
    documents: dict[Paper, str] = {}  # where each is kept; the scans themselves belong into a store of files
    decided_by: str = ""

    decision = Mailbox(Decision)
    """May be sent at any time, also before anybody waits. The first one counts."""

    @workflow
    async def process(self, application: Application, documents: dict[Paper, str], rules: Rules = RULES) -> Status:
        self.application = application
        self.documents |= documents
        if not await self.wait_for_papers(application, rules):
            return await self.end("Rejected", "the system", f"Papers are missing: {', '.join(self.missing())}.")

        self.status, self.message = "Checking for fraud", "Your papers are complete."
        report = await check_fraud(application)
        if report.is_suspicious:
            return await self.end("Rejected", "the system", "We cannot offer you a loan.")
        if application.amount <= rules.decides_alone_up_to:
            return await self.end("Approved", "the system", "Congratulations!")

        self.status, self.message = "Waiting for a person", "A colleague will look at your request."
        decision = await self.decision.receive()  # today or in a year
        return await self.end("Approved" if decision.is_approved else "Rejected", decision.by, decision.reason)

    @handler
    async def upload(self, paper: Paper, content: str) -> list[Paper]:
        """Add a document; returns what is still missing."""
        self.documents[paper] = content
        return self.missing()

    @query
    async def summary(self) -> Summary:
        return Summary.model_validate(self)

    # Steps of the workflow

    def missing(self) -> list[Paper]:
        return [paper for paper in PAPERS if paper not in self.documents]

    async def wait_for_papers(self, application: Application, rules: Rules) -> bool:
        for _ in range(rules.reminders):
            if not self.missing():
                return True
            self.status, self.message = "Waiting for papers", f"Please send: {', '.join(self.missing())}."
            await send_mail(application.email, self.message)
            if await condition(lambda: not self.missing(), timeout=rules.remind_every):
                return True
        return False

    async def end(self, status: Status, by: str, message: str) -> Status:
        self.status, self.message, self.decided_by = status, message or status, by
        assert self.application is not None
        await send_mail(self.application.email, f"{status}: {self.message}")
        return status
