"""A host: one process that owns shards and runs their entities. No Ray in here; actors.py wraps it.

Life:   start → serving → (draining →) gone

* start: build the engine (imports the application), register with a lease, begin to renew it, settle.
* serving: calls of links go to the engine. Four loops run, all on this one event loop, which is also the one that
  runs the entities: renewing the lease, settling ownership, following the routes, looking after the supervisor. A
  handler that blocks the loop blocks the renewal as well, so a wedged host loses its lease and others take over; a
  thread (watchdog.py) names the culprit and ends the process.
* draining: `drain()` gives up all shards in bounded parts, commits, retires the incarnation, ends the process.
* fenced: whoever finds out (a commit, a renewal, a look at the directory) ends the process at once. Nothing is cleaned
  up: what was not committed is nobody's loss, for nobody was told.

Failure of Postgres ends nothing: renewals and looks are repeated for ever; past its trust in the lease the engine
answers NOT_OWNER, and if nobody has fenced the host meanwhile the next renewal makes it whole.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..entities.client import set_default
from ..entities.ids import EntityId
from ..entities.metrics import RECEIVED, RENEWALS, UNANSWERED, Reading
from ..entities.steady import steady_clock
from ..entities.store.port import HostFenced, StoreUnavailable
from ..entities.store.rows import HostRow, Suspicion
from .addresses import HostAddress, host_actor
from .client import Client
from .codecs import load_codec
from .exchange import Exchange
from .hosted import EngineRequest, HostedEngine, Serve, load_factory
from .lease import Doubts, LeaseTerms
from .link import Send
from .memory import Ebb
from .minutes import EVERY_S, Minutes
from .ownership import Ownership
from .peers import Peers, decode_entities
from .process import this_process
from .ray_runtime import Handles
from .router import Router
from .routes import Routes
from .stores import Store, StoreAddress
from .targets import Targets
from .tasks import Poke, end, repeat
from .watchdog import Limits, Running, Watchdog

log = logging.getLogger("perdure.host")

LAST_WORDS_S = 0.2
"""Between the last answer of a host and the end of its process: the answer must get out."""
LEAVE_AGAIN_S = (0.1, 0.5, 1.0)
EXIT_RETIRED = 0
EXIT_FENCED = 70
EXIT_BLOCKED = 71
CHARGE_SHARE = 0.75
"""Of the lease: what blocks a host is on record before anybody can take over."""


class HostSpec(BaseModel):
    """What a host process is started with; JSON on its way."""

    model_config = ConfigDict(frozen=True)

    dsn: str = Field(repr=False)
    namespace: str
    is_pooled: bool = False
    incarnation: str
    targets: Targets

    @property
    def address(self) -> StoreAddress:
        """The namespace's database. Raises StartRefused if there is no codec where there should be one."""
        return StoreAddress(
            dsn=self.dsn,
            namespace=self.namespace,
            is_pooled=self.is_pooled,
            codec=load_codec(self.targets.codec),
        )


class Surroundings:
    """What a host needs of the world beyond Postgres; actors.py and tests fill it in."""

    def __init__(
        self,
        *,
        node: str,
        handles: Handles,
        connect_host: Callable[[str], Awaitable[Send]],
        watch_supervisor: Callable[[Routes], Coroutine[Any, Any, None]],
        supervisor_changed: Callable[[], None],
        ensure_supervisor: Callable[[], Awaitable[None]],
        exit_process: Callable[[int], None],
    ) -> None:
        self.node = node
        self.handles = handles
        self.connect_host = connect_host
        self.watch_supervisor = watch_supervisor
        """Keep the routes as new as the supervisor's; runs for ever."""
        self.supervisor_changed = supervisor_changed
        self.ensure_supervisor = ensure_supervisor
        self.exit_process = exit_process


