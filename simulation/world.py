"""A simulated cluster: the real actors, hosts, supervisor, routers and engines on simulated machines.

The driver's node is outside of everything: it holds the workload, the nemesis and the clock of the experiment. Clients
are processes of their own, which die and come back under new names like everything else.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import msgspec

from perdure.cluster.actors import HostActor, SupervisorActor, ensure_supervisor
from perdure.cluster.client import Connection
from perdure.cluster.connect import connect
from perdure.cluster.hosted import EngineRequest, HostedEngine
from perdure.cluster.routes import RouteTable
from perdure.cluster.settings import ClusterSettings, ExchangeSettings
from perdure.cluster.supervisor import SupervisorSpec
from perdure.cluster.targets import Targets
from perdure.entities import CallTimeout, Entity
from perdure.entities.client import Caller
from perdure.entities.definition import Registry
from perdure.entities.engine.engine import Engine, Outlets
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.messages import Envelope, Reply
from perdure.entities.store.rows import Batch, RunStatus

from .choices import Choices
from .contract import Audit
from .faults import Nemesis, Plan, begin
from .loop import Node, SimLoop, here
from .net import Net
from .patches import simulated
from .ray import Actor, Process, SimRay
from .record import Record
from .runner import SimRunner
from .store import Database

DSN, NAMESPACE = "simulated", "simulated"
ENGINE_FACTORY = "simulation.world:engine_factory"
UP_S = 120.0
"""Virtual seconds that a healthy cluster has to serve every shard."""
UNDER_WAY_S = 1.0
"""How long what was under way when everything was healed may take to arrive."""


class ClientGone(CallTimeout):
    """The simulated client process died while the request was under way: for its caller as good as no answer."""


class SimClient:
    """A client process, as the workload sees it: it dies and comes back, its callers learn nothing then."""

    def __init__(self, world: "World", number: int) -> None:
        self.number = number
        self.session = ""
        """Of its present incarnation."""
        self.default_timeout_s = 10.0
        self.process: Process
        self._world = world
        self._connection: asyncio.Future[Connection]
        self._back: asyncio.Future[None] = world.loop.create_future()
        self._outgoing: deque[tuple[Envelope, float, asyncio.Future[Reply]]] = deque()
        """Handed to the process, which has not looked yet: in the order in which they were made (P5)."""
        self._waiting: dict[asyncio.Future[Reply], None] = {}
        self._lives = 0
        self.restart()

    def restart(self) -> None:
        """A new process."""
        world = self._world
        if self._lives and self.process.node.is_alive:
            return
        self._lives += 1
        self.session = f"client-{self.number}.{self._lives}"
        self.process = world.ray.start_process(self.session, "outside")
        self._connection = world.loop.create_future()
        world.loop.spawn(self.process.node, self._connect(self._connection))
        back, self._back = self._back, world.loop.create_future()
        back.set_result(None)

    def crash(self) -> None:
        """It is gone, and all that it waited for. A new one starts a little later."""
        self._world.ray.kill_process(self.process)
        waiting, self._waiting = self._waiting, {}
        self._outgoing.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(ClientGone("the client died; nobody knows what became of its request"))

    async def _connect(self, connected: "asyncio.Future[Connection]") -> None:
        connection: Connection | None = None
        while connection is None:
            try:
                connection = await connect(
                    dsn=DSN, namespace=NAMESPACE, settings=self._world.settings, is_default=False
                )
            except Exception:
                await asyncio.sleep(0.2)  # as any application would
        connection.session = self.session
        here.get().facts["client"] = connection
        connected.set_result(connection)

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """See `perdure.entities.client.Caller`: carried out in the client's process, in the order of these calls."""
        node = self.process.node
        if not node.is_alive:
            await asyncio.shield(self._back)
            raise ClientGone("the client died, and its successor is another sender")
        if envelope.position:  # reserved by the driver's clock; this process has its own
            skew_us = node.facts["skew_ns"] // 1_000
            envelope = msgspec.structs.replace(envelope, position=max(1, envelope.position + skew_us))
        loop = self._world.loop
        answer: asyncio.Future[Reply] = loop.create_future()
        self._waiting[answer] = None
        self._outgoing.append((envelope, timeout_s, answer))
        loop.deliver(node, 0.0, self._begin, node)
        try:
            return await answer
        finally:
            self._waiting.pop(answer, None)

    def _begin(self, node: Node) -> None:
        """Take the next one: what brings it here may have overtaken what was to bring another."""
        self._world.loop.spawn(node, self._carry(*self._outgoing.popleft()))

    async def _carry(self, envelope: Envelope, timeout_s: float, answer: "asyncio.Future[Reply]") -> None:
        loop = self._world.loop
        connection = await asyncio.shield(self._connection)
        try:
            reply = await connection.request(envelope, timeout_s=timeout_s)
        except Exception as error:
            loop.deliver(loop.driver, 0.0, _fail, answer, error)
        else:
            loop.deliver(loop.driver, 0.0, _succeed, answer, reply)


