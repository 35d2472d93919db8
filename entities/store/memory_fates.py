"""What became of messages, in the memory store: plain loops, equal in what they answer to those on Postgres."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..ids import EntityId
from ..shard import shard_of
from .fates import (
    INBOX_LOOK,
    LETTERS_LOOK,
    Fate,
    FateStatus,
    Outcome,
    Sent,
    Traces,
    Unapplied,
    UnappliedFew,
    due_id,
    newest,
)
from .rows import DeadLetter, ReminderKind

if TYPE_CHECKING:
    from .memory import StoredEntity


class MemoryFates:
    """`Fates` over the memory store's own dictionaries."""

    def __init__(
        self,
        entities: "Mapping[EntityId, StoredEntity]",
        letters: Mapping[tuple[EntityId, str], tuple[int, DeadLetter]],
        shard_count: int,
    ) -> None:
        self._entities = entities
        self._letters = letters
        self._shard_count = shard_count

    async def fates(self, sender: EntityId, sent: Sequence[Sent]) -> list[Fate]:
        return [self._traces(str(sender), *one).fate() for one in sent]

    def _traces(self, sender: str, receiver: EntityId, message_id: str) -> Traces:
        stored = self._entities.get(receiver)
        second = due_id(message_id)
        died = [self._letters[receiver, one][0] for one in (message_id, second) if (receiver, one) in self._letters]
        died_us = max(died, default=0)
        if stored is None:
            return Traces(died_us=died_us)
        reminder = stored.reminders.get(message_id)
        own = stored.history.get(message_id)
        return Traces(
            is_waiting=any(one == message_id and row.sender == sender for (_, one), row in stored.inbox.items()),
            due_us=reminder.due_us if reminder is not None and reminder.kind is ReminderKind.MESSAGE else 0,
            outcome=_outcome(stored, message_id) if own is not None and own[1].sender == sender else None,
            due=_outcome(stored, second),
            died_us=died_us,
        )

    async def unapplied(self, sender: EntityId, *, limit: int) -> UnappliedFew:
        inboxes: dict[int, int] = {}
        found: list[Unapplied] = []
        for entity, stored in sorted(self._entities.items()):
            shard = shard_of(*entity, self._shard_count)
            for _, waiting in sorted(stored.inbox.items()):
                inboxes[shard] = inboxes.get(shard, 0) + 1
                if inboxes[shard] <= INBOX_LOOK and waiting.sender == str(sender):
                    sent = Sent(EntityId(*entity), waiting.id)
                    fate = Fate(FateStatus.WAITING)
                    found.append(Unapplied(sent, str(waiting.kind), waiting.name, waiting.position, fate))
        letters = sorted(self._letters.items(), key=lambda item: (item[1][0], *item[0]), reverse=True)
        for (entity, message_id), (died_us, letter) in letters[:LETTERS_LOOK]:
            envelope = letter.envelope
            if envelope.sender == str(sender):
                sent, fate = Sent(EntityId(*entity), message_id), Fate(FateStatus.DEAD_LETTER, at_us=died_us)
                found.append(Unapplied(sent, str(envelope.kind), envelope.name, envelope.position, fate))
        is_cut = any(count >= INBOX_LOOK for count in inboxes.values()) or len(letters) >= LETTERS_LOOK
        return newest(found, limit=limit, is_cut=is_cut)


def _outcome(stored: "StoredEntity", message_id: str) -> Outcome | None:
    found = stored.history.get(message_id)
    return None if found is None else Outcome(found[1].version, found[1].ok, found[0])
