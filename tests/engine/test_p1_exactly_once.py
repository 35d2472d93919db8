"""P1: an acknowledged message is applied exactly once, whatever crashes; unknown outcomes are reported as unknown."""

import asyncio

import pytest

from perdure.entities import CallTimeout, IdempotencyMismatch
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.errors import HandlerFailed
from perdure.entities.testing import LocalCluster

from .faults import Crasher, Fault, FaultyStore
from .scenes import Account, world
from .senders import Sender
from .waiting import becomes, eventually

A = Account.ref("a")


async def test_a_call_is_applied_once_and_answered_with_its_result(cluster: LocalCluster, store: FaultyStore) -> None:
    assert await A.deposit(5) == 5
    assert await A.deposit(3) == 8
    assert [row.version for row in store.history("Account/a")] == [1, 2]
    assert world.ran["deposit"] == 2


async def test_the_same_key_gives_the_first_outcome(cluster: LocalCluster) -> None:
    keyed = A.deposit.options(idempotency_key="k")
    assert await keyed(5) == 5
    await A.deposit(10)
    assert await keyed(5) == 5
    assert await A.total() == 15
    assert world.ran["deposit"] == 2


async def test_the_same_key_after_a_crash_gives_the_first_outcome(cluster: LocalCluster) -> None:
    keyed = A.deposit.options(idempotency_key="k")
    assert await keyed(5) == 5
    await cluster.crash()
    assert await keyed(5) == 5
    assert await A.total() == 5


async def test_the_same_key_with_another_payload_is_a_conflict(cluster: LocalCluster) -> None:
    keyed = A.deposit.options(idempotency_key="k")
    await keyed(5)
    with pytest.raises(IdempotencyMismatch, match=r"Account/a\.deposit.*another payload"):
        await keyed(6)
    await cluster.crash()
    with pytest.raises(IdempotencyMismatch):
        await keyed(6)
    assert await A.total() == 5


async def test_a_key_is_scoped_by_handler_and_entity(cluster: LocalCluster) -> None:
    await A.deposit.options(idempotency_key="k")(5)
    await A.note.options(idempotency_key="k")("x")
    await Account.ref("b").deposit.options(idempotency_key="k")(6)
    assert (await A.total(), await A.notes(), await Account.ref("b").total()) == (5, ["x"], 6)


async def test_repeats_while_the_first_is_running_wait_for_its_outcome(cluster: LocalCluster) -> None:
    keyed = A.wait.options(idempotency_key="k")
    first = asyncio.create_task(keyed("x"))
    await eventually(lambda: world.ran["wait"] == 1)
    repeats = [asyncio.create_task(keyed("x")) for _ in range(5)]
    other = asyncio.create_task(keyed("y"))
    world.gate.set()
    assert await asyncio.gather(first, *repeats) == ["x"] * 6
    with pytest.raises(IdempotencyMismatch):
        await other
    assert await A.notes() == ["x"]
    assert world.ran["wait"] == 1


async def test_eight_clients_with_one_key_have_one_effect(cluster: LocalCluster) -> None:
    results = await asyncio.gather(*(A.deposit.options(idempotency_key="k")(5) for _ in range(8)))
    assert results == [5] * 8
    assert await A.total() == 5


async def test_a_failed_outcome_is_an_outcome_too(cluster: LocalCluster) -> None:
    keyed = A.fail_after_changing.options(idempotency_key="k")
    for _ in range(2):
        with pytest.raises(HandlerFailed, match="after all"):
            await keyed(5)
    await cluster.crash()
    with pytest.raises(HandlerFailed, match="after all"):
        await keyed(5)


async def test_a_one_way_message_with_a_key_is_applied_once(cluster: LocalCluster) -> None:
    keyed = A.deposit.options(idempotency_key="k")
    await asyncio.gather(*(keyed.send(5) for _ in range(4)))
    await cluster.crash()
    await keyed.send(5)
    await cluster.drained()
    assert await A.total() == 5
    with pytest.raises(IdempotencyMismatch):
        await keyed.send(6)


