"""Transactions as a host sees them (protocol: `perdure.entities.transactions`): its entities are held and released,
and it commits those whose first entity it owns.
"""

from typing import TYPE_CHECKING

import msgspec

from ..errors import InvalidTransaction
from ..ids import EntityId
from ..messages import Envelope, Reply, Status, encode_json
from ..transaction_messages import Release, Step, decode
from .coordinator import Coordinator
from .deliveries import Respond
from .turns.holding import EntityHold, HoldDelivery, Holding

if TYPE_CHECKING:
    from .engine import Engine


class Holds:
    """Owned by the engine; everything on the host's loop."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._coordinator = Coordinator(engine)
        self.unsettled: dict[EntityId, int] = {}
        """Entities with the version that was given to a transaction which may still commit, as far as is known here.
        Outlives activations: whoever answers a query from memory must not do so while its entity is in here."""

    def deliver(self, envelope: Envelope, respond: Respond) -> None:
        """A message of kind TRANSACTION."""
        engine = self._engine
        entity = envelope.entity
        if not engine.owns(entity) or engine.is_stopped:
            respond(Reply(envelope.id, Status.NOT_OWNER))
            return
        try:
            if engine.elsewhere(entity) is not None:
                raise InvalidTransaction(
                    f"{entity} has `hosting=Dedicated(...)`; transactions over it are not possible"
                )
            match envelope.name:
                case Step.HOLD:
                    self._hold(entity, envelope, respond)
                case Step.RELEASE:
                    self._release(entity, decode(envelope.args, Release))
                    respond(Reply(envelope.id, Status.OK))
                case _:
                    self._coordinator.deliver(envelope, respond)
        except (InvalidTransaction, msgspec.DecodeError) as problem:
            error = problem if isinstance(problem, InvalidTransaction) else InvalidTransaction(f"{entity}: {problem}")
            respond(Reply(envelope.id, Status.ERROR, encode_json(error.body())))

    def close(self) -> None:
        """Commits under way are abandoned; their outcome is unknown, as after a crash."""
        self._coordinator.close()

    def arrived(self, activation: Holding) -> None:
        """An entity has come back into memory: may it make turns?"""
        version = self.unsettled.get(activation.id)
        if version is None:
            return
        if version != activation.durable:
            del self.unsettled[activation.id]  # what the transaction wants to replace is gone
        else:
            activation.rule_out(EntityHold("unknown"))

    def left(self, activation: Holding) -> None:
        """The entity goes to another host: a new epoch of its shard, and so no commit on what was given out here."""
        hold = activation.hold
        if hold is not None and not hold.is_ending:
            hold.cancel()
            activation.busy = None

    def _hold(self, entity: EntityId, envelope: Envelope, respond: Respond) -> None:
        activation = self._engine.active.get(entity)
        delivery = HoldDelivery(envelope, respond, self._engine)
        if activation is None:
            self._engine.arrivals.accept(entity, delivery)
            return
        hold = activation.hold
        if hold is not None and hold.is_granted and not hold.is_ending and hold.attempt == delivery.attempt:
            delivery.reply(Status.OK, activation.held(), activation.version)  # the answer got lost
        else:
            activation.deliver(delivery)

    def _release(self, entity: EntityId, release: Release) -> None:
        activation = self._engine.active.get(entity)
        waiting = self._engine.arrivals.loading.get(entity, []) if activation is None else activation.by_id.values()
        for item in list(waiting):
            if isinstance(item, HoldDelivery) and item.attempt == release.attempt:
                item.until = 0.0
        hold = None if activation is None else activation.hold
        if activation is None or hold is None or hold.is_ending or hold.attempt != release.attempt:
            return
        if release.is_aborted:
            activation.end_hold()
        else:
            self._engine.drop(activation)  # the store knows what became of it
