"""P2, continued: what handlers do that they should not."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from perdure.entities import DurableAwaitInHandler, Entity, HandlerTimeout, handler, query
from perdure.entities.engine.effects import OUTBOX_MAX, OutboxLimit
from perdure.entities.errors import HandlerFailed, ResultNotSerialisable, StateNotSerialisable
from perdure.entities.store.port import NotStorable
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .scenes import Account, world
from .waiting import becomes, eventually

A = Account.ref("a")


class Hub(Entity):
    count: int = 0
    tags: set[int] = set()

    @handler
    async def fan_out(self, number: int) -> None:
        self.count += 1
        for index in range(number):
            await Account.ref(f"fan-{index}").deposit.send(1)

    @handler
    async def call_another(self) -> int:
        self.count += 1
        return await Account.ref("a").deposit(1)

    @handler
    async def call_itself(self) -> None:
        self.count += 1
        await Hub.ref("h").call_itself()

    @handler(timeout=timedelta(milliseconds=20))
    async def swallow_the_cancellation(self) -> str:
        self.count += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "nevertheless"

    @handler(timeout=timedelta(milliseconds=20))
    async def ignore_the_cancellation(self) -> None:
        self.count += 1
        while not world.gate.is_set():
            try:
                await world.gate.wait()
            except asyncio.CancelledError:
                world.ran["ignored"] += 1
        self.count += 100

    @handler
    async def leave_a_task_behind(self) -> None:
        async def later() -> None:
            await world.gate.wait()
            try:
                await Account.ref("fan-0").deposit.send(1)
            except DurableAwaitInHandler:
                world.ran["refused"] += 1

        world.ran["left"] += 1
        self.background = asyncio.create_task(later())

    @handler
    async def raise_base_exception(self) -> None:
        self.count += 1
        raise SystemExit(3)

    @handler
    async def cancel_itself(self) -> None:
        self.count += 1
        raise asyncio.CancelledError

    @handler
    async def return_huge(self) -> str:
        self.count += 1
        return "x" * 3_000_000

    @handler
    async def grow(self, upto: int) -> None:
        self.tags = set(range(0, upto * 64, 64))

    @handler
    async def shrink(self, downto: int) -> None:
        for tag in sorted(self.tags)[downto:]:
            self.tags.discard(tag)

    @query
    async def counted(self) -> int:
        return self.count

    @query
    async def tagged(self) -> int:
        return len(self.tags)


H = Hub.ref("h")


@pytest.fixture
async def hub(store: FaultyStore) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Account, Hub], store=store, settings=QUICK) as cluster:
        yield cluster


async def test_too_many_messages_roll_the_turn_back(hub: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(OutboxLimit, match=str(OUTBOX_MAX)):
        await H.fan_out(OUTBOX_MAX + 1)
    await hub.drained()
    assert await H.counted() == 0
    assert store.version("Account/fan-0") == 0
    await H.fan_out(OUTBOX_MAX)
    await eventually(lambda: not store.waiting_messages())


@pytest.mark.parametrize("name", ["call_another", "call_itself"])
async def test_a_durable_await_in_a_handler_is_refused_at_once(hub: LocalCluster, name: str) -> None:
    with pytest.raises(DurableAwaitInHandler, match=r"Hub/h: a handler awaited"):
        await getattr(H, name)()
    assert await H.counted() == 0


async def test_swallowing_the_cancellation_does_not_save_the_turn(hub: LocalCluster) -> None:
    with pytest.raises(HandlerTimeout):
        await H.swallow_the_cancellation()
    assert await H.counted() == 0


async def test_a_handler_that_ignores_its_cancellation_is_abandoned(hub: LocalCluster) -> None:
    with pytest.raises(HandlerTimeout):
        await H.ignore_the_cancellation()
    assert world.ran["ignored"] == 1
    assert await H.counted() == 0
    world.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await H.counted() == 0, "what the abandoned code still does reaches nothing"
    await H.fan_out(1)
    assert await H.counted() == 1


@pytest.mark.parametrize("name", ["raise_base_exception", "cancel_itself"])
async def test_exceptions_that_are_no_exceptions_roll_back_too(hub: LocalCluster, name: str) -> None:
    with pytest.raises(HandlerFailed):
        await getattr(H, name)()
    assert await H.counted() == 0


async def test_a_huge_result_rolls_the_turn_back(hub: LocalCluster) -> None:
    with pytest.raises(ResultNotSerialisable, match="limit"):
        await H.return_huge()
    assert await H.counted() == 0


async def test_a_field_that_is_not_declared_is_refused(hub: LocalCluster) -> None:
    """It would be lost with the next passivation."""
    with pytest.raises(HandlerFailed, match="background"):
        await H.leave_a_task_behind()


async def test_queries_accept_sets_whatever_their_past(hub: LocalCluster) -> None:
    for upto in (5, 20, 50, 100):
        await H.grow(upto)
        for downto in (40, 20, 9, 3):
            await H.shrink(downto)
            assert await H.tagged() == min(downto, upto)
        with pytest.raises(DurableAwaitInHandler):  # rolls back: fields are fresh copies
            await H.call_another()
        assert await H.tagged() == 3
    await hub.crash()
    assert await H.tagged() == 3


async def test_a_state_that_the_database_refuses_harms_nobody_else(hub: LocalCluster, store: FaultyStore) -> None:
    """The safety net below the engine's own checks."""
    real = store.commit

    async def commit(batch: Batch) -> int:
        bad = [w.entity for w in batch.writes if any(b"poison" in row.args for row in w.history)]
        if bad:
            raise NotStorable("a value cannot be stored", entities=bad)
        return await real(batch)

    await A.note("x")
    store.commit = commit  # type: ignore[method-assign]
    poison = [asyncio.create_task(A.note("poison")), asyncio.create_task(A.note.send("poison too"))]
    others = [Account.ref(f"o{number}").deposit(1) for number in range(20)]
    assert await asyncio.gather(*others) == [1] * 20
    for task in poison:
        with pytest.raises(StateNotSerialisable, match="cannot be stored"):
            await task
    assert await A.note("good") == 2
    await becomes(A.notes, ["x", "good"])


class Stray(Entity):
    """Its handler leaves a task behind that changes fields after the turn."""

    level: int = 0

    @handler
    async def leaves_a_task(self) -> None:
        async def later() -> None:
            try:
                await world.gate.wait()
                self.level = 99
            except Exception as error:
                world.ran[f"{type(error).__name__}: {error}"] += 1
            finally:
                world.ran["stray ended"] += 1

        stray.append(asyncio.create_task(later()))
        await asyncio.sleep(0)
        self.level = 1

    @handler
    async def add(self) -> int:
        self.level += 1
        return self.level


stray: list[asyncio.Task[None]] = []


async def test_a_task_that_outlives_its_handler_cannot_set_fields() -> None:
    async with LocalCluster([Stray], settings=QUICK):
        await Stray.ref("s").leaves_a_task()
        world.gate.set()
        await stray.pop()
        assert await Stray.ref("s").add() == 2
    told = [text for text in world.ran if "cannot set `level`" in text]
    assert len(told) == 1
    assert told[0].startswith("DurableAwaitInHandler: Stray/s: the turn has ended")
