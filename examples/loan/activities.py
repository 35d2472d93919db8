"""What a loan needs from the outside: mail to the applicant, and the fraud bureau.

The bureau is a stand-in that takes its time and distrusts one name. Mail goes into the `Mail` entity of the address,
where the demo shows it; the idempotency key of the step makes each mail arrive once, however often the step is tried.
"""

import asyncio
import os
from datetime import timedelta

from pydantic import BaseModel

from perdure.entities import Entity, RetryPolicy, activity, activity_info, handler, query

BUREAU_S = float(os.environ.get("LOAN_BUREAU_SECONDS", "2"))


class Application(BaseModel, frozen=True):
    """What the applicant asks for."""

    user: str
    email: str
    amount: int
    purpose: str


class FraudReport(BaseModel, frozen=True):
    is_suspicious: bool
    reason: str = ""


class Mail(Entity):
    """Everything that was mailed to one address."""

    letters: list[str] = []

    @handler
    async def receive(self, text: str) -> None:
        self.letters = [*self.letters, text][-100:]

    @query
    async def read(self) -> list[str]:
        return self.letters


@activity(retry=RetryPolicy(maximum=timedelta(minutes=1)), timeout=timedelta(seconds=30))
async def send_mail(address: str, text: str) -> None:
    await Mail.ref(address).receive.options(idempotency_key=activity_info().idempotency_key)(text)


@activity(retry=RetryPolicy(maximum=timedelta(minutes=5)), timeout=timedelta(minutes=5))
async def check_fraud(application: Application) -> FraudReport:
    await asyncio.sleep(BUREAU_S)
    if application.user.lower() == "mallory":
        return FraudReport(is_suspicious=True, reason="known to the bureau")
    return FraudReport(is_suspicious=False)
