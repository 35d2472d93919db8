"""Envelopes as table columns: what people query has a column, the rest is one JSON array that is mostly absent."""

from typing import Any

import msgspec

from ...entities.messages import Envelope, Kind

_Extra = tuple[bool, int, tuple[str, ...], str, int, str]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Extra).decode
_NO_EXTRA: _Extra = (False, 0, (), "", 0, "")


def to_columns(envelope: Envelope) -> tuple[Any, ...]:
    """(position, message_id, kind, name, args, sender, reply_to, extra), the address left out."""
    extra = (
        envelope.is_retry,
        envelope.delay_us,
        envelope.chain,
        envelope.trace,
        envelope.timeout_us,
        envelope.options,
    )
    return (
        envelope.position,
        envelope.id,
        envelope.kind,
        envelope.name,
        envelope.args,
        envelope.sender,
        envelope.reply_to,
        b"null" if extra == _NO_EXTRA else _encode(extra),
    )


def from_columns(type_name: str, key: str, columns: tuple[Any, ...]) -> Envelope:
    """Inverse of `to_columns`; `extra` may be None. Raises ValueError, msgspec.DecodeError for what it never wrote."""
    position, message_id, kind, name, args, sender, reply_to, extra = columns
    is_retry, delay_us, chain, trace, timeout_us, options = _NO_EXTRA if extra is None else _decode(extra)
    return Envelope(
        id=message_id,
        type=type_name,
        key=key,
        kind=Kind(kind),
        name=name,
        args=args,
        sender=sender,
        position=position,
        is_retry=is_retry,
        reply_to=reply_to,
        delay_us=delay_us,
        chain=chain,
        trace=trace,
        timeout_us=timeout_us,
        options=options,
    )


def for_people(type_name: str, key: str, columns: tuple[Any, ...]) -> Envelope:
    """As `from_columns`, but also of a damaged row: what cannot be decoded is shown as it is, or left out."""
    try:
        return from_columns(type_name, key, columns)
    except (ValueError, TypeError, msgspec.DecodeError):
        position, message_id, kind, name, args, sender, reply_to, _ = columns
        return Envelope(
            id=message_id, type=type_name, key=key, kind=kind, name=name, args=args, sender=sender, position=position,
            reply_to=reply_to,
        )  # fmt: skip
