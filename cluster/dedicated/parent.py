"""The host's side of its dedicated actors: making them, feeding them, committing for them, letting them go.

Reminders and timers (P6): the host's wheel holds them. What it has handed to an actor is in that actor's memory only,
and stays handed out until the host sees the commit that consumed it. So the host reads an entity's reminders again, and
hands them out anew, whenever an actor may not run what it was handed: when it ends, by itself or not; when it says so
(a run that was parked goes on); when its entity, which had been parked, is loaded again, and once in a while as long as
it is parked. A row that comes twice is run once, for the turn that consumed it has taken it from the store.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Protocol

from ...entities.definition import EntityDefinition
from ...entities.engine.deliveries import Respond
from ...entities.engine.engine import Engine
from ...entities.engine.left import PARKED_RETRY_S
from ...entities.errors import PerdureError
from ...entities.ids import EntityId
from ...entities.messages import Envelope, Kind, Reply, Status
from ...entities.store.port import EntityStore, StoreUnavailable
from ...entities.store.rows import Batch, ReminderRow
from ..link import Link, Pending
from ..settings import ExchangeSettings
from . import wire

log = logging.getLogger("perdure.dedicated")

RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)
PARKED_LOOK_S = PARKED_RETRY_S + 1.0
"""How often what is due is handed to a parked entity again; its actor leaves it alone for a bit less."""


class ChildActor(Protocol):
    """A dedicated Ray actor, as started."""

    def exchange(self, data: bytes) -> "asyncio.Future[bytes]":
        """One call of the link."""
        ...

    def control(self, data: bytes) -> "asyncio.Future[None]":
        """Tell it something."""
        ...

    def kill(self) -> None:
        """End its process."""
        ...


Spawn = Callable[[EntityDefinition, EntityId, int, int], Awaitable[ChildActor]]
"""(definition, entity, shard, epoch) → a running actor."""


class _Child:
    """One actor, and what is on its way to it."""

    def __init__(self, entity: EntityId, definition: EntityDefinition, shard: int, link: Link) -> None:
        self.entity = entity
        self.definition = definition
        self.shard = shard
        self.link = link
        self.actor: ChildActor | None = None
        self.fires: list[ReminderRow] = []
        self.wake = False
        self.failures = 0
        self.committing = asyncio.Lock()
        """Held by a commit until its outcome is certain: whoever reads the entity waits for that."""
        self.starting: asyncio.Task[None] | None = None
        self.parked: asyncio.TimerHandle | None = None
        """Its entity could not be loaded; when what is due is handed to it again."""


class DedicatedActors:
    """All dedicated actors of one host. Owned by the host's loop."""

    def __init__(self, engine: Engine, store: EntityStore, spawn: Spawn, settings: ExchangeSettings) -> None:
        self._engine = engine
        self._store = store
        self._spawn = spawn
        self._settings = settings
        self._children: dict[EntityId, _Child] = {}
        self._responds: dict[Pending, Respond] = {}
        self._order = 0
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._children)

    # --- DedicatedHosting, for the engine ---

    def deliver(self, definition: EntityDefinition, envelope: Envelope, respond: Respond) -> None:
        """A message for a dedicated entity of an owned shard."""
        child = self._child(definition, envelope.entity)
        self._order += 1
        pending = Pending(
            envelope, order=self._order, shard=child.shard, future=asyncio.get_running_loop().create_future()
        )
        self._responds[pending] = respond
        child.link.push(pending)

    def fire(self, definition: EntityDefinition, row: ReminderRow) -> None:
        """A reminder or timer of a dedicated entity is due."""
        child = self._child(definition, row.entity)
        child.fires.append(row)
        self._engine.wheel.set_aside(row)  # it is the actor's now, which may park it: others need not wait for it
        self._tell(child)

    def wake(self, definition: EntityDefinition, entity: EntityId) -> None:
        """A dedicated entity has mail, or work to take up again."""
        child = self._child(definition, entity)
        child.wake = True
        self._tell(child)

    def release(self, shards: Collection[int]) -> None:
        """End the actors of these shards. What they had not committed is lost, as with a crash."""
        for child in [c for c in self._children.values() if c.shard in shards]:
            self._end(child, Status.NOT_OWNER)

    def close(self) -> None:
        """End all of them."""
        self.is_closed = True
        for child in list(self._children.values()):
            self._end(child, Status.NOT_OWNER)

    # --- actors ---

    def _child(self, definition: EntityDefinition, entity: EntityId) -> _Child:
        child = self._children.get(entity)
        if child is None:
            link = Link(str(entity), self, self._settings)
            child = _Child(entity, definition, self._engine.shard_of(entity), link)
            self._children[entity] = child
            self._start(child)
        return child

    def _start(self, child: _Child) -> None:
        child.starting = asyncio.get_running_loop().create_task(self._run_start(child))

    async def _run_start(self, child: _Child) -> None:
        await asyncio.sleep(RESTART_S[min(child.failures, len(RESTART_S) - 1)])
        epoch = self._engine.epochs.get(child.shard)
        if epoch is None:
            self._end(child, Status.NOT_OWNER)
            return
        try:
            actor = await self._spawn(child.definition, child.entity, child.shard, epoch)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from starting: tried again
            log.warning("%s: its actor could not be started: %r", child.entity, error)
            child.failures += 1
            if self._children.get(child.entity) is child and not self.is_closed:
                self._start(child)
            return
        if self._children.get(child.entity) is not child:
            actor.kill()
            return
        child.actor = actor
        child.link.connect(actor.exchange)
        self._tell(child)

    def _tell(self, child: _Child) -> None:
        if child.actor is None or not (child.fires or child.wake):
            return
        control = wire.Control(child.fires, child.wake)
        child.fires, child.wake = [], False
        child.actor.control(wire.encode(control)).add_done_callback(partial(self._told, child.link))

    def _told(self, link: Link, call: "asyncio.Future[None]") -> None:
        error = None if call.cancelled() else call.exception()
        if error is not None and not link.is_closed:
            self.lost(link, error)

    def _let_go(self, child: _Child) -> None:
        """It had nothing to do when it said so."""
        if not child.fires and not child.wake and not self._is_asked(child):
            self._end(child, Status.NOT_OWNER)

    def _is_asked(self, child: _Child) -> bool:
        return any(pending.envelope.entity == child.entity for pending in self._responds)

    def _end(self, child: _Child, status: Status) -> None:
        if self._children.get(child.entity) is child:
            del self._children[child.entity]
        for pending in child.link.close():
            self._respond(pending, Reply(pending.envelope.id, status))
        if child.actor is not None:
            child.actor.kill()
        elif child.starting is not None and child.starting is not asyncio.current_task():
            child.starting.cancel()
        is_ours = not self.is_closed and self._engine.owns(child.entity)
        if child.parked is None:
            if is_ours:
                self._engine.reread_reminders(child.entity)
        elif not is_ours:
            child.parked.cancel()  # else it looks again in its time: an actor at once would only park, too

    def _note_parked(self, child: _Child, reason: str) -> None:
        """Whether its entity could be loaded. An actor drops what is due as long as it could not."""
        if child.parked is not None:
            child.parked.cancel()
        if reason:
            child.parked = asyncio.get_running_loop().call_later(PARKED_LOOK_S, self._look_again, child)
        else:
            self._look_again(child)

    def _look_again(self, child: _Child) -> None:
        child.parked = None
        self._engine.reread_reminders(child.entity)

    def _respond(self, pending: Pending, reply: Reply) -> None:
        respond = self._responds.pop(pending, None)
        if respond is not None:
            respond(reply)

    # --- link events ---

    def replied(self, link: Link, pending: Pending, reply: Reply) -> None:
        """An answer from the actor; one that rests on no commit counts only while this host's lease does."""
        del link
        if pending.envelope.kind in (Kind.QUERY, Kind.RESULT, Kind.OPERATIONS) and not self._engine.has_lease():
            reply = Reply(reply.id, Status.NOT_OWNER)
        self._respond(pending, reply)

    def silent(self, link: Link) -> None:
        """The actor has not returned a call for long: it is begun anew."""
        self.lost(link, TimeoutError("the dedicated actor is silent"))

    def lost(self, link: Link, error: BaseException | None) -> None:
        """The actor died or cannot go on: a new one starts from the store with everything unanswered."""
        child = next((c for c in self._children.values() if c.link is link), None)
        if child is None or self.is_closed:
            return
        log.warning("%s: its actor is gone (%r); a new one takes over", child.entity, error)
        left = link.close()
        if child.actor is not None:
            child.actor.kill()
        child.actor = None
        child.failures = min(child.failures + 1, len(RESTART_S) - 1)
        child.link = Link(str(child.entity), self, self._settings)
        child.wake = True
        child.fires = []
        self._engine.reread_reminders(child.entity)
        for pending in left:
            child.link.push(pending)
        self._start(child)

    # --- what actors ask ---

    async def serve(self, entity: EntityId, operation: str, argument: bytes) -> bytes:
        """One store operation of an entity's actor."""
        child = self._children.get(entity)
        try:
            if child is None:
                raise wire.not_yours(entity)
            return wire.encode(wire.Answer(await self._operate(child, operation, argument)))
        except PerdureError as error:
            return wire.answer_error(error)

    async def _operate(self, child: _Child, operation: str, argument: bytes) -> bytes:
        store, entity = self._store, child.entity
        match operation:
            case "commit":
                async with child.committing:
                    return wire.encode(await self._commit(child, wire.BATCH.decode(argument)))
            case "settle":
                async with child.committing:
                    return b""
            case "load":
                async with child.committing:  # that of its predecessor, perhaps
                    [loaded] = await store.load([entity])
                return wire.encode(loaded)
            case "inbox":
                return wire.encode(await store.inbox([entity]))
            case "outcomes":
                keys = [(entity, message_id) for message_id in wire.OUTCOME_KEYS.decode(argument)]
                return wire.encode(list((await store.outcomes(keys)).values()))
            case "journal":
                return wire.encode(await store.journal(entity, *wire.RUN_NAME.decode(argument)))
            case "park":
                reason = wire.TEXT.decode(argument)
                await store.park(entity, reason)
                self._note_parked(child, reason)
                return b""
            case "reminders":
                self._engine.reread_reminders(entity)
                return b""
            case "clock":
                return wire.encode(await store.clock_us())
            case "idle":
                asyncio.get_running_loop().call_soon(self._let_go, child)  # once it has this answer
                return b""
            case _:
                raise ValueError(f"unknown operation {operation!r}")

    async def _commit(self, child: _Child, batch: Batch) -> int:
        """The actor's turns, committed under this host's fence. Raises StoreUnavailable once the outcome is certain."""
        await self._engine.settling.free()
        epoch = self._engine.epochs_held.get(child.shard)
        if epoch is None or any(write.entity != child.entity for write in batch.writes):
            raise wire.not_yours(child.entity)
        own = Batch(
            incarnation=self._engine.incarnation,
            epochs={child.shard: epoch},
            writes=batch.writes,
            attempts=batch.attempts,
            arrivals=batch.arrivals,
        )
        try:
            database_us = await self._engine.settling.carry(self._store.commit(own))
        except StoreUnavailable as problem:
            if problem.details.get("maybe_applied", True):
                await self._engine.settling.settle(own.epochs)
            raise
        child.failures = 0
        for write in batch.writes:
            self._engine.written_elsewhere(write)
        return database_us
