"""The shapes of arguments and results as types, for OpenAPI and for query strings.

Nothing is validated with them on the way of a POST: `Signature` does that, for callers in Python and over HTTP alike.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NamedTuple, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import NotRequired, Required, TypedDict  # noqa: UP035 - one family: pydantic wants its TypedDict

from ..entities.descriptors import Method
from ..entities.mailbox import Mailbox

_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})


class Parameter(NamedTuple):
    """One parameter of a method."""

    name: str
    annotation: Any
    is_required: bool
    default: Any


@cache
def parameters(method: Method[Any, Any]) -> tuple[Parameter, ...]:
    """The parameters of a handler, query or workflow, without `self`."""
    hints = _hints(method.fn)
    found = list(inspect.signature(method.fn).parameters.values())[1:]
    return tuple(Parameter(p.name, hints[p.name], p.default is p.empty, p.default) for p in found)


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(fn, include_extras=True)


@cache
def arguments_type(method: Method[Any, Any], name: str) -> Any:
    """The object of arguments as a type called `name`."""
    fields: dict[str, Any] = {}
    for parameter in parameters(method):
        annotation = parameter.annotation
        if parameter.is_required:
            fields[parameter.name] = Required[annotation]
            continue
        if isinstance(parameter.default, str | int | float | bool | None):
            annotation = Annotated[annotation, Field(json_schema_extra={"default": parameter.default})]
        fields[parameter.name] = NotRequired[annotation]
    return _object_type(name, fields)


def result_type(method: Method[Any, Any]) -> Any:
    """What it returns; `Any` if it does not say."""
    return _hints(method.fn).get("return", Any)


def item_type(mailbox: Mailbox[Any]) -> Any:
    """What a mailbox holds."""
    return mailbox.item


def has_schema(annotation: Any, *, is_result: bool) -> bool:
    """Whether OpenAPI can describe it; some custom types only validate."""
    try:
        TypeAdapter(annotation).json_schema(mode="serialization" if is_result else "validation")
    except Exception:  # noqa: BLE001 - whatever user types raise: they are then described as "anything"
        return False
    return True


class QueryParameter(NamedTuple):
    """A parameter of a query that fits into a query string."""

    name: str
    schema: dict[str, Any]
    is_required: bool


@cache
def query_parameters(method: Method[Any, Any]) -> tuple[QueryParameter, ...] | None:
    """The parameters that a query string can carry; None if a required one does not fit into it."""
    found: list[QueryParameter] = []
    for parameter in parameters(method):
        schema = _scalar_schema(parameter.annotation)
        if schema is not None:
            found.append(QueryParameter(parameter.name, schema, parameter.is_required))
        elif parameter.is_required:
            return None
    return tuple(found)


@cache
def from_strings(method: Method[Any, Any]) -> TypeAdapter[Any]:
    """Reads the values of a query string."""
    names = {parameter.name for parameter in query_parameters(method) or ()}
    fields: dict[str, Any] = {
        p.name: Required[p.annotation] if p.is_required else NotRequired[p.annotation]
        for p in parameters(method)
        if p.name in names
    }
    return TypeAdapter(_object_type("QueryString", fields))


def _object_type(name: str, fields: dict[str, Any]) -> Any:
    make: Any = TypedDict  # called as a function: type checkers know it only with literals
    shape = make(name, fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid")
    return shape


def _scalar_schema(annotation: Any) -> dict[str, Any] | None:
    try:
        schema = TypeAdapter(annotation).json_schema()
    except Exception:  # noqa: BLE001 - as above
        return None
    definitions: dict[str, Any] = schema.pop("$defs", {})
    return _inlined(schema, definitions)


def _inlined(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """The schema without references if it describes one scalar, else None."""
    if "$ref" in schema:
        target = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"))
        return None if target is None or "$ref" in target else _inlined(target, definitions)
    if "anyOf" in schema:
        options = [_inlined(option, definitions) for option in schema["anyOf"]]
        return None if None in options else schema | {"anyOf": options}
    if schema.get("type") in _SCALARS or "enum" in schema or "const" in schema:
        return schema
    return None
