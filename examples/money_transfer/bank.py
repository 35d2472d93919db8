"""The bank: accounts, and the flaky API in front of them that transfers have to live with.

The accounts are entities, so that the demo's money survives like everything else. Each booking carries a *reference*: a
second one of the same reference changes nothing. A bank remembers references for longer than any request is repeated,
therefore they are in its books rather than an idempotency key of the call; that would also repeat the first refusal
("locked") to everybody who comes back later under the same key.
"""

import os
import random

from pydantic import BaseModel, Field

from perdure.entities import ApplicationError, Entity, activity_info, handler, query

FAILURE_RATE = float(os.environ.get("MONEY_TRANSFER_FAILURE_RATE", "0.1"))
REFERENCES_MAX = 1_000


class AccountLocked(ApplicationError):
    """Until a person unlocks it."""


class AccountClosed(ApplicationError):
    """For good."""


class NotEnough(ApplicationError):
    """There is less in the account."""


class Statement(BaseModel, from_attributes=True):
    """An account as its owner sees it."""

    key: str
    balance: int
    is_locked: bool
    is_closed: bool


class Account(Entity):
    """Of one customer. Amounts are in cents."""

    balance: int = Field(default=0, ge=0)
    is_locked: bool = False
    is_closed: bool = False
    references: dict[str, None] = {}  # of the latest bookings

    @handler
    async def withdraw(self, amount: int, reference: str) -> None:
        """Raises NotEnough, AccountLocked, AccountClosed; then nothing was booked."""
        if reference not in self.references:
            if self.balance < amount:
                raise NotEnough(f"{self.key} has less than {amount}")
            self.book(-amount, reference)

    @handler
    async def deposit(self, amount: int, reference: str) -> None:
        """Raises AccountLocked, AccountClosed; then nothing was booked."""
        if reference not in self.references:
            self.book(amount, reference)

    @handler
    async def lock(self, is_locked: bool = True) -> None:
        self.is_locked = is_locked

    @handler
    async def close(self) -> None:
        self.is_closed = True

    @query
    async def statement(self) -> Statement:
        return Statement.model_validate(self)

    def book(self, amount: int, reference: str) -> None:
        if self.is_closed:
            raise AccountClosed(f"{self.key} is closed")
        if self.is_locked:
            raise AccountLocked(f"{self.key} is locked")
        self.balance += amount
        self.references[reference] = None
        for oldest in list(self.references)[:-REFERENCES_MAX]:
            del self.references[oldest]


# --- The API ---


async def withdraw_via_api(account: str, amount: int) -> None:
    """What an activity calls. Raises what the account raises, and ConnectionError without any reason."""
    stumble("request")
    await Account.ref(account).withdraw(amount, activity_info().idempotency_key)
    stumble("answer")


async def deposit_via_api(account: str, amount: int) -> None:
    """As `withdraw_via_api`."""
    stumble("request")
    await Account.ref(account).deposit(amount, activity_info().idempotency_key)
    stumble("answer")


def stumble(what: str) -> None:
    """A lost request was not booked; a lost answer was, and the caller cannot tell the two apart."""
    if random.random() < FAILURE_RATE:
        raise ConnectionError(f"the bank's API lost the {what}")
