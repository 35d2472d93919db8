"""What a turn asks for, as data: performed only when its commit is durable."""

from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import Rejected
from ..ids import EntityId
from ..messages import Kind
from ..store.rows import Staged

OUTBOX_MAX = 1_000
REMINDERS_MAX = 1_000
STAGED_MAX = 100


class OutboxLimit(Rejected):
    """One turn may send at most 1,000 messages and set at most 1,000 reminders. The turn changed nothing."""

    code = "outbox_limit"


class Outgoing(NamedTuple):
    """A message to be sent; an empty id gets a fresh one."""

    target: EntityId
    kind: Kind
    name: str
    args: bytes
    delay_us: int
    message_id: str
    options: str


class WantedReminder(NamedTuple):
    """A reminder to be set."""

    handler: str
    args: bytes
    due_us: int
    every_us: int
    catch_up_all: bool
    cron: str


@dataclass(slots=True)
class Effects:
    """Recorded in the order in which the code asked."""

    outgoing: list[Outgoing] = field(default_factory=list)
    reminders: dict[str, WantedReminder | None] = field(default_factory=dict)
    """By name; None = cancelled."""
    staged: list[Staged] | None = None
    """SQL; None = nothing (a list would be made for every turn)."""

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
        """Record a message. Raises OutboxLimit."""
        if len(self.outgoing) >= OUTBOX_MAX:
            raise OutboxLimit(f"a turn sent more than {OUTBOX_MAX} messages; spread the work over several turns")
        self.outgoing.append(Outgoing(target, kind, name, args, delay_us, message_id, options))

    def set_reminder(
        self, name: str, *, handler: str, args: bytes, due_us: int, every_us: int, catch_up_all: bool, cron: str = ""
    ) -> None:
        """Record a reminder. Raises OutboxLimit."""
        if len(self.reminders) >= REMINDERS_MAX:
            raise OutboxLimit(f"a turn set more than {REMINDERS_MAX} reminders")
        self.reminders[name] = WantedReminder(handler, args, due_us, every_us, catch_up_all, cron)

    def stage(self, staged: Staged) -> None:
        """Record a statement. Raises OutboxLimit."""
        self.staged = self.staged or []
        if len(self.staged) >= STAGED_MAX:
            raise OutboxLimit(f"a turn staged more than {STAGED_MAX} statements")
        self.staged.append(staged)

    def cancel_reminder(self, name: str) -> None:
        """Record a cancellation."""
        self.reminders[name] = None