class Host:
    """See the module. Everything on one event loop."""

    def __init__(self, spec: HostSpec, surroundings: Surroundings) -> None:
        self._spec = spec
        self._world = surroundings
        self._settings = spec.targets.settings
        self._incarnation = spec.incarnation
        self._actor = host_actor(spec.namespace, spec.incarnation)
        self._terms = LeaseTerms(
            lease_s=self._settings.lease_s,
            renewals=self._settings.lease_renewals,
            margin_s=self._settings.lease_margin_s,
        )
        self._look_now = Poke()
        self._tasks: list[asyncio.Task[None]] = []
        self._drain: asyncio.Task[None] | None = None
        self._is_over = False
        self._renewals_by_outcome = {"ok": 0, "error": 0}
        self._serve: Serve | None = None
        self._store: Store
        self._renewals: Store
        self._engine: HostedEngine
        self._exchange: Exchange
        self._ownership: Ownership
        self._peers: Peers
        self._client: Client
        self._watchdog: Watchdog

    async def start(self) -> None:
        """Become a host. Raises if the database or the application is not in order; then nothing was registered."""
        spec, settings = self._spec, self._settings
        self._store = spec.address.open(self._incarnation)
        self._renewals = spec.address.open_for_renewals(settings.lease_s)
        shard_count = await self._store.shard_count()
        routes = Routes.of_store(self._store)
        self._peers = Peers(routes, self._world.handles, shard_count=shard_count)
        self._engine = load_factory(spec.targets.engine_factory)(
            EngineRequest(
                entities=spec.targets.entities,
                store=self._store,
                incarnation=self._incarnation,
                shard_count=shard_count,
                settings=spec.targets.engine,
                hint=self._peers.hint,
                fenced=self._fenced,
                steps=spec.address.steps(self._incarnation),
                serve=self._serve_with,
            )
        )
        await self._engine.start()
        self._exchange = Exchange(self._engine.deliver, settings.exchange)
        self._start_client(routes, shard_count)
        self._ownership = Ownership(
            incarnation=self._incarnation,
            store=self._store,
            engine=self._engine,
            routes=routes,
            doubts=Doubts(lease_s=self._terms.lease_s, patience_s=self._terms.period_s),
            move_max=settings.move_max,
            poke=self._poke,
            changed=self._world.supervisor_changed,
            fenced=self._fenced,
        )
        await self._register()
        self._watchdog = self._watch()
        minutes = Minutes(self._store.survey(), self._incarnation, self._engine.stats, time.monotonic)
        self._tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("renew", self._renew()),
                ("settle", repeat("settling", self._ownership.settle, every_s=settings.settle_s, poke=self._look_now)),
                ("follow", self._world.watch_supervisor(routes)),
                ("look after", self._look_after()),
                ("minutes", repeat("noting a minute", minutes.note, every_s=EVERY_S, poke=Poke())),
            )
        ]

    # --- what the actor's methods do ---

    async def exchange(self, data: bytes) -> bytes:
        """One call of a link."""
        return await self._exchange.exchange(data)

    def wake(self, data: bytes) -> None:
        """Entities of ours have mail in the store."""
        self._engine.wake(decode_entities(data))

    async def serve(self, entity: EntityId, operation: str, argument: bytes) -> bytes:
        """What a dedicated actor of this host asks."""
        if self._serve is None:
            raise LookupError("the engine of this host has no dedicated actors")
        return await self._serve(entity, operation, argument)

    def settle(self) -> None:
        """Look at the directory now."""
        self._look_now()

    async def drain(self) -> None:
        """Hand everything over and end the process. Idempotent; returns when all is handed over."""
        if self._drain is None or (self._drain.done() and not self._is_over):
            self._drain = asyncio.create_task(self._leave_at_last(), name="drain")
        await asyncio.shield(self._drain)

    def stats(self) -> dict[str, int]:
        """Counters and gauges."""
        return self._engine.stats() | self._exchange.stats() | {"shards_owned": len(self._ownership.shards)}

    def reading(self) -> Reading:
        """Metrics of the host."""
        reading = self._engine.reading()
        reading.add_all(RENEWALS, self._renewals_by_outcome)
        exchange = self._exchange.stats()
        reading.add(RECEIVED, exchange["exchange_messages"])
        reading.add(UNANSWERED, exchange["unanswered"])
        self._client.add_to(reading)
        return reading

    # --- lease ---

    async def _register(self) -> None:
        settings, process = self._settings, this_process()
        address = HostAddress(self._actor, self._spec.targets.revision, process.machine, process.started)
        row = HostRow(self._incarnation, str(address), self._world.node, process.pid, "active", 0)
        asked_at = steady_clock()
        await self._store.register(row, lease_s=settings.lease_s)
        self._engine.set_lease(self._terms.trusted_until(asked_at), 0)

    async def _renew(self) -> None:
        """Renew the lease for ever. Runs on the entities' loop: that is the point."""
        terms = self._terms
        while True:
            asked_at = steady_clock()
            is_failed = False
            try:
                database_us = await self._renewals.renew(self._incarnation, lease_s=terms.lease_s)
            except HostFenced as error:
                self._fenced(error.message)
                return
            except Exception as error:  # noqa: BLE001 - a host that stops renewing is dead
                log.warning("host %s could not renew its lease: %s", self._incarnation, error)
                is_failed = True
                self._renewals_by_outcome["error"] += 1
            else:
                self._renewals_by_outcome["ok"] += 1
                self._engine.set_lease(terms.trusted_until(asked_at), database_us, asked_at)
            await asyncio.sleep(terms.pause_s(asked_at=asked_at, now=steady_clock(), failed=is_failed))

    def _fenced(self, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        log.error("host %s ends: %s", self._incarnation, reason)
        self._world.exit_process(EXIT_FENCED)

    # --- blocked ---

    def _watch(self) -> Watchdog:
        settings = self._settings
        end_s = settings.blocked_end_s
        limits = Limits(
            warn_s=settings.blocked_warn_s, charge_s=min(CHARGE_SHARE * settings.lease_s, end_s), end_s=end_s
        )
        engine = self._engine

        def running(task: "asyncio.Task[Any] | None") -> Running | None:
            found = engine.running_code(task)
            return Running(*found) if found is not None else None

        async def testify(evidence: Suspicion) -> None:
            store = self._spec.address.open_for_renewals(settings.lease_s)  # this loop's own; bounded in every wait
            try:
                await store.suspect([evidence])
            finally:
                await store.close()

        watchdog = Watchdog(
            limits=limits, running=running, testify=testify, end=lambda: self._world.exit_process(EXIT_BLOCKED)
        )
        watchdog.start()
        return watchdog

    # --- leaving ---

    async def _leave_at_last(self) -> None:
        """Every step may be repeated. A host that stopped half-way would be counted on, and take nothing ever again."""
        failures = 0
        while True:
            try:
                await self._leave()
            except StoreUnavailable as problem:
                log.warning("host %s cannot leave yet: %s", self._incarnation, problem)
            else:
                return
            await asyncio.sleep(LEAVE_AGAIN_S[min(failures, len(LEAVE_AGAIN_S) - 1)])
            failures += 1

    async def _leave(self) -> None:
        log.info("host %s drains", self._incarnation)
        await self._ownership.stop_taking()
        await self._store.set_draining(self._incarnation)
        await self._ownership.leave()
        await self._engine.stop()
        self._exchange.release()
        await self._store.retire(self._incarnation)
        self._is_over = True
        self._watchdog.stop()
        await end(*self._tasks)
        self._world.supervisor_changed()
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._world.exit_process, EXIT_RETIRED)

    # --- the rest ---

    def _serve_with(self, serve: Serve) -> None:
        self._serve = serve

    def _start_client(self, routes: Routes, shard_count: int) -> None:
        """Activities call entities too, and find this process's own ones without a detour over Ray."""
        exchange = self._exchange.exchange

        async def connect_host(actor: str) -> Send:
            if actor == self._actor:
                return lambda data: asyncio.ensure_future(exchange(data))
            return await self._world.connect_host(actor)

        router = Router(
            routes=routes, shard_count=shard_count, connect_host=connect_host, settings=self._settings.exchange
        )
        self._client = Client(router, session=f"host-{self._incarnation}")
        set_default(self._client)

    def _poke(self, incarnations: Iterable[str]) -> None:
        others = set(incarnations)
        if self._incarnation in others:
            others.discard(self._incarnation)
            self._look_now()
        self._peers.poke(others)

    async def _look_after(self) -> None:
        """Forget links without clients; give memory back; see that there is a supervisor."""
        ebb = Ebb()
        while True:
            await asyncio.sleep(self._settings.guard_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads the load
            try:
                self._exchange.sweep()
                ebb.look(self._engine.stats()["activations"])
                if self._drain is None:
                    await self._world.ensure_supervisor()
            except Exception:
                log.exception("host %s could not look after the supervisor", self._incarnation)
