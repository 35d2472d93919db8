"""Every client process has one router: it carries requests to whoever owns their shard, until a reply or the deadline.

Protocol with hosts: wire.py. Protocol with failure:

* A request is sent to the owner of its shard as of the newest routes. It is over when a reply came that is not
  NOT_OWNER, when its deadline passes, or when the caller's task is cancelled (then a late reply is dropped).
* It is sent again, with the same id, after NOT_OWNER and when its link is lost. The engine finds a repeat by its id.
* BUSY is a reply only to what cannot have been applied: it says "not accepted". Once an earlier send may have been
  applied, a full host says nothing about that one, so the request is sent again, as after NOT_OWNER.
* Order: requests of one shard leave in the order in which callers made them, also after a detour. While any of them
  waits for another attempt, all later ones of that shard queue behind it (a *stall*); and a stall ends only when
  nothing of the shard is unanswered at another host.
* A stall tries again after 25 ms, doubling to 0.5 s, and at once when newer routes name another owner.
* A host whose actor is dead for Ray gets nothing more until the routes drop it: it may still own its shards
  in the store, and whether it can commit is not for us to say.
* The deadline: `Unavailable` if no send can have been applied, else `CallTimeout`.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

from ..entities.errors import Busy, CallTimeout, NotConnected, Unavailable
from ..entities.messages import IN_DOUBT, Envelope, Reply, Status
from ..entities.metrics import ROUTER_EXPIRED, ROUTER_PENDING, ROUTER_RETRIES, Reading
from ..entities.shard import shard_of
from .link import Link, Pending, Send
from .ray_runtime import is_actor_dead
from .routes import Routes
from .settings import ExchangeSettings
from .tasks import end

log = logging.getLogger("perdure.router")

STALL_PATIENCE_S = 2.0
"""How long a stall waits for requests of its shard that another host has not answered, before it goes on without
them."""


class _Stall:
    """Requests of one shard that wait for another attempt."""

    __slots__ = ("delay_s", "owner", "since", "timer", "waiting")

    def __init__(self, owner: str, since: float) -> None:
        self.waiting: list[Pending] = []
        self.owner = owner
        """Who did not serve it when it began."""
        self.since = since
        self.delay_s = 0.0
        self.timer: asyncio.TimerHandle | None = None


class _Carried:
    """Requests of one shard that one link has."""

    __slots__ = ("count", "link")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.count = 0


class Router:
    """See the module. Everything on one event loop; `connect_host` finds a host's actor and returns how to call it."""

    def __init__(
        self,
        *,
        routes: Routes,
        shard_count: int,
        connect_host: Callable[[str], Awaitable[Send]],
        settings: ExchangeSettings,
    ) -> None:
        self._routes = routes
        self._shard_count = shard_count
        self._connect_host = connect_host
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._order = itertools.count()
        self._links: dict[str, Link] = {}
        self._stalls: dict[int, _Stall] = {}
        self._carried: dict[int, _Carried] = {}
        self._dead: set[str] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._pending_count = 0
        self._retries = {"not_owner": 0, "busy": 0, "link_lost": 0}
        self._expired = {"unavailable": 0, "unknown": 0}
        self._is_closed = False
        routes.on_change(self._routes_changed)

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        """Carry one request; returns its reply (OK, ACCEPTED, ERROR or BUSY).

        Raises Busy (too much waits in this process) and Unavailable if it was certainly not applied, CallTimeout
        if the outcome is unknown.
        """
        if self._is_closed:
            raise NotConnected(f"{envelope.entity}: the client of this process is closed; connect again")
        if self._pending_count >= self._settings.queued_max + self._settings.in_flight_max:
            raise Busy(
                f"{envelope.entity}: {self._pending_count} requests of this process wait already; try again later"
            )
        pending = Pending(
            envelope,
            order=next(self._order),
            shard=shard_of(envelope.type, envelope.key, self._shard_count),
            future=self._loop.create_future(),
        )
        timer = self._loop.call_later(timeout_s, self._expire, pending, timeout_s)
        self._pending_count += 1
        try:
            self._dispatch(pending)
            return await pending.future
        finally:
            self._pending_count -= 1
            timer.cancel()
            if pending.where is not None:
                pending.where[0].forget(pending)
            self._uncarry(pending)

    async def close(self) -> None:
        """End: whoever still waits gets Unavailable or CallTimeout."""
        self._is_closed = True
        left = [pending for link in self._links.values() for pending in link.close()]
        for stall in self._stalls.values():
            if stall.timer is not None:
                stall.timer.cancel()
            left += stall.waiting
        self._links.clear()
        self._stalls.clear()
        await end(*self._connecting)
        for pending in left:
            if not pending.future.done():
                what = CallTimeout if pending.may_be_applied else Unavailable
                pending.future.set_exception(what(f"{pending.envelope.entity}: the client was closed"))

    def stats(self) -> dict[str, int]:
        """Gauges."""
        return {
            "links": len(self._links),
            "pending": self._pending_count,
            "stalled": sum(len(stall.waiting) for stall in self._stalls.values()),
        }

    def add_to(self, reading: Reading) -> None:
        """Metrics (see `perdure.entities.metrics`)."""
        reading.add_all(ROUTER_RETRIES, self._retries)
        reading.add_all(ROUTER_EXPIRED, self._expired)
        reading.add(ROUTER_PENDING, self._pending_count)

    # --- sending ---

    def _dispatch(self, pending: Pending) -> None:
        stall = self._stalls.get(pending.shard)
        if stall is not None:
            stall.waiting.append(pending)
            return
        owner = self._routes.owner(pending.shard)
        if not owner or owner in self._dead or self._is_carried_elsewhere(pending.shard, owner):
            self._stall(pending)
            return
        link = self._link(owner)
        if link.queued >= self._settings.queued_max:
            raise Busy(f"{pending.envelope.entity}: {link.queued} messages wait for its host already; try again later")
        self._carry(link, pending)

    def _carry(self, link: Link, pending: Pending) -> None:
        link.push(pending)
        if pending.is_wait:
            return  # it changes nothing, so its place in the order is nobody's concern
        carried = self._carried.get(pending.shard)
        if carried is None or carried.link is not link:
            carried = self._carried[pending.shard] = _Carried(link)
        carried.count += 1
        pending.carrier = link

    def _uncarry(self, pending: Pending) -> None:
        link, pending.carrier = pending.carrier, None
        if link is None:
            return
        carried = self._carried.get(pending.shard)
        if carried is None or carried.link is not link:
            return
        carried.count -= 1
        if not carried.count:
            del self._carried[pending.shard]
            if pending.shard in self._stalls and self._routes.owner(pending.shard) != link.incarnation:
                self._resume(pending.shard)

    def _is_carried_elsewhere(self, shard: int, owner: str) -> bool:
        """Whether another host still owes answers for this shard; they are coming, or its link will be lost."""
        carried = self._carried.get(shard)
        return carried is not None and carried.link.incarnation != owner

    def _link(self, incarnation: str) -> Link:
        link = self._links.get(incarnation)
        if link is not None and not link.is_stale:
            return link
        if link is not None:
            link.close()
        link = self._links[incarnation] = Link(incarnation, self, self._settings)
        task = self._loop.create_task(self._connect(link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return link

    async def _connect(self, link: Link) -> None:
        actor = self._routes.table.actors.get(link.incarnation, "")
        try:
            link.connect(await self._connect_host(actor))
        except Exception as error:  # noqa: BLE001 - a host that is not found is a lost link
            if not link.is_closed:
                self.lost(link, error)

    # --- what links report ---

    def replied(self, link: Link, pending: Pending, reply: Reply) -> None:
        """A reply: to its caller, or another attempt."""
        is_refused = reply.status is Status.NOT_OWNER
        if is_refused or (reply.status is Status.BUSY and pending.may_be_applied):
            pending.attempts += 1
            self._retries["not_owner" if is_refused else "busy"] += 1
            pending.is_lost = pending.is_lost or reply.body == IN_DOUBT
            self._stall(pending, link)
        elif not pending.future.done():
            pending.future.set_result(reply)
        self._uncarry(pending)  # last: it may let those go that wait behind this one

    def lost(self, link: Link, error: BaseException | None) -> None:
        """Everything on that link is sent again."""
        if self._links.get(link.incarnation) is link:
            del self._links[link.incarnation]
        is_dead = error is not None and is_actor_dead(error)
        if is_dead:
            self._dead.add(link.incarnation)
        log.info("link to host %s lost: %r", link.incarnation, error)
        self._resend(link, is_host_lost=is_dead)

    def silent(self, link: Link) -> None:
        """If the host was fenced, newer routes drop it and its requests are sent again."""
        self._routes.refresh()

    # --- trying again ---

    def _resend(self, link: Link, *, is_host_lost: bool) -> None:
        left = link.close(is_host_lost=is_host_lost)
        for pending in left:
            if not pending.future.done():
                pending.attempts += 1
                self._retries["link_lost"] += 1
                self._stall(pending)
        for pending in left:
            self._uncarry(pending)

    def _stall(self, pending: Pending, link: Link | None = None) -> None:
        """Let it wait for another attempt. While a shard has a stall, nothing of it is unsent on any link."""
        if pending.future.done() or self._is_closed:
            return
        shard = pending.shard
        stall = self._stalls.get(shard)
        if stall is not None:
            stall.waiting.append(pending)
            return
        owner = link.incarnation if link is not None else self._routes.owner(shard)
        stall = self._stalls[shard] = _Stall(owner, self._loop.time())
        carried = self._carried.get(shard)
        unsent = carried.link.take_queued(shard) if carried is not None else []
        stall.waiting += [*unsent, pending]
        doublings = min(max(0, pending.attempts - 1), 16)
        self._rearm(shard, stall, self._settings.retry_initial_s * 2**doublings)
        self._routes.refresh()
        for follower in unsent:
            self._uncarry(follower)  # last: it may end the stall

    def _rearm(self, shard: int, stall: _Stall, delay_s: float) -> None:
        stall.delay_s = min(delay_s, self._settings.retry_max_s)
        if stall.timer is not None:
            stall.timer.cancel()
        stall.timer = self._loop.call_later(stall.delay_s, self._resume, shard)

    def _resume(self, shard: int) -> None:
        stall = self._stalls.get(shard)
        if stall is None:
            return
        stall.waiting = [pending for pending in stall.waiting if not pending.future.done()]
        if not stall.waiting:
            self._end_stall(shard, stall)
            return
        owner = self._routes.owner(shard)
        is_early = self._is_carried_elsewhere(shard, owner) and self._loop.time() - stall.since < STALL_PATIENCE_S
        if not owner or owner in self._dead or is_early:
            self._routes.refresh()
            self._rearm(shard, stall, stall.delay_s * 2)
            return
        self._end_stall(shard, stall)
        link = self._link(owner)
        for pending in sorted(stall.waiting, key=lambda pending: pending.order):
            self._carry(link, pending)

    def _end_stall(self, shard: int, stall: _Stall) -> None:
        if stall.timer is not None:
            stall.timer.cancel()
        del self._stalls[shard]

    def _routes_changed(self) -> None:
        alive = self._routes.table.actors
        self._dead &= alive.keys()
        for incarnation in [name for name in self._links if name not in alive]:
            self._resend(self._links.pop(incarnation), is_host_lost=True)
        for shard, stall in list(self._stalls.items()):
            owner = self._routes.owner(shard)
            if owner and owner != stall.owner and owner not in self._dead:
                self._resume(shard)

    def _expire(self, pending: Pending, timeout_s: float) -> None:
        if pending.future.done():
            return
        entity, name = pending.envelope.entity, pending.envelope.name
        self._expired["unknown" if pending.may_be_applied else "unavailable"] += 1
        if pending.may_be_applied:
            pending.future.set_exception(
                CallTimeout(
                    f"{entity}: no answer to `{name}` within {timeout_s:g} s; it may or may not have been applied. "
                    "Repeat it with the same idempotency key to learn which"
                )
            )
        else:
            pending.future.set_exception(
                Unavailable(
                    f"{entity}: no host took `{name}` within {timeout_s:g} s; it was not applied. Try again later"
                )
            )
