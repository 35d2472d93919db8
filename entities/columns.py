"""The fields of a class's state as typed columns, for whoever queries them with SQL. Pure."""

import datetime as dt
from decimal import Decimal
from enum import Enum, StrEnum
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from .definition import EntityDefinition

COLUMN_BYTES_MAX = 63
"""Postgres cuts longer names."""


class ColumnKind(StrEnum):
    """As what a column is shown."""

    TEXT = "text"
    NUMBER = "number"
    """Of a JSON number: an int is never too large for it."""
    DECIMAL = "decimal"
    """Of a JSON text."""
    FLAG = "flag"
    TIME = "time"
    DATE = "date"
    JSON = "json"


class FieldColumn(NamedTuple):
    """A field of the state."""

    name: str
    kind: ColumnKind
    default: bytes
    """JSON: what a state that was stored before there was such a field means."""


def columns_of(definition: EntityDefinition) -> list[FieldColumn]:
    """The columns of a class, in the order of its fields. Fields with names that are too long are left out."""
    defaults = msgspec.json.decode(definition.default_state, type=dict[str, msgspec.Raw])
    return [
        FieldColumn(name, _kind(field.annotation), bytes(defaults[name]))
        for name, field in definition.cls.model_fields.items()
        if name != "key" and len(name.encode()) <= COLUMN_BYTES_MAX and name in defaults
    ]


_KINDS: tuple[tuple[type, ColumnKind], ...] = (
    (bool, ColumnKind.FLAG),
    (int, ColumnKind.NUMBER),
    (float, ColumnKind.NUMBER),
    (Decimal, ColumnKind.DECIMAL),
    (str, ColumnKind.TEXT),
    (dt.datetime, ColumnKind.TIME),
    (dt.date, ColumnKind.DATE),
)
"""The first that fits: a bool is an int, too, and a datetime a date."""


def _kind(annotation: Any) -> ColumnKind:
    kinds = {_kind(part) for part in _parts(annotation)} if _parts(annotation) else {_of_class(annotation)}
    return kinds.pop() if len(kinds) == 1 else ColumnKind.JSON


def _parts(annotation: Any) -> list[Any]:
    """Of a union the members but None; of a literal and an enum the types of the values; else nothing."""
    origin = get_origin(annotation)
    if origin is UnionType or str(origin) == "typing.Union":
        return [part for part in get_args(annotation) if part is not NoneType]
    if origin is Literal:
        return [type(value) for value in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [type(member.value) for member in annotation]
    return []


def _of_class(annotation: Any) -> ColumnKind:
    if isinstance(annotation, type):
        return next((kind for cls, kind in _KINDS if issubclass(annotation, cls)), ColumnKind.JSON)
    return ColumnKind.JSON
