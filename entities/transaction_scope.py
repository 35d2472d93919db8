"""What runs inside a transaction's block: instances of its entities, and the contexts that record what they ask for.

The block itself is no turn of any entity: it may change fields, await handlers of the instances and send. A handler
that it awaits runs as in a turn of its own entity, so that messages and reminders are that entity's.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Token
from functools import cache
from random import Random
from typing import Any, NoReturn

from .calls import Target, entity_class
from .context import Mode, TurnContext, current
from .definition import EntityDefinition
from .engine.deliveries import HandlerContext
from .entity import Entity
from .errors import InvalidTransaction
from .ids import EntityId
from .messages import Kind
from .transaction_messages import Held, Part

definition_of = cache(EntityDefinition)


class Participant:
    """One entity of a transaction, from the answer of its owner on."""

    def __init__(self, target: Target, held: Held) -> None:
        """Raises EntityParked if this code cannot read the state."""
        self.id = target.entity_id
        self.held = held
        self._definition = definition_of(entity_class(target))
        self._asked_at = asyncio.get_running_loop().time()
        self.instance = self._definition.load(self.id.key, held.state or None, version=held.schema_version)
        self.context = HandlerContext(self.id, "handler", self)

    def now_us(self) -> int:
        """The database's time, µs (a lower bound), as its host knew it."""
        return self.held.now_us + round((asyncio.get_running_loop().time() - self._asked_at) * 1e6)

    @property
    def registry(self) -> NoReturn:
        """Asked for by `publish`. The block runs in any process, which need not know all subscribers."""
        raise InvalidTransaction(
            f"{self.id}: a handler published an event, which a transaction cannot do: its code runs outside of the "
            "hosts, which know who subscribes. `.send` to a handler that publishes: it runs once this is committed"
        )

    def part(self) -> Part:
        """What has become of it. Raises StateNotSerialisable, InvalidTransaction."""
        state = self._definition.dump(self.instance)
        self._definition.check_loads(self.id.key, state)
        effects = self.context.effects
        if effects.staged is not None:
            raise InvalidTransaction(f"{self.id}: a handler staged SQL, which a transaction cannot execute")
        return Part(
            self.id, self.held, state, self._definition.version, list(effects.outgoing), dict(effects.reminders)
        )


class BlockContext:
    """`TurnContext` of the block."""

    mode: Mode = "transaction"

    def __init__(self, participants: list[Participant]) -> None:
        self._participants = participants
        self.entity: EntityId = participants[0].id
        self.is_closed = False

    def close(self) -> None:
        """The block has ended: a task that outlives it can neither send nor remind, nor set fields."""
        self.is_closed = True
        for participant in self._participants:
            participant.context.is_closed = True

    def run_part(self, entity: Entity, code: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        participant = next((p for p in self._participants if p.instance is entity), None)
        if participant is None:
            return code  # an instance of the user's own making
        return _within(participant.context, code)

    def now_us(self) -> int:
        return self._participants[0].now_us()

    def random(self) -> Random:
        return Random()  # noqa: S311 - nothing here is repeated from a record

    def send(
        self,
        target: EntityId,
        kind: Kind,
        name: str,
        args: bytes,
        *,
        delay_us: int,
        message_id: str,
        options: str = "",
    ) -> None:
        """The block has no sender of its own: the first entity's."""
        self._participants[0].context.send(
            target, kind, name, args, delay_us=delay_us, message_id=message_id, options=options
        )

    def set_reminder(
        self, name: str, *, handler: str, args: bytes, due_us: int, every_us: int, catch_up_all: bool, cron: str = ""
    ) -> None:
        raise self._refused(f"remind() of {handler}: a reminder belongs to one entity")

    def cancel_reminder(self, name: str) -> None:
        raise self._refused("cancel_reminder(): a reminder belongs to one entity")

    async def call(
        self, target: EntityId, kind: Kind, name: str, args: bytes, *, timeout_us: int, options: str = ""
    ) -> bytes:
        raise self._refused(f"a call of {target}.{name}: the transaction's entities would wait for another one")

    async def activity(self, name: str, fn: Any, signature: Any, args: bytes, options: Any) -> bytes:
        raise self._refused(f"the activity {name}: activities are for workflows")

    async def receive(self, mailbox: str) -> bytes:
        raise self._refused(f"waiting for the mailbox {mailbox}")

    async def condition(self, predicate: Callable[[], bool]) -> None:
        raise self._refused("waiting for a condition")

    def patched(self, patch_id: str) -> bool:
        raise self._refused(f"patched({patch_id!r}): patches are for workflows")

    def continue_as_new(self, workflow: str, args: bytes) -> NoReturn:
        raise self._refused(f"continue_as_new of {workflow}")

    def _refused(self, what: str) -> InvalidTransaction:
        return InvalidTransaction(
            f"{what} (in a transaction's block, which holds {len(self._participants)} entities). Await handlers of the "
            "instances that the block was given, or `.send(...)`"
        )


async def _within(context: TurnContext, code: Coroutine[Any, Any, Any]) -> Any:
    token: Token[TurnContext | None] = current.set(context)
    try:
        return await code
    finally:
        current.reset(token)
