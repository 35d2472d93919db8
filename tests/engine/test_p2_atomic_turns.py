"""P2: a turn is all or nothing. A handler that raises changes nothing."""

import asyncio

import pytest

from perdure.entities import ApplicationError, HandlerTimeout
from perdure.entities.errors import HandlerFailed, ResultNotSerialisable, StateNotSerialisable, error_from_body
from perdure.entities.messages import decode_error
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore
from .scenes import Account

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
    with pytest.raises(ApplicationError, match=r"^no$") as caught:
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