def _fail(answer: "asyncio.Future[Reply]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _succeed(answer: "asyncio.Future[Reply]", reply: Reply) -> None:
    if not answer.done():
        answer.set_result(reply)


@cache
def _registry(entities: tuple[type[Entity], ...]) -> Registry:
    """Hosts of one process may share it: it is only read. Making one costs more than all else of a host."""
    return Registry(entities)


def engine_factory(request: EngineRequest) -> HostedEngine:
    """The engine of a simulated host: as cluster/engine_factory.py makes it, but for threads, Ray tasks and actors."""
    world: World = here.get().facts["world"]
    return Engine(
        registry=_registry(tuple(world.releases[request.entities[0]])),
        store=request.store,
        incarnation=request.incarnation,
        shard_count=request.shard_count,
        settings=EngineSettings(**request.settings),
        outlets=Outlets(hint=request.hint, fenced=request.fenced, activity_runner=SimRunner),
        monotonic=world.loop.time,
    )


class World:
    """See the module. `Driver` of the contract, and `Cuts`, `Deploys`, `Watches`, `Pipelines`, `Ends`,
    `Isolates`."""

    pipelines = True

    def __init__(self, seed: int, plan: Plan, entities: Sequence[type[Entity]]) -> None:
        self.choices = Choices(seed)
        self.plan = plan
        self.rng = self.choices.of("workload")
        self.record = Record()
        self.seen: Counter[str] = Counter()
        self.loop = SimLoop(self.choices.of("order"))  # type: ignore[abstract]  # all that is asked of it is there
        self.net = Net(self.loop, self.choices.of("net"))
        self.net.troubles.net_s, self.net.troubles.store_s = plan.net_s, plan.store_s
        self.database = Database(self.loop, self.net, self.seen, shards=plan.shards)
        machines = [f"machine-{number}" for number in range(plan.machines)]
        self.ray = SimRay(self.loop, self.net, self.seen, machines, {"world": self, "loop": self.loop})
        self.ray.make_node = self._make_node
        self.settings = ClusterSettings(exchange=ExchangeSettings(**plan.exchange), **plan.cluster)
        self.releases: dict[str, Sequence[type[Entity]]] = {}
        self._clients: list[SimClient] = []
        self._nemesis = Nemesis(self, self.choices.of("faults"))
        self._clocks = self.choices.of("clocks")
        self.is_healed = False

    # --- what workloads use ---

    @property
    def clients(self) -> Sequence[Caller]:
        """Client processes."""
        return self._clients

    def time(self) -> float:
        """Virtual seconds."""
        return self.loop.now

    async def sleep(self, s: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(s)

    async def crash_somebody(self) -> None:
        """The host that asks, or any."""
        asking = here.get().facts.get("process")
        hosts = self.host_processes()
        if self.is_healed or not hosts:
            return
        self.seen["event: crash on request"] += 1
        victim = asking if asking in hosts else self.choices.of("faults").choice(hosts)
        self.loop.deliver(self.loop.driver, 0.0, self.ray.kill_process, victim)  # not from within: this must return

    def isolate(self, *, deaf: int) -> float:
        """A zombie, and a client that goes on asking it."""
        client = self._clients[deaf]
        lasts_s = self._nemesis.isolate([client] if client.process.node.is_alive else [])
        self.seen["siege"] += bool(lasts_s)
        return lasts_s

    def end_host(self) -> None:
        """The process that runs now dies on the spot."""
        self.seen["a handler ended its host"] += 1
        self.ray.kill_process(here.get().facts["process"])

    async def cut(self) -> Audit:
        """Everything that is committed now."""
        return self.database.audit()

    def watch(self, seen: Callable[[Batch], None]) -> None:
        """Tell of every commit as it is written."""
        self.database.watchers.append(seen)

    async def deploy(self, entities: Sequence[type[Entity]]) -> None:
        """A rolling upgrade; returns when all hosts serve these classes, or it takes too long for that."""
        self._aim(entities)
        async with asyncio.timeout(UP_S):
            while not self.is_up():
                await asyncio.sleep(0.05)

    # --- processes ---

    def _make_node(self, name: str, machine: str) -> Node:
        rng, plan = self._clocks, self.plan
        node = Node(name, machine, offset_s=rng.uniform(0.0, 1e5), rate=1.0 + rng.uniform(-plan.drift, plan.drift))
        node.facts["skew_ns"] = node.facts["wall_step_ns"] = round(rng.uniform(-plan.skew_s, plan.skew_s) * 1e9)
        return node

    def host_actors(self) -> list[Actor]:
        """Those whose process lives and that Ray has not given up."""
        return [
            it
            for it in self.ray.actors.values()
            if it.cls is HostActor and not it.is_dead and it.process is not None and it.process.node.is_alive
        ]

    def host_processes(self) -> list[Process]:
        """Of these."""
        return [it.process for it in self.host_actors() if it.process is not None]

    def supervisor_processes(self) -> list[Process]:
        """At most one, unless Ray is wrong."""
        return [
            it.process
            for it in self.ray.actors.values()
            if it.cls is SupervisorActor and it.process is not None and it.process.node.is_alive
        ]

    @property
    def supervisor_name(self) -> str:
        """Of its process, whichever it is at present."""
        return next(it.name.removeprefix("perdure-") for it in self.ray.actors.values() if it.cls is SupervisorActor)

    def clients_running(self) -> list[SimClient]:
        """Those that live."""
        return [it for it in self._clients if it.process.node.is_alive]

    def crash_client(self, number: int) -> bool:
        """It dies, and comes back after a while."""
        client = self._clients[number]
        if not client.process.node.is_alive:
            return False
        client.crash()
        self.loop.deliver(self.loop.driver, self.net.between(0.01, 1.0), client.restart)
        return True

    # --- life ---

    async def start(self, entities: Sequence[type[Entity]]) -> None:
        """Hosts and clients, up and healthy."""
        self._aim(entities)
        await ensure_supervisor(SupervisorSpec(dsn=DSN, namespace=NAMESPACE))
        self._clients.extend(SimClient(self, number) for number in range(self.plan.clients))
        while not self.is_up():
            await asyncio.sleep(0.05)

    def _aim(self, entities: Sequence[type[Entity]]) -> None:
        release = f"release-{len(self.releases)}"
        self.releases[release] = entities
        targets = Targets(
            hosts=self.plan.hosts,
            entities=(release,),
            engine=self.plan.engine,
            engine_factory=ENGINE_FACTORY,
            settings=self.settings,
            release=release,
        )
        self.database.tables._targets = targets.to_json()

    def scale(self, hosts: int) -> None:
        """From now on so many hosts are wanted."""
        tables = self.database.tables
        targets = Targets.from_json(tables._targets)
        assert targets is not None
        tables._targets = targets.model_copy(update={"hosts": hosts}).to_json()

    def is_up(self) -> bool:
        """Whether every shard is served by the present release, and whoever was to leave has left."""
        tables = self.database.tables
        hosts = [tables._hosts[name] for name in sorted(tables._hosts)]
        live = [host for host in hosts if host.status in {"active", "draining"}]
        table = RouteTable.of(tables._owners, hosts)
        release = Targets.from_json(tables._targets)
        assert release is not None
        return table.is_complete and all(host.status == "active" and release.revision in host.address for host in live)

    async def safety(self, work: Callable[["World"], Coroutine[Any, Any, None]]) -> None:
        """The workload while things go wrong."""
        begin(self.plan, self.net.troubles)
        nemesis = asyncio.create_task(self._nemesis.run())
        try:
            await work(self)
        finally:
            nemesis.cancel()

    async def heal(self) -> None:
        """Nothing goes wrong from now on; what is broken is replaced."""
        self.is_healed = True
        self.net.heal()
        self.loop.trace("healed")
        for process in list(self.ray.processes.values()):
            self.loop.resume(process.node)
        for client in self._clients:
            if not client.process.node.is_alive:
                client.restart()
        while not self.is_up() or self.database.late:
            await asyncio.sleep(0.05)
        await asyncio.sleep(UNDER_WAY_S)

    async def quiet(self, patience_s: float) -> str:
        """Wait until nothing is left to do. Returns what still waits after `patience_s`, or nothing."""
        until = self.loop.now + patience_s
        calm = 0
        while True:
            waiting = self.waiting()
            calm = 0 if waiting else calm + 1
            if calm == 2 or self.loop.now > until:
                return "\n".join(waiting)
            await asyncio.sleep(0.3)

    def waiting(self) -> list[str]:
        """Work that a healthy cluster must get done by itself."""
        audit = self.database.audit()
        lines = [f"{it.entity} has the message {it.name} ({it.id}) waiting" for it in audit.inbox]
        lines += [
            f"{it.entity}: {it.kind} {it.name} was due {(audit.at_us - it.due_us) / 1e6:.3f} s ago"
            for it in audit.reminders
            if it.due_us <= audit.at_us
        ]
        lines += [
            f"{entity}.{row.workflow} has work in flight: {row.waiting}"
            for entity, row in audit.runs
            if row.in_flight and row.status is RunStatus.RUNNING and not row.paused
        ]
        return lines


def run_world(world: World, main: Coroutine[Any, Any, None]) -> None:
    """Run a scenario in its world. Raises Overrun, and whatever the scenario raises."""
    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        stack.enter_context(simulated(world.loop, world.ray, world.database, world.choices, world.plan))
        world.loop.driver.facts.update(world=world, loop=world.loop, wall_step_ns=0)
        world.loop.run(main)
