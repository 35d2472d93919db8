"""What a dedicated actor asks of its host: store operations as MessagePack, decoded against their types."""

from typing import Any, TypeVar

import msgspec

from ...entities.errors import ErrorBody, PerdureError, error_from_body
from ...entities.ids import EntityId
from ...entities.messages import Envelope, decode
from ...entities.store.port import HostFenced, NotStorable, WriteConflict
from ...entities.store.rows import Batch, HistoryRow, JournalRow, Loaded, ReminderRow


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What came of it: a value, or an error with the entities that conflict."""

    value: bytes = b""
    error: ErrorBody | None = None
    conflicts: tuple[EntityId, ...] = ()


class Control(msgspec.Struct, frozen=True, array_like=True):
    """What a host tells its actor beside messages."""

    fires: list[ReminderRow] = []
    wake: bool = False
    """There is mail in the store, or work to take up again."""


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
BATCH = msgspec.msgpack.Decoder(Batch)
LOADED = msgspec.msgpack.Decoder(Loaded)
ENVELOPES = msgspec.msgpack.Decoder(list[Envelope])
OUTCOME_KEYS = msgspec.msgpack.Decoder(list[str])
OUTCOMES = msgspec.msgpack.Decoder(list[HistoryRow])
NUMBER = msgspec.msgpack.Decoder(int)
JOURNAL = msgspec.msgpack.Decoder(list[JournalRow])
RUN_NAME = msgspec.msgpack.Decoder(tuple[str, str])
TEXT = msgspec.msgpack.Decoder(str)
ANSWER = msgspec.msgpack.Decoder(Answer)
CONTROL = msgspec.msgpack.Decoder(Control)


def read(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    """What these bytes hold. Raises msgspec.DecodeError on anything else."""
    return decode(decoder, data)


def encode(value: Any) -> bytes:
    """As sent."""
    return _encoder.encode(value)


def answer_error(error: PerdureError) -> bytes:
    """An answer that raises `error` at the other side."""
    conflicts = error.entities if isinstance(error, WriteConflict | NotStorable) else ()
    return encode(Answer(error=error.body(), conflicts=conflicts))


def read_answer(data: bytes) -> bytes:
    """The value of an answer; raises the error that it carries, msgspec.DecodeError if it is none."""
    answer = read(ANSWER, data)
    if answer.error is None:
        return answer.value
    error = error_from_body(answer.error)
    if isinstance(error, WriteConflict | NotStorable):
        error.entities = answer.conflicts
    raise error


def not_yours(entity: EntityId) -> HostFenced:
    """The error for an actor whose host has let go of its entity."""
    return HostFenced(f"{entity}: its host does not own it any more")
