"""Entities that send."""

from perdure.entities import Entity, handler

from .scenes import Account


class Sender(Entity):
    sent: int = 0

    @handler
    async def send_keyed(self, to: str, key: str) -> None:
        self.sent += 1
        await Account.ref(to).deposit.options(idempotency_key=key).send(1)

    @handler
    async def send_notes(self, to: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.sent += 1
            await Account.ref(to).note.send(str(number))

    @handler
    async def send_later(self, to: str, delay: float) -> None:
        await Account.ref(to).note.options(delay=delay).send("later")
