"""Arguments and results as JSON, validated by pydantic from a function's signature.

One `Signature` per handler, query, workflow and activity. The caller's side turns Python arguments into a JSON object
(`dump_arguments`), the host's side turns it back (`load_arguments`); both validate strictly, so that "5" is never an
int. Compiled once, on first use, because annotations may name classes that are defined further down in the module.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, NotRequired, Required, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from .errors import DefinitionError, InvalidArguments, PayloadTooLarge, ResultNotSerialisable
from .storable import is_shared, python_only

PAYLOAD_BYTES_MAX = 2 * 1024 * 1024
PROBLEMS_MAX = 20
FIELD_CHARS_MAX = 100
MESSAGE_CHARS_MAX = 300
"""What an error tells of wrong arguments. Whoever made them must not make the answer, or the log, large."""


_INPUT_VALUE = re.compile(r"input_value=.*, (?=input_type=)", re.DOTALL)
"""Where pydantic's texts repeat the value. Greedy: rather too little is told than a piece of it."""


def where(fn: Callable[..., Any]) -> str:
    """`file:line` of a function, for messages."""
    code = inspect.unwrap(fn).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def has_nul(data: bytes) -> bool:
    """Whether JSON text holds an escaped NUL (Postgres `jsonb` cannot store it)."""
    at = data.find(b"\\u0000")
    while at >= 0:
        backslashes = 0
        while at - 1 - backslashes >= 0 and data[at - 1 - backslashes] == 0x5C:
            backslashes += 1
        if backslashes % 2 == 0:
            return True
        at = data.find(b"\\u0000", at + 1)
    return False


def validation_problems(error: ValidationError) -> list[dict[str, str]]:
    """Field and reason of each problem, without the offending input (it may be secret or huge; so may field names)."""
    return [
        {
            "field": _shortened(".".join(str(part) for part in problem["loc"]), FIELD_CHARS_MAX),
            "message": _shortened(problem["msg"], MESSAGE_CHARS_MAX),
        }
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:PROBLEMS_MAX]
    ]


def _shortened(text: str, maximum: int) -> str:
    return text if len(text) <= maximum else f"{text[:maximum]}…"


def _words(error: Exception) -> str:
    """What is wrong, without the value itself (it may be secret or huge)."""
    if not isinstance(error, ValidationError):
        return _INPUT_VALUE.sub("", str(error))
    return "; ".join(f"{found['field'] or 'value'}: {found['message']}" for found in validation_problems(error))


