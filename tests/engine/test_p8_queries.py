"""P8: a query sees committed state only and changes nothing; a caller reads its own writes."""

import asyncio
from datetime import timedelta

import pytest

from perdure.entities import ReadOnlyViolation
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.errors import HandlerFailed
from perdure.entities.testing import LocalCluster

from .faults import Fault, FaultyStore
from .scenes import Account, world
from .waiting import eventually

A = Account.ref("a")


async def test_an_entity_that_was_never_written_answers_from_its_defaults(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    assert await A.total() == 0
    assert await A.slow_total() == 0
    await cluster.drained()
    assert store.version("Account/a") == 0
    assert store.commits == []


@pytest.mark.parametrize("name", ["total", "slow_total"])
async def test_a_caller_reads_its_own_writes(cluster: LocalCluster, name: str) -> None:
    for number in range(1, 30):
        await A.deposit(1)
        assert await getattr(A, name)() == number


async def test_a_caller_reads_its_own_one_way_writes(cluster: LocalCluster) -> None:
    """Both go to one entity, in order."""
    for number in range(1, 30):
        await A.deposit.send(1)
        assert await A.total() == number


async def test_reads_of_one_caller_never_go_back(cluster: LocalCluster, store: FaultyStore) -> None:
    store.pick = lambda number, _: [Fault.NONE, Fault.BEFORE, Fault.AFTER][number % 3] if number < 40 else Fault.NONE

    async def write() -> None:
        for _ in range(20):
            await A.deposit(1)

    async def read() -> list[int]:
        seen: list[int] = []
        while not seen or seen[-1] < 20:
            seen.append(await A.total())
            await asyncio.sleep(0)
        return seen

    _, *readers = await asyncio.gather(write(), read(), read())
    for seen in readers:
        assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["spend_in_a_query", "spend_slowly_in_a_query"])
async def test_a_query_that_changes_state_is_undone_and_refused(
    cluster: LocalCluster, store: FaultyStore, name: str
) -> None:
    await A.deposit(5)
    with pytest.raises(ReadOnlyViolation, match=rf"Account/a\.{name}"):
        await getattr(A, name)()
    assert await A.total() == 5
    await cluster.crash()
    assert await A.total() == 5
    assert store.version("Account/a") == 1


async def test_a_query_cannot_send(cluster: LocalCluster, store: FaultyStore) -> None:
    with pytest.raises(ReadOnlyViolation):
        await A.send_in_a_query()
    await cluster.drained()
    assert store.version("Account/other") == 0


async def test_a_failing_query_says_why(cluster: LocalCluster) -> None:
    with pytest.raises(HandlerFailed, match=r"Account/a\.fail_in_a_query raised Refused: asked too much"):
        await A.fail_in_a_query()


@pytest.mark.parametrize("name", ["total", "slow_total"])
async def test_while_a_handler_waits_queries_answer_from_durable_state(cluster: LocalCluster, name: str) -> None:
    await A.deposit(5)
    waiting = asyncio.create_task(A.wait("x"))
    await eventually(lambda: world.ran["wait"])
    assert await asyncio.wait_for(getattr(A, name)(), 30) == 5
    assert await asyncio.wait_for(A.notes(), 30) == []
    with pytest.raises(ReadOnlyViolation):
        await A.spend_in_a_query()
    world.gate.set()
    await waiting
    assert await A.notes() == ["x"]


async def test_a_sleeping_entity_answers(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, settings=EngineSettings(idle_s=0.01)) as cluster:
        await A.deposit(5)
        await eventually(lambda: cluster.engines[0].stats()["activations"] == 0)
        assert await A.total() == 5


async def test_the_reply_names_the_version_it_reflects(cluster: LocalCluster, store: FaultyStore) -> None:
    from perdure.entities.messages import Envelope, Kind

    await asyncio.gather(*(A.deposit(1) for _ in range(3)))
    envelope = Envelope(id="q", type="Account", key="a", kind=Kind.QUERY, name="total")
    reply = await cluster.request(envelope, timeout_s=1)
    assert (reply.version, reply.body) == (3, b"3")


async def test_a_caller_can_limit_its_wait(cluster: LocalCluster, store: FaultyStore) -> None:
    store.hold_commits()
    call = asyncio.create_task(A.deposit(1))
    await store.waiting.wait()
    with pytest.raises(Exception, match="no answer within"):
        await A.total.options(timeout=timedelta(milliseconds=10))()
    store.let_commits_go()
    await call
