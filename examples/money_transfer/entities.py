"""Three ways to move money: patiently, with compensations, and in one commit."""

from typing import Literal

from pydantic import BaseModel, Field

from perdure.entities import ApplicationError, Entity, atomic, query, saga, workflow

from .activities import Patience, deposit, withdraw
from .bank import Account

FEES = "fees"
"""The account of the bank itself."""


class Order(BaseModel, frozen=True):
    """What to move, in cents."""

    source: str
    target: str
    amount: int = Field(gt=0)
    fee: int = Field(default=0, ge=0)
    """Of the saga only."""
    patience: Patience = Patience()


Status = Literal["New", "Withdrawing", "Depositing", "Done", "Refused"]


class Transfer(Entity):
    """One transfer through the bank's flaky API."""

    status: Status = "New"
    order: Order | None = None

    @workflow
    async def run(self, order: Order) -> None:
        """Withdraw, then deposit. What time does not mend waits for a person, as if nothing had happened."""
        self.order, self.status = order, "Withdrawing"
        await withdraw.options(retry=order.patience.policy("NotEnough"))(order.source, order.amount)
        self.status = "Depositing"
        await deposit.options(retry=order.patience.policy())(order.target, order.amount)
        self.status = "Done"

    @workflow
    async def run_as_saga(self, order: Order) -> None:
        """The same with a fee. What the bank refuses for good is undone, the last step first."""
        price = order.amount + order.fee
        take = withdraw.options(retry=order.patience.policy("NotEnough", "AccountClosed"))
        give = deposit.options(retry=order.patience.policy("AccountClosed"))
        self.order, self.status = order, "Withdrawing"
        try:
            async with saga() as s:
                await s.step(take(order.source, price), undo=lambda: deposit(order.source, price))
                self.status = "Depositing"
                await s.step(give(FEES, order.fee), undo=lambda: withdraw(FEES, order.fee))
                await s.step(give(order.target, order.amount))
        except ApplicationError:  # everything is as it was before
            self.status = "Refused"
            raise
        self.status = "Done"

    @query
    async def at(self) -> Status:
        return self.status


@atomic
async def move(source: Account, target: Account, amount: int, reference: str) -> int:
    """Both accounts are entities of one store: a transfer is one commit, and there is nothing to take back."""
    await source.withdraw(amount, reference)
    await target.deposit(amount, reference)
    return source.balance
