"""The billing service and the post. A real application talks to them over the network here."""

import json
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perdure.entities import RetryPolicy, activity, activity_info

log = logging.getLogger(__name__)

BOOKS = "SUBSCRIPTION_BOOKS"
"""Environment variable: a file to which every attempt is appended, for somebody outside who counts."""


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
    write_down("to %s: your trial is over", customer)


@activity(retry=RetryPolicy(attempts=10), timeout=timedelta(minutes=1))
async def bill(customer: str, number: int, cents: int) -> Receipt:
    """The idempotency key makes it one bill, however often this is tried."""
    receipt = Receipt(number=activity_info().idempotency_key)
    write_down("to %s: bill %d over %d cents", customer, number, cents)
    return receipt


@activity(timeout=timedelta(minutes=5))
async def send_thanks(customer: str, years: int) -> None:
    """Since the second release: a discount code, once a year."""
    write_down("to %s: thank you for %d years", customer, years)


@activity(timeout=timedelta(minutes=5))
async def announce(customer: str, number: int) -> None:
    """Since the third release: a word before each bill."""
    write_down("to %s: bill %d is coming", customer, number)


def write_down(words: str, customer: str, *numbers: int) -> None:
    """What the real service would do."""
    log.warning(words, customer, *numbers)
    books = os.environ.get(BOOKS)
    if books:
        info = activity_info()
        line: dict[str, Any] = {"activity": info.activity, "customer": customer, "numbers": numbers}
        line |= {"idempotency_key": info.idempotency_key, "attempt": info.attempt, "at": time.time()}
        with Path(books).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one write, appended: no other process gets in between
