"""Finding entities of a class by the fields of their state, asleep or not.

Answered from committed state in the store (promise P8), without waking anybody. The store narrows down, by an index if
the class has one for the field (`class Order(Entity, index=["status"])`), and this module loads each candidate into the
class and decides by Python's own comparison: defaults of new fields, enums, times with zones mean what they mean in a
handler.

Without an index a call looks at no more than 10,000 entities and says where to go on; a page may therefore hold fewer
than `limit` entities and yet not be the last. Pages come from consecutive moments, not from one snapshot: an entity
that changes meanwhile is found or not, never twice, since the order of a search (shard, key) never changes.
"""

import datetime as dt
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec
from pydantic import TypeAdapter, ValidationError

from .archive import ambient_archive, definition_of
from .definition import EntityDefinition
from .entity import Entity
from .errors import EntityParked, InvalidArguments
from .recurrence import from_us
from .store.archive import FIND_PREFIX, Archive, Narrow, ScanCursor, Snapshot

E = TypeVar("E", bound=Entity)

FIND_LIMIT_MAX = 1_000
EXAMINE_MAX = 10_000
EXACT_MAX = 2**53
"""Numbers below it are compared alike by Postgres and Python, whatever their type."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_OPERATORS = (*_COMPARE, "in")


class Match(Generic[E]):
    """An entity that was found: its key, and its state as of `version`."""

    __slots__ = ("key", "state", "updated_at", "version")

    def __init__(self, key: str, state: E, version: int, updated_at: dt.datetime) -> None:
        self.key = key
        self.state = state
        self.version = version
        self.updated_at = updated_at

    def __repr__(self) -> str:
        return f"<{type(self.state).__name__}/{self.key} v{self.version}>"


class Found(Generic[E]):
    """A page of a search."""

    __slots__ = ("examined", "is_indexed", "matches", "next", "unreadable")

    def __init__(
        self, matches: list[Match[E]], following: str | None, *, examined: int, unreadable: list[str], is_indexed: bool
    ) -> None:
        self.matches = matches
        self.next = following
        """Pass it as `after` for the next page; None at the end."""
        self.examined = examined
        """Entities that were looked at for this page."""
        self.unreadable = unreadable
        """Keys of entities whose stored state does not fit the class: whether they match is not known."""
        self.is_indexed = is_indexed
        """An index of the class was of use."""


class Condition:
    """One comparison of a field with a value."""

    __slots__ = ("compare", "field", "operation", "values")

    def __init__(self, field: str, operation: str, values: tuple[Any, ...]) -> None:
        self.field = field
        self.operation = operation
        self.values = values
        self.compare = _COMPARE.get(operation)

    def holds_for(self, entity: Entity) -> bool:
        """Whether the entity fulfils it. What cannot be compared does not."""
        value = getattr(entity, self.field)
        try:
            if self.compare is None:
                return any(value == wanted for wanted in self.values)
            return bool(self.compare(value, self.values[0]))
        except TypeError:
            return False


async def find(
    cls: type[E],
    where: Mapping[str, Any] | None = None,
    /,
    *,
    limit: int = 50,
    after: str | None = None,
    archive: Archive | None = None,
    **fields: Any,
) -> Found[E]:
    """Entities of `cls` whose state fulfils all conditions, in an order that never changes.

    `find(Order, status="Paid", total__ge=100, driver=None, city__in=["Bonn", "Köln"])`: a field name alone means equal;
    `__ne`, `__lt`, `__le`, `__gt`, `__ge`, `__in` compare otherwise. `where` takes conditions whose names are not
    possible as keywords. Raises InvalidArguments, StoreUnavailable.
    """
    definition = definition_of(cls)
    if not 1 <= limit <= FIND_LIMIT_MAX:
        raise InvalidArguments(f"{definition.name}: limit is 1 to {FIND_LIMIT_MAX}, not {limit}", errors=[])
    conditions = [_condition(definition, name, value) for name, value in {**(where or {}), **fields}.items()]
    narrow = [found for found in (_narrow(definition, condition) for condition in conditions) if found is not None]
    reading = archive or ambient_archive()
    cursor = None if after is None else _parse(definition, after)
    matches: list[Match[E]] = []
    unreadable: list[str] = []
    examined = 0
    while True:
        scanned = await reading.scan(
            definition.name,
            narrow=narrow,
            schema_version=definition.version,
            indexed=definition.index,
            after=cursor,
            limit=limit - len(matches),
            examine_max=EXAMINE_MAX - examined,
        )
        examined += scanned.examined
        cursor = scanned.next
        for _, key, snapshot in scanned.found:
            match = _match(definition, key, snapshot, conditions, unreadable)
            if match is not None:
                matches.append(match)
        if cursor is None or len(matches) >= limit or examined >= EXAMINE_MAX:
            following = None if cursor is None else f"{cursor.shard}/{cursor.key}"
            return Found(matches, following, examined=examined, unreadable=unreadable, is_indexed=scanned.is_indexed)


def _match(
    definition: EntityDefinition, key: str, snapshot: Snapshot, conditions: list[Condition], unreadable: list[str]
) -> Match[Any] | None:
    try:
        entity = definition.load(key, snapshot.state, version=snapshot.schema_version)
    except EntityParked:
        unreadable.append(key)
        return None
    if not all(condition.holds_for(entity) for condition in conditions):
        return None
    updated_at = from_us(snapshot.updated_us)
    return Match(key, entity, snapshot.version, updated_at)


def _parse(definition: EntityDefinition, after: str) -> ScanCursor:
    shard, slash, key = after.partition("/")
    if not (slash and shard.isascii() and shard.isdecimal() and len(shard) < 9 and _is_storable(key)):
        raise InvalidArguments(f"{definition.name}: `after` is not a cursor of a search: {after[:80]!r}", errors=[])
    return ScanCursor(int(shard), key)


# --- Conditions -------------------------------------------------------------------------------------------------------


@cache
def _adapter(cls: type[Entity], field: str) -> TypeAdapter[Any]:
    annotation: Any = cls.model_fields[field].annotation
    return TypeAdapter(annotation)


def _condition(definition: EntityDefinition, name: str, value: Any) -> Condition:
    field, _, operation = name.rpartition("__")
    if name in definition.cls.model_fields or operation not in _OPERATORS:
        field, operation = name, "eq"
    if field == "key" or field not in definition.cls.model_fields:
        known = ", ".join(known for known in definition.cls.model_fields if known != "key")
        raise InvalidArguments(
            f"{definition.name} has no field {field[:80]!r} to search by; it has {known} (each also with "
            f"{', '.join('__' + operation for operation in _OPERATORS[1:])})",
            errors=[{"field": name[:80], "message": "no such field"}],
        )
    wanted = list(value) if operation == "in" and isinstance(value, list | tuple | set | frozenset) else [value]
    return Condition(field, operation, tuple(_checked(definition, field, name, one) for one in wanted))


def _checked(definition: EntityDefinition, field: str, name: str, value: Any) -> Any:
    """The value as the field would hold it. None may be asked for of any field."""
    if value is None:
        return None
    try:
        return _adapter(definition.cls, field).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise InvalidArguments(
            f"{definition.name}: {name}={value!r:.80}: {message}", errors=[{"field": name, "message": message}]
        ) from None


# --- Narrowing: what the store can test itself, never stricter than the condition -------------------------------------


def _narrow(definition: EntityDefinition, condition: Condition) -> Narrow | None:
    kinds = _kinds(definition.cls.model_fields[condition.field].annotation)
    test, values = _test(kinds, condition)
    if not test or not all(map(_is_storable, values)):
        return None
    default = definition.cls(key="default")
    return Narrow(condition.field, test, values, or_missing=condition.holds_for(default))


def _is_storable(text: str) -> bool:
    """Postgres knows no text with NUL or with half a character: it could not even be asked for it."""
    return "\x00" not in text and (text.isascii() or text == text.encode(errors="replace").decode())


_Test = Literal["text_in", "text_from", "text_to", "number_from", "number_to", "is_null", "not_null", ""]


def _test(kinds: frozenset[str], condition: Condition) -> tuple[_Test, tuple[str, ...]]:
    operation, values = condition.operation, condition.values
    if operation == "eq" and values[0] is None:
        return "is_null", ()
    if operation == "ne" and values[0] is None:
        return "not_null", ()
    if operation in ("eq", "in") and None not in values and kinds <= {"text", "number", "flag", "none"}:
        texts = [_texts(value) for value in values]
        if all(texts) and not ("flag" in kinds and "number" in kinds):
            return "text_in", tuple(text[:FIND_PREFIX] for several in texts for text in several)
    if operation in ("lt", "le", "gt", "ge") and values[0] is not None:
        is_from = operation in ("gt", "ge")
        if kinds <= {"text", "none"}:
            return ("text_from" if is_from else "text_to"), _texts(values[0])[:1]
        if kinds <= {"number", "none"} and abs(values[0]) < EXACT_MAX:
            return ("number_from" if is_from else "number_to"), (str(values[0]),)
    return "", ()


def _kinds(annotation: Any) -> frozenset[str]:
    """As what a field of this type is stored: text, number, flag, none, or other."""
    origin = get_origin(annotation)
    if origin is UnionType or str(origin) == "typing.Union":
        return frozenset().union(*map(_kinds, get_args(annotation)))
    if origin is Literal:
        return frozenset().union(*(_kinds(type(value)) for value in get_args(annotation)))
    if annotation in (None, NoneType):
        return frozenset({"none"})
    if isinstance(annotation, type):
        if issubclass(annotation, Enum):
            return frozenset().union(*(_kinds(type(member.value)) for member in annotation))
        if annotation is bool:
            return frozenset({"flag"})
        if annotation in (int, float):
            return frozenset({"number"})
        if annotation is str:
            return frozenset({"text"})
    return frozenset({"other"})


def _texts(value: Any) -> tuple[str, ...]:
    """The texts that a stored field may have which equals this value; empty: not known."""
    if isinstance(value, Enum):
        value = value.value
    match value:
        case bool():
            return ("true" if value else "false",)
        case str():
            return (value,)
        case int() | float() if abs(value) < EXACT_MAX:
            plain = format(Decimal(repr(value)), "f")
            whole = plain.partition(".")[0] if not plain.partition(".")[2].strip("0") else plain
            return (whole, f"{whole}.0", "-0", "-0.0") if whole in ("0", "-0") else (whole, f"{whole}.0", plain)
        case _:
            return ()


# --- Over HTTP --------------------------------------------------------------------------------------------------------


def conditions_of(definition: EntityDefinition, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Conditions from a query string: values are the field's, as text; `null` is None; `__in` may be repeated.

    Raises InvalidArguments.
    """
    conditions: dict[str, Any] = {}
    for name, text in pairs:
        field, _, operation = name.rpartition("__")
        if name in definition.cls.model_fields or operation not in _OPERATORS:
            field, operation = name, "eq"
        if field == "key" or field not in definition.cls.model_fields:
            conditions[name] = text  # `find` tells what there is
            continue
        value = _from_text(definition, field, text)
        if operation == "in":
            conditions.setdefault(name, []).append(value)
        elif name in conditions:
            raise InvalidArguments(
                f"{definition.name}: {name} is given more than once; for several values use {field}__in",
                errors=[{"field": name, "message": "given more than once"}],
            )
        else:
            conditions[name] = value
    return conditions


def _from_text(definition: EntityDefinition, field: str, text: str) -> Any:
    if text == "null":
        return None
    kinds = _kinds(definition.cls.model_fields[field].annotation)
    if "text" not in kinds and kinds <= {"number", "flag", "none"}:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return text  # validation says what is wrong with it
    return text
