"""P5: messages from one sender to one entity are applied in the order sent."""

import asyncio
import dataclasses

import pytest

from perdure.entities.engine.turns.record import PERSIST_AFTER_S
from perdure.entities.store.rows import Batch
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Crasher, Fault, FaultyStore
from .scenes import Account, world
from .senders import Sender
from .waiting import becomes, eventually

A = Account.ref("a")
NUMBERS = [str(number) for number in range(60)]


async def test_calls_and_sends_of_a_client_keep_their_order(cluster: LocalCluster) -> None:
    sent = [A.note(text) if index % 3 else A.note.send(text) for index, text in enumerate(NUMBERS)]
    await asyncio.gather(*sent)
    assert await A.notes() == NUMBERS


async def test_messages_of_an_entity_keep_their_order_over_turns(store: FaultyStore) -> None:
    async with LocalCluster([Account, Sender], store=store, hosts=2, settings=QUICK):
        for first in range(0, 60, 10):
            await Sender.ref("s").send_notes("a", first, 10)
        await becomes(A.notes, NUMBERS)


async def test_messages_of_an_entity_keep_their_order_over_crashes(store: FaultyStore) -> None:
    async with LocalCluster([Account, Sender], store=store, hosts=2, settings=QUICK) as cluster:
        for first in range(0, 60, 15):  # a fifth crash in a row during one message would convict it (P9)
            await Sender.ref("s").send_notes("a", first, 15)
            await cluster.crash(first % len(cluster.engines))
        await becomes(A.notes, NUMBERS)


async def test_awaited_sends_keep_their_order_over_crashes(cluster: LocalCluster, store: FaultyStore) -> None:
    for index, text in enumerate(NUMBERS[:20]):
        if index % 5 == 4:
            store.faults.append(Fault.BEFORE if index % 2 else Fault.AFTER)
        await A.note.send(text)
        if index % 7 == 6:
            await cluster.crash()
    await becomes(A.notes, NUMBERS[:20])


async def test_order_is_kept_while_a_handler_is_busy(cluster: LocalCluster, store: FaultyStore) -> None:
    waiting = asyncio.create_task(A.wait("first"))
    await eventually(lambda: world.ran["wait"])
    await asyncio.gather(*(A.note.send(text) for text in NUMBERS))
    assert len(store.waiting_messages()) == 60, "acknowledged by their inbox rows"
    world.gate.set()
    await waiting
    await becomes(A.notes, ["first", *NUMBERS])
    await eventually(lambda: not store.waiting_messages())


async def test_what_waits_behind_a_failing_message_of_the_same_sender_keeps_its_order(cluster: LocalCluster) -> None:
    world.failures = 2
    await A.flaky.send("1")
    await A.note.send("2")
    await A.note.send("3")
    await becomes(A.notes, ["1", "2", "3"])
    assert world.ran["flaky 1"] == 3


@pytest.mark.unfit("poll", reason="what is found late is applied late, whoever else waits")
async def test_other_senders_and_calls_do_not_wait_behind_it(store: FaultyStore) -> None:
    async with LocalCluster([Account, Sender], store=store, settings=QUICK):
        world.failures = 2
        await A.flaky.send("1")
        await Sender.ref("s").send_notes("a", 7, 1)
        assert await A.note("call") in (1, 2)
        await becomes(A.notes, ["call", "7", "1"] if (await A.notes())[0] == "call" else ["7", "call", "1"])


async def test_a_dead_letter_makes_way_for_what_waited_behind_it(cluster: LocalCluster, store: FaultyStore) -> None:
    world.failures = 100
    await A.flaky.send("1")
    await A.note.send("2")
    await becomes(A.notes, ["2"])
    assert world.ran["flaky 1"] == 3
    letters = store.dead_letters
    assert [(one.envelope.name, one.attempts) for one in letters] == [("flaky", 3)]
    assert b"not now" in letters[0].error
    assert store.waiting_messages() == []
    await cluster.crash()
    await A.note("3")
    assert await A.notes() == ["2", "3"]
    assert world.ran["flaky 1"] == 3, "a dead letter stays dead"


async def test_a_keyed_message_behind_a_failing_one_is_not_forgotten(cluster: LocalCluster, store: FaultyStore) -> None:
    """It has to be looked up, and waits for its turn meanwhile."""
    world.failures = 1
    await A.flaky.send("1")
    await A.note.options(idempotency_key="k").send("2")
    await A.note.send("3")
    await becomes(A.notes, ["1", "2", "3"])
    assert await A.note("4") == 4


