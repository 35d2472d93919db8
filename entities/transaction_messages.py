"""What a transaction's parties tell each other (protocol: transactions.py). MessagePack inside the arguments of an
envelope of kind TRANSACTION, whose `name` is one of `Step`; state and results in them stay JSON text.
"""

from enum import StrEnum
from typing import TypeVar

import msgspec

from .engine.effects import Outgoing, WantedReminder
from .ids import EntityId
from .store.rows import RunRow


class Step(StrEnum):
    """What is asked, and of whom."""

    HOLD = "hold"
    """Of the owner of each entity, in order of address."""
    OUTCOME = "outcome"
    """Of the first entity's owner: was this transaction committed before?"""
    COMMIT = "commit"
    """Of the first entity's owner: write it all."""
    RELEASE = "release"
    """Of all owners."""


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """Make no turn for `hold_s` seconds."""

    attempt: str
    hold_s: float


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The entity as committed, and what has to be so still when the transaction commits."""

    version: int
    epoch: int
    """Of its shard: tells a change of owner."""
    state: bytes
    """JSON; empty if the entity does not exist yet."""
    schema_version: int
    clock: int
    now_us: int
    runs: list[RunRow]
    """Live runs: whoever loads the entity next has to look whether they can go on."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What the transaction makes of one entity."""

    entity: EntityId
    held: Held
    state: bytes
    schema_version: int
    outgoing: list[Outgoing]
    reminders: dict[str, WantedReminder | None]


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """A transaction to be written."""

    transaction: str
    """Message id of its history rows: the same in every attempt."""
    name: str
    fingerprint: bytes
    result: bytes
    """JSON."""
    sender: str
    first: EntityId
    parts: list[Part]


class Recorded(msgspec.Struct, frozen=True, array_like=True):
    """Whether a transaction was committed, and with what."""

    is_committed: bool
    fingerprint: bytes = b""
    result: bytes = b"null"


class Release(msgspec.Struct, frozen=True, array_like=True):
    """The hold of this attempt is not needed any more."""

    attempt: str
    is_aborted: bool
    """It certainly has not changed anything and never will."""


T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode


def decode(data: bytes, type_: type[T]) -> T:
    """A message. Raises msgspec.DecodeError on anything else."""
    try:
        return msgspec.msgpack.decode(data, type=type_)
    except (UnicodeDecodeError, RecursionError) as error:  # the two that msgspec itself lets through
        raise msgspec.DecodeError(f"not a message of a transaction: {error}") from None