class Signature:
    """What a function takes and returns. `label` names it in messages (`Order.pick_up`)."""

    __slots__ = ("_arguments", "_compiled", "_fn", "_lenient", "_names", "_required", "_result", "label")

    def __init__(self, fn: Callable[..., Any], label: str, *, has_self: bool) -> None:
        """Raises DefinitionError for parameters that cannot travel: `*args`, `**kwargs`, missing annotations."""
        self._fn = fn
        self.label = label
        self._names: tuple[str, ...]
        self._compiled = False
        self._lenient: bool | None = None
        self._arguments: TypeAdapter[Any]
        self._result: TypeAdapter[Any]
        parameters = list(inspect.signature(fn).parameters.values())
        if has_self:
            if not parameters:
                raise DefinitionError(f"{label} at {where(fn)}: a method needs `self` as its first parameter")
            parameters = parameters[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DefinitionError(
                    f"{label} at {where(fn)}: `*{parameter.name}` cannot travel as a JSON object; "
                    "name every parameter and annotate it"
                )
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise DefinitionError(
                    f"{label} at {where(fn)}: `{parameter.name}` is positional-only, but arguments travel by name; "
                    "remove the `/`"
                )
            if parameter.annotation is parameter.empty and parameter.name == "self" and not has_self:
                raise DefinitionError(
                    f"{label} at {where(fn)}: an activity is a function, not a method: it has no entity's state. "
                    "Move it out of the class and pass it what it needs"
                )
            if parameter.annotation is parameter.empty:
                raise DefinitionError(
                    f"{label} at {where(fn)}: parameter `{parameter.name}` has no type annotation; "
                    f"write `{parameter.name}: str` (or whatever it is), so that it can be validated and stored"
                )
            if is_shared(parameter.default):
                raise DefinitionError(
                    f"{label} at {where(fn)}: the default of `{parameter.name}` is one "
                    f"{type(parameter.default).__name__} that all calls of all entities would share and change; write "
                    f"`{parameter.name}: ... | None = None`"
                )
        self._names = tuple(parameter.name for parameter in parameters)
        self._required = tuple(p.name for p in parameters if p.default is p.empty)

    @property
    def takes_nothing(self) -> bool:
        """Whether it can be called without any argument."""
        return not self._required

    def compile(self) -> None:
        """Build the validators now. Raises DefinitionError if a type is unknown or cannot be validated."""
        if self._compiled:
            return
        try:
            hints = get_type_hints(self._fn, include_extras=True)
            fields: dict[str, Any] = {
                name: Required[hints[name]] if name in self._required else NotRequired[hints[name]]
                for name in self._names
            }
            make_shape: Any = TypedDict
            shape = make_shape("Arguments", fields)
            shape.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, title=self.label)
            self._arguments = TypeAdapter(shape)
            self._result = TypeAdapter(hints.get("return", Any))
            for what, adapter in (("an argument", self._arguments), ("the result", self._result)):
                if found := python_only(adapter.core_schema):
                    raise TypeError(f"{what} is {found}, which cannot be read from JSON")
        except Exception as error:
            raise DefinitionError(
                f"{self.label} at {where(self._fn)}: its annotations cannot be validated "
                f"({str(error).partition(chr(10))[0]}); "
                "use types that pydantic knows, importable at module level"
            ) from error
        self._compiled = True

    def json_schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """JSON schemas of the arguments object and of the result."""
        self.compile()
        return self._arguments.json_schema(mode="validation"), self._result.json_schema(mode="serialization")

    def dump_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Validate a call's arguments and write them as a JSON object.

        Raises InvalidArguments naming the fields, PayloadTooLarge beyond 2 MiB.
        """
        if not self._names and not args and not kwargs:
            return b"{}"
        if len(args) > len(self._names):
            raise InvalidArguments(
                f"{self.label} takes {len(self._names)} arguments but {len(args)} were given", errors=[]
            )
        values = dict(zip(self._names, args, strict=False))
        for name, value in kwargs.items():
            if name in values:
                raise InvalidArguments(f"{self.label} got the argument `{name}` twice", errors=[{"field": name}])
            values[name] = value
        self.compile()
        try:
            data = self._arguments.serializer.to_json(self._arguments.validator.validate_python(values))
        except ValidationError as error:
            raise self._invalid(error) from None
        except (PydanticSerializationError, UnicodeError) as error:
            raise InvalidArguments(f"{self.label}: an argument cannot be written as JSON: {error}", errors=[]) from None
        return self._check_payload(data)

    def load_arguments(self, data: bytes, *, is_foreign: bool = False) -> dict[str, Any]:
        """Keyword arguments from a JSON object. Raises InvalidArguments, PayloadTooLarge.

        is_foreign: written by whoever calls over HTTP, not by `dump_arguments`. Then the fields of nested models are
        strict as well (a model's own default is not), unless a type says `strict=False`.
        """
        if not self._names and data == b"{}":
            return {}
        self._check_payload(data)
        self.compile()
        try:
            strict = True if is_foreign and not self._is_lenient() else None
            values: dict[str, Any] = self._arguments.validator.validate_json(data, strict=strict)
        except ValidationError as error:
            raise self._invalid(error) from None
        return values

    def dump_result(self, value: Any) -> bytes:
        """The returned value as JSON. Raises ResultNotSerialisable if it does not fit the declared type."""
        self.compile()
        try:
            data = self._result.serializer.to_json(value, warnings="error")
            # The serializer lets None and NaN pass for anything. What the caller could not read must not be committed.
            self._result.validator.validate_json(data)
        except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
            raise ResultNotSerialisable(
                f"{self.label} returned {type(value).__name__}, which does not fit its declared return type: "
                f"{_words(error)}"
            ) from None
        if len(data) > PAYLOAD_BYTES_MAX:
            raise ResultNotSerialisable(
                f"{self.label} returned {len(data)} bytes of JSON; the limit is {PAYLOAD_BYTES_MAX}",
                limit=PAYLOAD_BYTES_MAX,
            )
        if has_nul(data):
            raise ResultNotSerialisable(f"{self.label} returned a string with a NUL character, which cannot be stored")
        return data

    def load_result(self, data: bytes) -> Any:
        """The value that `dump_result` wrote. Raises ResultNotSerialisable if it does not fit the declared type."""
        self.compile()
        try:
            return self._result.validator.validate_json(data)
        except ValidationError as error:
            raise ResultNotSerialisable(
                f"{self.label}: the stored result does not fit its type: {_words(error)}"
            ) from None

    def _is_lenient(self) -> bool:
        """Whether one of the types says `strict=False` itself."""
        if self._lenient is None:
            self._lenient = _says_lenient(self._arguments.core_schema)
        return self._lenient

    def _check_payload(self, data: bytes) -> bytes:
        if len(data) > PAYLOAD_BYTES_MAX:
            raise PayloadTooLarge(
                f"{self.label}: the arguments are {len(data)} bytes of JSON; the limit is {PAYLOAD_BYTES_MAX}",
                limit=PAYLOAD_BYTES_MAX,
                got=len(data),
            )
        if has_nul(data):
            raise InvalidArguments(f"{self.label}: a string holds a NUL character, which cannot be stored", errors=[])
        return data

    def _invalid(self, error: ValidationError) -> InvalidArguments:
        problems = validation_problems(error)
        text = "; ".join(f"{p['field'] or 'arguments'}: {p['message']}" for p in problems)
        return InvalidArguments(f"{self.label} was called with wrong arguments: {text}", errors=problems)


def _says_lenient(schema: object) -> bool:
    """Whether `strict` is False anywhere in a schema of pydantic's core."""
    match schema:
        case dict():
            inner = (part for name, part in schema.items() if name not in ("default", "metadata"))
            return schema.get("strict") is False or any(map(_says_lenient, inner))
        case list() | tuple():
            return any(map(_says_lenient, schema))
        case _:
            return False
