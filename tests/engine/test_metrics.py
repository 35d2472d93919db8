"""What an engine counts: each durable turn once, whatever had to run again, and what went wrong by its kind."""

import asyncio
from datetime import timedelta

import pytest

from perdure.entities import ApplicationError, Entity, RetryPolicy, activity, handler, remind, workflow
from perdure.entities.calls import CallOptions, Target, request
from perdure.entities.errors import PerdureError
from perdure.entities.ids import EntityId
from perdure.entities.messages import Kind
from perdure.entities.metrics import Histogram
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Account, world
from .waiting import eventually

MS = timedelta(milliseconds=1)


@activity(retry=RetryPolicy(initial=MS, attempts=3))
async def often_fails() -> str:
    world.fail("often fails")
    return "done"


class Errand(Entity):
    rang: bool = False

    @workflow
    async def run(self, *, fails: bool = False) -> str:
        if fails:
            raise ApplicationError("no")
        await asyncio.sleep(0.001)
        return await often_fails()

    @handler
    async def ring_soon(self) -> None:
        remind(self.ring, after=MS)

    @handler
    async def ring(self) -> None:
        self.rang = True


def value(cluster: LocalCluster, name: str, *labels: str) -> float:
    """Over all hosts, of those whose labels hold all of these."""
    return sum(
        level.value
        for engine in cluster.engines
        for level in engine.reading().levels
        if level.name == f"perdure_{name}" and set(labels) <= set(level.labels)
    )


def seen(cluster: LocalCluster, name: str) -> int:
    """How many values a histogram has counted."""
    return sum(
        sum(spread.counts)
        for engine in cluster.engines
        for spread in engine.reading().spreads
        if spread.name == f"perdure_{name}"
    )


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_a_turn_counts_once_however_often_it_runs(
    cluster: LocalCluster, store: FaultyStore, fault: Fault
) -> None:
    store.faults.append(fault)
    assert await Account.ref("a").deposit(5) == 5
    written = 0 if fault is Fault.AFTER else 1  # then the answer is looked up: the commit is not known to this host
    assert value(cluster, "turns_total", "Account", "call", "deposit", "ok") == written
    kind = "conflict" if fault is Fault.CONFLICT else "unknown"
    assert value(cluster, "commits_total", kind) == 1
    assert seen(cluster, "commit_seconds") == seen(cluster, "commit_entities") == value(cluster, "commits_total", "ok")


async def test_retries_and_dead_letters(cluster: LocalCluster) -> None:
    world.failures = 99
    await Account.ref("a").flaky.send("x")
    await eventually(lambda: value(cluster, "dead_letters_total", "Account", "flaky") == 1)
    assert value(cluster, "handler_retries_total", "Account", "flaky") == 2
    assert value(cluster, "turns_total", "flaky", "send", "error") == 1


async def test_runs_attempts_and_reminders(store: FaultyStore) -> None:
    async with LocalCluster([Errand], store=store, settings=QUICK) as cluster:
        world.failures = 2
        assert await Errand.ref("a").run() == "done"
        world.failures = 3
        with pytest.raises(PerdureError):
            await Errand.ref("b").run()
        with pytest.raises(PerdureError):
            await Errand.ref("c").run(fails=True)
        attempts = [value(cluster, "activity_attempts_total", "often_fails", how) for how in ("retry", "ok", "failed")]
        assert attempts == [4, 1, 1]
        ended = [value(cluster, "runs_ended_total", "Errand", "run", how) for how in ("completed", "failed")]
        assert ended == [1, 2]
        assert value(cluster, "turns_total", "resume", "run") >= 5
        timers = seen(cluster, "reminder_lateness_seconds")
        await Errand.ref("d").ring_soon()
        await eventually(lambda: value(cluster, "turns_total", "ring", "ok") == 1)
        assert seen(cluster, "reminder_lateness_seconds") > timers >= 2


async def test_a_host_that_takes_over_says_so(store: FaultyStore) -> None:
    async with LocalCluster([Account], store=store, hosts=2, settings=QUICK) as cluster:
        assert value(cluster, "shards_gained_total") == 16
        assert value(cluster, "shards_taken_over_total") == 0
        await cluster.crash()
        assert value(cluster, "shards") == 16
        assert value(cluster, "shards_taken_over_total") == 8


async def test_mailboxes_and_activations_are_told_by_type(cluster: LocalCluster) -> None:
    waiting = asyncio.create_task(Account.ref("a").wait("x"))
    await eventually(lambda: world.ran["wait"])
    others = [asyncio.create_task(Account.ref("a").deposit(1)) for _ in range(3)]
    await eventually(lambda: value(cluster, "mailbox_messages", "Account") == 3)
    assert value(cluster, "activations", "Account") == 1
    world.gate.set()
    await asyncio.gather(waiting, *others)
    assert value(cluster, "mailbox_messages", "Account") == 0


async def test_names_that_callers_invent_are_no_labels(cluster: LocalCluster) -> None:
    target = Target(Account, EntityId("Account", "a"))
    for number in range(20):
        with pytest.raises(PerdureError):
            await request(target, Kind.CALL, f"invented_{number}", b"{}", CallOptions(idempotency_key=f"k{number}"))
    labels = {label for level in cluster.engines[0].reading().levels for label in level.labels}
    assert not any("invented" in label for label in labels)


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram((1, 10))
    for number in (0.5, 1, 1.5, 10, 11):
        histogram.observe(number)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 24
