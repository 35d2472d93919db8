"""An entity as one JSON document: everything that is retained of it, for inspection and replay elsewhere.

Format 1 (`"perdure_export": 1`): an object of

* `entity`: `type`, `key`, `version`, `schema_version`, `clock` (its last position as a sender), `updated_us`;
* `state`: the present state;
* `history`, `journal`: rows in order, each with `at_us` (time of the commit); `state` is what the turn left, `true` if
  it left what it found, `null` if it was not kept;
* `runs`, `reminders`, `inbox`, `mailboxes`, `attempts`, `dead_letters`: rows as stored.

Times are microseconds since the Unix epoch, fingerprints hex, JSON columns JSON. Names are those of `store.rows`. Later
releases may add members; readers ignore what they do not know and refuse another format number.
"""

from collections.abc import Iterable
from typing import Any, TypeVar, get_type_hints

import msgspec

from .archive import address_of, ambient_archive
from .entity import Entity
from .errors import EntityExists, InvalidArguments, InvalidKey, NoSuchEntity
from .ids import EntityId, check_key
from .messages import Envelope
from .store.archive import Archive
from .store.memory import MemoryStore, StoredEntity
from .store.rows import AttemptRow, DeadLetter, HistoryRow, JournalRow, Loaded, MailboxItem, ReminderRow, RunRow

FORMAT = 1
_JSON = frozenset({"args", "outcome", "state", "entry", "item", "error"})
_HEX = "fingerprint"


class _Head(msgspec.Struct):
    type: str
    key: str
    version: int
    schema_version: int
    clock: int
    updated_us: int


Row = TypeVar("Row", HistoryRow, JournalRow, RunRow, ReminderRow, MailboxItem, AttemptRow, Envelope)


async def export_entity(entity: Entity | EntityId, *, archive: Archive | None = None) -> bytes:
    """Everything that is retained of an entity, as JSON. Works while no host runs, given an `archive`.

    Raises NoSuchEntity, StoreUnavailable.
    """
    address = address_of(entity)
    found = await (archive or ambient_archive()).everything(address)
    if found is None:
        raise NoSuchEntity(f"{address}: nothing is stored for it")
    loaded = found.loaded
    return msgspec.json.encode(
        {
            "perdure_export": FORMAT,
            "entity": {
                "type": address.type,
                "key": address.key,
                "version": loaded.version,
                "schema_version": loaded.schema_version,
                "clock": loaded.clock,
                "updated_us": found.updated_us,
            },
            "state": msgspec.Raw(loaded.state or b"null"),
            "history": [{"at_us": at_us} | _members(row) for at_us, row in found.history],
            "runs": list(map(_members, loaded.runs)),
            "journal": [{"at_us": at_us} | _members(row) for at_us, row in found.journal],
            "reminders": list(map(_members, found.reminders)),
            "inbox": list(map(_members, loaded.inbox)),
            "mailboxes": list(map(_members, loaded.items)),
            "attempts": list(map(_members, loaded.attempts)),
            "dead_letters": [
                {
                    "died_us": died_us,
                    "message": _members(letter.envelope),
                    "attempts": letter.attempts,
                    "error": msgspec.Raw(letter.error),
                }
                for died_us, letter in found.letters
            ],
        }
    )


def is_export(data: bytes) -> bool:
    """Whether this is an object that says it is an export, of whatever format."""
    try:
        return "perdure_export" in msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def read_export(data: bytes) -> Loaded:
    """An exported entity with all its runs and their journals, for replaying them. Raises InvalidArguments."""
    entity, stored, _ = _read_whole(data)
    return Loaded(
        entity=entity,
        version=stored.version,
        state=stored.state,
        schema_version=stored.schema_version,
        runs=list(stored.runs.values()),
        journal=[row for _, (_, row) in sorted(stored.journal.items())],
    )


