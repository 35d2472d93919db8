"""Rows with their payloads sealed: what a codec sees of each kind of row, and how that is stored (security S31).

A sealed value is the JSON string `"$enc:<key id>:<base64>"`, so that columns keep their types and no store needs to
know of it. There is one blob per row: a row's fields are packed together, which is cheaper and keeps them from being
mixed. The blob's context names its place: namespace, entity, kind of row, identity of the row, and what of the rest
decides on its meaning (a message's kind and name, an outcome's `ok`, a run's status).

* A state is sealed for its version. If it has searchable fields, the column holds `{"key": ["$enc:…"], "status": …}`:
  the copies are for the database's eyes only, and no host without a codec takes it for a state, as `key` is a string.
* A dead letter keeps the message as it was sealed for the inbox: the store moves it back by itself when it is replayed.
* Marks (a state that was not kept, or is unchanged) and empty texts stay as they are.

Pure functions of rows; nothing here stores or waits. Names, ids, times and statuses stay in the clear.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from struct import Struct
from typing import Any

import msgspec

from ..codec import CannotDecode, PayloadCodec
from ..ids import EntityId
from ..messages import Envelope
from .rows import (
    STATE_NOT_KEPT,
    STATE_UNCHANGED,
    AttemptRow,
    Batch,
    DeadLetter,
    EntityWrite,
    HistoryRow,
    JournalRow,
    Loaded,
    MailboxItem,
    ReminderRow,
    RunRow,
    Suspicion,
)

SEALED = b'"$enc:'
_MARKS = (STATE_NOT_KEPT, STATE_UNCHANGED)
_NULL = b"null"
_STATE_KEY = b'"key"'

_WITHOUT_PAYLOAD = (
    "consumed", "reminders_gone", "reminders_cancelled", "items_taken", "attempts_gone", "staged", "letters_replayed",
    "letters_discarded", "audited",
)  # fmt: skip
"""Fields of a write that are stored as they are. (What is staged is the user's own SQL, for tables of their own.)"""


class _Sealed(msgspec.Struct):
    """A state with searchable fields, as stored."""

    key: tuple[str]


_sealed_state = msgspec.json.Decoder(_Sealed).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_json = msgspec.json.encode
_length = Struct("!I").pack


class Sealer:
    """Seals and opens the rows of one namespace. What opens raises CannotDecode."""

    def __init__(self, codec: PayloadCodec, namespace: str) -> None:
        self._codec = codec
        self._namespace = namespace.encode()
        self._searchable = {name: frozenset(fields) for name, fields in codec.searchable.items() if fields}
        self._row_seals: tuple[tuple[str, Callable[[EntityId, Any], object]], ...] = (
            ("waiting", lambda _, row: self.seal_envelope(row)),
            ("outbox", lambda _, row: self.seal_envelope(row)),
            ("reminders_set", lambda _, row: self.seal_reminder(row)),
            ("dead_letters", lambda _, row: self.seal_letter(row)),
            ("runs", self.seal_run),
            ("items_put", self.seal_item),
            ("attempts_set", self.seal_attempt),
        )

    def searchable(self, type_name: str) -> frozenset[str]:
        """Fields of a type's state that are stored in the clear as well."""
        return self._searchable.get(type_name, frozenset())

    # --- values -------------------------------------------------------------------------------------------------------

    def _context(self, entity: EntityId, kind: str, names: tuple[str, ...]) -> bytes:
        # No name holds a NUL: neither keys nor ids nor Postgres' texts may.
        return b"\0".join((self._namespace, *map(str.encode, (entity[0], entity[1], kind, *names))))

    def seal(self, entity: EntityId, kind: str, names: tuple[str, ...], *parts: bytes) -> bytes:
        """These parts as one JSON value."""
        key_id, blob = self._codec.encode(_packed(parts), self._context(entity, kind, names))
        return b"".join((SEALED, key_id.encode(), b":", base64.b64encode(blob), b'"'))

    def open(self, entity: EntityId, kind: str, names: tuple[str, ...], value: bytes, count: int = 1) -> list[bytes]:
        """The parts. Raises CannotDecode."""
        key_id, _, text = value[len(SEALED) : -1].partition(b":")
        try:
            blob = base64.b64decode(text, validate=True)
            data = self._codec.decode(key_id.decode(), blob, self._context(entity, kind, names))
        except (binascii.Error, UnicodeDecodeError):
            raise CannotDecode("it is not what a codec writes") from None
        return _unpacked(data, count)

    def _is_plain(self, value: bytes) -> bool:
        """Whether it was stored without a codec. Raises CannotDecode if that is not accepted."""
        if value.startswith(SEALED):
            return False
        if not self._codec.accept_plain:
            raise CannotDecode(
                "it is stored in the clear, where everything should be encoded (`accept_plain=True` reads it, while a"
                " namespace is being encrypted)"
            )
        return True

    def seal_text(self, entity: EntityId, kind: str, names: tuple[str, ...], text: str) -> str:
        """A text column's value; an empty one stays empty."""
        return self.seal(entity, kind, names, text.encode()).decode()[1:-1] if text else ""

    def open_text(self, entity: EntityId, kind: str, names: tuple[str, ...], text: str) -> str:
        """Inverse, for people: what cannot be read says why."""
        try:
            value = b'"%s"' % text.encode()
            if not text or self._is_plain(value):
                return text
            return self.open(entity, kind, names, value)[0].decode()
        except CannotDecode as error:
            return f"encrypted ({error})"

    # --- states -------------------------------------------------------------------------------------------------------

    def seal_kept(self, entity: EntityId, version: int, state: bytes) -> bytes:
        """The state that a version left, in its history or journal row."""
        return state if state in _MARKS else self.seal(entity, "state", (str(version),), state)

    def open_kept(self, entity: EntityId, version: int, state: bytes) -> bytes:
        """Inverse; marks stay marks."""
        if not state or state in _MARKS or self._is_plain(state):
            return state
        return self.open(entity, "state", (str(version),), state)[0]

    def _with_searchable(self, entity: EntityId, sealed: bytes, state: bytes) -> bytes:
        """The sealed state beside the fields that may be searched for."""
        names = self._searchable.get(entity[0])
        if names is None:
            return sealed
        shown = {name: value for name, value in _fields(state).items() if name in names}
        return _json({"key": [msgspec.Raw(sealed)], **shown})

    def open_state(self, entity: EntityId, version: int, state: bytes) -> bytes:
        """The state of an entity's own row."""
        if state.startswith(b"{") and _STATE_KEY in state:
            with suppress(msgspec.ValidationError):  # a plain one: its `key` is deep inside
                state = _json(_sealed_state(state).key[0])
        return state if self._is_plain(state) else self.open(entity, "state", (str(version),), state)[0]

    # --- rows ---------------------------------------------------------------------------------------------------------

    def seal_envelope(self, envelope: Envelope) -> Envelope:
        """A message in an inbox, or in a dead letter."""
        return msgspec.structs.replace(
            envelope, args=self.seal(envelope.entity, "message", _of_message(envelope), envelope.args)
        )

    def open_envelope(self, envelope: Envelope) -> Envelope:
        if self._is_plain(envelope.args):
            return envelope
        (args,) = self.open(envelope.entity, "message", _of_message(envelope), envelope.args)
        return msgspec.structs.replace(envelope, args=args)

    def seal_letter(self, letter: DeadLetter) -> DeadLetter:
        envelope = letter.envelope
        error = self.seal(envelope.entity, "letter", (envelope.id,), letter.error)
        return DeadLetter(self.seal_envelope(envelope), letter.attempts, error)

    def open_letter(self, letter: DeadLetter) -> DeadLetter:
        envelope = letter.envelope
        opened = self.open_envelope(envelope)
        if not letter.error.startswith(SEALED):  # of the store itself, which has found the message damaged
            return DeadLetter(opened, letter.attempts, letter.error)
        (error,) = self.open(envelope.entity, "letter", (envelope.id,), letter.error)
        return DeadLetter(opened, letter.attempts, error)

    def seal_history(self, entity: EntityId, row: HistoryRow, state: bytes) -> HistoryRow:
        """`state`: what the row keeps, sealed already."""
        # By position, as below: one is made per turn.
        sealed = self.seal(entity, "history", _of_history(row), row.fingerprint, row.args, row.outcome)
        return HistoryRow(*row[:5], b"", sealed, row.ok, _NULL, state)

    def open_history(self, entity: EntityId, row: HistoryRow) -> HistoryRow:
        """All but the state."""
        if self._is_plain(row.args):
            return row
        fingerprint, args, outcome = self.open(entity, "history", _of_history(row), row.args, 3)
        return HistoryRow(*row[:5], fingerprint, args, row.ok, outcome, row.state)

    def seal_run(self, entity: EntityId, row: RunRow) -> RunRow:
        sealed = self.seal(entity, "run", _of_run(row), row.fingerprint, row.args, row.outcome)
        return row._replace(fingerprint=b"", args=sealed, outcome=_NULL)

    def open_run(self, entity: EntityId, row: RunRow) -> RunRow:
        if self._is_plain(row.args):
            return row
        fingerprint, args, outcome = self.open(entity, "run", _of_run(row), row.args, 3)
        return row._replace(fingerprint=fingerprint, args=args, outcome=outcome)

    def seal_journal(self, entity: EntityId, row: JournalRow, state: bytes) -> JournalRow:
        """`state`: what the row keeps, sealed already."""
        return row._replace(entry=self.seal(entity, "journal", _of_resume(row), row.entry), state=state)

    def open_journal(self, entity: EntityId, row: JournalRow) -> JournalRow:
        """All but the state."""
        if self._is_plain(row.entry):
            return row
        return row._replace(entry=self.open(entity, "journal", _of_resume(row), row.entry)[0])

    def seal_reminder(self, row: ReminderRow) -> ReminderRow:
        return row._replace(args=self.seal(row.entity, "reminder", _of_reminder(row), row.args))

    def open_reminder(self, row: ReminderRow) -> ReminderRow:
        if self._is_plain(row.args):
            return row
        return row._replace(args=self.open(row.entity, "reminder", _of_reminder(row), row.args)[0])

    def seal_item(self, entity: EntityId, row: MailboxItem) -> MailboxItem:
        return row._replace(item=self.seal(entity, "item", _of_item(row), row.item))

    def open_item(self, entity: EntityId, row: MailboxItem) -> MailboxItem:
        if self._is_plain(row.item):
            return row
        return row._replace(item=self.open(entity, "item", _of_item(row), row.item)[0])

    def seal_attempt(self, entity: EntityId, row: AttemptRow) -> AttemptRow:
        return row._replace(error=self.seal(entity, "attempt", (row.operation,), row.error, row.details), details=_NULL)

    def open_attempt(self, entity: EntityId, row: AttemptRow) -> AttemptRow:
        if self._is_plain(row.error):
            return row
        error, details = self.open(entity, "attempt", (row.operation,), row.error, 2)
        return row._replace(error=error, details=details)

    def seal_suspicion(self, row: Suspicion) -> Suspicion:
        return row._replace(reason=self.seal_text(row.entity, "suspicion", (row.message_id,), row.reason))

    def open_suspicion(self, row: Suspicion) -> Suspicion:
        return row._replace(reason=self.open_text(row.entity, "suspicion", (row.message_id,), row.reason))

    def seal_step(self, entity: EntityId, operation: tuple[str, ...], result: bytes) -> bytes:
        """The result of a transactional step (cluster.postgres.steps writes it, in a transaction of its own)."""
        return self.seal(entity, "step", operation, result)

    def open_step(self, entity: EntityId, operation: tuple[str, ...], result: bytes) -> bytes:
        return result if self._is_plain(result) else self.open(entity, "step", operation, result)[0]

    # --- writes and loads ---------------------------------------------------------------------------------------------

    def batch(self, batch: Batch) -> Batch:
        """What is stored of it; the batch itself stays as it is."""
        return Batch(
            incarnation=batch.incarnation,
            epochs=batch.epochs,
            writes=[self._write(write) for write in batch.writes],
            attempts=[(entity, shard, self.seal_attempt(entity, row)) for entity, shard, row in batch.attempts],
            arrivals=[(shard, self.seal_envelope(envelope)) for shard, envelope in batch.arrivals],
        )

    def _write(self, write: EntityWrite) -> EntityWrite:
        entity = write.entity
        state = self.seal(entity, "state", (str(write.version),), write.state)

        def kept(row: HistoryRow | JournalRow) -> bytes:
            # Most often the very state of the write: sealed once, stored twice.
            is_present = row.state is write.state and row.version == write.version
            return state if is_present else self.seal_kept(entity, row.version, row.state)

        sealed = EntityWrite(
            entity=entity,
            shard=write.shard,
            expected_version=write.expected_version,
            version=write.version,
            state=self._with_searchable(entity, state, write.state),
            schema_version=write.schema_version,
            clock=write.clock,
        )
        for name in _WITHOUT_PAYLOAD:
            if rows := getattr(write, name):  # most are empty in most turns
                setattr(sealed, name, rows)
        sealed.history = [self.seal_history(entity, row, kept(row)) for row in write.history]
        sealed.journal = [self.seal_journal(entity, row, kept(row)) for row in write.journal]
        for name, seal in self._row_seals:
            if rows := getattr(write, name):
                setattr(sealed, name, [seal(entity, row) for row in rows])
        return sealed

    def open_loaded(self, loaded: Loaded) -> Loaded:
        """Whatever else is said of it stays; a journal that is known to be damaged is not looked at."""
        entity, state = loaded.entity, loaded.state
        return replace(
            loaded,
            state=None if state is None else self.open_state(entity, loaded.version, state),
            runs=[self.open_run(entity, row) for row in loaded.runs],
            journal=[
                row if row.workflow in loaded.damaged_runs else self.open_journal(entity, row) for row in loaded.journal
            ],
            items=[self.open_item(entity, row) for row in loaded.items],
            attempts=[self.open_attempt(entity, row) for row in loaded.attempts],
            inbox=[self.open_envelope(envelope) for envelope in loaded.inbox],
        )


def _of_message(envelope: Envelope) -> tuple[str, ...]:
    # A replayed letter has a new id that begins with the old one (perdure.entities.maintenance).
    return envelope.id.partition("~")[0], envelope.kind, envelope.name


def _of_history(row: HistoryRow) -> tuple[str, ...]:
    return row.message_id, str(row.version), row.kind, row.name, "ok" if row.ok else "error"


def _of_run(row: RunRow) -> tuple[str, ...]:
    return row.workflow, row.run_id, row.status


def _of_resume(row: JournalRow) -> tuple[str, ...]:
    return row.workflow, row.run_id, str(row.number)


def _of_reminder(row: ReminderRow) -> tuple[str, ...]:
    return row.name, str(row.generation), row.handler


def _of_item(row: MailboxItem) -> tuple[str, ...]:
    return row.mailbox, str(row.position), row.message_id


def _packed(parts: Sequence[bytes]) -> bytes:
    """Every part but the last with its length before it."""
    if len(parts) == 1:
        return parts[0]
    framed = [piece for part in parts[:-1] for piece in (_length(len(part)), part)]
    return b"".join((*framed, parts[-1]))


def _unpacked(data: bytes, count: int) -> list[bytes]:
    parts: list[bytes] = []
    for _ in range(count - 1):
        end = 4 + int.from_bytes(data[:4], "big")
        parts.append(data[4:end])
        data = data[end:]
    return [*parts, data]
