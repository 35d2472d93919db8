"""A subscription: fourteen days for nothing, then a bill every thirty days until somebody cancels.

The first release. What became of it years later, with customers of every age: `second.py`, `third.py`.
"""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel

from perdure.entities import Entity, condition, handler, now, query, workflow

from .activities import bill, is_paying, send_trial_expired

DAY = 24 * 3600.0
BILLS_PER_JOURNAL = 24  # two years: what a restart has to read again stays short for ever

Status = Literal["New", "Trial", "Active", "Trial expired", "Cancelled"]


class Plan(BaseModel, frozen=True):
    """Input of the subscription, so that a new release changes nothing for those who have one."""

    cents: int = 900
    trial_s: float = 14 * DAY
    period_s: float = 30 * DAY
    bills_per_journal: int = BILLS_PER_JOURNAL


PLAN = Plan()


class SubscriptionStatus(BaseModel, from_attributes=True):
    key: str
    status: Status
    billings: int
    last_receipt: str
    next_at: datetime | None


class Subscription(Entity):
    """The key is the customer."""

    status: Status = "New"
    is_cancel_wanted: bool = False
    billings: int = 0
    last_receipt: str = ""
    next_at: datetime | None = None  # when the trial ends, or the next bill is due

    @workflow
    async def run(self, plan: Plan = PLAN) -> Status:
        if self.status == "New":
            self.status = "Trial"
            if await self.cancelled_within(plan.trial_s):
                return self.end("Cancelled")
            if not await is_paying(self.key):
                await send_trial_expired(self.key)
                return self.end("Trial expired")
            self.status = "Active"

        for _ in range(plan.bills_per_journal):
            if await self.cancelled_within(plan.period_s):
                break
            receipt = await bill(self.key, self.billings + 1, plan.cents)
            if receipt.is_cancelled:
                break
            self.billings += 1
            self.last_receipt = receipt.number
        else:
            await self.run.continue_as_new(plan)  # the same run for everybody else, with an empty journal
        return self.end("Cancelled")

    async def cancelled_within(self, seconds: float) -> bool:
        """Sleep, unless somebody cancels: then wake at once."""
        self.next_at = now() + timedelta(seconds=seconds)
        return await condition(lambda: self.is_cancel_wanted, timeout=seconds)

    def end(self, status: Status) -> Status:
        self.status, self.next_at = status, None
        return status

    @handler
    async def cancel(self) -> None:
        self.is_cancel_wanted = True

    @query
    async def state(self) -> SubscriptionStatus:
        return SubscriptionStatus.model_validate(self)
