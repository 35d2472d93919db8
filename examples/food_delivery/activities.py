"""Talking to the outside world: a payment service and a push service that are sometimes down, and sometimes refuse.

An activity that raises is tried again, without end by default and ever more slowly. It may therefore reach the
service more than once, even if it worked: the idempotency key, which is the same in every attempt and after every
crash, is what lets the payment service charge a card only once.
"""

import os
from datetime import timedelta
from typing import Any

import httpx

from perdure.entities import ApplicationError, RetryPolicy, activity, activity_info

from .menu import Product

OUTSIDE_URL = os.environ.get("FOOD_DELIVERY_OUTSIDE_URL", "http://127.0.0.1:8400")
PATIENCE = timedelta(seconds=10)

outside = httpx.Client(base_url=OUTSIDE_URL, timeout=5)


class CardDeclined(ApplicationError):
    """The bank says no, and will say no again."""


@activity(retry=RetryPolicy(maximum=PATIENCE, non_retryable=[CardDeclined]), timeout=timedelta(seconds=30))
def charge_customer(product: Product, card: str) -> str:
    order_id = activity_info().entity.key
    charge = post("/charges", order_id=order_id, cents=product.price_cents, card=card)
    return str(charge["payment"])


@activity(retry=RetryPolicy(maximum=PATIENCE), timeout=timedelta(seconds=30))
def refund(payment: str) -> None:
    post("/refunds", payment=payment)


@activity(retry=RetryPolicy(maximum=PATIENCE), timeout=timedelta(seconds=30))
def send_push_notification(customer_id: str, text: str) -> None:
    post("/pushes", customer_id=customer_id, text=text)


def post(path: str, **body: str | int) -> dict[str, Any]:
    """Raises CardDeclined if the service refuses; anything else that goes wrong is worth another attempt."""
    answer = outside.post(path, json=body | {"idempotency_key": activity_info().idempotency_key})
    if answer.status_code == 402:
        raise CardDeclined(str(answer.json()["detail"]))
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result
