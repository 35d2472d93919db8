"""The four services of a shop. A real application talks to them over the network here."""

import logging
from datetime import timedelta

from pydantic import BaseModel

from perdure.entities import RetryPolicy, activity, activity_info

log = logging.getLogger(__name__)

RETRY = RetryPolicy(initial=timedelta(seconds=1), factor=2, attempts=3)
LIMIT = timedelta(seconds=30)


class Cart(BaseModel, frozen=True):
    customer: str
    email: str
    items: dict[str, int]
    cents: int


@activity(retry=RETRY, timeout=LIMIT)
async def charge_payment(cart: Cart) -> str:
    """The key is the order's, not the attempt's or the run's: even an order that is processed anew pays once."""
    idempotency_key = f"payment-of-{activity_info().entity.key}"
    log.warning("charging %s: %d cents (%s)", cart.customer, cart.cents, idempotency_key)
    return idempotency_key


@activity(retry=RETRY, timeout=LIMIT)
async def create_order(cart: Cart, payment_id: str) -> str:
    order_id = f"order-{activity_info().entity.key}"
    log.warning("%s: %s, paid by %s", order_id, cart.items, payment_id)
    return order_id


@activity(retry=RETRY, timeout=LIMIT)
async def send_confirmation(email: str, order_id: str) -> None:
    log.warning("to %s: thank you for %s", email, order_id)


@activity(retry=RETRY, timeout=LIMIT)
async def update_inventory(items: dict[str, int]) -> None:
    log.warning("taken from the shelves: %s", items)
