"""Names of things: entity ids, message ids and logical send positions.

Pure values. An entity's address is `(type, key)` and is written `Type/key` everywhere a person reads it.
Message ids are UUIDv7 in hex (sortable by time, unique without coordination) or a caller's idempotency key.
"""

import hashlib
import unicodedata
from typing import NamedTuple, Self

from .errors import InvalidKey
from .sources import sources

KEY_BYTES_MAX = 512
_RERUN = "~"


class EntityId(NamedTuple):
    """Address of one entity: the name of its class and its key."""

    type: str
    key: str

    def __str__(self) -> str:
        return f"{self.type}/{self.key}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `Type/key`; the key may itself hold slashes. Raises InvalidKey if there is no slash or no key."""
        type_name, slash, key = text.partition("/")
        if not slash or not type_name:
            raise InvalidKey(f"{text!r} is not an entity address; write it as Type/key, for example Order/order-42")
        return cls(type_name, check_key(type_name, key))


def check_key(type_name: str, key: object) -> str:
    """Return `key` if it can address an entity of `type_name`; raise InvalidKey saying what is wrong otherwise.

    Slashes and any printable Unicode are fine. Two keys are the same entity only if they are equal code point by
    code point: nothing is normalised or case-folded.
    """
    if not isinstance(key, str):
        raise InvalidKey(
            f"{type_name}: an entity key is a str, not {type(key).__name__}; convert it, e.g. str({key!r})"
        )
    if not key or key.isspace():
        raise InvalidKey(f"{type_name}: an entity key must not be empty or blank")
    if key.isascii() and key.isprintable():
        size = len(key)
    else:
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise InvalidKey(f"{type_name}: the key holds a lone surrogate and cannot be stored as UTF-8") from None
        if any(unicodedata.category(char) == "Cc" for char in key):
            raise InvalidKey(f"{type_name}: the key holds a control character (NUL, newline, …), which is not allowed")
    if size > KEY_BYTES_MAX:
        raise InvalidKey(f"{type_name}: the key is {size} bytes long; the limit is {KEY_BYTES_MAX} bytes of UTF-8")
    return key


def new_message_id() -> str:
    """A UUIDv7 in hex (RFC 9562): 48 bits of Unix milliseconds, then 74 bits of operating-system randomness.

    The randomness is drawn afresh from the system for every id, so a forked process cannot repeat its parent's ids.
    """
    value = (sources.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(sources.entropy(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    return f"{value:032x}"


def new_run_id() -> str:
    """A message id with 56 further random bits, 130 in all: run ids are in tokens, which nobody may guess."""
    return new_message_id() + sources.entropy(7).hex()


def keyed_message_id(name: str, idempotency_key: str) -> str:
    """Message id for a caller's idempotency key: scoped by handler name, so one key may serve several handlers."""
    return f"{name}:{idempotency_key}"


def seed_of(run_id: str) -> str:
    """What a run's chance comes from: a run that goes on from another's journal must draw what that one drew."""
    return run_id.partition(_RERUN)[0]


def rerun_of(run_id: str) -> str:
    """A new run id with the same seed."""
    return f"{seed_of(run_id)}{_RERUN}{new_message_id()[-16:]}"


def fingerprint(*parts: bytes) -> bytes:
    """Sixteen bytes that tell payloads apart: the same idempotency key with another fingerprint is a conflict."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


class SendClock:
    """Hybrid logical clock of one sender: wall-clock microseconds that never stand still nor go back.

    Inbox rows are applied in the order of these positions. Because the sender's last position is kept with its
    state (entities) or in its process (clients), a wall clock that steps back cannot reorder what one sender sent.
    """

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self, wall_us: int) -> int:
        """The next position, greater than every one before it. `wall_us`: current time in microseconds."""
        self.last = max(wall_us, self.last + 1)
        return self.last
