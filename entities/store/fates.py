"""What became of messages that entities sent, as far as the store knows: a part of the archive.

A message lives with its receiver: it waits in its inbox, then has its outcome in its history or is a dead letter. So
the fate of one that is known by receiver and id is found by primary keys. Rows of receivers are in no order by senders
(an index of that would cost every message something): what still waits or was given up is looked for among a bounded
number of rows.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from ..ids import EntityId

INBOX_LOOK = 40
"""Rows of each shard's inbox among which a sender's messages are looked for."""
LETTERS_LOOK = 2_000
"""Dead letters, the newest first, among which a sender's are looked for."""


class FateStatus(StrEnum):
    """What became of a message."""

    WAITING = "waiting"
    """It is in its receiver's inbox."""
    DELAYED = "delayed"
    """Its receiver has set it aside until it is due."""
    APPLIED = "applied"
    FAILED = "failed"
    """It has an error as its outcome: nothing of it was applied."""
    DEAD_LETTER = "dead_letter"
    UNKNOWN = "unknown"
    """Its outcome is older than the retention, or it has not come to the store."""


class Sent(NamedTuple):
    """A message, as its sender knows it."""

    receiver: EntityId
    message_id: str


class Fate(NamedTuple):
    """What became of it."""

    status: FateStatus
    version: int = 0
    """Of the receiver: the turn that applied or refused it; 0: none has, or it is not known."""
    at_us: int = 0
    """When it was applied, refused or given up; when it is due if it is delayed; 0: not known."""


class Unapplied(NamedTuple):
    """A message that waits or was given up."""

    sent: Sent
    kind: str
    name: str
    position: int
    """When it was sent, µs by its sender's clock."""
    fate: Fate


class UnappliedFew(NamedTuple):
    """Those that were found, the newest first."""

    rows: list[Unapplied]
    is_cut: bool
    """There are more rows than were looked at: there may be more of this sender."""


class Fates(Protocol):
    """What can be asked. Each method reads one committed moment. Raises StoreUnavailable."""

    async def fates(self, sender: EntityId, sent: Sequence[Sent]) -> list[Fate]:
        """What became of these messages of `sender`, in this order."""
        ...

    async def unapplied(self, sender: EntityId, *, limit: int) -> UnappliedFew:
        """Messages of `sender` that wait in an inbox or were given up, of the rows that are looked at."""
        ...


class Outcome(NamedTuple):
    """What the history of a receiver says of a message id."""

    version: int
    ok: bool
    at_us: int


class Traces(NamedTuple):
    """All that the store has of one message."""

    is_waiting: bool = False
    due_us: int = 0
    """0: it is not set aside."""
    outcome: Outcome | None = None
    due: Outcome | None = None
    """The outcome under its second id."""
    died_us: int = 0
    """0: it is no dead letter."""

    def fate(self) -> Fate:
        """What that means, the latest first: a delayed message is consumed when it is set aside."""
        last = self.due or self.outcome
        version = last.version if last is not None else 0
        if self.died_us:
            return Fate(FateStatus.DEAD_LETTER, version, self.died_us)
        if self.is_waiting:
            return Fate(FateStatus.WAITING)
        if self.due_us:
            return Fate(FateStatus.DELAYED, at_us=self.due_us)
        if last is None:
            return Fate(FateStatus.UNKNOWN)
        return Fate(FateStatus.APPLIED if last.ok else FateStatus.FAILED, version, last.at_us)


def due_id(message_id: str) -> str:
    """The id under which a delayed message is applied once it is due (engine.subjects)."""
    return f"{message_id}:due"


def newest(rows: Iterable[Unapplied], *, limit: int, is_cut: bool) -> UnappliedFew:
    """Of those that were found."""
    found = sorted(rows, key=lambda row: (row.position, row.sent), reverse=True)
    return UnappliedFew(found[:limit], is_cut or len(found) > limit)
