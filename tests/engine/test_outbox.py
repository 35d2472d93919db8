"""`outbox`: what an entity has sent and what became of each message, from committed rows alone (P8)."""

from datetime import timedelta

import pytest

from perdure.entities import ApplicationError, Entity, EntityId, Mailbox, RetryPolicy, handler, outbox, workflow
from perdure.entities.errors import InvalidArguments
from perdure.entities.history import What, history
from perdure.entities.outbox import SentMessage
from perdure.entities.testing import PerdureTest


class Stock(Entity):
    taken: int = 0

    @handler
    async def take(self) -> int:
        self.taken += 1
        return self.taken

    @handler(retry=RetryPolicy(attempts=1))
    async def lose(self) -> None:
        raise ApplicationError("nothing is lost here")


class Order(Entity):
    nudges = Mailbox(str)

    @workflow
    async def run(self) -> str:
        await Stock.ref("a").take()
        await Stock.ref("b").take.send()
        await Stock.ref("b").take.options(idempotency_key="once").send()
        await Stock.ref("c").take.options(delay=timedelta(days=3)).send()
        await Stock.ref("c").lose.send()
        return await self.nudges.receive()

    @workflow
    async def flood(self, count: int) -> None:
        for number in range(count):
            await Stock.ref(f"f{number}").take.send()

    @handler
    async def tell(self) -> None:
        await Stock.ref("d").take.send()
        await Stock.ref("d").lose.send()


def told(messages: list[SentMessage]) -> list[tuple[str, str, str, int | None]]:
    return sorted((f"{one.type}/{one.key}", one.name, one.status, one.receiver_version) for one in messages)


async def test_what_a_workflow_has_sent_is_where_it_is() -> None:
    async with PerdureTest([Order, Stock]) as world:
        await Order.ref("o").run.start()
        await world.settled()
        page = await outbox(Order.ref("o"))
        assert told(page.messages) == [
            ("Stock/a", "take", "applied", 1),
            ("Stock/b", "take", "applied", 1),
            ("Stock/b", "take", "applied", 2),
            ("Stock/c", "lose", "dead_letter", 2),
            ("Stock/c", "take", "delayed", None),
        ]
        assert {one.kind for one in page.messages} == {"call", "send"}
        assert all(one.workflow == "run" and one.version for one in page.messages)
        later = next(one for one in page.messages if one.status == "delayed")
        assert later.settled_at is not None
        assert later.settled_at - later.sent_at >= timedelta(days=2, hours=23)
        await world.advance(timedelta(days=3, minutes=1))
        [late] = [one for one in (await outbox(Order.ref("o"))).messages if one.name == "take" and one.key == "c"]
        assert late.status == "applied"
        assert late.receiver_version == (await history(Stock.ref("c"))).version
        assert (page.next, page.is_cut) == (None, False)


async def test_of_handlers_what_was_given_up_is_found_and_what_was_applied_is_with_its_receiver() -> None:
    async with PerdureTest([Order, Stock]) as world:
        await Order.ref("o").tell()
        await world.settled()
        [one] = (await outbox(Order.ref("o"))).messages
        assert (one.type, one.key, one.name, one.status) == ("Stock", "d", "lose", "dead_letter")
        assert (one.version, one.workflow) == (None, "")
        assert "Order/o" in {event.sender for event in (await history(Stock.ref("d"))).events}


async def test_it_comes_in_pages_of_whole_turns_and_each_message_once() -> None:
    async with PerdureTest([Order, Stock]) as world:
        await Order.ref("o").run.start()
        await Order.ref("o").nudges.send("go on")
        await world.settled()
        await Order.ref("o").flood.start(600)
        await world.settled()
        first = await outbox(Order.ref("o"))
        [given_up] = [one for one in first.messages if not one.workflow]
        assert (given_up.name, given_up.status) == ("lose", "dead_letter"), "what nobody must miss stands on the first"
        seen = [one.message_id for one in first.messages if one.workflow == "flood"]
        assert len(seen) == len(first.messages) - 1 == 600, "one turn, whole"
        following = first.next
        while following is not None:
            page = await outbox(Order.ref("o"), before=following, limit=1)
            seen += [one.message_id for one in page.messages]
            following = page.next
        assert len(seen) == len(set(seen)) == 605
        assert (await outbox(Order.ref("nobody"))).messages == []
        with pytest.raises(InvalidArguments):
            await outbox(Order.ref("o"), limit=0)


async def test_it_is_told_while_no_host_runs_and_the_history_names_receivers() -> None:
    async with PerdureTest([Order, Stock]) as world:
        await Order.ref("o").run.start()
        await world.settled()
        archive = world.store.archive()
        address = EntityId("Order", "o")
    page = await outbox(address, archive=archive)
    assert len(page.messages) == 5
    events = (await history(address, kinds=[What.SENT], archive=archive)).events
    assert [event.details["target"] for event in events] == ["Stock/b", "Stock/b", "Stock/c", "Stock/c"]
    assert len({event.message_id for event in events}) == 4
