"""Reading the store for the engine, batched: loads, inboxes, outcomes, what is due, what was left waiting.

Each reader is one task that serves whatever has been asked for since its last query, so that a thousand activations
cost a handful of queries. If the store is not available they try again with back-off; what they serve waits.

A wake-up may get lost (its host died, the network dropped it), so shards with messages waiting are also looked for at a
low frequency, and every gained shard is searched for work: messages, activities under way. Both go on page by page, so
entities whose messages nobody can take hide no others. What is due is read by `window`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import IdempotencyMismatch
from ..ids import EntityId
from ..messages import Status, encode_json
from ..store.port import StoreUnavailable
from ..store.rows import HistoryRow
from .deliveries import Delivery
from .window import Window

if TYPE_CHECKING:
    from .engine import Engine
    from .turns.record import Record

log = logging.getLogger("perdure.engine")

RETRY_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
LOOKUPS_MAX = 1_000
NOTES_MAX = 10_000
"""Notes about entities that cannot be loaded, waiting to be written."""
POLL_PAGES_MAX = 10
"""Pages that one poll for mail reads as long as nobody on them can be woken."""
PRUNE_MAX = 10_000
"""History rows deleted by one statement."""


class Readers:
    """The reading side of one engine."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._tasks: list[asyncio.Task[None]] = []
        self._loads: dict[EntityId, None] = {}
        self._mail: dict[EntityId, None] = {}
        self._lookups: deque[tuple[Record, Delivery]] = deque()
        self._parked: deque[tuple[EntityId, str]] = deque()
        self._refusals: deque[tuple[Delivery, bytes]] = deque()
        self._gained: set[int] = set()
        self._load_wanted = asyncio.Event()
        self._mail_wanted = asyncio.Event()
        self._lookup_wanted = asyncio.Event()
        self._park_wanted = asyncio.Event()
        self._gained_wanted = asyncio.Event()
        self.window = Window(engine)
        self._polled: EntityId | None = None
        """Entities up to here have been looked at by the poll; None: it begins."""
        self._mail_queries = 0
        self._consumed: dict[EntityId, set[str]] = {}

    def start(self) -> None:
        """Begin serving."""
        services: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = [
            ("loads", self._serve_loads),
            ("mail", self._serve_mail),
            ("lookups", self._serve_lookups),
            ("parked", self._serve_parked),
            ("sweep", self._serve_sweep),
        ]
        of_shards: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = [
            ("rehydrate", self._serve_gained),
            ("poll", self._serve_poll),
            ("timers", self._serve_timers),
            ("window", self.window.serve),
            ("prune", self._serve_prune),
        ]
        if self._engine.only is None:
            services += of_shards
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._guard(name, serve), name=f"perdure {name}") for name, serve in services]

    async def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, name: str, serve: Callable[[], Awaitable[None]]) -> None:
        """A service never ends by an error: it is logged and begins again."""
        failures = 0
        while True:
            try:
                await serve()
                failures = 0
            except StoreUnavailable as problem:
                log.warning("%s: %s", name, problem)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
            except Exception:
                log.exception("%s failed", name)
                await asyncio.sleep(RETRY_S[-1])

    # --- what can be asked for ---

    def load(self, entity: EntityId) -> None:
        """Read an entity."""
        self._loads[entity] = None
        self._load_wanted.set()

    def fetch_mail(self, entity: EntityId) -> None:
        """Read the inbox of an active entity."""
        self._mail[entity] = None
        self._mail_wanted.set()

    def look_up(self, activation: "Record", delivery: Delivery) -> None:
        """Find out whether a message has an outcome already."""
        self._lookups.append((activation, delivery))
        self._lookup_wanted.set()

    def note_parked(self, entity: EntityId, reason: str) -> None:
        """Write down for people why an entity cannot be loaded; too many at once are noted when they are tried next."""
        if not reason or len(self._parked) < NOTES_MAX:
            self._parked.append((entity, reason))
            self._park_wanted.set()

    def look_up_parked(self, delivery: Delivery, refusal: bytes) -> None:
        """Answer a repeat to an entity that cannot be loaded: with its outcome if it has one, else refuse it."""
        self._refusals.append((delivery, refusal))
        self._park_wanted.set()

    def gained(self, shards: set[int]) -> None:
        """Search these shards for work."""
        self._gained |= shards
        self._gained_wanted.set()
        self.window.begin_again()

    def lost(self, shards: set[int]) -> None:
        """Do not search these shards any more."""
        self._gained -= shards

    # --- mail that was consumed while it was being read ---

    def remember_consumed(self, activation: "Record") -> None:
        """Called after each commit: ids that a query which is under way may still bring."""
        if not self._mail_queries:
            if self._consumed:
                self._consumed.clear()
            return
        ids = self._consumed.setdefault(activation.id, set())
        ids.update(activation.just_consumed)
        activation.just_consumed = ()

    def was_consumed(self, activation: "Record", message_id: str) -> bool:
        """Whether this message was consumed by a commit that the query may not have seen."""
        return message_id in self._consumed.get(activation.id, ())

    # --- services ---

    async def _serve_loads(self) -> None:
        await self._load_wanted.wait()
        while self._loads:
            wanted = list(self._loads)[: self._engine.settings.load_max]
            asked = self._epochs_of(wanted)
            found = await self._engine.store.load(wanted, inbox_max=self._engine.settings.inbox_max)
            for entity in wanted:
                self._loads.pop(entity, None)
            for entity in self._moved(asked):
                if entity in self._engine.arrivals.loading:
                    self._loads[entity] = None
            for loaded in found:
                if loaded.entity in self._loads:
                    continue
                try:
                    self._engine.arrivals.arrived(loaded)
                except Exception as error:  # noqa: BLE001 - one entity must not hold up the others of its batch
                    self._engine.arrivals.failed(loaded, error)
        self._load_wanted.clear()  # only now: if the store fails, the next try must not wait to be asked

    def _epochs_of(self, entities: Iterable[EntityId]) -> dict[EntityId, int | None]:
        return {entity: self._engine.epoch_of(entity) for entity in entities}

    def _moved(self, asked: Mapping[EntityId, int | None]) -> list[EntityId]:
        """Those that have left, and perhaps come back, since the store was asked: for them its answer is too old."""
        return [entity for entity, epoch in asked.items() if self._engine.epoch_of(entity) != epoch]

    async def _serve_mail(self) -> None:
        await self._mail_wanted.wait()
        self._mail_wanted.clear()
        while self._mail:
            wanted = list(self._mail)[: self._engine.settings.load_max]
            for entity in wanted:
                self._mail.pop(entity, None)
            active = {e: self._engine.active[e] for e in wanted if e in self._engine.active}
            for entity in wanted:
                if entity not in self._engine.active:
                    self._engine.arrivals.activate(entity)
            if not active:
                continue
            self._mail_queries += 1
            try:
                # What is held back stays in the inbox: it must not hide what came after it.
                held = max(activation.held_back for activation in active.values())
                most = self._engine.settings.inbox_max + held
                envelopes = await self._engine.store.inbox(list(active), per_entity_max=most)
            except StoreUnavailable:
                self._mail.update(dict.fromkeys(wanted))
                self._mail_wanted.set()
                raise
            finally:
                self._mail_queries -= 1
            self._engine.arrivals.mail(active, envelopes, per_entity_max=most)

    async def _serve_lookups(self) -> None:
        await self._lookup_wanted.wait()
        while self._lookups:
            asked = list(self._lookups)[:LOOKUPS_MAX]
            keys = [(activation.id, delivery.envelope.id) for activation, delivery in asked]
            found = await self._engine.store.outcomes(keys)
            for _ in asked:
                self._lookups.popleft()
            for (activation, delivery), key in zip(asked, keys, strict=True):
                if not activation.is_dead:
                    self._looked_up(activation, delivery, found.get(key))
        self._lookup_wanted.clear()

    def _looked_up(self, activation: "Record", delivery: Delivery, row: HistoryRow | None) -> None:
        delivery.needs_lookup = delivery.is_in_doubt = False
        if row is not None:
            activation.late.pop(delivery.envelope.id, None)
            queues: list[deque[Any]] = [activation.mailbox, *activation.blocked.values()]
            for waiting in queues:
                if delivery in waiting:
                    waiting.remove(delivery)
            activation.by_id.pop(delivery.envelope.id, None)
            if delivery.is_stored or delivery.is_storing:
                activation.discard(delivery)
            _answer_again(delivery, row)
        self._engine.ready(activation)

    async def _serve_parked(self) -> None:
        await self._park_wanted.wait()
        while self._parked:
            entity, reason = self._parked[0]
            await self._engine.store.park(entity, reason)
            self._parked.popleft()
        while self._refusals:
            asked = list(self._refusals)[:LOOKUPS_MAX]
            found = await self._engine.store.outcomes([(item.envelope.entity, item.envelope.id) for item, _ in asked])
            for delivery, refusal in asked:
                self._refusals.popleft()
                row = found.get((delivery.envelope.entity, delivery.envelope.id))
                if row is None:
                    delivery.reply(Status.ERROR, refusal, 0)
                else:
                    _answer_again(delivery, row)
        self._park_wanted.clear()

    async def _serve_gained(self) -> None:
        """Rehydration: activate what has work waiting, at a bounded rate."""
        await self._gained_wanted.wait()
        self._gained_wanted.clear()
        engine = self._engine
        shards, self._gained = self._gained, set()
        try:
            after: EntityId | None = None
            while True:
                page, woken = await self._poll_mail(shards, after)
                if len(page) < self._mail_page:
                    break
                after = page[-1]
                await asyncio.sleep(woken / engine.settings.rehydrate_per_s)
            after = None
            while True:
                owned = [s for s in shards if s in engine.epochs]
                page = await engine.store.in_flight(owned, after=after, limit=engine.settings.load_max) if owned else []
                for entity in page:
                    if entity not in engine.active:
                        engine.arrivals.activate(entity)
                if len(page) < engine.settings.load_max:
                    return
                after = page[-1]
                await asyncio.sleep(len(page) / engine.settings.rehydrate_per_s)
        except StoreUnavailable:
            self._gained |= shards
            self._gained_wanted.set()
            raise

    @property
    def _mail_page(self) -> int:
        return self._engine.settings.load_max * 4

    async def _poll_mail(self, shards: Collection[int], after: EntityId | None) -> tuple[list[EntityId], int]:
        """The next page of entities with messages waiting, and how many of them could be woken."""
        engine = self._engine
        owned = [s for s in shards if s in engine.epochs]
        page = await engine.store.with_mail(owned, limit=self._mail_page, after=after) if owned else []
        return page, engine.arrivals.wake(page)

    async def _serve_poll(self) -> None:
        """Go on where the last poll ended, past those that nobody can wake, and begin again at the end."""
        await asyncio.sleep(self._engine.settings.mail_poll_s)
        for _ in range(POLL_PAGES_MAX):
            page, woken = await self._poll_mail(set(self._engine.epochs), self._polled)
            is_end = len(page) < self._mail_page
            self._polled = None if is_end else page[-1]
            if is_end or woken:
                return

    async def _serve_timers(self) -> None:
        wait_s = self._engine.fire_due()
        self._timer_nudge = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._timer_nudge], timeout=min(wait_s, 0.25))

    def nudge_timers(self) -> None:
        """Something may be due sooner than the timer service thinks."""
        nudge = getattr(self, "_timer_nudge", None)
        if nudge is not None and not nudge.done():
            nudge.set_result(None)

    async def _serve_sweep(self) -> None:
        await asyncio.sleep(min(1.0, self._engine.settings.idle_s / 4 + 0.01))
        self._engine.sweep()

    async def _serve_prune(self) -> None:
        settings = self._engine.settings
        await asyncio.sleep(settings.prune_every_s)
        older_than_us = round(settings.history_retention_s * 1e6)
        while True:
            pruned = await self._engine.store.prune(older_than_us=older_than_us, limit=PRUNE_MAX)
            if pruned < PRUNE_MAX:
                return
            await asyncio.sleep(0.05)  # others want the database as well


def _answer_again(delivery: Delivery, row: HistoryRow) -> None:
    """A repeat gets the first outcome."""
    if row.fingerprint and row.fingerprint != delivery.fingerprint:  # empty: the outcome cannot be read
        what = f"{delivery.envelope.entity}.{delivery.envelope.name}"
        error = IdempotencyMismatch(f"{what}: the idempotency key was used before with another payload")
        delivery.reply(Status.ERROR, encode_json(error.body()), 0)
    elif not row.ok:
        delivery.reply(Status.ERROR, row.outcome, row.version)
    else:
        status = Status.ACCEPTED if delivery.is_one_way else Status.OK
        delivery.reply(status, row.outcome, row.version)
