"""One host's engine: its activations, what is due, what the store still holds for them, and what leaves them.

Everything runs on the host's event loop. Turns run from plain callbacks (`_tick`), never inside a task. Reading the
store is batched: whatever was asked for while a query was under way goes into the next one.

Ownership: `epochs` are the shards that messages are accepted for; `epochs_held` those that may still be committed for
(a shard on its way out is held until its last commit is durable).
"""

import asyncio
import contextvars
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from .. import logs
from ..context import TurnContext, current
from ..definition import EntityDefinition, Registry
from ..ids import EntityId
from ..messages import Envelope, Kind, Reply, Status
from ..metrics import LEASE_SECONDS, Reading
from ..shard import shard_of
from ..store.port import EntityStore
from ..store.rows import AttemptRow, EntityWrite, ReminderRow
from ..traces import trace_of
from ..tracing import Tracing, look
from ..transactional import StepTransactions
from .activation import Activation
from .activities import ActivityPool, ActivityRunner, MakeRunner
from .arrivals import Arrivals
from .attempts import Attempts
from .clock import DatabaseClock
from .committer import Committer
from .deliveries import Delivery, Fire, Item, Respond
from .figures import Figures
from .holds import Holds
from .readers import Readers
from .results import Results
from .settings import EngineSettings
from .settling import Settling
from .subjects import Subject, subject_of
from .suspects import Suspects
from .turns.record import Record
from .wheel import Wheel

log = logging.getLogger("perdure.engine")


