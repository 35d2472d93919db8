"""The supervisor: sees to it that the wanted hosts run, and spreads what it sees. No Ray in here; actors.py wraps it.

What it is for: replacing hosts, noticing within a moment that one died, telling routers about new routes. What it is
not for: who owns what. Hosts settle that among themselves from the directory, so no supervisor for a while is safe,
and so is any number of them.

Protocol
--------
* Truth: targets, owners and hosts are in the directory. The supervisor keeps nothing that it could not look up again;
  a new one begins with a look.
* A round (every `reconcile_s`, and at every poke): look, publish the routes if they changed, make a plan
  (reconcile.plan), act on it. Nothing in a round waits for a host. Every act has its own exception wall.
* Death: one call per host stays open that never returns ("watch"). When Ray ends it, the host is *suspected*: Ray has
  been wrong about processes. On the same machine the process itself is looked at for a second; once it is gone the
  host is fenced as dead, and the survivors are poked to take over. On another machine, or if the process hangs,
  nothing is done until its lease has expired (lease.Doubts); then it is fenced as expired. (A host on the dead one's
  machine may see it sooner, see ownership.py.)
* Leaving: one call to the host, that returns when everything is handed over. A host that has not left within
  `drain_s` is ended, and then it is a death like any other. The host's row says `draining` meanwhile, so whoever is
  supervisor then asks it again (reconcile.plan).
* Two supervisors: both fence (idempotent), both may start a host for one vacancy (the surplus is drained again), both
  may drain (a host drains once).
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from ..entities.ids import new_message_id
from ..entities.store.rows import HostRow
from .addresses import HostAddress, process_of
from .lease import Doubts
from .process import Pulse, pulse
from .ray_runtime import Handle, Handles, kill, submit, tell
from .reconcile import Backoff, Observed, plan
from .routes import RouteTable, encode_routes
from .settings import ClusterSettings
from .stores import Store, StoreAddress
from .targets import Targets
from .tasks import Poke, end, repeat

log = logging.getLogger("perdure.supervisor")

DEATH_LOOK_S = 1.0
"""How long the process of a host that Ray lost is looked at."""
DEATH_POLL_S = 0.005


class SupervisorSpec(BaseModel):
    """What a supervisor is started with; JSON on its way."""

    model_config = ConfigDict(frozen=True)

    dsn: str = Field(repr=False)
    namespace: str
    is_pooled: bool = False

    @property
    def address(self) -> StoreAddress:
        """The namespace's database."""
        return StoreAddress(dsn=self.dsn, namespace=self.namespace, is_pooled=self.is_pooled)


@dataclass(frozen=True, kw_only=True)
class _Newborn:
    """A host that was started and has not registered yet."""

    revision: str
    since: float
    handle: Handle


Work = Callable[[], Awaitable[None]]
SpawnHost = Callable[[str, Targets], Handle]
"""Start a host process of that incarnation for these targets."""


