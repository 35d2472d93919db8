"""Cursors of lists, as callers see them: good in the namespace that gave them, and refused everywhere else.

The mark is no secret and protects nothing by itself (a cursor only says where to go on); it turns a mix-up of two
gateways into an error.
"""

import hashlib

from ..entities.errors import InvalidArguments


def marked(cursor: str | None, namespace: str) -> str | None:
    """What the caller gets as `next`."""
    return None if cursor is None else f"{_mark(namespace)}.{cursor}"


def unmarked(text: str | None, namespace: str) -> str | None:
    """Inverse of marked. Raises InvalidArguments for a cursor of another namespace, or none at all."""
    if text is None:
        return None
    mark, _, cursor = text.partition(".")
    if mark != _mark(namespace):
        message = f"`after` is not a cursor that this gateway gave: {text[:80]!r}"
        raise InvalidArguments(message, errors=[{"field": "after", "message": message}])
    return cursor


def _mark(namespace: str) -> str:
    return hashlib.blake2b(namespace.encode(), digest_size=4).hexdigest()