async def test_a_failing_message_survives_a_crash_in_its_place(cluster: LocalCluster, store: FaultyStore) -> None:
    world.failures = 1
    sending = asyncio.gather(A.flaky_slowly.send("1"), A.note.send("2"), A.note.send("3"))
    await eventually(lambda: world.ran["flaky 1"] == 1 and len(store.waiting_messages()) == 3)
    await sending
    await cluster.crash()
    await becomes(A.notes, ["1", "2", "3"])
    await eventually(lambda: not store.waiting_messages())


async def test_two_senders_do_not_disturb_each_other(store: FaultyStore) -> None:
    async with LocalCluster([Account, Sender], store=store, hosts=2, settings=QUICK):
        await asyncio.gather(Sender.ref("s").send_notes("a", 0, 30), Sender.ref("t").send_notes("a", 100, 30))
        await becomes(lambda: A.deposit(0), 0)
        await eventually(lambda: not store.waiting_messages())
        notes = [int(text) for text in await A.notes()]
        assert [number for number in notes if number < 100] == list(range(30))
        assert [number for number in notes if number >= 100] == list(range(100, 130))


async def test_a_message_stored_while_its_turn_runs_is_gone_afterwards(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    """It waits for its inbox row behind a slow commit, and is consumed before that row is written."""
    waiting = asyncio.create_task(A.wait("first"))
    await eventually(lambda: world.ran["wait"])
    store.hold_commits()
    other = asyncio.create_task(Account.ref("b").deposit(1))
    await store.waiting.wait()
    sends = [asyncio.create_task(A.note.send(text)) for text in NUMBERS[:5]]
    await asyncio.sleep(0.02)  # longer than a busy entity waits before it persists what waits
    world.gate.set()
    await eventually(lambda: cluster.engines[0].stats()["mailbox"] == 0)
    store.let_commits_go()
    await asyncio.gather(waiting, other, *sends)
    await cluster.drained()
    assert store.waiting_messages() == []
    await cluster.crash()
    assert await A.notes() == ["first", *NUMBERS[:5]]
    await cluster.drained()
    assert cluster.engines[0].stats()["commit_failures"] == 0


async def test_a_message_that_runs_is_accepted_before_what_its_sender_sent_later(cluster: LocalCluster) -> None:
    running = asyncio.ensure_future(A.wait.send("1"))
    await eventually(lambda: world.ran["wait"])
    await A.note.send("2")
    await cluster.crash()
    world.gate.set()
    await running
    await becomes(A.notes, ["1", "2"])


ONE_BY_ONE = dataclasses.replace(QUICK, commit_entities_max=1)


def crash_with_the_first_arrival(cluster: LocalCluster, store: FaultyStore) -> Crasher:
    """As soon as a message is stored, its host dies."""
    crasher = Crasher(cluster, store)
    store.pick = lambda _, batch: Fault.CRASH_AFTER if batch.arrivals and not crasher.crashes else Fault.NONE
    return crasher


async def test_a_failing_message_is_accepted_before_what_its_sender_sent_later(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=ONE_BY_ONE) as cluster:
        crasher = crash_with_the_first_arrival(cluster, store)
        world.failures = 1
        await asyncio.gather(A.flaky_slowly.send("1"), A.note.send("2"), A.note.send("3"))
        await becomes(A.notes, ["1", "2", "3"])
        assert crasher.crashes == 1


async def test_no_message_is_accepted_before_turns_of_its_entity_for_which_a_commit_had_no_room(
    store: FaultyStore,
) -> None:
    async with LocalCluster([Account], store=store, settings=ONE_BY_ONE) as cluster:
        crasher = crash_with_the_first_arrival(cluster, store)
        store.hold_commits()
        others = [Account.ref(f"b{number}").deposit(1) for number in range(5)]
        sending = asyncio.gather(*others, A.note.send("1"), A.wait("a call"), A.note.send("2"))
        await eventually(lambda: world.ran["wait"])
        await asyncio.sleep(2 * PERSIST_AFTER_S)  # until what waits is to be stored
        store.let_commits_go()
        await eventually(lambda: crasher.crashes)
        world.gate.set()
        await sending
        assert await A.notes_sent() == ["1", "2"]


async def test_a_message_whose_commit_conflicts_stays_before_what_its_sender_sent_later(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=ONE_BY_ONE) as cluster:
        crasher = Crasher(cluster, store)
        running = asyncio.ensure_future(A.wait("a call"))
        sending = [asyncio.ensure_future(A.note.send("1"))]

        async def send_another() -> None:
            if len(sending) == 1:
                sending.append(asyncio.ensure_future(A.note.send("2")))
                await asyncio.sleep(4 * PERSIST_AFTER_S)  # until it is to be stored as well

        faults = [Fault.CONFLICT, Fault.CRASH_AFTER]
        store.linger = send_another
        store.pick = lambda _, batch: faults.pop(0) if batch.arrivals and faults else Fault.NONE
        await eventually(lambda: crasher.crashes)
        world.gate.set()
        await asyncio.gather(running, *sending)
        assert await A.notes_sent() == ["1", "2"]


FEW = dataclasses.replace(QUICK, inbox_max=3, mail_poll_s=3600.0)


async def store_notes(store: FaultyStore, *texts: str) -> "asyncio.Future[str]":
    """Accepted, and not applied before the gate opens. Returns the call that they wait behind."""
    running = asyncio.ensure_future(A.wait("a call"))
    await eventually(lambda: world.ran["wait"])
    await asyncio.gather(*(A.note.send(text) for text in texts))
    assert len(store.waiting_messages()) == len(texts)
    return running


async def test_a_message_waits_for_mail_of_its_sender_that_has_not_been_read(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=FEW) as cluster:
        running = await store_notes(store, *NUMBERS[:20])
        engine = cluster.kill()
        sending = asyncio.gather(*(A.note.send(text) for text in NUMBERS[20:25]))
        world.gate.set()
        await cluster.recover(engine)
        await asyncio.gather(running, sending)
        await becomes(A.notes_sent, NUMBERS[:25])
        await eventually(lambda: not store.waiting_messages())


async def test_all_mail_is_read_page_by_page_without_waiting_for_the_poll(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=FEW) as cluster:
        running = await store_notes(store, *NUMBERS[:20])
        world.gate.set()
        await cluster.crash()
        await running
        await becomes(A.notes_sent, NUMBERS[:20])


async def test_the_next_page_is_read_when_the_turns_of_the_last_one_are_durable(store: FaultyStore) -> None:
    """Read before that, it holds what has been done already, and nothing else."""
    async with LocalCluster([Account], store=store, settings=FEW) as cluster:
        running = await store_notes(store, *NUMBERS[:20])
        world.gate.set()
        engine = cluster.kill()
        store.hold_commits()
        await cluster.recover(engine)
        await store.waiting.wait()
        await asyncio.sleep(0.05)  # the page is read, and read in vain
        store.let_commits_go()
        await running
        await eventually(lambda: not store.waiting_messages())
        assert await A.notes_sent() == NUMBERS[:20]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_what_waits_for_unread_mail_keeps_its_place_when_its_entity_begins_again(
    store: FaultyStore, fault: Fault
) -> None:
    async with LocalCluster([Account], store=store, settings=FEW) as cluster:
        running = await store_notes(store, *NUMBERS[:20])
        engine = cluster.kill()
        sending = asyncio.gather(*(A.note.send(text) for text in NUMBERS[20:25]))
        world.gate.set()
        seen = 0

        def now_and_then(_number: int, batch: Batch) -> Fault:
            nonlocal seen
            seen += bool(batch.writes)
            return fault if batch.writes and seen in (2, 4, 5, 8) else Fault.NONE

        store.pick = now_and_then
        await cluster.recover(engine)
        await asyncio.gather(running, sending)
        await becomes(A.notes_sent, NUMBERS[:25])


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_a_handler_that_waits_while_earlier_turns_are_lost_runs_again(
    cluster: LocalCluster, store: FaultyStore, fault: Fault
) -> None:
    store.faults.append(fault)
    store.hold_commits()
    noted, waited = asyncio.ensure_future(A.note("1")), asyncio.ensure_future(A.wait("2"))
    await eventually(lambda: world.ran["wait"] == 1)
    store.let_commits_go()
    await eventually(lambda: world.ran["wait"] == 2)
    world.gate.set()
    assert (await noted, await waited) == (1, "2")
    assert await A.notes() == ["1", "2"]
