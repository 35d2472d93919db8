"""Entities that send to each other without end, and runs that wait for one another without end, are stopped (P9)."""

from datetime import timedelta

import pytest

from perdure.entities import Entity, handler, query, remind, workflow
from perdure.entities.engine.loops import DEPTH_MAX, RELAY_MAX, CallTooDeep, MessageLoop, with_hops
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.errors import WorkflowFailed
from perdure.entities.testing import LocalCluster

from .faults import FaultyStore
from .waiting import becomes, eventually

HOPS = 12


class Ping(Entity):
    hits: int = 0
    seen: int = 0

    @handler
    async def hit(self, other: str) -> None:
        self.hits += 1
        await Ping.ref(other).hit.send(self.key)

    @handler
    async def relay(self, to: list[str]) -> None:
        self.hits += 1
        if to:
            await Ping.ref(to[0]).relay.send(to[1:])

    @handler
    async def tick(self, left: int) -> None:
        """To itself, through a reminder."""
        self.hits += 1
        if left:
            remind(self.again, after=timedelta(milliseconds=1), name=f"a{left}")
            self.seen = left

    @handler
    async def again(self) -> None:
        await Ping.ref(self.key).tick.send(self.seen - 1)

    @handler
    async def later(self, left: int) -> None:
        self.hits += 1
        if left:
            await Ping.ref(self.key).later.options(delay=0.001).send(left - 1)

    @query
    async def count(self) -> int:
        return self.hits


class Stair(Entity):
    chain: int = 0

    @workflow
    async def down(self, step: int, bottom: int) -> int:
        if step == bottom:
            return step
        return await Stair.ref(f"s{step + 1}").down(step + 1, bottom)

    @workflow
    async def relay(self, step: int, last: int) -> int:
        if step < last:
            await Stair.ref(f"r{step + 1}").relay.start(step + 1, last)
            return step
        return await Stair.ref("leaf").leaf()

    @workflow
    async def leaf(self) -> int:
        return 7


@pytest.fixture(params=["stays", "evicted"])
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    return EngineSettings(hops_max=HOPS, evict_after_every_turn=request.param == "evicted", mail_poll_s=0.05)


async def test_a_loop_ends_as_a_dead_letter_that_says_why(store: FaultyStore, settings: EngineSettings) -> None:
    async with LocalCluster([Ping], store=store, settings=settings):
        await Ping.ref("a").hit.send("b")
        await eventually(lambda: bool(store.dead_letters), within_s=20)
        assert await Ping.ref("a").count() + await Ping.ref("b").count() == HOPS + 1
        (letter,) = store.dead_letters
        assert letter.envelope.options == with_hops("", HOPS)
        assert letter.attempts == 1
        assert MessageLoop.code.encode() in letter.error
        assert b"hops_max" in letter.error


async def test_a_row_up_to_the_limit_is_no_loop(store: FaultyStore, settings: EngineSettings) -> None:
    async with LocalCluster([Ping], store=store, settings=settings):
        await Ping.ref("a").relay([f"p{number}" for number in range(HOPS + 1)])
        await becomes(Ping.ref(f"p{HOPS}").count, 1, within_s=20)
        assert store.dead_letters == []


@pytest.mark.parametrize("name", ["tick", "later"])
async def test_what_time_bounds_may_go_on_for_ever(store: FaultyStore, settings: EngineSettings, name: str) -> None:
    async with LocalCluster([Ping], store=store, settings=settings):
        times = HOPS * 3
        await getattr(Ping.ref("a"), name)(times)
        await becomes(Ping.ref("a").count, times + 1, within_s=20)
        assert store.dead_letters == []


async def test_what_callers_cause_directly_carries_nothing(store: FaultyStore) -> None:
    """The option is paid for by rows of messages only."""
    async with LocalCluster([Ping], store=store, settings=EngineSettings(hops_max=1)):
        await Ping.ref("a").hit.send("b")
        await eventually(lambda: bool(store.dead_letters), within_s=20)
    sent = [letter.envelope for letter in store.dead_letters]
    assert [(one.key, one.options) for one in sent] == [("a", "hops=1")]


async def test_a_recursion_of_runs_is_refused_where_it_gets_too_deep(store: FaultyStore) -> None:
    async with LocalCluster([Stair], store=store):
        with pytest.raises(WorkflowFailed, match="wait for one another") as caught:
            await Stair.ref("s0").down.options(timeout=60)(0, DEPTH_MAX + 50)
        causes = [caught.value]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
        assert isinstance(causes[-1], CallTooDeep)


async def test_a_relay_of_runs_may_go_on_for_ever_and_its_chain_stays_short(store: FaultyStore) -> None:
    async with LocalCluster([Stair], store=store):
        last = DEPTH_MAX + 20
        await Stair.ref("r0").relay.start(0, last)
        await eventually(lambda: any(one.key == f"r{last}" for one in store._entities), within_s=30)
        assert await Stair.ref(f"r{last}").relay.result(timeout=30) == 7
        chains = [len(row.chain) for found in store._entities.values() for row in found.runs.values()]
        assert max(chains) == RELAY_MAX + 2
