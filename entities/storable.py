"""Whether values of a type survive being written as JSON and read again, asked of pydantic when a class is defined.

Upholds P2 and P8: what a turn commits can be loaded. A type that can be checked only as a Python object (a callable, a
lock, any class that pydantic does not know) can never be read back, so it is refused where it is written down, not when
the first entity wakes with it.
"""

import types
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

_PYTHON_ONLY = {"callable": "a callable", "is-instance": "an instance of a Python class", "is-subclass": "a class"}
_NO_TYPES = frozenset({"metadata", "serialization", "config", "default", "ref", "cls", "python_schema", "expected"})
"""Parts of a schema that say nothing about JSON input. (`python_schema`: there is another branch for JSON.)"""

SHARED = (list, dict, set, bytearray)


def python_only(schema: Any) -> str:
    """What in a pydantic core schema can never be read from JSON, in words; empty if there is nothing."""
    return next(_found(schema), "")


def _found(schema: Any) -> Iterator[str]:
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from _found(part)
    elif isinstance(schema, dict):
        kind = schema.get("type")
        if isinstance(kind, str) and kind in _PYTHON_ONLY:
            cls = schema.get("cls")
            yield _PYTHON_ONLY[kind] + (f" ({cls.__qualname__})" if isinstance(cls, type) else "")
        for name, part in schema.items():
            if name not in _NO_TYPES:
                yield from _found(part)


def has_alias(field: FieldInfo) -> bool:
    """Whether the field goes by another name in JSON, under which it would be written or read but not both."""
    return any(alias is not None for alias in (field.alias, field.validation_alias, field.serialization_alias))


def is_shared(value: object) -> bool:
    """Whether this object, if it is kept once for all, is changed by one entity for all others."""
    return isinstance(value, SHARED)


def hidden_method(member: object) -> object:
    """What a `property`, `classmethod` or the like wraps, or the member itself."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    if isinstance(member, types.FunctionType):
        return getattr(member, "__wrapped__", member)
    return member
