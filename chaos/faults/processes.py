"""SIGKILL and SIGSTOP for hosts, Ray nodes, supervisor, gateways; and the end of the whole Ray cluster."""

import asyncio
import signal
import time

import psutil

from campaigns.harness import HostSeen
from campaigns.processes import find, is_alive, strike, until_gone
from chaos.nodes import SUSPECTED_DEAD_S
from chaos.world import World

from .injury import Injury

STOPPED_S = 3.0
RETIRE_S = 60.0
WATCHED_S = 3.0
"""How long the installation is looked at after its head has died, before anybody does anything."""


async def _a_host(world: World) -> HostSeen:
    return world.rng.choice(await world.until_whole())


async def kill_host(world: World, injury: Injury) -> None:
    """One host is killed."""
    await _kill(world, injury, [await _a_host(world)])


async def kill_all_hosts(world: World, injury: Injury) -> None:
    """Every host is killed at once."""
    await _kill(world, injury, await world.until_whole())


async def _kill(world: World, injury: Injury, victims: list[HostSeen]) -> None:
    processes = [process for host in victims if (process := find(host.pid)) is not None]
    injury.touches(victims)
    injury.at = strike(processes)
    await until_gone(processes)
    pids = {process.pid for process in processes}
    alive = {host.pid for host in await world.until_whole()}
    injury.shows(f"pids {sorted(pids)} gone, now {sorted(alive)}" if not pids & alive else "")


async def stop_host(world: World, injury: Injury) -> None:
    """A zombie: stopped for longer than its lease, continued when others own its shards."""
    victim = await _a_host(world)
    process = psutil.Process(victim.pid)
    injury.touches([victim])
    injury.at = strike([process], signal.SIGSTOP)
    try:
        await asyncio.sleep(0.1)
        state = process.status()

        async def is_fenced() -> bool:
            rows = await world.sql(
                "select 1 from hosts where incarnation = %s and status = 'fenced'", victim.incarnation
            )
            return bool(rows)

        await world.until("the stopped host is fenced", is_fenced)
    finally:
        strike([process], signal.SIGCONT)
    stopped_s = time.time() - injury.at
    await until_gone([process], RETIRE_S)
    injury.shows(f"pid {victim.pid} {state} {stopped_s:.1f} s, fenced, gone when continued")
    await world.until_whole()


async def kill_raylet(world: World, injury: Injury) -> None:
    """A machine is lost: its raylet is killed, all hosts of the node go with it, a new node joins."""
    number, raylet, victims = await _a_node(world)
    injury.touches(victims)
    injury.at = strike([raylet])
    processes = [process for host in victims if (process := find(host.pid)) is not None]
    await until_gone([raylet, *processes], RETIRE_S)
    injury.shows(f"raylet {raylet.pid} gone, and its hosts {[host.pid for host in victims]}")
    await _replace_node(world, number)


async def stop_raylet(world: World, injury: Injury) -> None:
    """A machine is cut off from the rest of Ray: it is declared dead, and ends itself when it finds out."""
    number, raylet, victims = await _a_node(world)
    injury.touches(victims)
    injury.at = strike([raylet], signal.SIGSTOP)
    try:
        await asyncio.sleep(SUSPECTED_DEAD_S)
        state = raylet.status()
    finally:
        strike([raylet], signal.SIGCONT)
    stopped_s = time.time() - injury.at
    await asyncio.sleep(1.0)
    end = "goes on" if is_alive(raylet) else "ended itself when continued"
    injury.shows(f"raylet {raylet.pid} {state} {stopped_s:.1f} s, {end}" if state == psutil.STATUS_STOPPED else "")
    await _replace_node(world, number)


async def _a_node(world: World) -> tuple[int, psutil.Process, list[HostSeen]]:
    """A node other than the head: its number, its raylet, and the hosts that run there."""
    hosts = await world.until_whole()
    nodes = [node for node in world.cluster.nodes[1:] if node.process("raylet") is not None]
    owners = {node.name for node in nodes for process in node.processes if process.pid in {host.pid for host in hosts}}
    node = world.rng.choice(
        [node for node in sorted(nodes, key=lambda node: node.name) if node.name in owners] or nodes
    )
    raylet = node.process("raylet")
    assert raylet is not None
    pids = {process.pid for process in node.processes}
    return int(node.name.partition("-")[2]), raylet, [host for host in hosts if host.pid in pids]


