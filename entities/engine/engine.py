"""One host's engine: its activations, what is due, what the store still holds for them, and what leaves them.

Everything runs on the host's event loop. Turns run from plain callbacks (`_tick`), never inside a task. Reading the
store is batched: whatever was asked for while a query was under way goes into the next one.

Ownership: `epochs` are the shards that messages are accepted for; `epochs_held` those that may still be committed for
(a shard on its way out is held until its last commit is durable).
"""

import asyncio
import contextvars
import inspect
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..context import TurnContext, current
from ..definition import EntityDefinition, Registry
from ..errors import ActivityTimeout, EntityParked, PerdureError, error_body
from ..ids import EntityId, check_key
from ..messages import Envelope, Reply, Status, encode_json
from ..shard import shard_of
from ..store.port import EntityStore
from ..store.rows import AttemptRow, EntityWrite, Loaded, ReminderRow, RunRow
from .activation import Activation
from .activities import ActivityCall, ActivityPool, ActivityRunner, failure, success
from .clock import DatabaseClock
from .committer import Committer
from .deliveries import ActivityDone, Delivery, Fire, Item, Respond
from .readers import Readers
from .run import ActivityDetail, Operation, Run
from .settings import EngineSettings
from .turns.record import Record
from .wheel import Wheel

log = logging.getLogger("perdure.engine")

