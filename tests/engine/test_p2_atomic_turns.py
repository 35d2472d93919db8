"""P2: a turn is all or nothing. A handler that raises changes nothing."""

import asyncio

import pytest

from perdure.entities import ApplicationError, DurableAwaitInHandler, Entity, HandlerTimeout, handler, query
from perdure.entities.engine.effects import OUTBOX_MAX
from perdure.entities.errors import HandlerFailed, ResultNotSerialisable, StateNotSerialisable, error_from_body
from perdure.entities.messages import decode_error
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import FaultyStore
from .scenes import Account, world
from .waiting import becomes, eventually

A = Account.ref("a")


async def nothing_happened(cluster: LocalCluster, store: FaultyStore) -> None:
    await cluster.drained()
    assert (await A.total(), await A.notes()) == (10, ["x"])
    await cluster.crash()
    assert (await A.total(), await A.notes()) == (10, ["x"])
    assert store.version("Account/other") == 0, "an effect of a failed turn has left"


@pytest.fixture(autouse=True)
async def before(cluster: LocalCluster) -> None:
    await A.deposit(10)
    await A.note("x")


async def test_a_handler_that_raises_changes_nothing(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(HandlerFailed, match=r"^Account/a\.fail_after_changing raised Refused: after all$") as caught:
        await A.fail_after_changing(5)
    assert caught.value.error_type == "Refused"
    assert isinstance(caught.value.__cause__, ApplicationError)
    await nothing_happened(cluster, store)


async def test_the_error_is_the_outcome(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(HandlerFailed):
        await A.fail_after_changing(5)
    row = store.history("Account/a")[-1]
    assert (row.ok, row.name, row.version) == (False, "fail_after_changing", 3)
    assert "after all" in str(error_from_body(decode_error(row.outcome)))


async def test_an_application_error_reaches_the_caller_as_it_is(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(ApplicationError, match="^no$") as caught:
        await A.refuse()
    assert (caught.value.type, caught.value.details) == ("Policy", {"reason": "because"})
    await nothing_happened(cluster, store)


async def test_invalid_state_rolls_back_and_names_the_field(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(StateNotSerialisable, match=r"Account/a.*balance.*greater than or equal to 0"):
        await A.make_negative()
    await nothing_happened(cluster, store)


async def test_unserialisable_state_rolls_back(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(StateNotSerialisable, match=r"Account/a.*Event"):
        await A.keep_unserialisable()
    await nothing_happened(cluster, store)


@pytest.mark.parametrize("name", ["return_wrong_type", "return_none"])
async def test_a_result_of_the_wrong_type_rolls_back(cluster: LocalCluster, store: FaultyStore, name: str) -> None:
    with pytest.raises(ResultNotSerialisable, match=rf"Account\.{name}"):
        await getattr(A, name)()
    await nothing_happened(cluster, store)


async def test_a_handler_that_runs_too_long_is_cancelled_and_rolled_back(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    with pytest.raises(HandlerTimeout, match=r"Account/a\.hang ran longer than its limit of 0.03 s"):
        await A.hang()
    await nothing_happened(cluster, store)


async def test_the_rolled_back_state_is_fresh(cluster: LocalCluster) -> None:
    """A failing handler that had kept a list cannot change it afterwards."""
    with pytest.raises(HandlerFailed):
        await A.fail_after_changing(1)
    await A.note("y")
    assert await A.notes() == ["x", "y"]


async def test_turns_between_failures_are_not_lost(cluster: LocalCluster, store: FaultyStore) -> None:
    """Pipelined with a failing one, all in one commit."""
    store.hold_commits()
    calls = [asyncio.create_task(A.deposit(1))]
    await store.waiting.wait()
    calls += [asyncio.create_task(A.deposit(1)), asyncio.create_task(A.deposit(1))]
    failing = asyncio.create_task(A.fail_after_changing(100))
    calls += [asyncio.create_task(A.deposit(1))]
    await asyncio.sleep(0)
    store.let_commits_go()
    assert await asyncio.gather(*calls) == [11, 12, 13, 14]
    with pytest.raises(HandlerFailed):
        await failing
    assert await A.total() == 14


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

    @handler(timeout=__import__("datetime").timedelta(milliseconds=20))
    async def swallow_the_cancellation(self) -> str:
        self.count += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "nevertheless"

    @handler(timeout=__import__("datetime").timedelta(milliseconds=20))
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
async def hub(store: FaultyStore) -> LocalCluster:  # type: ignore[misc]
    async with LocalCluster([Account, Hub], store=store, settings=QUICK) as cluster:
        yield cluster  # type: ignore[misc]


async def test_too_many_messages_roll_the_turn_back(hub: LocalCluster, store: FaultyStore) -> None:
    from perdure.entities.engine.effects import OutboxLimit  # noqa: PLC0415

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
    from .faults import Fault  # noqa: PLC0415
    from perdure.entities.store.port import NotStorable  # noqa: PLC0415

    real = store.commit

    async def commit(batch):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        bad = [w.entity for w in batch.writes if any(b"poison" in row.args for row in w.history)]
        if bad:
            raise NotStorable("a value cannot be stored", entities=bad)
        return await real(batch)

    del Fault
    store.commit = commit  # type: ignore[method-assign]
    poison = [asyncio.create_task(A.note("poison")), asyncio.create_task(A.note.send("poison too"))]
    others = [Account.ref(f"o{number}").deposit(1) for number in range(20)]
    assert await asyncio.gather(*others) == [1] * 20
    for task in poison:
        with pytest.raises(StateNotSerialisable, match="cannot be stored"):
            await task
    assert await A.note("good") == 2
    await becomes(A.notes, ["x", "good"])
