"""What a cluster does when processes die, freeze, leave and multiply."""

import asyncio
import contextlib
import logging
import os
import signal
import statistics
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from perdure.api import Settings, create_app
from perdure.cluster.actors import ensure_supervisor, host_connector, spawn_host
from perdure.cluster.addresses import HostAddress, process_of, supervisor_actor
from perdure.cluster.connect import down
from perdure.cluster.process import Pulse, pulse
from perdure.cluster.ray_runtime import Handles, find, kill, submit
from perdure.cluster.settings import ClusterSettings
from perdure.cluster.supervisor import Supervisor, SupervisorSpec
from perdure.cluster.wire import Offer, decode_answer, encode
from perdure.entities.errors import OutcomeUnknown, StartRefused
from perdure.entities.messages import Envelope, Kind, Status
from perdure.entities.shard import shard_of
from perdure.entities.store.rows import HostRow

from .conftest import SHARDS, World
from .counter import Counter

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("faults")]


PAUSE_S = 0.01
"""Between an answer and the next call: enough calls for every moment, and something left for other tests."""


class Load:
    """Callers at work all the time; every answer is checked: each must be one more than the one before."""

    def __init__(self, callers: int) -> None:
        self.calls = 0
        self.slowest_s = 0.0
        self._is_over = False
        self._callers = callers

    async def _call(self, number: int) -> None:
        counter = Counter.ref(f"load-{number}")
        expected = 0
        while not self._is_over:
            start = time.monotonic()
            expected += 1
            assert await counter.add() == expected, f"{counter} was applied twice or not at all"
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            self.calls += 1
            await asyncio.sleep(PAUSE_S)

    async def until_called(self, times: int) -> None:
        """Until there were so many further answers."""
        enough = self.calls + times
        async with asyncio.timeout(60):
            while self.calls < enough:
                await asyncio.sleep(PAUSE_S)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator["Load"]:
        async with asyncio.TaskGroup() as callers:
            for number in range(self._callers):
                callers.create_task(self._call(number))
            yield self
            self._is_over = True


