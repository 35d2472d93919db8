"""How entities come into memory, and how messages and events reach them there.

Whatever comes for an entity that is not in memory waits in `loading` until the store has answered. An entity that
cannot be loaded is *parked*: its callers are told why, its mail and reminders stay in the store, and it is left alone
for a while unless somebody calls it. So are those of a type that this host does not have, which are not even loaded.
Once it is in memory again, its mail has come with it, and what was due is read again.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DamagedRow, EntityParked, PayloadUnreadable, PerdureError
from ..ids import EntityId, check_key
from ..messages import Envelope, Kind, Status, encode_json
from ..store.rows import Loaded
from .activation import Activation
from .deliveries import Delivery, Fire, Item
from .left import PARKED_RETRY_S

if TYPE_CHECKING:
    from ..definition import EntityDefinition
    from .engine import Engine

log = logging.getLogger("perdure.engine")

CRASHES_MAX = 5
"""A stored message on which the engine itself fails so often becomes a dead letter."""
PARKED_MAX = 100_000
"""Such entities are known up to this number; of more, the first are tried again when they are found next."""


class Arrivals:
    """Owned by the engine; everything on the host's loop."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.loading: dict[EntityId, list[Item]] = {}
        """Entities being read, with what has come for them meanwhile."""
        self._crashes: Counter[tuple[EntityId, str]] = Counter()
        self._parked_until: dict[EntityId, float] = {}
        self._absent: set[str] = set()
        """Types that this host does not have, and has said so."""
        self._suspects: set[tuple[EntityId, str]] = set()
        """Stored messages of lost turns: they may have an outcome."""

    def suspect(self, entity: EntityId, items: Sequence[Item]) -> None:
        """The turns of these were lost: when the store brings a message again, it may have an outcome."""
        self._suspects.update((entity, i.envelope.id) for i in items if isinstance(i, Delivery) and i.is_stored)

    def accept(self, entity: EntityId, delivery: Delivery) -> None:
        """Hand a message to its entity, activating that if need be."""
        activation = self._engine.active.get(entity)
        if activation is not None:
            activation.deliver(delivery)
            return
        try:
            self._engine.registry.get(entity.type)
            check_key(entity.type, entity.key)
        except PerdureError as error:
            delivery.reply(Status.ERROR, encode_json(error.body()), 0)
            return
        self.activate(entity, delivery)

    def activate(self, entity: EntityId, item: Item | None = None) -> None:
        """Bring an entity into memory, and hand it this item."""
        if not self._engine.owns(entity):
            return
        definition = self._engine.elsewhere(entity)
        if definition is not None and self._engine.dedicated is not None:
            if isinstance(item, Fire):
                self._engine.wheel.set_aside(item.row)  # how long it takes is the other process' affair
                self._engine.dedicated.fire(definition, item.row)
            else:
                self._engine.dedicated.wake(definition, entity)
            return
        if not isinstance(item, Delivery) and self._is_left_alone(entity):
            if isinstance(item, Fire):
                self._leave_alone(item)
            return  # its mail and reminders stay where they are
        waiting = self.loading.get(entity)
        if waiting is None:
            self.loading[entity] = waiting = []
            self._engine.readers.load(entity)
        if item is not None:
            if isinstance(item, Delivery) and len(waiting) >= self._engine.settings.mailbox_max:
                item.reply(Status.NOT_OWNER, b"null", 0)  # nothing was accepted; the router tries again
                return
            waiting.append(item)

    def _is_left_alone(self, entity: EntityId) -> bool:
        """Whether it is not to be loaded for what comes by itself."""
        if self._engine.registry.find(entity.type) is not None:
            return self._parked_until.get(entity, 0.0) > self._engine.monotonic()
        if entity.type not in self._absent:
            self._absent.add(entity.type)
            log.warning(
                "this host has no type %s (found: %s). Messages and reminders of its entities stay in the store until "
                "their shard belongs to a host that has it",
                entity.type,
                entity,
            )
        return True

    def _leave_alone(self, item: Fire) -> None:
        self._engine.leave_alone(item.row, PARKED_RETRY_S)

    def offer(self, entity: EntityId, item: Item) -> None:
        """An internal event for an entity that is in memory or comes into it."""
        suspects = self._engine.suspects
        if not suspects.taken or self._engine.elsewhere(entity) or not suspects.holds_event(entity, item):
            self.hand_over(entity, item)

    def hand_over(self, entity: EntityId, item: Item) -> None:
        """As `offer`, but for what is above suspicion."""
        activation = self._engine.active.get(entity)
        if activation is None:
            self.activate(entity, item)
        else:
            activation.push(item)

    def arrived(self, loaded: Loaded) -> None:
        """The store's answer for an entity."""
        if loaded.runs and loaded.entity in self.loading and self._engine.suspects.holds_load(loaded):
            for item in self.loading[loaded.entity]:
                if isinstance(item, Fire):
                    self._engine.wheel.set_aside(item.row)
            return  # it is loaded again once its runs may be replayed
        waiting = self.loading.pop(loaded.entity, None)
        shard = self._engine.shard_of(loaded.entity)
        if waiting is None or shard not in self._engine.epochs or self._engine.is_stopped:
            for item in waiting or ():
                if isinstance(item, Delivery):
                    item.reply(Status.NOT_OWNER, b"null", 0)
            return
        try:
            activation = self._activation(self._engine.registry.get(loaded.entity.type), shard, loaded)
        except EntityParked as problem:
            self._parked(loaded, problem, waiting)
            return
        except Exception as error:
            log.exception("%s could not be activated", loaded.entity)
            self._parked(loaded, EntityParked(f"{loaded.entity}: it could not be activated: {error!r}"), waiting)
            return
        self._engine.active[loaded.entity] = activation
        self._engine.holds.arrived(activation)
        for envelope in loaded.inbox:
            activation.deliver(self._stored(envelope))
        activation.mail_read(is_all=len(loaded.inbox) < self._engine.settings.inbox_max)
        for item in waiting:
            if isinstance(item, Delivery):
                activation.deliver(item)
            else:
                activation.push(item)
        activation.start_pending()
        self._tell_ended(activation)

    def _activation(self, definition: "EntityDefinition", shard: int, loaded: Loaded) -> Activation:
        """Raises EntityParked, for whatever is wrong with what is stored."""
        if loaded.problem:
            raise PayloadUnreadable(loaded.problem)
        if loaded.damage:
            raise EntityParked(
                f"{loaded.entity}: {loaded.damage}. Nothing of it is run or written over. Restore the row, or accept "
                f"it as it is with `perdure db accept {loaded.entity}`; the next call then activates it",
                why=DamagedRow.code,
            )
        activation = Activation(self._engine, definition, shard, loaded)
        if self._parked_until.pop(loaded.entity, None) is not None or loaded.is_noted:
            self._engine.try_reminders_again(loaded.entity)
        if loaded.is_noted:
            self._engine.readers.note_parked(loaded.entity, "")
        return activation

    def failed(self, loaded: Loaded, error: Exception) -> None:
        """A bug of ours, or rows that nobody thought of: this entity is parked, the others of its batch are not."""
        log.error("%s could not be activated", loaded.entity, exc_info=error)
        waiting = self.loading.pop(loaded.entity, [])
        activation = self._engine.active.pop(loaded.entity, None)
        if activation is not None:
            waiting = activation.unfinished() + waiting
            activation.close()
        self._parked(loaded, EntityParked(f"{loaded.entity}: it could not be activated: {error!r}"), waiting)

    def _tell_ended(self, activation: Activation) -> None:
        """The end of a run may have been committed by a commit whose answer got lost."""
        for workflow, row in activation.rows.items():
            if row.status.is_terminal and self._engine.results.is_awaited(activation.id, workflow):
                self._engine.results.ended(activation.id, row, activation.tell_result_of(row))

    def _stored(self, envelope: Envelope) -> Delivery:
        delivery = Delivery(envelope, None, is_stored=True)
        if (envelope.entity, envelope.id) in self._suspects:
            self._suspects.discard((envelope.entity, envelope.id))
            delivery.needs_lookup = True
        if self._engine.suspects.taken and self._engine.suspects.is_old(envelope):
            delivery.needs_lookup = True  # before which it is held
        if (
            envelope.kind is Kind.QUERY and not envelope.reply_to
        ):  # nobody stores such a message: it would stay for ever
            delivery.problem = DamagedRow(f"{envelope.entity}.{envelope.name}: a query was waiting that nobody asked")
        if self.has_given_up(envelope.entity, envelope.id):
            delivery.problem = PerdureError(
                f"{envelope.entity}.{envelope.name}: the engine failed {CRASHES_MAX} times on it"
            )
        return delivery

    def _parked(self, loaded: Loaded, problem: EntityParked, waiting: list[Item]) -> None:
        """Say why to whoever waits; but of a repeat it must be known first that it was not applied, or accepted."""
        entity = loaded.entity
        if self._parked_until.get(entity, 0.0) < self._engine.monotonic():
            log.error("%s", problem)
            self._engine.readers.note_parked(entity, problem.message)
        self._parked_until.pop(entity, None)
        while len(self._parked_until) >= PARKED_MAX:
            del self._parked_until[next(iter(self._parked_until))]
        self._parked_until[entity] = self._engine.monotonic() + PARKED_RETRY_S
        body = encode_json(problem.body())
        accepted = {envelope.id for envelope in loaded.inbox}
        for item in waiting:
            if isinstance(item, Fire):
                self._leave_alone(item)
            if not isinstance(item, Delivery):
                continue
            if item.is_one_way and item.envelope.id in accepted:
                item.acknowledge(loaded.version)
            elif item.needs_lookup:
                self._engine.readers.look_up_parked(item, body)
            else:
                item.reply(Status.ERROR, body, 0)

    def mail(self, asked: Mapping[EntityId, Activation], envelopes: Sequence[Envelope], *, per_entity_max: int) -> None:
        """The store's answer: messages waiting for these activations, up to so many for each.

        Nothing of it is for an activation that began since the store was asked: its own pages are newer.
        """
        found: Counter[EntityId] = Counter()
        active = {entity: it for entity, it in asked.items() if self._engine.active.get(entity) is it}
        for envelope in envelopes:
            entity = EntityId(envelope.type, envelope.key)
            found[entity] += 1
            if entity in active and not self._engine.readers.was_consumed(active[entity], envelope.id):
                active[entity].deliver(self._stored(envelope))
        for entity, activation in active.items():
            activation.mail_read(is_all=found[entity] < per_entity_max)

    def wake(self, entities: Sequence[EntityId]) -> int:
        """These entities have messages in the store. Returns how many of them are not left alone."""
        woken = 0
        for entity in entities:
            if not self._engine.owns(entity):
                continue
            if entity in self._engine.active:
                self._engine.readers.fetch_mail(entity)
                woken += 1
            elif not self._is_left_alone(entity):
                self.activate(entity)
                woken += 1
        return woken

    def has_given_up(self, entity: EntityId, message_id: str) -> bool:
        """Whether the engine itself has failed on it too often."""
        return bool(self._crashes) and self._crashes[entity, message_id] >= CRASHES_MAX

    def note_crash(self, entity: EntityId, message_id: str) -> None:
        """This message made the engine itself fail."""
        self._crashes[entity, message_id] += 1
