"""dedicated: an entity with `hosting=Dedicated()` has one Ray actor, dies with it, and comes back with its state.

Actors are listed as `ray list actors` does, but from Ray's own table (GCS): the command asks a server for it that comes
with `ray[default]`, which Perdure does not need.
"""

import asyncio
from typing import Any

from ray._private import state

from perdure.entities import PerdureError

from .audit import audit_chains, audit_leftovers
from .entities import Worker
from .harness import Options, Scene, open_scene
from .processes import find, strike, until_gone
from .verdict import Verdict, distribution

ROUNDS = 5
ACTOR_CLASS = "DedicatedActor"
CALL_S = 30.0


async def run(options: Options) -> Verdict:
    """The campaign."""
    verdict = Verdict("dedicated", options.seed)
    rounds = options.rounds or ROUNDS
    async with open_scene(verdict, options, entities=["campaigns.entities:Worker"]) as scene:
        ada, ben = Worker.ref("ada"), Worker.ref("ben")
        known = ["w0"]
        pid = await ada.learn.options(timeout=CALL_S)("w0")
        hosts = {host.pid for host in await scene.hosts()}
        verdict.holds("lives in a process of its own", pid not in hosts, f"pid {pid}, hosts {sorted(hosts)}")
        listed = await _listed()
        verdict.holds("Ray lists one actor for it", [a["pid"] for a in listed] == [pid], listed)
        other = await ben.learn.options(timeout=CALL_S)("b0")
        pids = sorted(a["pid"] for a in await _listed())
        verdict.holds("a second instance has a second actor", pids == sorted([pid, other]), pids)

        wrong: list[str] = []
        back_s: list[float] = []
        for number in range(1, rounds + 1):
            process = find(pid)
            assert process is not None
            clock = asyncio.get_running_loop().time
            began = clock()
            strike([process])
            word = f"w{number}"
            new = await ada.learn.options(timeout=CALL_S, idempotency_key=word)(word)
            back_s.append(clock() - began)
            await until_gone([process])
            known.append(word)
            wrong += await _state_is(known, f"after kill {number} of the actor")
            if new == pid:
                wrong.append(f"round {number}: pid {pid} answered after it was killed")
            scene.prove("actor", pid, new)
            pid = new
        verdict.none_of("killed, it comes back with its state", wrong, f"{rounds} kills, pids {scene.proofs['actor']}")
        verdict.figure("killed actor → next acknowledged call", distribution(back_s))

        host_s: list[float] = []
        for number in range(1, max(1, rounds // 2) + 1):
            host_s.append(await _kill_its_host(scene, verdict, known, pid, number))
            pid = await ada.learn.options(timeout=CALL_S)(f"after-host-{number}")
            known.append(f"after-host-{number}")
        verdict.figure("killed host → next acknowledged call", distribution(host_s))
        alive = [a for a in await _listed() if a["pid"] == pid]
        verdict.holds("still one actor", len(alive) == 1, alive)
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
    return verdict


async def _kill_its_host(scene: Scene, verdict: Verdict, known: list[str], pid: int, number: int) -> float:
    """The host that made the actor dies: so does the actor, and another host makes a new one. Returns how soon."""
    [row] = await scene.sql("select shard from entities where type = 'Worker' and key = 'ada'")
    [host] = [host for host in await scene.hosts() if row["shard"] in host.shards]
    actor = find(pid)
    fault = await scene.kill_hosts("host", [host])
    word = f"host-{number}"
    clock = asyncio.get_running_loop().time
    began = clock()
    new = await Worker.ref("ada").learn.options(timeout=CALL_S, idempotency_key=word)(word)
    took_s = clock() - began
    known.append(word)
    gone = "gone"
    try:
        await until_gone([actor] if actor else [])
    except Exception as error:
        gone = repr(error)
    await scene.heal_hosts(fault)
    wrong = await _state_is(known, f"after kill {number} of its host")
    verdict.holds(
        f"host kill {number}: the actor goes with it, and comes back elsewhere",
        new != pid and gone == "gone" and not wrong,
        f"host {host.pid}, actor {pid} ({gone}) → {new} {wrong or ''}",
    )
    return took_s


async def _state_is(known: list[str], when: str) -> list[str]:
    try:
        words = await Worker.ref("ada").known.options(timeout=CALL_S)()
    except PerdureError as error:
        return [f"{when}: {error!r}"]
    return [] if words == known else [f"{when}: {words} instead of {known}"]


async def _listed() -> list[dict[str, Any]]:
    """Dedicated actors that Ray says are alive."""
    actors: Any = await asyncio.to_thread(state.actors)
    return [
        {"actor": actor["ActorID"][:12], "class": actor["ActorClassName"], "pid": actor["Pid"]}
        for actor in actors.values()
        if actor["State"] == "ALIVE" and ACTOR_CLASS in actor["ActorClassName"]
    ]