async def test_a_key_works_between_call_and_send(cluster: LocalCluster) -> None:
    await A.deposit.options(idempotency_key="k").send(5)
    assert await A.deposit.options(idempotency_key="k")(5) == 5
    assert await A.total() == 5


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_a_failed_commit_applies_nothing_twice(cluster: LocalCluster, store: FaultyStore, fault: Fault) -> None:
    await A.deposit(1)
    store.faults.extend([fault, fault])
    assert await A.deposit(5) == 6
    assert await A.total() == 6
    assert store.version("Account/a") == 2


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_failed_commits_under_load_apply_everything_once(
    cluster: LocalCluster, store: FaultyStore, fault: Fault
) -> None:
    store.pick = lambda number, _: fault if number % 3 == 0 and number < 30 else Fault.NONE
    accounts = [Account.ref(f"a{number}") for number in range(5)]
    results = await asyncio.gather(
        *(account.deposit(1) for account in accounts for _ in range(40)),
        *(account.deposit.send(1) for account in accounts for _ in range(10)),
    )
    await cluster.drained()
    assert len(results) == 250
    for account in accounts:
        await becomes(account.total, 50)
        versions = [row.version for row in store.history(f"Account/{account.key}")]
        assert versions == list(range(1, 51)), "gap-free, each exactly once"
    assert store.waiting_messages() == []


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER])
async def test_crashes_under_load_apply_everything_once(store: FaultyStore, fault: Fault) -> None:
    async with LocalCluster([Account], store=store, hosts=2) as cluster:
        crasher = Crasher(cluster, store)
        store.pick = lambda number, _: fault if number in (2, 6, 11, 17) else Fault.NONE
        accounts = [Account.ref(f"a{number}") for number in range(6)]
        for _ in range(4):
            await asyncio.gather(
                *(account.deposit(1) for account in accounts for _ in range(3)),
                *(account.deposit.send(1) for account in accounts for _ in range(3)),
            )
        for account in accounts:
            await becomes(account.total, 24)
        assert crasher.crashes
        await crasher.settle()
        await cluster.drained()
        for account in accounts:
            assert [row.version for row in store.history(f"Account/{account.key}")] == list(range(1, 25))
        assert store.waiting_messages() == []


async def test_money_is_conserved_over_crashes(store: FaultyStore) -> None:
    """Messages between entities: exactly once without a ledger."""
    async with LocalCluster([Account], store=store, hosts=2) as cluster:
        names = [f"bank-{number}" for number in range(6)]
        await asyncio.gather(*(Account.ref(name).deposit(100) for name in names))
        for round_number in range(4):
            transfers = [
                asyncio.create_task(Account.ref(name).pay(names[(index + 1 + round_number) % 6], 7))
                for index, name in enumerate(names)
            ]
            await asyncio.sleep(0)
            await cluster.crash(round_number % len(cluster.engines))
            await asyncio.gather(*transfers)
        await eventually(lambda: not store.waiting_messages())
        await cluster.drained()
        assert [await Account.ref(name).total() for name in names] == [100] * 6


async def test_a_caller_that_gives_up_is_told_that_the_outcome_is_unknown(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    await A.deposit(1)
    store.hold_commits()
    with pytest.raises(CallTimeout, match=r"Account/a\.deposit"):
        await A.deposit.options(timeout=0.02, idempotency_key="k")(5)
    store.let_commits_go()
    assert await A.deposit.options(idempotency_key="k")(5) == 6, "the same key tells what became of it"
    assert await A.total() == 6


async def test_one_key_sent_by_several_entities_is_applied_once() -> None:
    """The repeat's inbox row has to go as well."""

    async with LocalCluster([Account, Sender], store=FaultyStore(), settings=EngineSettings()) as other:
        for number in range(3):
            await Sender.ref(f"s-{number}").send_keyed("target", "k")
        faulty = other.store
        assert isinstance(faulty, FaultyStore)
        await eventually(lambda: not faulty.waiting_messages())
        await other.drained()
        assert await Account.ref("target").total() == 1
        await other.crash()
        assert await Account.ref("target").total() == 1
        assert not faulty.waiting_messages()


async def test_a_stored_message_whose_commit_was_answered_too_late_makes_no_second_version() -> None:
    """Found by `campaigns orders`: Postgres was killed between a commit and its answer."""
    store = FaultyStore()
    async with LocalCluster([Account, Sender], store=store) as cluster:
        store.pick = lambda _, batch: (
            Fault.AFTER
            if any(write.entity.type == "Account" and write.consumed and write.history for write in batch.writes)
            and not store.history("Account/target")
            else Fault.NONE
        )
        await Sender.ref("s").send_notes("target", 0, 3)
        await becomes(Account.ref("target").notes, ["0", "1", "2"])
        await cluster.drained()
        assert store.waiting_messages() == []
        assert [row.version for row in store.history("Account/target")] == [1, 2, 3]
        assert store.version("Account/target") == 3
        assert await Account.ref("target").deposit(1) == 1
        assert store.version("Account/target") == 4


async def test_a_message_whose_wake_up_got_lost_is_found(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalCluster, "_hint", lambda _self, _entities: None)
    async with LocalCluster([Account, Sender], store=store, hosts=2, settings=EngineSettings(mail_poll_s=0.05)):
        for number in range(8):  # by chance one of them lives with its sender
            await Sender.ref("s").send_notes(f"to-{number}", 1, 1)
        await eventually(lambda: not store.waiting_messages())
        for number in range(8):
            assert await Account.ref(f"to-{number}").notes() == ["1"]
