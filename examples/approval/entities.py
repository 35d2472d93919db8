"""A request that somebody approves or rejects within a week; silence is a rejection."""

import asyncio
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from perdure.entities import Entity, Mailbox, now, query, workflow

from .activities import ask, notify, process

WEEK = 7 * 24 * 3600.0

Status = Literal["New", "Waiting", "Processing", "Approved", "Rejected", "Expired"]


class Request(BaseModel, frozen=True):
    subject: str
    requester: str
    approver: str
    decide_within_s: float = WEEK


class Decision(BaseModel, frozen=True):
    is_approved: bool
    by: str
    reason: str = ""


class ApprovalStatus(BaseModel, from_attributes=True):
    key: str
    status: Status
    request: Request | None
    decision: Decision | None
    decided_at: datetime | None
    receipt: str


class Approval(Entity):
    status: Status = "New"
    request: Request | None = None
    decision: Decision | None = None
    decided_at: datetime | None = None
    receipt: str = ""

    decisions = Mailbox(Decision)
    """May be sent before the request has been made, or while nothing runs. The first one counts."""

    @workflow
    async def run(self, request: Request) -> Status:
        self.request, self.status = request, "Waiting"
        await ask(request.approver, request.subject)
        try:
            async with asyncio.timeout(request.decide_within_s):
                decision = await self.decisions.receive()
        except TimeoutError:
            self.status = "Expired"
            await notify(request.requester, f"{request.subject}: rejected, because nobody decided in time")
            return self.status

        self.decision, self.decided_at = decision, now()
        if not decision.is_approved:
            self.status = "Rejected"
            await notify(request.requester, f"{request.subject}: rejected by {decision.by}: {decision.reason}")
            return self.status

        self.status = "Processing"
        self.receipt = await process(request.subject)
        self.status = "Approved"
        await notify(request.requester, f"{request.subject}: approved by {decision.by}")
        return self.status

    @query
    async def state(self) -> ApprovalStatus:
        return ApprovalStatus.model_validate(self)
