"""User code that must fail: `# mypy: code` and `# pyright: rule` tell the error expected on the line, and no other."""

from datetime import timedelta

from perdure.api import SyncClient
from perdure.entities import Entity, Mailbox, RetryPolicy, activity, handler, query, remind, workflow


@activity
async def charge(amount: int) -> str:
    return str(amount)


class Order(Entity):
    count: int = 0
    letters = Mailbox(str)

    @workflow
    async def run(self, product_id: int) -> str:
        wrong: int = await charge(5)  # mypy: assignment  # pyright: reportAssignmentType
        await charge("5")  # mypy: arg-type  # pyright: reportArgumentType
        letter: int = await self.letters.receive()  # mypy: assignment  # pyright: reportAssignmentType
        return f"{wrong}{letter}"

    @handler
    async def add(self, amount: int, text: str = "") -> int:
        self.count += amount
        self.count = text  # mypy: assignment  # pyright: reportAttributeAccessIssue
        return self.count

    @query
    async def total(self) -> int:
        return self.count

    @handler  # mypy: arg-type  # pyright: reportArgumentType
    def not_async(self) -> int:
        return 1

    def plain(self) -> int:
        return 1


async def use() -> None:
    order = Order.ref("o-1")
    await order.add.send("5")  # mypy: arg-type  # pyright: reportArgumentType
    await order.add.send()  # mypy: call-arg  # pyright: reportCallIssue
    await order.add.send(5, "x", 6)  # mypy: call-arg  # pyright: reportCallIssue
    await order.add(5, colour="red")  # mypy: call-arg  # pyright: reportCallIssue
    await order.ad(5)  # mypy: attr-defined  # pyright: reportAttributeAccessIssue, reportUnknownMemberType
    await order.add.sent(5)  # mypy: attr-defined  # pyright: reportAttributeAccessIssue, reportUnknownMemberType
    await order.plain()  # mypy: misc  # pyright: reportGeneralTypeIssues
    await order.count  # mypy: misc  # pyright: reportGeneralTypeIssues
    await order.add  # mypy: misc  # pyright: reportGeneralTypeIssues
    await order.run.start("5")  # mypy: arg-type  # pyright: reportArgumentType
    await order.run.start(product=5)  # mypy: call-arg  # pyright: reportCallIssue
    await order.total.send()  # mypy: attr-defined  # pyright: reportAttributeAccessIssue, reportUnknownMemberType
    await order.add.start(5)  # mypy: attr-defined  # pyright: reportAttributeAccessIssue, reportUnknownMemberType
    await order.letters.send(5)  # mypy: arg-type  # pyright: reportArgumentType
    wrong: str = await order.add(5)  # mypy: assignment  # pyright: reportAssignmentType
    number: int = await order.run.result()  # mypy: assignment  # pyright: reportAssignmentType
    text: str = await order.total()  # mypy: assignment  # pyright: reportAssignmentType
    await order.add.options(delay="soon").send(5)  # mypy: arg-type  # pyright: reportArgumentType
    await order.add.options(delays=5).send(5)  # mypy: call-arg  # pyright: reportCallIssue, reportUnknownMemberType
    remind(order.run, after=5)  # mypy: arg-type  # pyright: reportArgumentType
    remind(order.add, after="5")  # mypy: arg-type  # pyright: reportArgumentType
    Order(key="o", count="many")  # mypy: arg-type  # pyright: reportArgumentType
    Order.ref(5)  # mypy: arg-type  # pyright: reportArgumentType
    RetryPolicy(timedelta(1))  # mypy: call-arg  # pyright: reportCallIssue
    await order.add(wrong, number)  # mypy: arg-type  # pyright: reportArgumentType
    await order.ask(text)  # mypy: attr-defined  # pyright: reportAttributeAccessIssue, reportUnknownMemberType


async def begins_anew(order: Order) -> None:
    await order.run.continue_as_new("5")  # mypy: arg-type  # pyright: reportArgumentType


def use_without_a_loop(client: SyncClient) -> None:
    order = Order.ref("o-1")
    client.call(order.add, "5")  # mypy: arg-type  # pyright: reportArgumentType
    client.call(order.add)  # mypy: call-arg  # pyright: reportCallIssue
    client.call(order.add.send, 5, colour="red")  # mypy: call-arg  # pyright: reportCallIssue
    client.call(order.run.start, product=5)  # mypy: call-arg  # pyright: reportCallIssue
    wrong: str = client.call(order.add, 5)  # mypy: assignment  # pyright: reportAssignmentType
    client.call(order.totals)  # mypy: attr-defined  # pyright: reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType
    client.call(wrong)  # mypy: arg-type  # pyright: reportArgumentType, reportCallIssue
