"""An entity as released: what the commands load."""

from perdure.entities import Entity, Mailbox, handler, patched, workflow


class Old(Entity, name="Ledger"):
    first: str = "Ada"
    sums: dict[str, int] = {"z": 0, "a": 0}
    amounts = Mailbox(int)

    @workflow
    async def run(self, left: int, label: str = "é \U0001f600") -> dict[str, int]:
        for _ in range(2):
            amount = await self.amounts.receive()
            self.sums["z" if patched("by parity") and amount % 2 else "a"] += amount
        if left > 2:
            await self.run.continue_as_new(left - 2, label)
        return self.sums

    @handler
    async def rename(self, first: str) -> None:
        self.first = first
