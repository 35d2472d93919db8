"""Cursors of lists as callers see them: opaque, checked, and good for the list that they came from only.

A cursor is a position (the last row seen) with a digest of the list (and namespace) that it belongs to and of itself.
So one that was damaged on the way, made up, or taken from a search with other conditions or elsewhere is refused
instead of quietly giving wrong pages. It is no secret and needs none: whoever could forge one may read the whole list
anyway.
"""

import binascii
import hashlib
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable

from .problems import Refused

_DIGEST_BYTES = 9
CURSOR_CHARS_MAX = 4_096


def wrap(position: str | None, listing: Iterable[str]) -> str | None:
    """A position as a cursor of the list that `listing` names, in whatever order it does; None stays None."""
    if position is None:
        return None
    data = position.encode()
    return urlsafe_b64encode(_digest(data, listing) + data).decode()


def unwrap(cursor: str | None, listing: Iterable[str]) -> str | None:
    """The position again. Raises Refused."""
    if cursor is None:
        return None
    try:
        if len(cursor) > CURSOR_CHARS_MAX:
            raise ValueError
        data = b64decode(cursor.encode(), altchars=b"-_", validate=True)
        position = data[_DIGEST_BYTES:].decode()
    except (ValueError, binascii.Error, UnicodeError):
        raise _not_ours() from None
    if data[:_DIGEST_BYTES] != _digest(data[_DIGEST_BYTES:], listing):
        raise _not_ours()
    return position


def _digest(position: bytes, listing: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in (*sorted(listing), ""):
        data = part.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8) + data)
    digest.update(position)
    return digest.digest()


def _not_ours() -> Refused:
    return Refused(
        400,
        "bad_cursor",
        "`after` is not a cursor of this list: pass `next` of the page before as it is, with the same conditions, or "
        "begin without it",
    )
