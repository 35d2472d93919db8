"""The second release, years later: thanks after every twelfth bill. The state is as it was.

A step more in the loop is a step that the journals of those who live do not have: hence `patched`. Who was past it
before has no thanks until the run continues as new; everybody else does.
"""

from perdure.entities import patched, workflow

from . import entities
from .activities import bill, is_paying, send_thanks, send_trial_expired
from .entities import PLAN, Plan, Status

BILLS_A_YEAR = 12


class Subscription(entities.Subscription, name="Subscription"):
    """The key is the customer."""

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
            if patched("thanks") and self.billings % BILLS_A_YEAR == 0:
                await send_thanks(self.key, self.billings // BILLS_A_YEAR)
        else:
            await self.run.continue_as_new(plan)
        return self.end("Cancelled")