def import_entity(data: bytes, store: MemoryStore) -> EntityId:
    """Put an exported entity into a memory store, as it was: to look at it, or to run it there.

    With `LocalCluster([...], store=store)` its runs are rebuilt and go on: activities under way are tried again. Raises
    InvalidArguments for anything that is not an export of a format known here, EntityExists.
    """
    entity, stored, letters = _read_whole(data)
    if not store.restore(entity, stored, letters):
        raise EntityExists(f"{entity} exists in this store already")
    return entity


def _read_whole(data: bytes) -> tuple[EntityId, StoredEntity, list[tuple[int, DeadLetter]]]:
    try:
        document = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        number = msgspec.json.decode(document.get("perdure_export", b"null"))
        if number != FORMAT:
            raise InvalidArguments(f"this is no export of format {FORMAT} (perdure_export is {number!r})", errors=[])
        return _read(document)
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, InvalidKey, RecursionError) as error:
        raise InvalidArguments(f"this is not an exported entity: {error!r}", errors=[]) from None


def _members(row: Any) -> dict[str, Any]:
    """A row as an object: its address left out, JSON as it is."""
    found: dict[str, Any] = msgspec.structs.asdict(row) if isinstance(row, Envelope) else row._asdict()
    for name in ("entity", "type", "key") if isinstance(row, Envelope | ReminderRow) else ():
        found.pop(name, None)
    return {
        name: msgspec.Raw(value) if name in _JSON else value.hex() if name == _HEX else value
        for name, value in found.items()
    }


def _read(document: dict[str, msgspec.Raw]) -> tuple[EntityId, StoredEntity, list[tuple[int, DeadLetter]]]:
    head = msgspec.json.decode(document["entity"], type=_Head)
    entity = EntityId(head.type, check_key(head.type, head.key))
    address = {"type": entity.type, "key": entity.key}

    def rows(name: str, cls: type[Row], **more: Any) -> list[Row]:
        found = msgspec.json.decode(document.get(name, b"[]"), type=list[dict[str, msgspec.Raw]])
        return [_row(cls, members, **more) for members in found]

    def timed(name: str, cls: type[Row]) -> Iterable[tuple[int, Row]]:
        found = msgspec.json.decode(document.get(name, b"[]"), type=list[dict[str, msgspec.Raw]])
        return ((msgspec.json.decode(members["at_us"], type=int), _row(cls, members)) for members in found)

    stored = StoredEntity(
        version=head.version,
        state=bytes(document["state"]) if head.version else None,
        schema_version=head.schema_version,
        clock=head.clock,
        updated_us=head.updated_us,
        history={row.message_id: (at_us, row) for at_us, row in timed("history", HistoryRow)},
        inbox={(envelope.position, envelope.id): envelope for envelope in rows("inbox", Envelope, **address)},
        reminders={row.name: row for row in rows("reminders", ReminderRow, entity=entity)},
        runs={row.workflow: row for row in rows("runs", RunRow)},
        journal={(row.workflow, row.run_id, row.number): (at, row) for at, row in timed("journal", JournalRow)},
        items={(item.mailbox, item.position): item for item in rows("mailboxes", MailboxItem)},
        attempts={row.operation: row for row in rows("attempts", AttemptRow)},
    )
    letters: list[tuple[int, DeadLetter]] = []
    for members in msgspec.json.decode(document.get("dead_letters", b"[]"), type=list[dict[str, msgspec.Raw]]):
        message = _row(Envelope, msgspec.json.decode(members["message"], type=dict[str, msgspec.Raw]), **address)
        attempts = msgspec.json.decode(members["attempts"], type=int)
        letters.append(
            (msgspec.json.decode(members["died_us"], type=int), DeadLetter(message, attempts, bytes(members["error"])))
        )
    return entity, stored, letters


def _row(cls: type[Row], members: dict[str, msgspec.Raw], **more: Any) -> Row:
    hints = get_type_hints(cls)
    values = dict(more)
    for name, raw in members.items():
        if name in _JSON:
            values[name] = bytes(raw)
        elif name == _HEX:
            values[name] = bytes.fromhex(msgspec.json.decode(raw, type=str))
        elif name in hints:
            values[name] = msgspec.json.decode(raw, type=hints[name])
    return cls(**values)
