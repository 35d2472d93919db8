"""What a running turn offers to user code, as a port. The engine implements it; outside turns there is none.

Effects are *recorded* by these methods and performed only when the turn's commit is durable (promise P3).
"""

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, runtime_checkable

from .ids import EntityId
from .messages import Kind

if TYPE_CHECKING:
    from .activity import ActivityOptions
    from .definition import Registry
    from .entity import Entity
    from .signature import Signature
    from .store.rows import ReminderRow, Staged

Mode = Literal["handler", "query", "workflow", "transaction"]


class TurnContext(Protocol):
    """The turn that is running in this context."""

    entity: EntityId
    mode: Mode
    is_closed: bool
    """The turn has ended: its code may change nothing any more."""

    def now_us(self) -> int:
        """Time in microseconds since the epoch; repeatable in a workflow."""
        ...

    def random(self) -> Random:
        """Source of chance; repeatable in a workflow."""
        ...

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
        """Record a message that leaves with this turn's commit. An empty id gets a fresh one.

        options: as in an envelope.
        """
        ...

    def set_reminder(
        self, name: str, *, handler: str, args: bytes, due_us: int, every_us: int, catch_up_all: bool, cron: str = ""
    ) -> None:
        """Record a reminder of this entity, replacing one of the same name. cron: as in `recurrence`."""
        ...

    def cancel_reminder(self, name: str) -> None:
        """Record that the reminder of this name must not fire any more."""
        ...

    # The following work in workflows only; other modes raise DurableAwaitInHandler or ReadOnlyViolation.

    async def call(
        self, target: EntityId, kind: Kind, name: str, args: bytes, *, timeout_us: int, options: str = ""
    ) -> bytes:
        """Journalled call: the JSON result, or the callee's error raised."""
        ...

    async def activity(
        self, name: str, fn: Callable[..., Any], signature: "Signature", args: bytes, options: "ActivityOptions"
    ) -> bytes:
        """Journalled activity: the JSON result, or ActivityFailed (or the user's error) raised."""
        ...

    async def receive(self, mailbox: str) -> bytes:
        """Take the next item of a mailbox, waiting for it without limit."""
        ...

    async def condition(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate()` is true of the entity's state."""
        ...

    def patched(self, patch_id: str) -> bool:
        """Whether this run takes the new branch of this patch."""
        ...

    def continue_as_new(self, workflow: str, args: bytes) -> NoReturn:
        """End this run's journal and begin again with these arguments: raises ContinueAsNew."""
        ...


class HandlerTurn(TurnContext, Protocol):
    """The turn of a handler: it also knows what set it off, and which classes are served."""

    fired: "ReminderRow | None"
    """The reminder that is firing."""
    fired_us: int
    """When it did."""

    @property
    def registry(self) -> "Registry":
        """Every class that this host serves."""
        ...


@runtime_checkable
class StagingContext(Protocol):
    """A turn that can stage SQL."""

    entity: EntityId

    def stage(self, staged: "Staged") -> None:
        """Record a statement that is executed in this turn's commit."""
        ...


class BlockContext(TurnContext, Protocol):
    """The block of a transaction (mode `transaction`)."""

    def run_part(self, entity: "Entity", code: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """A handler of one of the transaction's entities: what it sends and reminds of is that entity's."""
        ...


current: ContextVar[TurnContext | None] = ContextVar("perdure_turn", default=None)
"""The running turn, or None outside (and in activities)."""