class Supervisor:
    """See the module. Everything on one event loop."""

    def __init__(self, spec: SupervisorSpec, spawn_host: SpawnHost) -> None:
        self._store: Store = spec.address.open()
        self._spawn_host = spawn_host
        self._handles = Handles()
        self._name = new_message_id()
        self._versions = itertools.count(1)
        self._published = (f"{self._name}.0", RouteTable([], {}, -1))
        self._news = asyncio.Event()
        self._poke = Poke()
        self._targets: Targets | None = None
        self._settings = ClusterSettings()
        self._doubts = Doubts(lease_s=self._settings.lease_s, patience_s=_period_s(self._settings))
        self._backoff = Backoff(
            initial_s=self._settings.spawn_backoff_initial_s, max_s=self._settings.spawn_backoff_max_s
        )
        self._last_failure = ""
        self._newborn: dict[str, _Newborn] = {}
        self._born_at: dict[str, float] = {}
        self._errands: dict[tuple[str, str], asyncio.Task[None]] = {}
        """Watches, drains and births under way, by (what, incarnation)."""
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._loop_task = asyncio.create_task(self._run(), name="reconcile")

    async def stop(self) -> None:
        """End. What runs goes on."""
        await end(self._loop_task, *self._errands.values())
        await self._store.close()

    # --- what the actor's methods do ---

    def poke(self) -> None:
        """Something changed: look now."""
        self._poke()

    async def routes(self, since: str) -> bytes:
        """The routes: at once if `since` is not the version known here, else when they change or after a while."""
        if since == self._published[0]:
            try:
                async with asyncio.timeout(self._settings.long_poll_s):
                    await self._news.wait()
            except TimeoutError:
                pass
        return encode_routes(*self._published)

    def failures(self) -> tuple[int, str]:
        """How many hosts in a row did not start, and why the last one did not."""
        return self._backoff.failures, self._last_failure

    # --- a round ---

    async def _run(self) -> None:
        await repeat("reconciling", self.reconcile, every_s=self._settings.reconcile_s, poke=self._poke)

    async def reconcile(self) -> None:
        """Look, publish, act."""
        await self._guarded("reading the targets", self._take_targets)
        owners = await self._store.owners()
        hosts = await self._store.hosts()
        self._publish(RouteTable.of(owners, hosts))
        live = [host for host in hosts if host.status in {"active", "draining"}]
        self._look_at_newborn(hosts)
        database_us = await self._store.clock_us()
        now = time.monotonic()
        targets = self._targets or Targets()
        todo = plan(
            host_count=targets.hosts,
            revision=targets.revision,
            observed=Observed(
                hosts=hosts,
                dead={host.incarnation for host in live if pulse(process_of(host)) is Pulse.GONE},
                expired=self._doubts.expired(live, database_us=database_us, now=now),
                spawning=sum(1 for newborn in self._newborn.values() if newborn.revision == targets.revision),
                may_spawn=self._backoff.is_over(now),
            ),
        )
        by_name = {host.incarnation: host for host in live}
        for incarnation, is_dead in todo.fence:
            self._errand("fence", incarnation, partial(self._fence, by_name[incarnation], is_dead=is_dead))
        for incarnation in todo.watch:
            self._errand("watch", incarnation, partial(self._watch, by_name[incarnation]))
        if self._targets is not None:
            for incarnation in todo.drain:
                self._errand("drain", incarnation, partial(self._drain, by_name[incarnation]))
            for _ in range(todo.spawn):
                self._spawn(targets)

    async def _take_targets(self) -> None:
        targets = Targets.from_json(await self._store.targets())
        if targets is None or targets == self._targets:
            return
        self._targets = targets
        self._settings = settings = targets.settings
        self._doubts.lease_s, self._doubts.patience_s = settings.lease_s, _period_s(settings)
        self._backoff = Backoff(initial_s=settings.spawn_backoff_initial_s, max_s=settings.spawn_backoff_max_s)

    def _publish(self, table: RouteTable) -> None:
        if table == self._published[1]:
            return
        self._published = (f"{self._name}.{next(self._versions)}", table)
        self._handles.keep(set(table.actors.values()))
        self._news.set()
        self._news = asyncio.Event()

    # --- death ---

    async def _watch(self, host: HostRow) -> None:
        """Until Ray says that it is gone; then find out whether it is."""
        actor = HostAddress.parse(host.address).actor
        handle = await self._handles.get(actor)
        if handle is not None:
            try:
                await submit(handle, "watch")
            except Exception as error:  # noqa: BLE001 - any end of the call is a reason to look
                log.info("host %s is lost to Ray: %s", host.incarnation, type(error).__name__)
        self._handles.forget(actor)
        process = process_of(host)
        until = time.monotonic() + DEATH_LOOK_S
        while (state := pulse(process)) is Pulse.ALIVE and time.monotonic() < until:  # noqa: ASYNC110 - the kernel sends no event
            await asyncio.sleep(DEATH_POLL_S)
        if state is Pulse.GONE:
            await self._fence(host, is_dead=True)
        elif state is Pulse.UNKNOWN:
            await asyncio.sleep(DEATH_LOOK_S)  # the lease decides; do not ask Ray again too soon

    async def _fence(self, host: HostRow, *, is_dead: bool) -> None:
        incarnation = host.incarnation
        if not await self._store.fence(incarnation, is_dead=is_dead, waited_out_us=host.lease_us):
            return
        log.warning("host %s is gone (%s)", incarnation, "dead" if is_dead else "lease expired")
        self._note_death(incarnation)
        _, table = self._published
        for survivor, actor in table.actors.items():
            if survivor != incarnation and (handle := await self._handles.get(actor)) is not None:
                tell(handle, "settle")
        self._poke()

    def _note_death(self, incarnation: str) -> None:
        born_at = self._born_at.pop(incarnation, None)
        if born_at is not None and time.monotonic() - born_at < self._settings.young_s:
            # It had served: that may be an accident, and then everybody waits for its successor.
            self._backoff.failed(time.monotonic(), at_most_s=self._settings.spawn_backoff_young_s)

    # --- birth ---

    def _spawn(self, targets: Targets) -> None:
        incarnation = new_message_id()
        handle = self._spawn_host(incarnation, targets)
        now = time.monotonic()
        self._newborn[incarnation] = _Newborn(revision=targets.revision, since=now, handle=handle)
        self._born_at[incarnation] = now
        log.info("host %s is started", incarnation)
        self._errand("birth", incarnation, partial(self._attend, incarnation, handle))

    async def _attend(self, incarnation: str, handle: Handle) -> None:
        """Until the newborn answers; if it never will, the next one waits longer."""
        try:
            async with asyncio.timeout(self._settings.spawn_timeout_s):
                await submit(handle, "stats")
        except Exception as error:  # noqa: BLE001 - a failed start, whatever the reason
            self._last_failure = str(error).strip().rpartition("\n")[2] or repr(error)
            log.error("host %s did not start: %s", incarnation, error)  # noqa: TRY400 - the trace is the host's
            kill(handle)
            self._born_at.pop(incarnation, None)
            self._backoff.failed(time.monotonic())
        else:
            self._poke()
        finally:
            self._newborn.pop(incarnation, None)

    def _look_at_newborn(self, hosts: list[HostRow]) -> None:
        """Whoever has registered counts as a host; whoever has grown old is a success."""
        for host in hosts:
            self._newborn.pop(host.incarnation, None)
        grown_up = time.monotonic() - self._settings.young_s
        for incarnation in [name for name, born_at in self._born_at.items() if born_at < grown_up]:
            del self._born_at[incarnation]
            self._backoff.succeeded()

    # --- leaving ---

    async def _drain(self, host: HostRow) -> None:
        """Ask it to leave; if it cannot, end it."""
        actor = HostAddress.parse(host.address).actor
        handle = await self._handles.get(actor)
        if handle is None:
            return  # death is noticed elsewhere
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await submit(handle, "drain")
        except Exception as error:  # noqa: BLE001 - a failed drain, whatever the reason
            log.warning("host %s did not drain: %r; it is ended", host.incarnation, error)
            kill(handle)
            self._handles.forget(actor)
        else:
            self._poke()  # not after a failure: until its death is noticed every round would ask, and poke, again

    # --- errands ---

    def _errand(self, what: str, incarnation: str, work: Work) -> None:
        """Do it in the background unless it is under way already."""
        key = (what, incarnation)
        if key in self._errands:
            return
        name = f"{what} of host {incarnation}"
        task = asyncio.create_task(self._guarded(name, work), name=name)
        self._errands[key] = task
        task.add_done_callback(lambda _: self._errands.pop(key, None))

    async def _guarded(self, what: str, work: Work) -> None:
        try:
            await work()
        except Exception:
            log.exception("%s failed", what)


def _period_s(settings: ClusterSettings) -> float:
    return settings.lease_s / settings.lease_renewals