async def until_gone(host: HostRow, timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while pulse(process_of(host)) is not Pulse.GONE:
            await asyncio.sleep(0.01)


async def a_key_of(world: World, host: HostRow) -> str:
    shards = {row.shard for row in await world.store.owners() if row.owner == host.incarnation}
    return next(key for key in map(str, range(10_000)) if shard_of("Counter", key, SHARDS) in shards)


async def test_no_request_is_lost_or_repeated_when_hosts_are_killed(world: World) -> None:
    await world.up(2)
    await world.connect()
    async with Load(20).running() as load:
        for _ in range(3):
            await load.until_called(100)
            victim = (await world.hosts())[0]
            os.kill(victim.pid, signal.SIGKILL)
            await until_gone(victim)
            await world.until_owned_by(2)
            await load.until_called(100)


async def test_survivors_take_over_at_once(world: World) -> None:
    await world.up(2)
    await world.connect()
    times: list[float] = []
    for _ in range(3):
        victim = (await world.hosts())[0]
        counter = Counter.ref(await a_key_of(world, victim))
        value = await counter.add()
        start = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        assert await counter.add() == value + 1
        times.append(time.monotonic() - start)
        await world.until_owned_by(2)
    log.info("takeover: %s s", [round(seconds, 3) for seconds in times])
    assert statistics.median(times) < 30, "the seconds are measured by `python -m campaigns orders`"


async def test_a_frozen_host_is_replaced_and_answers_nothing_when_it_wakes_up(world: World) -> None:
    await world.up(2)
    await world.connect()
    victim = (await world.hosts())[0]
    key = await a_key_of(world, victim)
    assert await Counter.ref(key).add() == 1
    # A query that waits in the frozen process when it wakes up
    send = await host_connector(Handles())(HostAddress.parse(victim.address).actor)
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        late = send(encode(Offer("late", 0, 0, [Envelope("q1", "Counter", key, Kind.QUERY, "get")])))
        assert await Counter.ref(key).add() == 2
        await world.until_owned_by(2)
        assert pulse(process_of(victim)) is Pulse.ALIVE
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    with contextlib.suppress(Exception):
        answer = decode_answer(await asyncio.wait_for(late, 60))
        assert [reply.status for reply in answer.replies] in ([], [Status.NOT_OWNER])
    await until_gone(victim)
    assert [host.status for host in await world.store.hosts() if host.incarnation == victim.incarnation] == ["fenced"]
    assert await Counter.ref(key).get() == 2


async def test_a_killed_supervisor_comes_back(world: World) -> None:
    await world.up(1)
    name = supervisor_actor(world.namespace)
    handle = await find(name)
    assert handle is not None
    pid = await submit(handle, "poke")
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while True:
            handle = await find(name)
            with contextlib.suppress(Exception):
                if handle is not None and await submit(handle, "poke") != pid:
                    break
            await asyncio.sleep(0.1)


async def test_hosts_start_a_supervisor_where_there_is_none(world: World) -> None:
    await world.up(1)
    name = supervisor_actor(world.namespace)
    handle = await find(name)
    assert handle is not None
    kill(handle)
    async with asyncio.timeout(60):
        while await find(name) is None:
            await asyncio.sleep(0.1)


async def test_two_supervisors_agree(world: World) -> None:
    await world.up(2)
    await world.connect()
    spec = SupervisorSpec(dsn=world.dsn, namespace=world.namespace)
    second = Supervisor(spec, lambda incarnation, targets: spawn_host(spec, incarnation, targets))
    second.start()
    try:
        async with Load(5).running():
            for _ in range(2):
                victim = (await world.hosts())[0]
                os.kill(victim.pid, signal.SIGKILL)
                await until_gone(victim)
                await world.until_owned_by(2)
            await asyncio.sleep(1.5)
            await world.until_owned_by(2)
    finally:
        await second.stop()


async def test_draining_moves_shards_without_a_failed_request(world: World) -> None:
    await world.up(2)
    await world.connect()
    async with Load(20).running() as load:
        await load.until_called(100)
        leaving = (await world.hosts())[0]
        handle = await find(HostAddress.parse(leaving.address).actor)
        assert handle is not None
        await submit(handle, "drain")
        await until_gone(leaving)
        await world.until_owned_by(2)
    log.info("drain: %d calls, slowest %.3f s", load.calls, load.slowest_s)
    statuses = {host.incarnation: host.status for host in await world.store.hosts()}
    assert statuses[leaving.incarnation] == "stopped"


async def test_an_operator_takes_a_host_out_without_a_failed_request(world: World) -> None:
    """By the gateway: the order is in the database, its successor comes first, the audit knows who and why."""
    await world.up(2)
    await world.connect()
    app = create_app([Counter], settings=Settings(namespace=world.namespace))
    transport = httpx.ASGITransport(app)
    async with Load(20).running() as load, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        await load.until_called(100)
        leaving, staying = await world.hosts()
        path = f"/hosts/{leaving.incarnation}/drain"
        told = (await http.post(path, json={"reason": "new disk", "operator": "ann"})).json()
        assert told["is_supervised"]
        again = await http.post(path, json={"reason": "again"})
        assert again.status_code in (200, 404), "404: it has left"
        await until_gone(leaving)
        await world.until_owned_by(2)
        await load.until_called(100)
        audit = (await http.get("/audit")).json()["actions"]
    log.info("ordered out: %d calls, slowest %.3f s", load.calls, load.slowest_s)
    statuses = {host.incarnation: host.status for host in await world.store.hosts()}
    assert statuses[leaving.incarnation] == "stopped"
    assert statuses[staying.incarnation] == "active"
    (successor,) = {host.incarnation for host in await world.hosts()} - {staying.incarnation}
    assert successor != leaving.incarnation
    assert [(one["key"], one["action"], one["operator"], one["reason"]) for one in audit] == [
        (leaving.incarnation, "drain", "ann", "new disk")
    ]


async def test_an_order_to_a_host_is_carried_out_by_the_next_supervisor(world: World) -> None:
    """The supervisor dies, and with it what it knew; the order was never its own."""
    await world.up(1)
    client = await world.connect()
    supervisor = await find(supervisor_actor(world.namespace))
    assert supervisor is not None
    kill(supervisor)
    async with Load(5).running():
        (only,) = await world.hosts()
        await world.store.survey().drain_host(only.incarnation, operator="ann", reason="")
        await until_gone(only)
        await world.until_owned_by(1)
    assert await client.poke_supervisor(timeout_s=30.0)


async def test_hosts_are_added_removed_and_replaced_under_load(world: World) -> None:
    await world.up(1)
    await world.connect()
    async with Load(10).running() as load:
        await world.up(3)
        await world.until_owned_by(3)
        await world.up(2)
        await world.until_owned_by(2)
        before = {host.incarnation for host in await world.hosts()}
        await world.up(2, release="next")
        after = {host.incarnation for host in await world.hosts()}
        assert not before & after
    log.info("replacement: %d calls, slowest %.3f s", load.calls, load.slowest_s)


async def test_survivors_need_no_supervisor(world: World) -> None:
    await world.up(2)
    await world.connect()
    victim = (await world.hosts())[0]
    key = await a_key_of(world, victim)
    supervisor = await find(supervisor_actor(world.namespace))
    assert supervisor is not None
    kill(supervisor)
    os.kill(victim.pid, signal.SIGKILL)
    assert await Counter.ref(key).add.options(timeout=60)() == 1


async def test_messages_between_entities_of_different_hosts_arrive_at_once(world: World) -> None:
    await world.up(2)
    await world.connect()
    first, second = await world.hosts()
    here, there = await a_key_of(world, first), await a_key_of(world, second)
    await Counter.ref(there).get()
    start = time.monotonic()
    await Counter.ref(here).tell(there, 5)
    async with asyncio.timeout(60):
        while await Counter.ref(there).get() != 5:
            await asyncio.sleep(0.005)
    log.info("entity to entity across hosts: %.3f s", time.monotonic() - start)


async def test_down_ends_everything(world: World) -> None:
    await world.up(2)
    hosts = await world.hosts()
    await down(**world.where)
    for host in hosts:
        await until_gone(host)
    assert {host.status for host in await world.store.hosts()} == {"stopped"}
    assert await find(supervisor_actor(world.namespace)) is None
    await ensure_supervisor(SupervisorSpec(dsn=world.dsn, namespace=world.namespace))


async def test_hosts_that_cannot_start_say_why(world: World) -> None:
    with pytest.raises(StartRefused, match=r"no module 'tests\.cluster\.nowhere'"):
        await world.up(1, entities=("tests.cluster.nowhere",))
    await world.up(1)


async def test_a_handler_that_blocks_its_process_costs_the_host_its_shards(world: World, tmp_path: Path) -> None:
    """The renewal runs on the loop that runs the entities, so a wedged loop loses its lease."""
    await world.up(2, settings=ClusterSettings(lease_s=2.0, blocked_max_s=120.0))
    await world.connect()
    victim, _ = await world.hosts()
    key = await a_key_of(world, victim)
    neighbour = Counter.ref(f"{key}/neighbour")
    await neighbour.add()
    hold = tmp_path / "hold"
    hold.touch()
    blocked = asyncio.ensure_future(Counter.ref(key).block_while.options(timeout=2)(str(hold)))
    try:
        async with asyncio.timeout(60):
            while not {row.owner for row in await world.store.owners()}.isdisjoint({victim.incarnation, ""}):
                await asyncio.sleep(0.05)
        await asyncio.gather(blocked, return_exceptions=True)
        assert isinstance(blocked.exception(), OutcomeUnknown)
    finally:
        hold.unlink()  # long before the watchdog ends the process: it does so itself, when it learns that it was fenced
    await until_gone(victim)
    assert await neighbour.add() == 2
