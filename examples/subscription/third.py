"""The third release: a word before each bill, and the state in another form (version 2).

`patched` again for the step in the loop; `@upgrade` for the states that are stored, and for those in the journals of
runs that live. Nobody's subscription notices.
"""

from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from perdure.entities import Entity, condition, handler, now, patched, query, upgrade, workflow

from .activities import Receipt, announce, bill, is_paying, send_thanks, send_trial_expired
from .entities import PLAN, Plan, Status, SubscriptionStatus
from .second import BILLS_A_YEAR


class Paid(BaseModel, frozen=True):
    """What a customer has paid so far."""

    bills: int = 0
    last: Receipt | None = None


class Subscription(Entity, version=2):
    """The key is the customer."""

    status: Status = "New"
    is_cancel_wanted: bool = False
    paid: Paid = Paid()
    next_at: datetime | None = None

    @upgrade(from_version=1)
    @staticmethod
    def what_is_paid_moves_together(state: dict[str, Any]) -> dict[str, Any]:
        number = state.pop("last_receipt", "")
        state["paid"] = {"bills": state.pop("billings", 0), "last": {"number": number} if number else None}
        return state

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
            number = self.paid.bills + 1
            if self.is_announced():
                await announce(self.key, number)
            receipt = await bill(self.key, number, plan.cents)
            if receipt.is_cancelled:
                break
            self.paid = Paid(bills=number, last=receipt)
            if patched("thanks") and number % BILLS_A_YEAR == 0:
                await send_thanks(self.key, number // BILLS_A_YEAR)
        else:
            await self.run.continue_as_new(plan)
        return self.end("Cancelled")

    def is_announced(self) -> bool:
        return patched("announced")

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
        """For clients nothing has changed."""
        return SubscriptionStatus(
            key=self.key,
            status=self.status,
            billings=self.paid.bills,
            last_receipt=self.paid.last.number if self.paid.last else "",
            next_at=self.next_at,
        )
