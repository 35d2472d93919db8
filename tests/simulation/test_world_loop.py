"""The loop of the simulator: what it draws, what it keeps, and what happens to processes that die or stand still."""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from perdure.entities.ids import EntityId
from simulation.loop import Node, Overrun, SimLoop, here
from simulation.net import Net


def new_loop(seed: int = 0) -> SimLoop:
    return SimLoop(random.Random(seed))  # type: ignore[abstract]  # all that is asked of it is there


def play(main: Callable[[SimLoop], Coroutine[Any, Any, None]], *, seed: int = 0) -> SimLoop:
    loop = new_loop(seed)
    loop.now_max = 1_000.0
    try:
        loop.run(main(loop))
    finally:
        loop.close()
    return loop


def test_within_a_node_callbacks_keep_their_order_between_nodes_it_is_drawn() -> None:
    def order(seed: int) -> list[str]:
        happened: list[str] = []

        async def main(loop: SimLoop) -> None:
            def begin() -> None:
                for number in range(5):
                    loop.call_soon(happened.append, f"{here.get().name}{number}")

            for name in ("a", "b"):
                loop.deliver(Node(name, "machine"), 0.0, begin)
            await asyncio.sleep(1.0)

        play(main, seed=seed)
        return happened

    orders = {tuple(order(seed)) for seed in range(20)}
    assert len(orders) > 5, "the seed draws nothing"
    for found in orders:
        for name in ("a", "b"):
            assert [it for it in found if it[0] == name] == [f"{name}{number}" for number in range(5)]


def test_nothing_of_a_killed_node_runs_again() -> None:
    happened: list[str] = []

    async def work() -> None:
        try:
            happened.append("began")
            await asyncio.sleep(1.0)
            happened.append("went on")
        finally:
            happened.append("cleaned up")

    async def main(loop: SimLoop) -> None:
        node = Node("victim", "machine")
        loop.spawn(node, work())
        await asyncio.sleep(0.5)
        loop.kill(node)
        await asyncio.sleep(5.0)
        assert happened == ["began"]

    play(main)


def test_a_paused_node_goes_on_late() -> None:
    at: list[float] = []

    async def work(loop: SimLoop) -> None:
        await asyncio.sleep(1.0)
        at.append(loop.now)

    async def main(loop: SimLoop) -> None:
        node = Node("zombie", "machine")
        loop.spawn(node, work(loop))
        await asyncio.sleep(0.5)
        loop.pause(node)
        await asyncio.sleep(9.5)
        assert not at
        loop.resume(node)
        await asyncio.sleep(0.1)

    play(main)
    assert at == [10.0]


def test_every_node_has_a_monotonic_clock_of_its_own() -> None:
    seen: dict[str, float] = {}

    async def work(loop: SimLoop) -> None:
        began = loop.time()
        await asyncio.sleep(10.0)
        seen[here.get().name] = loop.now
        assert loop.time() - began == pytest.approx(10.0)

    async def main(loop: SimLoop) -> None:
        loop.spawn(Node("fast", "machine", offset_s=5e4, rate=1.25), work(loop))
        loop.spawn(Node("slow", "machine", offset_s=17.0, rate=0.5), work(loop))
        await asyncio.sleep(30.0)

    play(main)
    assert seen == {"fast": pytest.approx(8.0), "slow": pytest.approx(20.0)}


def test_whoever_waits_for_the_rest_of_a_while_gets_there() -> None:
    """A rest below the last digit of its clock is no busy loop: on real machines time passes meanwhile."""
    ended: list[float] = []

    async def wait(loop: SimLoop, since: float, for_s: float) -> None:
        while (rest_s := since + for_s - loop.time()) > 0 or loop.time() - since < for_s:
            await asyncio.sleep(max(rest_s, 1e-18))
        ended.append(loop.now)

    async def main(loop: SimLoop) -> None:
        loop.steps_max = 20_000
        rng = random.Random(1)
        for number in range(1_000):
            node = Node(f"node-{number}", "machine", offset_s=rng.uniform(0.0, 1e5), rate=rng.uniform(0.98, 1.02))
            loop.spawn(node, wait(loop, node.offset_s, rng.uniform(1.0, 5.0)))
        await asyncio.sleep(10.0)

    play(main)
    assert len(ended) == 1_000


def test_a_task_in_a_fresh_context_belongs_to_who_made_it() -> None:
    """Activities run in empty contexts; they must die with their host all the same."""
    names: list[str] = []

    async def attempt() -> None:
        await asyncio.sleep(0.1)
        names.append(here.get().name)

    async def host(loop: SimLoop) -> None:
        loop.create_task(attempt(), context=contextvars.Context())

    async def main(loop: SimLoop) -> None:
        loop.spawn(Node("host", "machine"), host(loop))
        await asyncio.sleep(1.0)

    play(main)
    assert names == ["host"]


def test_waiting_for_what_never_comes_is_an_overrun() -> None:
    async def main(_: SimLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Overrun, match="nothing will ever happen"):
        play(main)


def test_an_exception_that_nobody_catches_is_noted() -> None:
    async def main(loop: SimLoop) -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.1)

    assert "ZeroDivisionError" in play(main).errors[0]


def test_processes_that_are_parted_do_not_reach_each_other_nor_their_successors() -> None:
    loop = new_loop()
    net = Net(loop, random.Random(0))
    client, first, second = Node("client-0#1", "outside"), Node("supervisor#2", "m"), Node("supervisor#7", "m")
    net.part("client-0", "supervisor")
    assert not net.connects(client, first)
    assert not net.connects(second, client)
    assert net.connects(Node("client-1#3", "outside"), first)
    net.unite("supervisor", "client-0")
    assert net.connects(client, second)
    loop.close()


def test_a_commit_meets_another_writer_at_the_rate_of_the_plan() -> None:
    loop = new_loop()
    net = Net(loop, random.Random(0))
    entities = [EntityId("E", "a"), EntityId("E", "b")]
    assert not any(net.conflict(entities) for _ in range(50))
    net.troubles.conflicting = 0.5
    met = [net.conflict(entities) for _ in range(50)]
    assert {tuple(names) for names in met} == {(), (entities[0],), (entities[1],)}
    assert net.conflict([]) == []
    loop.close()


def test_what_a_dead_process_did_not_look_at_is_no_error_of_its_code() -> None:
    """It ended between the failure of its call and its callback."""

    calls: list[asyncio.Future[None]] = []

    def fail(loop: SimLoop, name: str) -> None:
        calls.append(loop.create_future())
        calls[-1].set_exception(ValueError(name))

    async def main(loop: SimLoop) -> None:
        nodes = [Node("dies", "machine"), Node("lives", "machine")]
        for node in nodes:
            loop.deliver(node, 0.1, fail, loop, node.name)
        await asyncio.sleep(0.2)
        loop.kill(nodes[0])
        calls.clear()

    loop = play(main)
    assert len(loop.errors) == 1
    assert "lives" in loop.errors[0]
