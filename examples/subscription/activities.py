"""The billing service and the post. A real application talks to them over the network here."""

import logging
from datetime import timedelta

from pydantic import BaseModel

from perdure.entities import RetryPolicy, activity, activity_info

log = logging.getLogger(__name__)


class Receipt(BaseModel, frozen=True):
    number: str
    is_cancelled: bool = False
    """The customer has cancelled at the bank: there is nothing more to bill."""


@activity(timeout=timedelta(seconds=30))
async def is_paying(customer: str) -> bool:
    """Whether the customer has left a means of payment."""
    return not customer.startswith("free-")


@activity(timeout=timedelta(minutes=5))
async def send_trial_expired(customer: str) -> None:
    log.warning("to %s: your trial is over", customer)


@activity(retry=RetryPolicy(attempts=10), timeout=timedelta(minutes=1))
async def bill(customer: str, cents: int) -> Receipt:
    """The idempotency key makes it one bill, however often this is tried."""
    receipt = Receipt(number=activity_info().idempotency_key)
    log.warning("billed %s: %d cents (%s)", customer, cents, receipt.number)
    return receipt
