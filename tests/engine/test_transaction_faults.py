"""Transactions when something fails at each step (P1-P4, P8): hosts, callers, answers, the store."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

import pytest

from perdure.entities import (
    AlreadyCommitted,
    OutcomeUnknown,
    TransactionConflict,
    TransactionTimeout,
    Unavailable,
    run_transaction,
    transaction,
)
from perdure.entities.messages import Envelope, Kind, Reply
from perdure.entities.store.port import HostFenced, NotStorable, StoreUnavailable, WriteConflict
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster
from perdure.entities.transaction_messages import Step

from .conftest import QUICK
from .faults import Crasher, Fault, FaultyStore
from .test_transactions import Purse, outside, totals, transfer
from .waiting import becomes, eventually


class Store(FaultyStore):
    """`on_transact` are what happens to the next commits of transactions."""

    def __init__(self, *, shards: int = 16) -> None:
        super().__init__(shards=shards)
        self.on_transact: deque[Fault] = deque()
        self.is_late: asyncio.Event | None = None
        """The next commit of a transaction waits for this."""

    async def transact(self, batch: Batch) -> int:
        fault = self.on_transact.popleft() if self.on_transact else Fault.NONE
        entities = [write.entity for write in batch.writes]
        if self.is_late is not None:
            await self.is_late.wait()
        match fault:
            case Fault.BEFORE:
                raise StoreUnavailable("injected", maybe_applied=False)
            case Fault.AFTER:
                await super().transact(batch)
                raise StoreUnavailable("injected", maybe_applied=True)
            case Fault.CONFLICT:
                raise WriteConflict("injected", entities=entities)
            case Fault.NOT_STORABLE:
                raise NotStorable("injected", entities=entities)
            case Fault.FENCED:
                self.crash(batch.incarnation)
                raise HostFenced("injected")
            case Fault.CRASH_BEFORE | Fault.CRASH_AFTER:
                if fault is Fault.CRASH_AFTER:
                    await super().transact(batch)
                self.crash(batch.incarnation)
                await asyncio.Event().wait()
                raise AssertionError("a dead host goes on")
            case _:
                return await super().transact(batch)


class Lossy(LocalCluster):
    """Steps of transactions get lost as told."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.lost_requests: list[Step] = []
        self.lost_answers: list[Step] = []
        self.seen: list[Step] = []

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        step = Step(envelope.name) if envelope.kind is Kind.TRANSACTION else None
        if step is None:
            return await super().request(envelope, timeout_s=timeout_s)
        self.seen.append(step)
        if step in self.lost_requests:
            self.lost_requests.remove(step)
            raise OutcomeUnknown("injected: the request got lost")
        reply = await super().request(envelope, timeout_s=timeout_s)
        if step in self.lost_answers:
            self.lost_answers.remove(step)
            raise OutcomeUnknown("injected: the answer got lost")
        return reply


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def cluster(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Lossy]:
    """Three hosts; holds outlast their block by little."""
    monkeypatch.setattr("perdure.entities.transactions.COMMIT_MARGIN_S", 0.1)
    async with Lossy([Purse], store=store, hosts=3, settings=QUICK) as cluster:
        yield cluster


def host_of(cluster: LocalCluster, key: str) -> int:
    return next(
        index
        for index, engine in enumerate(cluster.engines)
        if engine.owns(Purse.ref(key).entity_id)  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize("fault", list(Fault))
async def test_every_fate_of_the_commit_leads_to_one_transfer(cluster: Lossy, store: Store, fault: Fault) -> None:
    crasher = Crasher(cluster, store)
    store.on_transact.append(fault)
    if fault is Fault.NOT_STORABLE:
        with pytest.raises(TransactionConflict, match="injected"):
            await transfer(Purse.ref("a"), Purse.ref("b"), 60)
        assert await totals("a", "b") == [100, 100]
        return
    assert await transfer(Purse.ref("a"), Purse.ref("b"), 60) == 40
    assert await totals("a", "b") == [40, 160]
    assert await Purse.ref("a").deposit(1) == 41
    await crasher.settle()
    for key in "ab":
        assert [row.kind for row in store.history(f"Purse/{key}") if row.ok].count("transaction") == 1
    assert crasher.crashes == (1 if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.FENCED) else 0)


