"""Children: what ends with its parent, exactly once and whatever crashes; rings are refused (P1, P2, P7)."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from functools import partial
from typing import Literal

import pytest

from perdure.entities import (
    CallCycle,
    CallTimeout,
    Entity,
    InvalidArguments,
    NoSuchRun,
    NotInWorkflow,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
    condition,
    handler,
    query,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.testing import LocalCluster

from .conftest import QUICK
from .faults import Fault, FaultyStore
from .scenes import Refused, world
from .waiting import becomes, eventually

Policy = Literal["abandon", "cancel", "terminate"]


class Node(Entity):
    log: list[str] = []
    value: int = 0

    @workflow
    async def waits(self) -> str:
        """A leaf: waits until it is ended."""
        world.ran[f"waits {self.key}"] += 1
        self.log.append("waits")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            self.log.append("cleaned up")
            raise
        return "never"

    @workflow
    async def parent(self, children: list[str], policy: Policy, how: str) -> str:
        """Starts (or awaits) children, then waits for its own end."""
        for child in children:
            waits = Node.ref(child).waits.options(parent_close=policy)
            if how == "awaited":
                await waits()
            else:
                await waits.start()
        if how == "returns":
            return "done"
        if how == "raises":
            raise Refused("it ends")
        await asyncio.sleep(3600)
        return "never"

    @workflow
    async def grandparent(self, child: str, grandchild: str) -> str:
        await Node.ref(child).parent.options(parent_close="terminate")([grandchild], "cancel", "awaited")
        return "never"

    @workflow
    async def continues(self, child: str, rounds: int) -> str:
        if rounds == 3:
            await Node.ref(child).waits.options(parent_close="cancel").start()
        if rounds:
            await self.continues.continue_as_new(child, rounds - 1)
        await asyncio.sleep(3600)
        return "never"

    @workflow
    async def quick(self, number: int) -> int:
        return number

    @workflow
    async def awaits_quick(self, count: int) -> int:
        total = 0
        for number in range(count):
            total += await Node.ref(f"quick-{number}").quick.options(parent_close="terminate")(number)
        return total

    @workflow
    async def gives_up(self, child: str) -> str:
        try:
            async with asyncio.timeout(0.02):
                await Node.ref(child).waits.options(parent_close="cancel")()
        except TimeoutError:
            self.log.append("gave up")
        await asyncio.sleep(3600)
        return "never"

    @workflow
    async def calls_itself(self) -> int:
        return await Node.ref(self.key).add(5)

    @handler
    async def add(self, amount: int) -> int:
        world.ran["add"] += 1
        self.value += amount
        return self.value

    @handler(timeout=timedelta(seconds=5))
    async def add_slowly(self, amount: int) -> int:
        world.ran["add_slowly"] += 1
        await world.gate.wait()
        self.value += amount
        return self.value

    @workflow
    async def calls_impatiently(self, other: str) -> str:
        try:
            await Node.ref(other).add_slowly.options(timeout=0.02)(5)
        except CallTimeout as late:
            self.log.append(str(late))
        return f"{await Node.ref(other).add(1)}"

    @workflow
    async def rings(self, others: list[str]) -> str:
        """Starts the next of a ring; the last one awaits this one again."""
        if others:
            return await Node.ref(others[0]).rings(others[1:])
        return await Node.ref("ring-0").rings.result()

    @workflow
    async def awaits(self, other: str) -> str:
        """Awaits a run that is there already, once it is told to."""
        await condition(lambda: self.value > 0)
        try:
            return await Node.ref(other).awaits.result()
        except CallCycle as ring:
            return f"refused: {ring}"

    @workflow
    async def awaits_nobody(self) -> str:
        try:
            await Node.ref("nobody").quick.result()
        except NoSuchRun as nothing:
            return str(nothing)
        return "unexpected"

    @handler
    async def starts_in_a_handler(self) -> None:
        await Node.ref("x").waits.options(parent_close="cancel").start()

    @query
    async def lines(self) -> list[str]:
        return self.log

    @query
    async def total(self) -> int:
        return self.value


P = Node.ref("p")
C = Node.ref("c")


@pytest.fixture(params=[QUICK, EngineSettings(evict_after_every_turn=True, mail_poll_s=0.05)], ids=["stays", "evicted"])
async def nodes(store: FaultyStore, request: pytest.FixtureRequest) -> AsyncGenerator[LocalCluster]:
    async with LocalCluster([Node], store=store, hosts=2, settings=request.param) as cluster:
        yield cluster


async def ended(node: Node, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await node.waits.result(timeout=30)


@pytest.mark.parametrize("how", ["started", "awaited"])
@pytest.mark.parametrize("end", ["cancel", "terminate"])
async def test_cancel_asks_the_child_to_end_however_its_parent_ends(nodes: LocalCluster, how: str, end: str) -> None:
    await P.parent.start(["c"], "cancel", how)
    await becomes(C.lines, ["waits"])
    await nodes.crash()
    await (P.parent.cancel() if end == "cancel" else P.parent.terminate("enough"))
    await ended(C, WorkflowCancelled, r"Node/c\.waits was cancelled")
    assert await C.lines() == ["waits", "cleaned up"]


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_the_policy_is_applied_when_the_parent_completes_or_fails(nodes: LocalCluster, how: str) -> None:
    children = [f"c{number}" for number in range(5)]
    await P.parent.start(children, "terminate", how)
    for child in children:
        await ended(Node.ref(child), WorkflowTerminated, r"its parent Node/p\.parent has ended")
        assert await Node.ref(child).lines() == ["waits"], "no clean-up"


async def test_abandon_leaves_it_alone(nodes: LocalCluster) -> None:
    await P.parent.start(["c"], "abandon", "returns")
    assert await P.parent.result() == "done"
    await nodes.drained()
    await C.waits.terminate("by hand")
    await ended(C, WorkflowTerminated, "by hand")


async def test_grandchildren_follow(nodes: LocalCluster) -> None:
    await Node.ref("g").grandparent.start("p", "c")
    await becomes(C.lines, ["waits"])
    await Node.ref("g").grandparent.cancel()
    with pytest.raises(WorkflowTerminated, match=r"its parent Node/g\.grandparent has ended"):
        await P.parent.result()
    await ended(C, WorkflowCancelled, "cancelled")


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.CONFLICT])
async def test_it_is_applied_once_whatever_happens_to_the_commit(
    nodes: LocalCluster, store: FaultyStore, fault: Fault
) -> None:
    await P.parent.start(["c"], "cancel", "started")
    await becomes(C.lines, ["waits"])
    store.faults.extend([fault, Fault.NONE, fault])
    await P.parent.cancel()
    await ended(C, WorkflowCancelled, "cancelled")
    await nodes.drained()
    assert len([row for row in store.history("Node/c") if row.kind == "cancel"]) == 1
    assert store.waiting_messages() == []


async def test_a_run_that_was_there_already_is_not_touched(nodes: LocalCluster) -> None:
    await C.waits.start()
    await P.parent.start(["c"], "terminate", "started")
    await nodes.drained()
    await P.parent.terminate()
    with pytest.raises(WorkflowTerminated):
        await P.parent.result()
    marker = Node.ref("c").add(1)  # behind whatever the parent's end has sent
    assert await marker == 1
    assert await C.lines() == ["waits"]
    await C.waits.terminate("by hand")
    await ended(C, WorkflowTerminated, "by hand")


async def test_children_that_have_ended_are_forgotten(nodes: LocalCluster, store: FaultyStore) -> None:
    assert await P.awaits_quick(20) == sum(range(20))
    assert max(len(run.children) for batch in store.commits for write in batch.writes for run in write.runs) == 1


async def test_a_child_that_its_parent_gave_up_on_still_ends_with_it(nodes: LocalCluster) -> None:
    await P.gives_up.start("c")
    await becomes(P.lines, ["gave up"])
    assert await C.lines() == ["waits"]
    await nodes.crash()
    await P.gives_up.terminate()
    await ended(C, WorkflowCancelled, "cancelled")


async def test_children_stay_with_a_run_that_continues_as_new(nodes: LocalCluster) -> None:
    await P.continues.start("c", 3)
    await becomes(C.lines, ["waits"])
    await nodes.crash()
    await P.continues.cancel()
    await ended(C, WorkflowCancelled, "cancelled")


async def test_policies_belong_into_workflows(nodes: LocalCluster) -> None:
    with pytest.raises(NotInWorkflow, match="works only in a workflow"):
        await C.waits.options(parent_close="cancel").start()
    with pytest.raises(NotInWorkflow, match="works only in a workflow"):
        await P.starts_in_a_handler()
    with pytest.raises(InvalidArguments, match="parent_close is one of abandon, cancel, terminate"):
        C.waits.options(parent_close="kill")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(NoSuchRun):
        await C.waits.result()


# --- Calls and rings --------------------------------------------------------------------------------------------------


async def test_a_workflow_may_call_handlers_of_its_own_entity(nodes: LocalCluster) -> None:
    assert await P.calls_itself() == 5


async def test_awaiting_a_run_that_was_never_started_gets_an_answer(nodes: LocalCluster) -> None:
    assert "Node/nobody.quick was never started" in await P.awaits_nobody()


async def test_a_call_that_timed_out_is_neither_lost_nor_repeated(nodes: LocalCluster) -> None:
    await P.calls_impatiently.start("c")
    late = "Node/p.calls_impatiently: no answer from Node/c.add_slowly within 0.02 s; it may have been applied"
    await becomes(P.lines, [late])
    world.gate.set()
    assert await P.calls_impatiently.result() == "6", "the late call was applied, once, before the next one"
    assert await C.total() == 6


@pytest.mark.parametrize("length", [1, 2, 3, 5])
async def test_a_ring_of_starts_is_refused_with_the_chain_named(nodes: LocalCluster, length: int) -> None:
    names = [f"ring-{number}" for number in range(length)]
    with pytest.raises(WorkflowFailed) as failed:
        await Node.ref("ring-0").rings(names[1:])
    error: BaseException | None = failed.value
    while error is not None and not isinstance(error, CallCycle):
        error = error.__cause__
    assert isinstance(error, CallCycle)
    assert " → ".join(f"Node/{name}#rings" for name in [*names, "ring-0"]) in str(error)


def has_been_awaited(store: FaultyStore, entity: str) -> bool:
    return any(row.kind == "result" for row in store.history(entity))


@pytest.mark.parametrize("order", ["ab", "abc", "bca", "acb"])
async def test_a_ring_of_runs_that_nobody_of_it_started_is_refused_by_its_last_link(
    nodes: LocalCluster, store: FaultyStore, order: str
) -> None:
    names = sorted(order)
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    for name in names:
        await Node.ref(name).awaits.start(following[name])
    for name in order:
        await Node.ref(name).add(1)
        asked = f"Node/{following[name]}"
        await eventually(partial(has_been_awaited, store, asked))
    results = await asyncio.gather(*(Node.ref(name).awaits.result() for name in names))
    assert len(set(results)) == 1
    assert all(f"Node/{name}#awaits" in results[0] for name in names)
    assert results[0].startswith("refused: ")