class DedicatedHosting(Protocol):
    """Runs entities of types with `hosting=Dedicated(...)` elsewhere, on behalf of this engine."""

    def deliver(self, definition: EntityDefinition, envelope: Envelope, respond: Respond) -> None:
        """A message for one of them."""
        ...

    def fire(self, definition: EntityDefinition, row: ReminderRow) -> None:
        """A reminder or timer of one of them is due."""
        ...

    def wake(self, definition: EntityDefinition, entity: EntityId) -> None:
        """One of them has mail in the store, or activities under way."""
        ...

    def release(self, shards: Collection[int]) -> None:
        """These shards are being given up."""
        ...

    def close(self) -> None:
        """The engine ends."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """What leaves the engine."""

    hint: Callable[[list[EntityId]], None]
    """These entities have new messages in the store; whoever owns them should look. May get lost."""
    fenced: Callable[[str], None]
    """This host may never commit again, for this reason."""
    activity_pool: ActivityPool | None = None
    activity_runner: MakeRunner = ActivityRunner
    """Runs attempts in this process; the test kit has its own."""
    steps: StepTransactions | None = None
    reminders_lost: Callable[[EntityId], None] | None = None
    """What was handed out for this entity is lost. Only of an engine whose reminders somebody else fires."""
    hides_texts: bool = False
    """Payloads are encrypted, so what user code says in its exceptions, which may hold some, is in no log."""


class Engine:
    """See the module. Owned by a host; not thread-safe."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: EntityStore,
        incarnation: str,
        shard_count: int,
        settings: EngineSettings,
        outlets: Outlets,
        monotonic: Callable[[], float] = time.monotonic,
        only: EntityId | None = None,
    ) -> None:
        """`only`: host this one entity of its shard and leave what concerns whole shards to somebody else."""
        self.registry = registry
        self.store = store
        self.incarnation = incarnation
        self.settings = settings
        self.monotonic = monotonic
        self.epochs: dict[int, int] = {}
        self.epochs_held: dict[int, int] = {}
        self.clock = DatabaseClock(time.time_ns() // 1_000, monotonic())
        self.wheel = Wheel()
        self.active: dict[EntityId, Activation] = {}
        self.is_stopped = False
        """It does nothing any more: stopped, killed or fenced."""
        self._has_ended = False
        self.only = only
        self._outlets = outlets
        self.dedicated: DedicatedHosting | None = None
        self._shard_count = shard_count
        self.figures = Figures()
        self.tracing: Tracing | None = None
        self._committer = Committer(self)
        self.readers = Readers(self)
        self.attempts = Attempts(self, outlets.activity_pool, outlets.activity_runner, outlets.steps)
        self.arrivals = Arrivals(self)
        self.suspects = Suspects(self)
        self.settling = Settling(self)
        self.running: Item | Subject | None = None
        """What user code is running now, for whoever watches from another thread; of `running_in`, if it is an item."""
        self.running_in: Record | None = None
        self.user_tasks: WeakKeyDictionary[asyncio.Task[Any], tuple[EntityId, Item]] = WeakKeyDictionary()
        self.holds = Holds(self)
        self.results = Results(monotonic)
        self._ready: deque[Record] = deque()
        self._tick_queued = False
        self._hints: dict[EntityId, None] = {}
        self._hint_queued = False
        self._lease_until = float("inf")
        self._loop: asyncio.AbstractEventLoop
        self._background: set[asyncio.Task[None]] = set()
        self.turns = 0

    def host_elsewhere(self, dedicated: DedicatedHosting) -> None:
        """Types with `hosting=Dedicated(...)` are run by `dedicated`; without it they live here like all others."""
        self.dedicated = dedicated

    def elsewhere(self, entity: EntityId) -> EntityDefinition | None:
        if self.dedicated is None:
            return None
        definition = self.registry.find(entity.type)
        return definition if definition is not None and definition.hosting is not None else None

    # --- life ---

    async def start(self) -> None:
        """Begin. Raises StoreUnavailable if the store does not answer."""
        logs.install()
        self.tracing = look()
        self.attempts.trace_with(self.tracing)
        self._loop = asyncio.get_running_loop()
        self.clock = DatabaseClock(await self.store.clock_us(), self.monotonic())
        self.attempts.open()
        self._committer.start()
        self.readers.start()

    async def stop(self) -> None:
        """Commit what is in memory (unless killed), let everything go, end. Idempotent."""
        if self._has_ended:
            return
        if not self.is_stopped:
            await self.disown(list(self.epochs_held))
        await self._end()

    async def _end(self) -> None:
        self.is_stopped = self._has_ended = True
        if self.dedicated is not None:
            self.dedicated.close()
        self.suspects.close()
        await self.readers.stop()
        self.holds.close()
        await self._committer.stop()
        for task in self._background:
            task.cancel()
        self.attempts.close()
        for activation in list(self.active.values()):
            self._remove(activation)

    def kill(self) -> None:
        """Drop everything as a crash would: nothing more is written, answered or begun (fenced hosts, crash tests)."""
        self.is_stopped = True
        self.attempts.kill()
        self.suspects.close()
        self.holds.close()
        self.epochs.clear()
        self.epochs_held.clear()
        for activation in list(self.active.values()):
            self._remove(activation)
        self.arrivals.loading.clear()
        self.results.clear()
        if self.dedicated is not None:
            self.dedicated.close()

    def fenced(self, reason: str) -> None:
        """The store refuses this host for ever."""
        if not self.is_stopped:
            log.error("host %s is fenced: %s", self.incarnation, reason)
            self.kill()
            self._outlets.fenced(reason)

    def set_lease(self, monotonic_deadline: float, database_us: int, asked_at: float = 0.0) -> None:
        """The lease was renewed until then, counted from when the renewal was *sent* (`asked_at`)."""
        self._lease_until = monotonic_deadline
        if database_us:
            self.clock.observe(database_us, sent=asked_at, received=self.monotonic())

    def has_lease(self) -> bool:
        """Whether this host may answer from memory without asking the store."""
        return self.monotonic() < self._lease_until

    def now_us(self) -> int:
        """The database's time, µs (a lower bound)."""
        return self.clock.now_us(self.monotonic())

    def stats(self) -> dict[str, int]:
        """Counters and gauges."""
        return {
            "activations": len(self.active),
            "loading": len(self.arrivals.loading),
            "shards": len(self.epochs),
            "turns": self.turns,
            **self._committer.stats(),
            "mailbox": sum(len(a.mailbox) for a in self.active.values()),
            "activities": self.attempts.running,
            "reminders_loaded": len(self.wheel),
            "reminders_left_alone": self.wheel.left_alone,
            "waiters": len(self.results),
        }

    def reading(self) -> Reading:
        """Metrics (see `perdure.entities.metrics`)."""
        reading = self.figures.reading(self)
        if math.isfinite(self._lease_until):
            reading.add(LEASE_SECONDS, max(0.0, self._lease_until - self.monotonic()))
        return reading

    # --- ownership ---

    def own(
        self, epochs: Mapping[int, int], *, taken_over: Collection[int] = (), taken_us: Mapping[int, int] = {}
    ) -> None:
        """Shards gained. Their entities with work waiting are activated in the background.

        `taken_over`: those of them that their former owner did not release in order. `taken_us`: when that last
        happened to each, whoever owned it since (`ShardOwner.taken_us`).
        """
        self.epochs.update(epochs)
        self.epochs_held.update(epochs)
        self.figures.shards_gained += len(epochs)
        self.figures.shards_taken_over += len(taken_over)
        self.suspects.gained(taken_us)
        self.readers.gained(set(epochs))

    def raised(self, epochs: Mapping[int, int]) -> None:
        """Shards of this host are at these epochs now, raised by itself (see `settling`)."""
        for shard, epoch in epochs.items():
            if shard in self.epochs_held:
                self.epochs_held[shard] = epoch
            if shard in self.epochs:
                self.epochs[shard] = epoch

    async def disown(self, shards: Collection[int]) -> None:
        """Accept nothing more for these shards, commit what is under way, let their entities go."""
        leaving = set(shards)
        for shard in leaving:
            self.epochs.pop(shard, None)
        self.readers.lost(leaving)
        self.suspects.released(leaving)
        if self.dedicated is not None:
            self.dedicated.release(leaving)
        for entity in [e for e in self.arrivals.loading if self._shard(e) in leaving]:
            self._send_on(self.arrivals.loading.pop(entity))
        deadline = self.monotonic() + self.settings.handler_grace_s
        while True:
            remaining = [a for a in self.active.values() if a.shard in leaving]
            for activation in remaining:
                self._send_away(activation)
            if self._committer_idle(remaining):
                break
            if self.monotonic() > deadline:
                log.warning("%d entities are still busy; they go on elsewhere", len(remaining))
                break
            await asyncio.sleep(0.005)
        for activation in [a for a in self.active.values() if a.shard in leaving]:
            self._send_on(activation.unfinished())
            self._remove(activation)
        await self.suspects.let_go(leaving)
        self.results.send_on(lambda entity: self._shard(entity) in leaving)
        self.wheel.forget(lambda entity: self._shard(entity) in leaving)
        for shard in leaving:
            self.epochs_held.pop(shard, None)
        # One that only stores a message or notes an attempt has kept nobody busy. Overtaken by the release of a shard
        # that it names, it would look like the commit of a fenced host.
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.handler_grace_s):
                await self.settling.passed()

    def _committer_idle(self, remaining: "list[Activation]") -> bool:
        return not any(a.write is not None or a.inflight is not None or a.busy is not None for a in remaining)

    def _send_away(self, activation: Activation) -> None:
        """Messages that have not begun go to the next owner (their senders, or the inbox, have them)."""
        activation.is_retiring = True
        self.holds.left(activation)
        self._send_on(list(activation.mailbox))
        activation.mailbox.clear()
        for held in activation.blocked.values():
            self._send_on(held)
        activation.blocked.clear()
        self._send_on(activation.late.values())
        activation.late.clear()

    def _send_on(self, items: Iterable[Item]) -> None:
        """The next owner is asked by whoever waits for these; what nobody waits for it finds in the store."""
        for item in items:
            if isinstance(item, Delivery):
                item.is_in_doubt = item.is_in_doubt or item.is_storing
                item.reply(Status.NOT_OWNER, b"null", 0)

    def owns(self, entity: EntityId) -> bool:
        """Whether messages to this entity are accepted here."""
        if self.only is not None and entity != self.only:
            return False
        return self._shard(entity) in self.epochs

    def shard_of(self, entity: EntityId) -> int:
        """Its shard."""
        return self._shard(entity)

    def epoch_of(self, entity: EntityId) -> int | None:
        """Of its shard; None if messages to it are not accepted here."""
        return self.epochs.get(self._shard(entity))

    def _shard(self, entity: EntityId) -> int:
        return shard_of(entity.type, entity.key, self._shard_count)

    # --- messages in ---

    def deliver(self, envelope: Envelope, respond: Callable[[Reply], None]) -> None:
        """A message from outside. `respond` is called once, when its outcome is durable or it is refused."""
        if envelope.kind is Kind.TRANSACTION:
            self.holds.deliver(envelope, respond)
            return
        entity = EntityId(envelope.type, envelope.key)
        activation = self.active.get(entity)
        if activation is not None and activation.shard in self.epochs:
            activation.deliver(Delivery(envelope, respond))
            return
        if not self.owns(entity) or self.is_stopped:
            respond(Reply(envelope.id, Status.NOT_OWNER))
            return
        definition = self.elsewhere(entity)
        if definition is not None and self.dedicated is not None:
            self.dedicated.deliver(definition, envelope, respond)
        else:
            self.arrivals.accept(entity, Delivery(envelope, respond))

    def wake(self, entities: Sequence[EntityId]) -> None:
        """These entities have messages in the store."""
        self.arrivals.wake(entities)

    def look_up(self, activation: Record, delivery: Delivery) -> None:
        """Find out whether this message has an outcome already."""
        if not self.suspects.holds(activation, delivery):
            self.readers.look_up(activation, delivery)

    # --- turns ---

    def ready(self, activation: Record) -> None:
        """The activation has something to do."""
        if not activation.is_queued and not activation.is_dead:
            activation.is_queued = True
            self._ready.append(activation)
            self._queue_tick()

    def _queue_tick(self) -> None:
        if not self._tick_queued:
            self._tick_queued = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Run turns of the entities that are ready, in turn, for a bounded time."""
        self._tick_queued = False
        budget = self.settings.turns_per_tick
        ready = self._ready
        while ready and budget > 0:
            activation = ready.popleft()
            activation.is_queued = False
            if activation.is_dead:
                continue
            share = min(budget, 64)
            left = activation.pump(share)
            self.turns += share - left
            budget -= share - left
            if (
                activation.mailbox
                and activation.busy is None
                and not activation.is_waiting
                and not activation.is_retiring
            ):
                self.ready(activation)
            elif activation.has_more_mail:
                self._read_on(activation)
        if ready:
            self._queue_tick()

    def run_user_code(self, coro: Coroutine[Any, Any, Any], context: TurnContext, item: Item) -> asyncio.Task[Any]:
        """A task for user code that may wait, in this turn's context; begun at once where Python can (3.12 on)."""
        variables = contextvars.copy_context()
        variables.run(current.set, context)
        if sys.version_info >= (3, 12):
            task = asyncio.Task(coro, loop=self._loop, context=variables, eager_start=True)
        else:
            task = self._loop.create_task(coro, context=variables)
        self.user_tasks[task] = (context.entity, item)
        return task

    def running_code(self, task: asyncio.Task[Any] | None) -> tuple[object, Subject] | None:
        """What user code runs, as (the same object as long as it is the same, its name); for a thread that watches.

        `task`: the loop's current one. Only worth anything while the loop is blocked.
        """
        running, activation = self.running, self.running_in
        if isinstance(running, Subject):
            return running, running
        if running is not None and activation is not None:
            return running, subject_of(activation.id, running)
        known = self.user_tasks.get(task) if task is not None else None
        return (known[1], subject_of(*known)) if known is not None else None

    def turn_of(self, entity: EntityId) -> tuple[int, str]:
        """Version that the running turn of user code saw, and the name of its handler or query; for log records."""
        activation = self.active.get(entity)
        item: object = self.running if self.running_in is activation else None
        if item is None:
            task = asyncio.current_task()
            item = self.user_tasks.get(task, (None, None))[1] if task is not None else None
        version = activation.version if activation is not None else 0
        return version, item.envelope.name if isinstance(item, Delivery) else ""

    def log_text(self, error: BaseException, text: str) -> str:
        """`text`, which repeats what an exception of user code says, or what may stand in a log in its place."""
        return f"{type(error).__name__} (its text is encrypted)" if self._outlets.hides_texts else text

    def trace_of(self, error: BaseException) -> str:
        """Where it was raised, to be stored for people; nothing where texts are encrypted."""
        return "" if self._outlets.hides_texts else trace_of(error)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Run something later on the host's loop."""
        return self._loop.call_later(delay_s, callback)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that a turn has to wait for without holding anybody up; ends with the engine."""
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- commits ---

    def dirty(self, activation: Record) -> None:
        """The activation has something to write."""
        self._committer.dirty(activation)

    def persist(self, activation: Record, delivery: Delivery) -> None:
        """Write an accepted one-way message into the inbox."""
        self._committer.persist(activation, delivery)

    def note_attempt(self, entity: EntityId, shard: int, row: AttemptRow) -> None:
        """Write down that an activity is being retried."""
        self._committer.note_attempt(entity, shard, row)

    def after_commit(self, activation: Record) -> None:
        """Its outputs are out."""
        self.readers.remember_consumed(activation)
        if activation.has_more_mail:
            self._read_on(activation)
        if self.settings.evict_after_every_turn and activation.is_idle() and not activation.is_dead:
            self._remove(activation)

    def _read_on(self, activation: Record) -> None:
        """Read the next page of its mail, once all of the last one is durable: read before, it is the same page."""
        is_pending = activation.mailbox or activation.write is not None or activation.inflight is not None
        if not is_pending and not activation.is_dead:
            self.readers.fetch_mail(activation.id)

    def drop(self, activation: Record) -> None:
        """What the activation believes is not what the store holds: begin again from the store."""
        if activation.is_dead:
            return
        items = activation.unfinished()
        self.arrivals.suspect(activation.id, items)
        self._remove(activation)
        self.reread_reminders(activation.id)
        if activation.shard not in self.epochs:
            self._send_on(items)
            return
        self.arrivals.activate(activation.id)
        for item in items:
            self.arrivals.activate(activation.id, item)

    def _remove(self, activation: Record) -> None:
        self.active.pop(activation.id, None)
        activation.close()
        if activation.shard not in self.epochs:
            self.attempts.abandon(activation.id)

    def sweep(self) -> None:
        """Passivate what has been idle for long, and more if there is too much."""
        oldest = self.monotonic() - self.settings.idle_s
        excess = len(self.active) - self.settings.activations_max
        if excess > 0:
            oldest = sorted(a.last_used for a in self.active.values())[excess]
        for activation in [a for a in self.active.values() if a.last_used < oldest]:
            if activation.is_idle():
                self._remove(activation)
        self.results.sweep()

    # --- what leaves ---

    def hint(self, entity: EntityId) -> None:
        """A commit has put messages into this entity's inbox."""
        self._hints[entity] = None
        if not self._hint_queued:
            self._hint_queued = True
            self._loop.call_soon(self._send_hints)

    def _send_hints(self) -> None:
        self._hint_queued = False
        hints, self._hints = list(self._hints), {}
        own = [entity for entity in hints if self.owns(entity)]
        if own:
            self.arrivals.wake(own)
        if len(own) < len(hints):
            mine = set(own)
            self._outlets.hint([entity for entity in hints if entity not in mine])

    # --- reminders ---

    def reread_reminders(self, entity: EntityId) -> None:
        """What was handed out for this entity is lost: read it again."""
        if self._outlets.reminders_lost is not None:
            self._outlets.reminders_lost(entity)
            return
        self.wheel.forget_entity(entity)
        self.readers.window.read_again(entity)

    def try_reminders_again(self, entity: EntityId) -> None:
        """What came due while this entity could not be loaded can be taken now."""
        if self._outlets.reminders_lost is not None:
            self._outlets.reminders_lost(entity)
            return
        self.wheel.take_up(entity)
        self.readers.window.read_again(entity)

    def leave_alone(self, row: ReminderRow, retry_s: float) -> None:
        """Nobody here can take this occurrence: it stays in the store, and is tried again after that time."""
        self.wheel.leave_alone(row, self.now_us() + round(retry_s * 1e6))

    def written_elsewhere(self, write: EntityWrite) -> None:
        """A dedicated actor's turns are durable: their reminders and messages are this engine's to see to."""
        for key in write.reminders_gone:
            self.wheel.drop(write.entity, key.name)
        for name in write.reminders_cancelled:
            self.wheel.drop(write.entity, name)
        for row in write.reminders_set:
            self.arm(row)
        for envelope in write.outbox:
            self.hint(envelope.entity)

    def arm(self, row: ReminderRow) -> None:
        """A commit has set this reminder or timer."""
        self.wheel.put(row)
        self.readers.nudge_timers()

    def fire_due(self) -> float:
        """Hand out what is due. Returns seconds until the next look."""
        now_us = self.now_us()
        room = self.settings.timer_batch - self.wheel.handed_out
        for row in self.wheel.pop_due(now_us, max(0, room)):
            self.figures.lateness.observe((now_us - row.due_us) / 1e6)
            self.arrivals.offer(row.entity, Fire(row))
        next_us = self.wheel.next_due_us()
        if next_us is None:
            return 1.0
        if next_us <= now_us:
            return 0.002  # there was no room; what is under way makes some
        return min(1.0, (next_us - now_us) / 1e6)

    async def drained(self) -> None:
        """Wait until no turn is ready and nothing is dirty (for tests)."""
        while self._ready or self.arrivals.loading or self._tick_queued:  # noqa: ASYNC110 - tests need no event
            await asyncio.sleep(0)
        await self._committer.drained()