async def _replace_node(world: World, number: int) -> None:
    await world.cluster.end([node for node in world.cluster.nodes if node.name == f"node-{number}"])
    await world.cluster.start_node(number)
    await world.until_whole()


async def kill_supervisor(world: World, injury: Injury) -> None:
    """The supervisor is killed; Ray or a host starts another."""
    pid = await world.supervisor_pid()
    process = psutil.Process(pid)
    injury.at = strike([process])
    await until_gone([process])
    successor = await world.supervisor_pid()
    injury.recovery_s = time.time() - injury.at
    injury.shows(f"pid {pid} gone, now {successor}" if successor != pid else "")


async def stop_supervisor(world: World, injury: Injury) -> None:
    """The supervisor hangs for a while, and a host dies meanwhile."""
    process = psutil.Process(await world.supervisor_pid())
    victim = await _a_host(world)
    injury.touches([victim])
    injury.at = strike([process], signal.SIGSTOP)
    try:
        await asyncio.sleep(0.1)
        state = process.status()
        killed = psutil.Process(victim.pid)
        injury.at = strike([killed])
        await until_gone([killed])
        await asyncio.sleep(STOPPED_S)
    finally:
        strike([process], signal.SIGCONT)
    injury.shows(f"pid {process.pid} {state} {STOPPED_S:g} s, host {victim.pid} killed meanwhile")
    await world.until_whole()


async def kill_gateway(world: World, injury: Injury) -> None:
    """A gateway is killed; what looks after it starts it again."""
    port = world.rng.choice(world.ports)
    before = world.programs[f"gateway-{port}"]
    injury.via = f"http:{port}"
    injury.at = strike([psutil.Process(before.pid)])
    status = await asyncio.to_thread(before.wait, RETIRE_S)
    await world.start_gateway_at(port)
    injury.shows(f"pid {before.pid} ended with {status}, now {world.programs[f'gateway-{port}'].pid}")


async def stop_gateway(world: World, injury: Injury) -> None:
    """A gateway hangs for a while."""
    port = world.rng.choice(world.ports)
    process = psutil.Process(world.programs[f"gateway-{port}"].pid)
    injury.via = f"http:{port}"
    injury.at = strike([process], signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED_S)
        state = process.status()
    finally:
        injury.undone_at = strike([process], signal.SIGCONT)
    injury.shows(f"pid {process.pid} {state} {STOPPED_S:g} s" if state == psutil.STATUS_STOPPED else "")


async def kill_head(world: World, injury: Injury) -> None:
    """The head dies with Ray's whole memory. What is left of the cluster is ended, and a new one started."""
    await _lose_head(world, injury, is_ended=True)


async def kill_head_only(world: World, injury: Injury) -> None:
    """The same, but nobody ends the other nodes: their hosts hold their leases, and nobody reaches them any more."""
    await _lose_head(world, injury, is_ended=False)


async def _lose_head(world: World, injury: Injury, *, is_ended: bool) -> None:
    """Everything must go on from Postgres alone, in a new cluster, with `up()` and nothing else."""
    cluster = world.cluster
    gcs, raylet = cluster.head.process("gcs_server"), cluster.head.process("raylet")
    assert gcs is not None
    assert raylet is not None
    old = cluster.address
    injury.at = strike([gcs, raylet])
    await until_gone([gcs, raylet])
    await asyncio.sleep(WATCHED_S)
    left = list(cluster.nodes)
    what = f"{len(await cluster.end())} processes of {old} ended" if is_ended else f"nodes of {old} left alone"
    await world.stop_load(kill=True)
    injury.undone_at = time.time()  # until here old clients and hosts went on without a head
    for port in world.ports:
        program = world.programs[f"gateway-{port}"]
        program.kill()
        await asyncio.to_thread(program.wait)
    await cluster.start()
    await world.up()
    await asyncio.gather(*(world.start_gateway_at(port) for port in world.ports))
    await world.start_load()
    await world.until_whole()
    injury.shows(f"GCS {gcs.pid} gone, {what}, new cluster {cluster.address}")
    await cluster.end(left)
