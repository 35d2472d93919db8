"""Turns that an operator asks for: editing state, receiving a fork, replaying or discarding a dead letter.

They are messages like any other: to the owner of the entity, one exclusive turn each, all or nothing (P2), repeated
without effect under the same id (P1), fenced (P4). Their history row is the audit: who, why, and what.

* An edit names the version it was made against: if the entity has moved on, it is refused and nothing changes. The new
  state passes the class's own validation. Live runs see it as they see any other turn's change.
* A fork arrives at an address where nothing has happened yet, or is refused.
* A dead letter leaves the table and enters the inbox under a new id in one statement of this turn's commit; if it is
  gone by then, nothing is sent.
"""

from collections.abc import Callable

import msgspec
from pydantic_core import from_json, to_json

from ...errors import EntityExists, EntityParked, InvalidArguments, PerdureError, UnknownHandler, VersionConflict
from ...messages import Envelope, Kind, encode_json
from ...operators import DISCARD_LETTER, EDIT, FORK, REPLAY_LETTER, Edit, Fork, LetterOrder
from ..deliveries import Delivery
from .operate import Operate
from .record import NULL

_ARGUMENTS: dict[str, type[Edit] | type[Fork] | type[LetterOrder]] = {
    EDIT: Edit,
    FORK: Fork,
    REPLAY_LETTER: LetterOrder,
    DISCARD_LETTER: LetterOrder,
}


class Maintenance(Operate):
    """What an operator does to the entity's data."""

    __slots__ = ()

    def check_maintenance(self, envelope: Envelope) -> None:
        """Raises UnknownHandler, InvalidArguments; has nothing to say of other messages."""
        if envelope.kind is not Kind.MAINTAIN:
            return
        arguments = _arguments(envelope)
        if isinstance(arguments, Edit):
            unknown = [name[:80] for name in arguments.fields if name not in self._field_names()][:20]
            if unknown or not arguments.fields:
                raise InvalidArguments(
                    f"{self.id}: an edit names fields of {self.definition.name} ({', '.join(self._field_names())}), "
                    f"not {', '.join(map(repr, unknown)) or 'nothing'}",
                    errors=[{"field": name, "message": "no such field"} for name in unknown],
                )

    def _field_names(self) -> list[str]:
        return [name for name in self.definition.cls.model_fields if name != "key"]

    def _maintain(self, delivery: Delivery) -> None:
        try:
            match _arguments(delivery.envelope):
                case Edit() as edit:
                    self._edit(delivery, edit)
                case Fork() as fork:
                    self._receive_fork(delivery, fork)
                case LetterOrder() as order:
                    self._handle_letter(delivery, order)
        except PerdureError as problem:
            self._reject(delivery, problem)
        else:
            self._audit(delivery)

    def _edit(self, delivery: Delivery, edit: Edit) -> None:
        if edit.expected_version != self.version:
            raise VersionConflict(
                f"{self.id} is at version {self.version}, not {edit.expected_version} as the edit expects; nothing was "
                "changed. Look at the present state and edit that",
                expected=edit.expected_version,
                present=self.version,
            )
        state = from_json(self.snapshot) | {name: from_json(bytes(value)) for name, value in edit.fields.items()}
        what = f"{self.id}: the edited state is invalid"
        self._take_state(delivery, to_json(state), complaint=lambda problem: f"{what}: {problem}")

    def _receive_fork(self, delivery: Delivery, fork: Fork) -> None:
        if self.version:
            raise EntityExists(
                f"{self.id} exists already (version {self.version}); a fork of {fork.origin} needs an unused key",
                present=self.version,
            )
        state = bytes(fork.state)
        what = f"{self.id}: version {fork.origin_version} of {fork.origin} does not fit the class as it is now"
        version = fork.schema_version or None
        self._take_state(delivery, state, version=version, complaint=lambda problem: f"{what}: {problem}")

    def _take_state(
        self, delivery: Delivery, data: bytes, *, complaint: Callable[[str], str], version: int | None = None
    ) -> None:
        """A turn whose whole effect is this state."""
        try:
            snapshot = self.definition.dump(self.definition.load(self.id.key, data, version=version))
            self.definition.check_loads(self.id.key, snapshot)
        except EntityParked as problem:
            raise InvalidArguments(complaint(problem.message), errors=[]) from None
        self._enter(None)
        self.definition.replace_fields(self.entity, snapshot)
        self.snapshot = snapshot
        self._consume(delivery, ok=True, body=encode_json(self.version + 1))
        self._changed()

    def _handle_letter(self, delivery: Delivery, order: LetterOrder) -> None:
        write = self._consume(delivery, ok=True, body=NULL)
        if delivery.envelope.name == DISCARD_LETTER:
            write.letters_discarded.append(order.message_id)
            return
        position = self.clock.next(self.engine.now_us())
        write.letters_replayed.append((order.message_id, order.new_id, position))
        self._output(None, lambda: self.engine.hint(self.id))


def _arguments(envelope: Envelope) -> Edit | Fork | LetterOrder:
    shape = _ARGUMENTS.get(envelope.name)
    if shape is None:
        raise UnknownHandler(f"{envelope.entity}: there is no maintenance {envelope.name[:80]!r}")
    try:
        return msgspec.json.decode(envelope.args, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArguments(f"{envelope.entity}: {envelope.name}: {error}", errors=[]) from None