CRASHES_MAX = 5
"""A stored message on which the engine itself fails so often becomes a dead letter."""
PARKED_RETRY_S = 60.0
"""How long an entity that could not be loaded is left alone, unless somebody calls it."""


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
        self.loading: dict[EntityId, list[Item]] = {}
        """Entities being read, with what has come for them meanwhile."""
        self.is_stopped = False
        """It does nothing any more: stopped, killed or fenced."""
        self._has_ended = False
        self.only = only
        self._outlets = outlets
        self._dedicated: DedicatedHosting | None = None
        self._shard_count = shard_count
        self._committer = Committer(self)
        self._readers = Readers(self)
        self._activities = ActivityRunner(settings, self._activity_finished, outlets.activity_pool)
        self._under_way: dict[str, ActivityCall] = {}
        self._waiters: dict[tuple[EntityId, str], list[tuple[float, Delivery]]] = {}
        self._ready: deque[Record] = deque()
        self._tick_queued = False
        self._hints: dict[EntityId, None] = {}
        self._crashes: Counter[tuple[EntityId, str]] = Counter()
        self._parked_until: dict[EntityId, float] = {}
        self._suspects: set[tuple[EntityId, str]] = set()
        """Stored messages of lost turns: they may have an outcome."""
        self._hint_queued = False
        self._lease_until = float("inf")
        self._loop: asyncio.AbstractEventLoop
        self.turns = 0

    def host_elsewhere(self, dedicated: DedicatedHosting) -> None:
        """Types with `hosting=Dedicated(...)` are run by `dedicated`; without it they live here like all others."""
        self._dedicated = dedicated

    def _elsewhere(self, entity: EntityId) -> EntityDefinition | None:
        if self._dedicated is None:
            return None
        definition = self.registry.find(entity.type)
        return definition if definition is not None and definition.hosting is not None else None

    # --- life ---

    async def start(self) -> None:
        """Begin. Raises StoreUnavailable if the store does not answer."""
        self._loop = asyncio.get_running_loop()
        self.clock = DatabaseClock(await self.store.clock_us(), self.monotonic())
        self._activities.open()
        self._committer.start()
        self._readers.start()

    async def stop(self) -> None:
        """Commit what is in memory (unless killed), let everything go, end. Idempotent."""
        if self._has_ended:
            return
        if not self.is_stopped:
            await self.disown(list(self.epochs_held))
        await self._end()

    async def _end(self) -> None:
        self.is_stopped = self._has_ended = True
        if self._dedicated is not None:
            self._dedicated.close()
        await self._readers.stop()
        await self._committer.stop()
        self._under_way.clear()
        self._activities.close()
        for activation in list(self.active.values()):
            self._remove(activation)

    def kill(self) -> None:
        """Drop everything as a crash would: nothing more is written or answered (fenced hosts, crash tests)."""
        self.is_stopped = True
        self.epochs.clear()
        self.epochs_held.clear()
        for activation in list(self.active.values()):
            self._remove(activation)
        self.loading.clear()
        self._waiters.clear()
        if self._dedicated is not None:
            self._dedicated.close()

    def fenced(self, reason: str) -> None:
        """The store refuses this host for ever."""
        if not self.is_stopped:
            log.error("host %s is fenced: %s", self.incarnation, reason)
            self.kill()
            self._outlets.fenced(reason)

    def set_lease(self, monotonic_deadline: float, database_us: int) -> None:
        """The lease was renewed until then, counted from when the renewal was *sent*."""
        self._lease_until = monotonic_deadline
        if database_us:
            self.clock.observe(database_us, self.monotonic())

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
            "loading": len(self.loading),
            "shards": len(self.epochs),
            "turns": self.turns,
            "commits": self._committer.commits,
            "writes": self._committer.written,
            "commit_failures": self._committer.failures,
            "mailbox": sum(len(a.mailbox) for a in self.active.values()),
            "activities": self._activities.running,
            "reminders_loaded": len(self.wheel),
            "waiters": sum(len(w) for w in self._waiters.values()),
        }

    # --- ownership ---

    def own(self, epochs: Mapping[int, int]) -> None:
        """Shards gained. Their entities with work waiting are activated in the background."""
        self.epochs.update(epochs)
        self.epochs_held.update(epochs)
        self._readers.gained(set(epochs))

    async def disown(self, shards: Collection[int]) -> None:
        """Accept nothing more for these shards, commit what is under way, let their entities go."""
        leaving = set(shards)
        for shard in leaving:
            self.epochs.pop(shard, None)
        self._readers.lost(leaving)
        if self._dedicated is not None:
            self._dedicated.release(leaving)
        for entity in [e for e in self.loading if self._shard(e) in leaving]:
            for item in self.loading.pop(entity):
                if isinstance(item, Delivery):
                    item.reply(Status.NOT_OWNER, b"null", 0)
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
            self._remove(activation)
        self._drop_waiters(lambda entity: self._shard(entity) in leaving)
        self.wheel.forget(lambda entity: self._shard(entity) in leaving)
        for shard in leaving:
            self.epochs_held.pop(shard, None)

    def _committer_idle(self, remaining: "list[Activation]") -> bool:
        return not any(a.write is not None or a.inflight is not None or a.busy is not None for a in remaining)

    def _send_away(self, activation: Activation) -> None:
        """Messages that have not begun go to the next owner (their senders, or the inbox, have them)."""
        activation.is_retiring = True
        for item in list(activation.mailbox):
            if isinstance(item, Delivery):
                item.reply(Status.NOT_OWNER, b"null", 0)
        activation.mailbox.clear()
        for held in activation.blocked.values():
            for delivery in held:
                delivery.reply(Status.NOT_OWNER, b"null", 0)
        activation.blocked.clear()

    def _drop_waiters(self, is_gone: Callable[[EntityId], bool]) -> None:
        for key in [key for key in self._waiters if is_gone(key[0])]:
            for _, delivery in self._waiters.pop(key):
                delivery.reply(Status.NOT_OWNER, b"null", 0)

    def owns(self, entity: EntityId) -> bool:
        """Whether messages to this entity are accepted here."""
        if self.only is not None and entity != self.only:
            return False
        return self._shard(entity) in self.epochs

    def shard_of(self, entity: EntityId) -> int:
        """Its shard."""
        return self._shard(entity)

    def _shard(self, entity: EntityId) -> int:
        return shard_of(entity.type, entity.key, self._shard_count)

    # --- messages in ---

    def deliver(self, envelope: Envelope, respond: Callable[[Reply], None]) -> None:
        """A message from outside. `respond` is called once, when its outcome is durable or it is refused."""
        entity = EntityId(envelope.type, envelope.key)
        activation = self.active.get(entity)
        if activation is not None and activation.shard in self.epochs:
            activation.deliver(Delivery(envelope, respond))
            return
        if not self.owns(entity) or self.is_stopped:
            respond(Reply(envelope.id, Status.NOT_OWNER))
            return
        definition = self._elsewhere(entity)
        if definition is not None and self._dedicated is not None:
            self._dedicated.deliver(definition, envelope, respond)
        else:
            self.accept(entity, Delivery(envelope, respond))

    def accept(self, entity: EntityId, delivery: Delivery) -> None:
        """Hand a message to its entity, activating that if need be."""
        activation = self.active.get(entity)
        if activation is not None:
            activation.deliver(delivery)
            return
        try:
            self.registry.get(entity.type)
            check_key(entity.type, entity.key)
        except PerdureError as error:
            delivery.reply(Status.ERROR, encode_json(error.body()), 0)
            return
        self.activate(entity, delivery)

    def activate(self, entity: EntityId, item: Item | None = None) -> None:
        """Bring an entity into memory, and hand it this item."""
        if not self.owns(entity):
            return
        definition = self._elsewhere(entity)
        if definition is not None and self._dedicated is not None:
            if isinstance(item, Fire):
                self._dedicated.fire(definition, item.row)
            else:
                self._dedicated.wake(definition, entity)
            return
        if not isinstance(item, Delivery) and self._parked_until.get(entity, 0.0) > self.monotonic():
            return  # its mail and reminders stay where they are
        waiting = self.loading.get(entity)
        if waiting is None:
            self.loading[entity] = waiting = []
            self._readers.load(entity)
        if item is not None:
            if isinstance(item, Delivery) and len(waiting) >= self.settings.mailbox_max:
                item.reply(Status.NOT_OWNER, b"null", 0)  # nothing was accepted; the router tries again
                return
            waiting.append(item)

    def offer(self, entity: EntityId, item: Item) -> None:
        """An internal event for an entity that is in memory or comes into it."""
        activation = self.active.get(entity)
        if activation is None:
            self.activate(entity, item)
        else:
            activation.push(item)

    def loaded(self, loaded: Loaded) -> None:
        """The store's answer for an entity."""
        waiting = self.loading.pop(loaded.entity, None)
        shard = self._shard(loaded.entity)
        if waiting is None or shard not in self.epochs or self.is_stopped:
            for item in waiting or ():
                if isinstance(item, Delivery):
                    item.reply(Status.NOT_OWNER, b"null", 0)
            return
        definition = self.registry.find(loaded.entity.type)
        if definition is None:
            log.warning("%s: this host has no such type", loaded.entity)
            return
        try:
            activation = Activation(self, definition, shard, loaded)
        except EntityParked as problem:
            self._parked(loaded.entity, problem, waiting)
            return
        except Exception as error:
            log.exception("%s could not be activated", loaded.entity)
            self._parked(loaded.entity, EntityParked(f"{loaded.entity}: it could not be activated: {error!r}"), waiting)
            return
        self.active[loaded.entity] = activation
        self._parked_until.pop(loaded.entity, None)
        for envelope in loaded.inbox:
            activation.deliver(self._stored(envelope))
        activation.mail_wanted = len(loaded.inbox) >= self._readers.inbox_max
        for item in waiting:
            if isinstance(item, Delivery):
                activation.deliver(item)
            else:
                activation.push(item)
        activation.start_pending()
        for workflow, row in activation.rows.items():
            # Its end may have been committed by a commit whose answer got lost.
            if row.status.is_terminal and (loaded.entity, workflow) in self._waiters:
                self.run_ended(loaded.entity, row, activation.tell_result_of(row))

    def _stored(self, envelope: Envelope) -> Delivery:
        delivery = Delivery(envelope, None, is_stored=True)
        if (envelope.entity, envelope.id) in self._suspects:
            self._suspects.discard((envelope.entity, envelope.id))
            delivery.needs_lookup = True
        if self._crashes and self._crashes[envelope.entity, envelope.id] >= CRASHES_MAX:
            delivery.problem = PerdureError(
                f"{envelope.entity}.{envelope.name}: the engine failed {CRASHES_MAX} times on it"
            )
        return delivery

    def _parked(self, entity: EntityId, problem: EntityParked, waiting: list[Item]) -> None:
        if self._parked_until.get(entity, 0.0) < self.monotonic():
            log.error("%s", problem)
            self._readers.note_parked(entity, problem.message)
        self._parked_until[entity] = self.monotonic() + PARKED_RETRY_S
        body = encode_json(problem.body())
        for item in waiting:
            if isinstance(item, Delivery):
                item.reply(Status.ERROR, body, 0)

    def mail(self, envelopes: Sequence[Envelope]) -> None:
        """The store's answer: messages waiting for active entities."""
        for envelope in envelopes:
            activation = self.active.get(EntityId(envelope.type, envelope.key))
            if activation is not None and not self._readers.was_consumed(activation, envelope.id):
                activation.deliver(self._stored(envelope))

    def wake(self, entities: Sequence[EntityId]) -> None:
        """These entities have messages in the store."""
        for entity in entities:
            if not self.owns(entity):
                continue
            if entity in self.active:
                self._readers.fetch_mail(entity)
            else:
                self.activate(entity)

    def note_crash(self, entity: EntityId, message_id: str) -> None:
        """This message made the engine itself fail."""
        self._crashes[entity, message_id] += 1

    def look_up(self, activation: Record, delivery: Delivery) -> None:
        """Find out whether this message has an outcome already."""
        self._readers.look_up(activation, delivery)

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
            elif activation.mail_wanted and not activation.mailbox:
                activation.mail_wanted = False
                self._readers.fetch_mail(activation.id)
        if ready:
            self._queue_tick()

    def run_user_code(self, coro: Coroutine[Any, Any, Any], context: TurnContext) -> asyncio.Task[Any]:
        """A task for user code that may wait, in this turn's context; begun at once where Python can (3.12 on)."""
        variables = contextvars.copy_context()
        variables.run(current.set, context)
        if sys.version_info >= (3, 12):
            return asyncio.Task(coro, loop=self._loop, context=variables, eager_start=True)
        return self._loop.create_task(coro, context=variables)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Run something later on the host's loop."""
        return self._loop.call_later(delay_s, callback)

    # --- commits ---

    def dirty(self, activation: Record) -> None:
        """The activation has something to write."""
        self._committer.dirty(activation)

    def persist(self, activation: Record, delivery: Delivery) -> None:
        """Write an accepted one-way message into the inbox."""
        self._committer.persist(activation, delivery)

    def after_commit(self, activation: Record) -> None:
        """Its outputs are out."""
        self._readers.remember_consumed(activation)
        if self.settings.evict_after_every_turn and activation.is_idle() and not activation.is_dead:
            self._remove(activation)

    def drop(self, activation: Record) -> None:
        """What the activation believes is not what the store holds: begin again from the store."""
        if activation.is_dead:
            return
        items = activation.unfinished()
        self._suspects.update((activation.id, i.envelope.id) for i in items if isinstance(i, Delivery) and i.is_stored)
        self._remove(activation)
        self.reread_reminders(activation.id)
        if activation.shard not in self.epochs:
            for item in items:
                if isinstance(item, Delivery):
                    item.reply(Status.NOT_OWNER, b"null", 0)
            return
        self.activate(activation.id)
        for item in items:
            self.activate(activation.id, item)

    def _remove(self, activation: Record) -> None:
        self.active.pop(activation.id, None)
        activation.close()
        if self._under_way and activation.shard not in self.epochs:
            prefix = f"{activation.id}#"
            for key in [k for k in self._under_way if k.startswith(prefix)]:
                self._under_way.pop(key)
                self._activities.cancel(key)

    def sweep(self) -> None:
        """Passivate what has been idle for long, and more if there is too much."""
        now = self.monotonic()
        oldest = now - self.settings.idle_s
        excess = len(self.active) - self.settings.activations_max
        if excess > 0:
            oldest = sorted(a.last_used for a in self.active.values())[excess]
        for activation in [a for a in self.active.values() if a.last_used < oldest]:
            if activation.is_idle():
                self._remove(activation)
        for key in list(self._waiters):
            alive = [(until, d) for until, d in self._waiters[key] if until > now]
            if alive:
                self._waiters[key] = alive
            else:
                del self._waiters[key]

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
            self.wake(own)
        if len(own) < len(hints):
            mine = set(own)
            self._outlets.hint([entity for entity in hints if entity not in mine])

    def wait_for_run(self, entity: EntityId, workflow: str, delivery: Delivery) -> None:
        """Answer this RESULT when the run has ended."""
        wait_s = delivery.envelope.timeout_us / 1e6 or 3600.0
        self._waiters.setdefault((entity, workflow), []).append((self.monotonic() + wait_s, delivery))

    def run_ended(self, entity: EntityId, row: RunRow, tell: Callable[[Delivery], None]) -> None:
        """A run's end is durable."""
        for _, delivery in self._waiters.pop((entity, row.workflow), ()):
            tell(delivery)

    # --- reminders ---

    def reread_reminders(self, entity: EntityId) -> None:
        """What was handed out for this entity is lost: read it again."""
        self.wheel.forget(lambda other: other == entity)
        self._readers.read_window_soon()

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
        self._readers.nudge_timers()

    def fire_due(self) -> float:
        """Hand out what is due. Returns seconds until the next look."""
        now_us = self.now_us()
        room = self.settings.timer_batch - self.wheel.handed_out
        for row in self.wheel.pop_due(now_us, max(0, room)):
            self.offer(row.entity, Fire(row))
        next_us = self.wheel.next_due_us()
        if next_us is None:
            return 1.0
        if next_us <= now_us:
            return 0.002  # there was no room; what is under way makes some
        return min(1.0, (next_us - now_us) / 1e6)

    # --- activities ---

    def start_activity(self, activation: Record, run: Run, operation: Operation) -> None:
        """The commit that asked for it is durable (or a journal says so): run it until it has an outcome."""
        if activation.runs.get(run.row.workflow) is not run or operation.number not in run.pending:
            return
        address = run.address(operation.number)
        key = f"{activation.id}#{address}"
        known = self._under_way.get(key)
        if known is not None:
            activation.know_attempts(known)
            return
        detail: ActivityDetail = operation.detail
        before = activation.attempts.get(address)
        call = ActivityCall(
            entity=activation.id,
            shard=activation.shard,
            operation=address,
            number=operation.number,
            name=operation.name,
            fn=detail.fn,
            is_async=inspect.iscoroutinefunction(detail.fn),
            signature=detail.signature,
            args=detail.args,
            options=detail.options,
            attempt=before.attempt + 1 if before else 1,
            first_us=before.first_us if before else self.now_us(),
        )
        self._under_way[key] = call
        delay_s = max(0.0, (before.next_us - self.now_us()) / 1e6) if before else 0.0
        self._next_attempt(key, call, delay_s)

    def _next_attempt(self, key: str, call: ActivityCall, delay_s: float) -> None:
        def begin() -> None:
            if self._under_way.get(key) is call:
                self._activities.start(call)

        if delay_s > 0.0:
            self._loop.call_later(delay_s, begin)
        else:
            begin()

    def is_under_way(self, entity: EntityId, address: str) -> bool:
        """Whether this activity has no outcome yet."""
        return f"{entity}#{address}" in self._under_way

    def cancel_activity(self, entity: EntityId, address: str) -> None:
        """The run does not want it any more."""
        key = f"{entity}#{address}"
        if self._under_way.pop(key, None) is not None:
            self._activities.cancel(key)

    def _activity_finished(self, call: ActivityCall, result: bytes | None, error: BaseException | None) -> None:
        key = f"{call.entity}#{call.operation}"
        if self._under_way.get(key) is not call or call.shard not in self.epochs_held:
            return
        if error is None:
            del self._under_way[key]
            self.offer(call.entity, ActivityDone(call, success(call, result or b"null")))
            return
        wait_s = call.options.retry.delay_s(call.attempt)
        limit = call.options.total_timeout
        out_of_time = limit is not None and self.now_us() + wait_s * 1e6 - call.first_us >= limit.total_seconds() * 1e6
        if out_of_time or call.options.retry.is_final(error, call.attempt):
            if out_of_time and not isinstance(error, ActivityTimeout):
                timeout = ActivityTimeout(
                    f"{call.entity}: activity {call.name} did not succeed within {limit}; last error: {error}",
                    attempts=call.attempt,
                )
                timeout.__cause__ = error
                error = timeout
            del self._under_way[key]
            self.offer(call.entity, ActivityDone(call, failure(call, error)))
            return
        log.info(
            "%s: activity %s failed (attempt %d): %s; next try in %.1f s",
            call.entity,
            call.name,
            call.attempt,
            error,
            wait_s,
        )
        self._note_attempt(call, error, wait_s)
        call.attempt += 1
        self._next_attempt(key, call, wait_s)

    def _note_attempt(self, call: ActivityCall, error: BaseException, wait_s: float) -> None:
        row = AttemptRow(
            call.operation,
            call.name,
            call.attempt,
            encode_json(error_body(error)),
            self.now_us() + round(wait_s * 1e6),
            call.first_us,
        )
        activation = self.active.get(call.entity)
        if activation is not None:
            if not activation.waits_for(call.operation):
                return  # withdrawn by a turn whose commit is to come: nobody would delete the note
            activation.attempts[call.operation] = row
        self._committer.note_attempt(call.entity, call.shard, row)

    async def drained(self) -> None:
        """Wait until no turn is ready and nothing is dirty (for tests)."""
        while self._ready or self.loading or self._tick_queued:  # noqa: ASYNC110 - tests need no event
            await asyncio.sleep(0)
        await self._committer.drained()
