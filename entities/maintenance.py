"""What an operator does to an entity's data: editing its state, replaying or discarding its dead letters.

Each is a message to the entity's owner and one turn of the entity (promises P1, P2, P4): exactly once, seen by an
entity in memory, written into its history with reason and operator (see engine.turns.maintenance).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic_core import PydanticSerializationError, to_json

from .archive import address_of, ambient_archive, ask_owner
from .entity import Entity
from .errors import IdempotencyMismatch, InvalidArguments, NoSuchLetter
from .ids import EntityId, keyed_message_id
from .messages import encode_json
from .operators import DISCARD_LETTER, EDIT, REPLAY_LETTER, Edit, LetterOrder
from .recurrence import from_us, to_us
from .store.archive import Archive, Letter, LetterCursor

LETTERS_LIMIT_MAX = 1_000
TEXT_CHARS_MAX = 1_000
"""Of a reason, or an operator's name."""


async def edit(
    entity: Entity | EntityId,
    fields: Mapping[str, Any],
    *,
    expected_version: int,
    reason: str = "",
    operator: str = "",
    idempotency_key: str = "",
) -> int:
    """Give fields of the entity's state new values, if it is still at `expected_version`; returns the new version.

    The whole state is validated by the class. Raises VersionConflict if the entity has moved on, InvalidArguments if
    the state would not fit the class; nothing has changed then.
    """
    address = address_of(entity)
    try:
        values = {name: msgspec.Raw(to_json(value)) for name, value in fields.items()}
    except (PydanticSerializationError, UnicodeError, ValueError) as error:
        raise InvalidArguments(f"{address}: a value cannot be written as JSON: {error}", errors=[]) from None
    args = Edit(
        fields=values,
        expected_version=expected_version,
        reason=reason[:TEXT_CHARS_MAX],
        operator=operator[:TEXT_CHARS_MAX],
    )
    message_id = keyed_message_id(EDIT, idempotency_key) if idempotency_key else ""
    return int(msgspec.json.decode(await ask_owner(address, EDIT, encode_json(args), message_id=message_id)))


class DeadLetterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A one-way message that was given up, and why."""

    type: str
    key: str
    message_id: str
    kind: str
    name: str
    args: Any
    sender: str
    attempts: int
    error: Any
    """ErrorBody as JSON."""
    died_at: dt.datetime


class DeadLetterPage(msgspec.Struct, frozen=True):
    """A piece of a list of dead letters."""

    letters: list[DeadLetterInfo]
    next: str | None
    """Pass it as `after` for the next piece; None at the end."""


async def dead_letters(
    entity: Entity | EntityId | None = None,
    *,
    type: type[Entity] | str | None = None,
    since: dt.datetime | None = None,
    after: str | None = None,
    limit: int = 100,
    archive: Archive | None = None,
) -> DeadLetterPage:
    """Dead letters, oldest first: of one entity, of a type, or of all. Works while no host runs, given an `archive`.

    Raises InvalidArguments, StoreUnavailable.
    """
    if not 1 <= limit <= LETTERS_LIMIT_MAX:
        raise InvalidArguments(f"limit is 1 to {LETTERS_LIMIT_MAX}, not {limit}", errors=[])
    if since is not None and since.tzinfo is None:
        raise InvalidArguments("`since` needs a time zone, e.g. tzinfo=datetime.UTC", errors=[])
    address = None if entity is None else address_of(entity)
    found = await (archive or ambient_archive()).letters(
        type=address.type if address is not None else _type_name(type),
        key=address.key if address is not None else "",
        since_us=0 if since is None else to_us(since),
        after=_parse(after) if after is not None else None,
        limit=limit + 1,
    )
    page = found[:limit]
    following = _cursor(page[-1]) if len(found) > limit else None
    return DeadLetterPage([letter_info(letter) for letter in page], following)


async def dead_letter(entity: Entity | EntityId, message_id: str, *, archive: Archive | None = None) -> DeadLetterInfo:
    """One dead letter. Raises NoSuchLetter, StoreUnavailable."""
    return letter_info(await _find(address_of(entity), message_id, archive))


async def replay_dead_letter(
    entity: Entity | EntityId,
    message_id: str,
    *,
    reason: str = "",
    operator: str = "",
    archive: Archive | None = None,
) -> str:
    """Send a dead letter's message again under a new id, which is returned; the letter is gone with the same commit.

    Exactly once: of several that replay or discard the same letter one succeeds. Should the message be given up again
    it is a new dead letter. Raises NoSuchLetter.
    """
    return await _settle(REPLAY_LETTER, address_of(entity), message_id, reason, operator, archive)


async def discard_dead_letter(
    entity: Entity | EntityId,
    message_id: str,
    *,
    reason: str = "",
    operator: str = "",
    archive: Archive | None = None,
) -> None:
    """Delete a dead letter. Raises NoSuchLetter."""
    await _settle(DISCARD_LETTER, address_of(entity), message_id, reason, operator, archive)


async def _settle(  # noqa: PLR0917 - private, and all of it is needed
    what: str, address: EntityId, message_id: str, reason: str, operator: str, archive: Archive | None
) -> str:
    letter = await _find(address, message_id, archive)
    origin, _, _ = message_id.partition("~replay-")
    new_id = f"{origin}~replay-{letter.died_us}"
    args = LetterOrder(
        message_id=message_id,
        new_id=new_id if what == REPLAY_LETTER else "",
        reason=reason[:TEXT_CHARS_MAX],
        operator=operator[:TEXT_CHARS_MAX],
    )
    try:
        # One id for whatever is done with this death of this message: only the first to do it does.
        await ask_owner(address, what, encode_json(args), message_id=f"letter:{new_id}")
    except IdempotencyMismatch:
        raise NoSuchLetter(f"{address}: {message_id} has been replayed or discarded already") from None
    return new_id


async def _find(address: EntityId, message_id: str, archive: Archive | None) -> Letter:
    letter = await (archive or ambient_archive()).letter(address, message_id)
    if letter is None:
        raise NoSuchLetter(f"{address} has no dead letter {message_id[:300]!r} (any more)")
    return letter


def _type_name(chosen: type[Entity] | str | None) -> str:
    if chosen is None or isinstance(chosen, str):
        return chosen or ""
    return chosen.entity_type()


def letter_info(letter: Letter) -> DeadLetterInfo:
    """A stored dead letter for people."""
    envelope, attempts, error = letter.letter
    return DeadLetterInfo(
        type=envelope.type,
        key=envelope.key,
        message_id=envelope.id,
        kind=str(envelope.kind),
        name=envelope.name,
        args=msgspec.json.decode(envelope.args),
        sender=envelope.sender,
        attempts=attempts,
        error=msgspec.json.decode(error),
        died_at=from_us(letter.died_us),
    )


def _cursor(letter: Letter) -> str:
    envelope = letter.letter.envelope
    return encode_json(LetterCursor(letter.died_us, envelope.type, envelope.key, envelope.id)).decode()


def _parse(cursor: str) -> LetterCursor:
    try:
        found = msgspec.json.decode(cursor, type=LetterCursor)
        from_us(found.died_us)
    except (msgspec.DecodeError, UnicodeError, OverflowError, ValueError):
        raise InvalidArguments(f"`after` is not a cursor of dead letters: {cursor[:80]!r}", errors=[]) from None
    return found
