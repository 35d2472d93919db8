"""Messages to people, and what an approval is for. A real application sends e-mails and pays here."""

import logging
from datetime import timedelta

from perdure.entities import RetryPolicy, activity, activity_info

log = logging.getLogger(__name__)

PATIENCE = RetryPolicy(maximum=timedelta(minutes=5))


@activity(retry=PATIENCE, timeout=timedelta(seconds=30))
async def ask(approver: str, question: str) -> None:
    log.warning("to %s: please decide: %s", approver, question)


@activity(retry=PATIENCE, timeout=timedelta(seconds=30))
async def notify(person: str, text: str) -> None:
    log.warning("to %s: %s", person, text)


@activity(retry=PATIENCE, timeout=timedelta(minutes=5))
async def process(subject: str) -> str:
    """Returns the receipt. The idempotency key makes it one purchase, however often this is tried."""
    receipt = f"receipt-{activity_info().entity.key}"
    log.warning("done: %s (%s)", subject, receipt)
    return receipt
