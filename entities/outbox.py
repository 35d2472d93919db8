"""What an entity has sent, and what became of it: for people, from committed rows alone (promise P8).

There is no table of sent messages: in the commit of its turn a message goes straight to its receiver's inbox. What a
workflow has sent stands in its journal, with the receiver, and is looked up there by its id. What handlers have sent is
known to the receivers only, so of that the outbox finds what somebody may have to act on: messages that still wait, and
dead letters. All else of it is in the receivers' histories, by sender.

Bounded whatever the entity has sent: about `MESSAGES_MAX` look-ups by primary key, and the first rows of every inbox.
"""

import datetime as dt
from typing import TypedDict

import msgspec

from .archive import address_of, ambient_archive
from .entity import Entity
from .history import HistoryEvent, What, history
from .ids import EntityId
from .recurrence import from_us
from .store.archive import Archive
from .store.fates import Fate, Sent, Unapplied

MESSAGES_MAX = 500
"""A page ends with the turn that makes it as long."""


class SentMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that an entity has sent."""

    message_id: str
    type: str
    key: str
    """`type` and `key` of its receiver."""
    kind: str
    """`send`, `call`, `start`, `signal`, …; of a workflow's messages `send` or `call`."""
    name: str
    """Handler, workflow or mailbox of the receiver."""
    sent_at: dt.datetime
    status: str
    """`waiting` (in the inbox of the receiver), `delayed` (until `settled_at`), `applied`, `failed` (with an error),
    `dead_letter` (given up), or `unknown`: its outcome is older than what is retained."""
    settled_at: dt.datetime | None = None
    """When it was applied, refused or given up; when it is due, if delayed."""
    receiver_version: int | None = None
    """The turn of the receiver that applied or refused it."""
    version: int | None = None
    """The turn of this entity that sent it; None: it was found at its receiver, and its turn is not known."""
    workflow: str = ""
    run_id: str = ""
    operation: int | None = None


class Outbox(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what an entity has sent, the newest first."""

    messages: list[SentMessage]
    next: int | None
    """Pass it as `before` for the next piece; None at the end."""
    is_cut: bool = False
    """Inboxes or dead letters are too many to be looked through: more of what handlers sent may wait."""


async def outbox(
    entity: Entity | EntityId, *, before: int = 0, limit: int = 100, archive: Archive | None = None
) -> Outbox:
    """What an entity has sent with about `limit` turns before version `before` (0: the newest), and where it is.

    Everything that workflows sent, as long as their journals are kept; and in the first piece whatever else was found
    that waits or was given up: of handlers, or of turns that come again in later pieces. Works while no host runs,
    given an `archive`. Raises InvalidArguments, StoreUnavailable.
    """
    address = address_of(entity)
    reading = archive or ambient_archive()
    page = await history(
        address, after=before, limit=limit, kinds=(What.SENT, What.SCHEDULED), newest_first=True, archive=reading
    )
    sent, following = _page([event for event in page.events if event.message_id], page.next)
    fates = await reading.fates(address, [Sent(_receiver(event), event.message_id) for event in sent])
    messages = [_of_run(event, fate) for event, fate in zip(sent, fates, strict=True)]
    if before:
        return Outbox(messages=messages, next=following)
    few = await reading.unapplied(address, limit=MESSAGES_MAX)
    known = {(one.type, one.key, one.message_id) for one in messages}
    messages += [_found(one) for one in few.rows if (*one.sent.receiver, one.sent.message_id) not in known]
    messages.sort(key=lambda one: one.sent_at, reverse=True)
    return Outbox(messages=messages, next=following, is_cut=few.is_cut)


def _page(events: list[HistoryEvent], following: int | None) -> tuple[list[HistoryEvent], int | None]:
    """Whole turns, up to the one that makes it too long."""
    if len(events) <= MESSAGES_MAX:
        return events, following
    last = events[MESSAGES_MAX - 1].version
    kept = [event for event in events if event.version >= last]
    return kept, last if len(kept) < len(events) else following


def _receiver(event: HistoryEvent) -> EntityId:
    return EntityId.parse(event.details["target"])


def _of_run(event: HistoryEvent, fate: Fate) -> SentMessage:
    receiver = _receiver(event)
    return SentMessage(
        message_id=event.message_id,
        type=receiver.type,
        key=receiver.key,
        kind=event.kind,
        name=event.name.rpartition(".")[2],
        sent_at=event.at,
        version=event.version,
        workflow=event.workflow,
        run_id=event.run_id,
        operation=event.operation,
        **_settled(fate),
    )


def _found(one: Unapplied) -> SentMessage:
    return SentMessage(
        message_id=one.sent.message_id,
        type=one.sent.receiver.type,
        key=one.sent.receiver.key,
        kind=one.kind,
        name=one.name,
        sent_at=from_us(one.position),
        **_settled(one.fate),
    )


class _Settled(TypedDict):
    status: str
    settled_at: dt.datetime | None
    receiver_version: int | None


def _settled(fate: Fate) -> _Settled:
    return {
        "status": str(fate.status),
        "settled_at": from_us(fate.at_us) if fate.at_us else None,
        "receiver_version": fate.version or None,
    }