@pytest.mark.parametrize("whose", ["first", "second"])
async def test_an_owner_that_dies_while_it_holds(cluster: Lossy, store: Store, whose: str) -> None:
    """Its successor may have answered already: the commit must be refused."""
    key = "a" if whose == "first" else "b"
    with pytest.raises(TransactionConflict):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, b):
            a.balance, b.balance = 0, 200
            await cluster.crash(host_of(cluster, key))
            assert await outside(Purse.ref(key).total()) == 100
    assert await totals("a", "b") == [100, 100]
    assert store.version("Purse/a") + store.version("Purse/b") == 0


async def test_a_shard_that_moves_while_it_is_held(cluster: Lossy, store: Store) -> None:
    with pytest.raises(TransactionConflict):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, b):
            a.balance, b.balance = 0, 200
            engine = cluster.engines[host_of(cluster, "b")]
            shard = engine.shard_of(Purse.ref("b").entity_id)  # type: ignore[attr-defined]
            await engine.disown([shard])
            await store.release(engine.incarnation, [shard])
            other = cluster.engines[(cluster.engines.index(engine) + 1) % 3]
            other.own(await store.claim(other.incarnation, [shard]))
            assert await outside(Purse.ref("b").total()) == 100
    assert await totals("a", "b") == [100, 100]


@pytest.mark.parametrize("step", [Step.HOLD, Step.COMMIT, Step.RELEASE])
@pytest.mark.parametrize("what", ["request", "answer"])
async def test_lost_on_the_way(cluster: Lossy, step: Step, what: str) -> None:
    (cluster.lost_requests if what == "request" else cluster.lost_answers).append(step)
    if step is Step.HOLD:
        with pytest.raises(TransactionTimeout, match="not free"):
            await transfer(Purse.ref("a"), Purse.ref("b"), 60)
        assert await totals("a", "b") == [100, 100]
        assert await transfer(Purse.ref("a"), Purse.ref("b"), 60) == 40
    else:
        assert await transfer.options(timeout=0.3)(Purse.ref("a"), Purse.ref("b"), 60) == 40
    assert await totals("a", "b") == [40, 160]


async def test_an_unknown_outcome_is_settled_by_its_key(cluster: Lossy) -> None:
    for what in (cluster.lost_requests, cluster.lost_answers):
        was = await Purse.ref("a").total()
        what.append(Step.COMMIT)
        key = f"{len(cluster.seen)}"
        with pytest.raises(OutcomeUnknown, match="same idempotency key"):
            async with transaction(Purse.ref("a"), Purse.ref("b"), timeout=0.2, idempotency_key=key) as (a, b):
                a.balance, b.balance = a.balance - 10, b.balance + 10
        is_applied = what is cluster.lost_answers
        try:
            async with transaction(Purse.ref("a"), Purse.ref("b"), idempotency_key=key) as (a, b):
                a.balance, b.balance = a.balance - 10, b.balance + 10
        except AlreadyCommitted:
            assert is_applied
        else:
            assert not is_applied
        assert await Purse.ref("a").total() == was - 10
    assert await totals("a", "b") == [80, 120]


async def test_a_caller_that_dies_leaves_nothing_behind(cluster: Lossy, store: Store) -> None:
    """Its holds expire, the entities go on, and a commit that still comes is refused."""
    caller = transaction(Purse.ref("a"), Purse.ref("b"), timeout=0.1)
    a, b = await caller.__aenter__()
    caller._scope.reschedule(None)  # it is this test that goes on
    a.balance, b.balance = 0, 200
    assert [await asked for asked in (outside(Purse.ref("a").total()), outside(Purse.ref("b").deposit(1)))] == [
        100,
        101,
    ]
    await eventually(lambda: not any(engine.holds.unsettled for engine in cluster.engines))
    assert [row.name for row in store.history("Purse/a")] == ["expired"]
    assert [row.name for row in store.history("Purse/b")] == ["expired", "deposit"]
    with pytest.raises(TransactionConflict):
        await caller.__aexit__(None, None, None)
    assert await totals("a", "b") == [100, 101]


async def test_holds_that_are_not_told_of_the_commit_find_it(cluster: Lossy, store: Store) -> None:
    """The owner's query must wait until it is certain whether the transaction commits (P8)."""
    cluster.lost_answers += [Step.COMMIT]
    cluster.lost_requests += [Step.RELEASE, Step.RELEASE]
    asking: list[asyncio.Task[int]] = []
    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), Purse.ref("b"), timeout=0.1) as (a, b):
            a.balance, b.balance = 0, 200
            asking += [outside(Purse.ref(key).total()) for key in "ab"]
    assert await asyncio.gather(*asking) == [0, 200]  # both holds expired without being told, and found the commit
    assert [row.name for row in store.history("Purse/b")] == [""]


