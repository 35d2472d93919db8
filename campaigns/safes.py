"""Entities of the transfers campaign: money in a `vault` is moved by transactions, money in a `till` by sagas."""

from pydantic import Field

from perdure.entities import ApplicationError, Entity, atomic, handler, query, saga, workflow

EACH = 100
UNLUCKY = 13
"""Nobody takes this amount, so its saga is undone."""


class Safe(Entity):
    vault: int = Field(default=EACH, ge=0)
    till: int = Field(default=EACH, ge=0)

    @handler
    async def open(self) -> None:
        """It exists from now on."""

    @handler
    async def withdraw(self, amount: int) -> None:
        if amount > self.till:
            raise ApplicationError("not enough", type="Poor")
        self.till -= amount

    @handler
    async def deposit(self, amount: int) -> None:
        if amount == UNLUCKY:
            raise ApplicationError("not that number", type="Superstitious")
        self.till += amount

    @handler
    async def give_back(self, amount: int) -> None:
        self.till += amount

    @query
    async def in_vault(self) -> int:
        return self.vault


class Transfer(Entity):
    """One transfer by saga."""

    @workflow
    async def run(self, source: str, target: str, amount: int) -> None:
        async with saga() as s:
            await s.step(Safe.ref(source).withdraw(amount), undo=lambda: Safe.ref(source).give_back(amount))
            await s.step(Safe.ref(target).deposit(amount))


@atomic
async def move(source: Safe, target: Safe, amount: int) -> tuple[int, int]:
    """Both vaults afterwards. Raises ApplicationError."""
    if amount > source.vault:
        raise ApplicationError("not enough", type="Poor")
    source.vault -= amount
    target.vault += amount
    return source.vault, target.vault
