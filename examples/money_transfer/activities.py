"""The two calls to the bank. Ten seconds between attempts; after the last one a person is asked."""

from datetime import timedelta

from pydantic import BaseModel, Field

from perdure.entities import RetryPolicy, activity

from . import bank


class Patience(BaseModel, frozen=True):
    """How long to try. Part of each order, so that a new release does not change transfers under way."""

    attempts: int = Field(default=100, ge=1)
    wait_s: float = Field(default=10, gt=0)

    def policy(self, *final: str) -> RetryPolicy:
        """final: what the bank says for good. All else is worth another attempt, and at last a person's look."""
        wait = timedelta(seconds=self.wait_s)
        return RetryPolicy(
            initial=wait, factor=1, maximum=wait, attempts=self.attempts, non_retryable=final, on_exhausted="pause"
        )


@activity(retry=Patience().policy(), timeout=timedelta(seconds=30))
async def withdraw(account: str, amount: int) -> None:
    await bank.withdraw_via_api(account, amount)


@activity(retry=Patience().policy(), timeout=timedelta(seconds=30))
async def deposit(account: str, amount: int) -> None:
    await bank.deposit_via_api(account, amount)
