"""What goes wrong in one seed: a random subset of everything that can, each at a random intensity.

Swarm style: with all faults on at once most runs would only show that nothing works in hell. A tenth of all seeds runs
without any. Knobs of the framework are drawn as well: small batches, tiny windows, short leases and eviction after
every turn reach corners that the defaults reach once a year.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .choices import chance, spread
from .loop import Node
from .net import Troubles
from .store import at_once

if TYPE_CHECKING:
    from .world import SimClient, World

CALM = 0.1
"""Share of seeds in which nothing goes wrong."""
EVENTS = (
    "crash host",
    "crash two hosts",
    "crash machine",
    "pause host",
    "cut host from database",
    "cut machines",
    "zombie with clients",
    "database restart",
    "declared dead",
    "crash supervisor",
    "crash client",
    "pause client",
    "step host clock",
    "step database clock",
    "poke",
)
MOVES = ("drain host", "scale")
"""Shards change hands in order."""
ORDERS = ("order host out",)
"""Drawn last of all, for the same reason as LATER_RATES."""
RATES = ("slow", "refused", "lost", "unanswered", "late", "call_lost", "call_unanswered", "hints_lost")
LATER_RATES = ("conflicting", "held")
"""Drawn after everything else, so that they shift no other draw."""


@dataclass
class Plan:
    """Everything that is drawn before a seed begins."""

    hosts: int = 2
    machines: int = 1
    shards: int = 8
    clients: int = 3
    engine: dict[str, Any] = field(default_factory=dict)
    """EngineSettings, as far as they differ from the defaults."""
    cluster: dict[str, Any] = field(default_factory=dict)
    """ClusterSettings, likewise."""
    exchange: dict[str, Any] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    every_s: float = 1.0
    """Mean time between events."""
    events_max: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    net_s: tuple[float, float] = (0.0001, 0.001)
    store_s: tuple[float, float] = (0.0002, 0.001)
    drift: float = 0.0
    """Clocks of processes run by up to so much faster or slower."""
    skew_s: float = 0.0
    """Clocks of processes are wrong by up to so much."""
    commit_margin_s: float = 5.0
    """How much longer than their blocks transactions may hold their entities."""

    def __str__(self) -> str:
        parts = [f"{self.hosts} hosts on {self.machines} machines, {self.shards} shards, {self.clients} clients"]
        parts += [f"{len(self.events)} kinds of events every {self.every_s:.2f} s: {', '.join(self.events)}"]
        parts += [f"{name} {rate:.4f}" for name, rate in self.rates.items()]
        parts += [f"{name}={value}" for name, value in {**self.engine, **self.cluster, **self.exchange}.items()]
        parts += [f"drift {self.drift:.4f}, skew {self.skew_s:.1f} s, commit margin {self.commit_margin_s:g} s"]
        return "; ".join(parts)


def draw_plan(rng: random.Random) -> Plan:
    """The plan of a seed."""
    plan = Plan(
        hosts=rng.choice((1, 2, 2, 3)),
        machines=rng.choice((1, 2, 3)),
        shards=rng.choice((2, 4, 8)),
        clients=rng.choice((2, 3, 4)),
    )
    _draw_knobs(plan, rng)
    net = spread(rng, 0.0001, 0.01)
    store = spread(rng, 0.0002, 0.02)
    plan.net_s, plan.store_s = (net, net * rng.uniform(1.5, 10)), (store, store * rng.uniform(1.5, 10))
    if chance(rng, 0.5):
        plan.skew_s = spread(rng, 0.01, 3600.0)
    if chance(rng, 0.3):
        plan.drift = rng.uniform(0.001, 0.015)
    if chance(rng, CALM):
        return plan
    plan.events = tuple(event for event in EVENTS if chance(rng, 0.35))
    plan.every_s = spread(rng, 0.1, 3.0)
    plan.events_max = rng.choice((2, 5, 10, 20))
    for name in RATES:
        if chance(rng, 0.3):
            plan.rates[name] = spread(rng, 0.001, 0.05)
    if "hints_lost" in plan.rates:
        plan.rates["hints_lost"] = rng.choice((0.1, 0.5, 1.0))
    if chance(rng, 0.3):
        plan.rates["conflicting"] = spread(rng, 0.02, 0.3)  # costs little: only who is named begins again
    plan.events += tuple(event for event in MOVES if chance(rng, 0.3))
    if chance(rng, 0.2):
        plan.rates["held"] = spread(rng, 0.005, 0.1)
    if chance(rng, 0.2):
        plan.engine["inbox_max"] = rng.choice((1, 3))
    plan.events += tuple(event for event in ORDERS if chance(rng, 0.3))
    return plan


def _draw_knobs(plan: Plan, rng: random.Random) -> None:
    def maybe(into: dict[str, Any], probability: float, **choices: tuple[Any, ...]) -> None:
        for name, values in choices.items():
            if chance(rng, probability):
                into[name] = rng.choice(values)

    maybe(
        plan.engine,
        0.3,
        commit_entities_max=(1, 2, 5),
        idle_s=(0.02, 0.5, 2.0),
        timer_window_s=(0.05, 0.5, 5.0),
        timer_batch=(1, 3, 50),
        load_max=(1, 2, 10),
        turns_per_tick=(1, 3),
        mail_poll_s=(0.2, 1.0),
        keep_state_bytes=(0, 50),
        rehydrate_per_s=(20.0, 200.0),
        activities_max=(1, 3),
    )
    if chance(rng, 0.15):
        plan.engine["evict_after_every_turn"] = True
    if chance(rng, 0.2):
        plan.engine["prune_every_s"] = rng.choice((0.1, 0.3))
        plan.engine["history_retention_s"] = rng.choice((0.02, 0.1, 0.5))
    plan.commit_margin_s = rng.choice((5.0, 5.0, 0.3, 0.03))
    plan.cluster["lease_s"] = rng.choice((0.5, 1.0, 2.0, 5.0))
    maybe(plan.cluster, 0.3, settle_s=(0.2, 0.5, 2.0), move_max=(1, 2), reconcile_s=(0.2, 1.0), lease_renewals=(2, 3))
    plan.cluster["spawn_backoff_max_s"] = 2.0
    maybe(
        plan.exchange,
        0.25,
        frames_max=(1, 3),
        park_s=(0.2, 1.0),
        parked_max=(1, 2),
        gap_s=(0.5, 2.0),
        in_flight_max=(2, 8),
        link_idle_s=(1.0, 5.0),
        silent_s=(1.0, 5.0),
    )
    plan.exchange.setdefault("silent_s", 5.0)


def begin(plan: Plan, troubles: Troubles) -> None:
    """From now on things go wrong at these rates."""
    for name, rate in plan.rates.items():
        setattr(troubles, name, rate)


class Nemesis:
    """Makes events happen, one after the other, until it is told to stop."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    async def run(self) -> None:
        """For as long as the safety phase lasts."""
        world, plan = self._world, self._world.plan
        for _ in range(plan.events_max if plan.events else 0):
            await world.sleep(self._rng.expovariate(1.0 / plan.every_s))
            event = self._rng.choice(plan.events)
            world.loop.trace(f"nemesis: {event}")
            if self.strike(event):
                world.seen[f"event: {event}"] += 1

    def strike(self, event: str) -> bool:
        """Make this happen now. False if there was nobody to whom it could."""
        strikes: dict[str, Callable[[], bool]] = {
            "crash host": lambda: self._kill(self._world.host_processes(), 1),
            "crash two hosts": lambda: self._kill(self._world.host_processes(), 2),
            "crash machine": self._kill_machine,
            "crash supervisor": lambda: self._kill(self._world.supervisor_processes(), 1),
            "crash client": lambda: self._world.crash_client(self._rng.randrange(self._world.plan.clients)),
            "pause host": lambda: self._pause([it.node for it in self._world.host_processes()]),
            "pause client": lambda: self._pause([it.process.node for it in self._world.clients_running()]),
            "cut host from database": self._cut_store,
            "cut machines": self._cut_machines,
            "zombie with clients": self._zombie,
            "database restart": self._cut_database,
            "declared dead": self._declare_dead,
            "step host clock": self._step_host_clock,
            "step database clock": self._step_database_clock,
            "poke": self._poke,
            "drain host": self._drain,
            "scale": self._scale,
            "order host out": self._order_out,
        }
        return strikes[event]()

    def _kill_machine(self) -> bool:
        hosts = self._world.host_processes()
        if not hosts:
            return False
        machine = self._rng.choice(hosts).node.machine
        return self._kill([it for it in self._world.ray.processes.values() if it.node.machine == machine], 99)

    def _declare_dead(self) -> bool:
        actors = self._world.host_actors()
        if actors:
            self._world.ray.declare_dead(self._rng.choice(actors), ended_after_s=spread(self._rng, 0.05, 10.0))
        return bool(actors)

    def _step_host_clock(self) -> bool:
        hosts = self._world.host_processes()
        if hosts:
            facts = self._rng.choice(hosts).node.facts
            step_s = self._rng.choice((1, -1)) * spread(self._rng, 0.01, 86_400.0)
            facts["wall_step_ns"] = facts.get("wall_step_ns", 0) + round(step_s * 1e9)
        return bool(hosts)

    def _step_database_clock(self) -> bool:
        step_s = self._rng.choice((1, 1, -1)) * spread(self._rng, 0.01, 60.0)
        self._world.database.stepped_us += round(step_s * 1e6)
        return True

    def _kill(self, processes: list[Any], count: int) -> bool:
        chosen = self._rng.sample(processes, min(count, len(processes)))
        for process in chosen:
            self._world.ray.kill_process(process)
        return bool(chosen)

    def _pause(self, nodes: list[Node]) -> bool:
        nodes = [node for node in nodes if not node.is_paused]
        if not nodes:
            return False
        node = self._rng.choice(nodes)
        loop = self._world.loop
        loop.pause(node)
        loop.deliver(loop.driver, spread(self._rng, 0.05, 10.0), self._resume, node)
        return True

    def _resume(self, node: Node) -> None:
        if node.is_paused and node.is_alive:
            self._world.seen["resumed"] += 1
            self._world.loop.resume(node)

    def _cut_store(self) -> bool:
        net, loop = self._world.net, self._world.loop
        hosts = self._world.host_processes()
        if not hosts:
            return False
        node = self._rng.choice(hosts).node
        net.cut_store(node)
        loop.deliver(loop.driver, spread(self._rng, 0.05, 8.0), net.restore_store, node)
        return True

    def _cut_machines(self) -> bool:
        net, loop = self._world.net, self._world.loop
        machines = [*self._world.ray.machines, "outside"]
        one, other = self._rng.sample(machines, 2)
        net.cut(one, other)
        loop.deliver(loop.driver, spread(self._rng, 0.05, 8.0), net.mend, one, other)
        return True

    def _zombie(self) -> bool:
        return bool(self.isolate([it for it in self._world.clients_running() if chance(self._rng, 0.5)]))

    def isolate(self, deaf: "Sequence[SimClient]") -> float:
        """A host loses the database, or stands still, for longer than its lease; the deaf do not learn of its heir.

        They go on asking the zombie while others write what it does not know. Who would end it does not reach it.
        Returns how long the deaf are deaf, s; 0 if there is no host.
        """
        net, loop, rng = self._world.net, self._world.loop, self._rng
        hosts = self._world.host_processes()
        if not hosts:
            return 0.0
        node = rng.choice(hosts).node
        lease_s: float = self._world.plan.cluster["lease_s"]
        for_s = lease_s * rng.uniform(1.5, 4.5)
        if chance(rng, 0.3):
            if not node.is_paused:
                loop.pause(node)
                loop.deliver(loop.driver, for_s, self._resume, node)
        else:
            net.cut_store(node)
            loop.deliver(loop.driver, for_s, net.restore_store, node)
        deaf_s = for_s + rng.uniform(0.0, 2.0)
        clients = [client.process.node for client in deaf]
        for client in clients:
            net.cut_store(client)
            loop.deliver(loop.driver, deaf_s, net.restore_store, client)
        supervisor = self._world.supervisor_name
        for name in [it.name.partition("#")[0] for it in (node, *clients)]:
            net.part(name, supervisor)
            loop.deliver(loop.driver, deaf_s, net.unite, name, supervisor)
        return deaf_s

    def _cut_database(self) -> bool:
        net, loop = self._world.net, self._world.loop
        net.is_store_up = False
        loop.deliver(loop.driver, spread(self._rng, 0.02, 4.0), self._database_back)
        return True

    def _database_back(self) -> None:
        self._world.net.is_store_up = True

    def _poke(self) -> bool:
        """An internal call that nobody asked for: settle now, look now."""
        actors = self._world.host_actors()
        for actor in actors:
            self._world.loop.deliver(self._world.loop.driver, 0.0, self._world.ray.tell, actor, "settle")
        return bool(actors)

    def _order_out(self) -> bool:
        """An operator's order, by the directory: whoever is the supervisor carries it out, some time."""
        tables = self._world.database.tables
        active = [name for name, row in sorted(tables._hosts.items()) if row.status == "active"]
        if active:
            chosen = self._rng.choice(active)
            self._world.loop.trace(f"{chosen} is ordered out")
            at_once(tables.survey().drain_host(chosen, operator="nemesis", reason=""))
        return bool(active)

    def _drain(self) -> bool:
        """A host is asked to leave by somebody who does not go through the directory."""
        actors = self._world.host_actors()
        if actors:
            self._world.loop.deliver(
                self._world.loop.driver, 0.0, self._world.ray.tell, self._rng.choice(actors), "drain"
            )
        return bool(actors)

    def _scale(self) -> bool:
        """Another number of hosts is wanted."""
        self._world.scale(self._rng.choice((1, 2, 3, 4)))
        return True
