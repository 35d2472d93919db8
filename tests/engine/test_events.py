"""Events: every subscriber gets one message, exactly once, from wherever the event is published (P1, P2, P3)."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from pydantic import BaseModel

from perdure.entities import (
    DefinitionError,
    Entity,
    HandlerFailed,
    IdempotencyMismatch,
    InvalidArguments,
    ReadOnlyViolation,
    Registry,
    handler,
    publish,
    query,
    workflow,
)
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Refused, world
from .waiting import becomes, eventually


class OrderCreated(BaseModel):
    order_id: str
    total: int
    gift: bool = False


class Kitchen(Entity):
    cooked: list[str] = []

    @handler(on_event="order:create", key=lambda _event: "main")
    async def cook(self, event: OrderCreated) -> None:
        world.ran["cook"] += 1
        self.cooked.append(f"{event.order_id} {event.total}")

    @query
    async def meals(self) -> list[str]:
        return self.cooked


class Delivery(Entity):
    log: list[str] = []

    @workflow(on_event="order:create", key=lambda event: event["order_id"])
    async def run(self, order_id: str) -> str:
        world.ran["delivery"] += 1
        self.log.append(order_id)
        return order_id

    @handler(on_event="order:create", key=lambda event: event["order_id"] if event["gift"] else None)
    async def wrap(self, order_id: str, total: int) -> None:
        self.log.append(f"wrap {order_id} {total}")

    @query
    async def lines(self) -> list[str]:
        return self.log


class Shop(Entity):
    sold: int = 0

    @handler
    async def sell(self, order_id: str, fails: bool = False) -> int:
        self.sold += 1
        told = await publish("order:create", OrderCreated(order_id=order_id, total=5))
        if fails:
            raise Refused("after all")
        return told

    @handler
    async def sell_wrongly(self) -> None:
        self.sold += 1
        await publish("order:create", {"order_id": 3, "gift": False})

    @workflow
    async def sells(self, count: int) -> list[int]:
        told: list[int] = []
        for number in range(count):
            told.append(await publish("order:create", OrderCreated(order_id=f"w{number}", total=number)))
            await asyncio.sleep(0.001)
        return told

    @query
    async def sale_in_a_query(self) -> None:
        await publish("order:create", {})

    @query
    async def count(self) -> int:
        return self.sold


CLASSES: list[type[Entity]] = [Kitchen, Delivery, Shop]
K = Kitchen.ref("main")
S = Shop.ref("s")


@pytest.fixture
async def cluster(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster(CLASSES, store=store, hosts=2, settings=QUICK) as cluster:
        yield cluster


async def test_from_outside_every_subscriber_is_told_with_what_it_takes(cluster: LocalCluster) -> None:
    assert await publish("order:create", OrderCreated(order_id="o1", total=7)) == 2
    assert await publish("order:create", {"order_id": "o2", "total": 8, "gift": True, "more": "is ignored"}) == 3
    await becomes(K.meals, ["o1 7", "o2 8"])
    await becomes(Delivery.ref("o1").lines, ["o1"])

    async def lines() -> list[str]:
        return sorted(await Delivery.ref("o2").lines())

    await becomes(lines, ["o2", "wrap o2 8"])
    assert await Delivery.ref("o2").run.result() == "o2"


async def test_an_event_that_nobody_subscribes_to_tells_nobody(cluster: LocalCluster) -> None:
    assert await publish("nothing:of:the:kind") == 0


async def test_with_an_idempotency_key_a_repeat_tells_nobody_again(cluster: LocalCluster) -> None:
    event = OrderCreated(order_id="o1", total=7)
    for _ in range(3):
        assert await publish("order:create", event, idempotency_key="k") == 2
        await cluster.crash()
    await publish("order:create", OrderCreated(order_id="o2", total=8))
    await becomes(K.meals, ["o1 7", "o2 8"])
    with pytest.raises(IdempotencyMismatch):
        await publish("order:create", OrderCreated(order_id="o1", total=9), idempotency_key="k")


async def test_in_a_handler_it_leaves_with_the_turn_or_not_at_all(cluster: LocalCluster) -> None:
    with pytest.raises(HandlerFailed, match="after all"):
        await S.sell("no", fails=True)
    assert await S.sell("yes") == 2
    await becomes(K.meals, ["yes 5"])
    assert await Delivery.ref("no").lines() == []


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_a_lost_commit_tells_everybody_once(cluster: LocalCluster, store: FaultyStore, fault: Fault) -> None:
    store.faults.append(fault)
    assert await S.sell("o1") == 2
    store.faults.append(fault)
    assert await publish("order:create", OrderCreated(order_id="o2", total=5)) == 2
    await becomes(K.meals, ["o1 5", "o2 5"])
    await cluster.drained()
    assert len([row for row in store.history("Kitchen/main") if row.name == "cook"]) == 2


async def test_from_a_workflow_each_once_whatever_crashes(cluster: LocalCluster) -> None:
    await S.sells.start(5)
    for _ in range(4):
        await cluster.crash()
        await asyncio.sleep(0.01)
    assert await S.sells.result() == [2] * 5
    await eventually(lambda: world.ran["delivery"] >= 5)
    await becomes(K.meals, [f"w{number} {number}" for number in range(5)])


async def test_events_of_one_publisher_keep_their_order(cluster: LocalCluster) -> None:
    for number in range(30):
        await publish("order:create", OrderCreated(order_id=f"o{number}", total=0))
    await becomes(K.meals, [f"o{number} 0" for number in range(30)])


async def test_a_payload_that_does_not_suit_tells_nobody(cluster: LocalCluster) -> None:
    with pytest.raises(InvalidArguments, match=r"event order:create: Kitchen\.cook.*order_id.*nobody was told"):
        await S.sell_wrongly()
    assert await S.count() == 0
    with pytest.raises(InvalidArguments, match=r"Delivery\.wrap: its key function raised KeyError: 'gift'"):
        await publish("order:create", {"order_id": "o", "total": 3})
    with pytest.raises(InvalidArguments, match=r"the payload is an object"):
        await publish("order:create", [1, 2])
    with pytest.raises(InvalidArguments, match=r"printable"):
        await publish("", {})
    await cluster.drained()
    assert await K.meals() == []


async def test_a_query_cannot_publish(cluster: LocalCluster) -> None:
    with pytest.raises(ReadOnlyViolation, match="a query published order:create"):
        await S.sale_in_a_query()


def test_mistakes_are_found_at_definition() -> None:
    def on(**kwargs: Any) -> None:
        async def run(self: Entity) -> None: ...

        handler(**kwargs)(run)
        workflow(**kwargs)(run)

    with pytest.raises(DefinitionError, match=r"test_events\.py:\d+: on_event='x' needs `key=`"):
        on(on_event="x")
    with pytest.raises(DefinitionError, match="`key=` belongs to `on_event"):
        on(key=lambda _event: "k")
    with pytest.raises(DefinitionError, match="1 to 200 printable characters"):
        on(on_event="", key=lambda _event: "k")
    with pytest.raises(DefinitionError, match="needs `key=`, a function"):
        on(on_event="x", key="order_id")


def test_subscriptions_are_the_registrys() -> None:
    assert Registry(CLASSES).subscriptions.events() == ["order:create"]
    assert Registry([Shop]).subscriptions.events() == []