async def test_a_commit_that_reaches_the_store_after_the_holds_have_expired(cluster: Lossy, store: Store) -> None:
    """Somebody has been answered from before it by then: it must not happen."""
    store.is_late = asyncio.Event()
    answers: list[asyncio.Task[int]] = []
    with pytest.raises(TransactionConflict):  # noqa: PT012 - the block is what is tested
        async with transaction(Purse.ref("a"), Purse.ref("b"), timeout=0.1) as (a, b):
            a.balance, b.balance = 0, 200
            answers += [outside(Purse.ref(key).total()) for key in "ab"]
            outside(_after(answers, store.is_late))
    assert [await answer for answer in answers] == await totals("a", "b") == [100, 100]


async def _after(answers: list[asyncio.Task[int]], event: asyncio.Event) -> None:
    await asyncio.wait(answers)
    event.set()


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CRASH_AFTER, Fault.CRASH_BEFORE])
async def test_the_empty_turn_of_an_expired_hold_fails(cluster: Lossy, store: Store, fault: Fault) -> None:
    crasher = Crasher(cluster, store)
    await Purse.ref("a").deposit(1)
    caller = transaction(Purse.ref("a"), timeout=0.05)
    await caller.__aenter__()
    caller._scope.reschedule(None)
    store.faults.append(fault)
    assert await outside(Purse.ref("a").total()) == 101
    with pytest.raises(TransactionConflict):
        await caller.__aexit__(None, None, None)
    await crasher.settle()
    assert not store.faults
    assert await Purse.ref("a").deposit(1) == 102


async def test_a_caller_that_gave_up_waiting_does_not_hold(cluster: Lossy, store: Store) -> None:
    async with transaction(Purse.ref("a")):
        late = outside(_enter("a"))
        with pytest.raises(TransactionTimeout, match="not free"):
            await late
    assert await asyncio.wait_for(Purse.ref("a").total(), 30) == 100
    assert store.history("Purse/a")[-1].ok


async def _enter(key: str) -> None:
    async with transaction(Purse.ref(key), timeout=0.05):
        raise AssertionError("it is held by somebody else")


async def test_a_database_that_stays_away(cluster: Lossy, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "default_timeout_s", 0.3)
    store.on_transact.extend([Fault.BEFORE] * 50)
    with pytest.raises(Unavailable):
        async with transaction(Purse.ref("a")) as (a,):
            a.balance = 0
    store.on_transact.clear()
    store.on_transact.extend([Fault.AFTER, *[Fault.BEFORE] * 50])
    with pytest.raises(OutcomeUnknown):
        async with transaction(Purse.ref("a")) as (a,):
            a.balance = 50
    store.on_transact.clear()
    assert await totals("a") == [50]


async def test_a_cancelled_block_lets_go(cluster: Lossy) -> None:
    entered = asyncio.Event()

    async def block() -> None:
        async with transaction(Purse.ref("a"), Purse.ref("b")) as (a, _):
            a.balance = 0
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(Purse.ref("a").total(), 30) == 100


async def test_a_function_is_run_again_after_a_conflict(cluster: Lossy, store: Store) -> None:
    runs = 0

    async def spend(a: Purse) -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            await cluster.crash(host_of(cluster, "a"))
        a.balance -= 10
        return a.balance

    assert await run_transaction(spend, Purse.ref("a")) == 90
    assert runs == 2
    await becomes(Purse.ref("a").total, 90)


async def test_a_hold_is_worth_nothing_after_a_lost_commit_of_its_shard() -> None:
    """Settling that commit raises the shard's epoch (decision 26), as a change of owner does: refused; run again."""
    store = Store(shards=1)
    runs = 0

    async def spend(a: Purse) -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            store.faults.append(Fault.AFTER)
            await outside(Purse.ref("other").deposit(1))
        a.balance -= 10
        return a.balance

    async with LocalCluster([Purse], store=store, settings=QUICK) as cluster:
        with pytest.raises(TransactionConflict):
            async with transaction(Purse.ref("a")) as (a,):
                await spend(a)
        assert await totals("a", "other") == [100, 101]
        runs = 0
        assert await run_transaction(spend, Purse.ref("a")) == 90
        assert runs == 2
        assert await totals("a", "other") == [90, 102]
        assert cluster.engines[0].stats()["commit_failures"] == 2
