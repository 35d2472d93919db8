"""Who is told of which event: declared on handlers and workflows, found through the registry.

Static: subscriptions change with a deploy, never at run time. An event is a name and a JSON object (its payload). A
subscriber's `key` picks the entity from the payload; its parameters take what they need of it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import is_typeddict

from .errors import DefinitionError, InvalidArguments, InvalidKey, PayloadTooLarge
from .ids import EntityId, check_key
from .messages import Kind
from .signature import PAYLOAD_BYTES_MAX, has_nul, where

if TYPE_CHECKING:
    from .definition import EntityDefinition
    from .descriptors import Handler, Workflow

EventKey = Callable[[dict[str, Any]], str | None]
EVENT_NAME_MAX = 200


class Subscription(NamedTuple):
    """`on_event=..., key=...` of a handler or workflow."""

    event: str
    key: EventKey

    @classmethod
    def of(cls, fn: Callable[..., Any], on_event: str | None, key: EventKey | None) -> "Subscription | None":
        """None if neither is given. Raises DefinitionError."""
        what = f"{getattr(fn, '__qualname__', fn)} at {where(fn)}" if inspect.isfunction(fn) else repr(fn)
        if on_event is None:
            if key is not None:
                raise DefinitionError(f'{what}: `key=` belongs to `on_event="..."`; give both or neither')
            return None
        if not is_event_name(on_event):
            raise DefinitionError(f"{what}: on_event={on_event!r}: an event's name is 1 to 200 printable characters")
        if key is None or not callable(key):
            raise DefinitionError(
                f"{what}: on_event={on_event!r} needs `key=`, a function from the event's payload to the key of the "
                'entity, e.g. key=lambda event: event["order_id"]'
            )
        return cls(on_event, key)


def is_event_name(name: object) -> bool:
    """Whether events can have this name."""
    return isinstance(name, str) and 0 < len(name) <= EVENT_NAME_MAX and name.isprintable() and not name.isspace()


class Told(NamedTuple):
    """A message to one subscriber."""

    target: EntityId
    kind: Kind
    name: str
    args: bytes


class Subscriber:
    """One handler or workflow that subscribes to an event."""

    def __init__(
        self, definition: "EntityDefinition", method: "Handler[Any, Any] | Workflow[Any, Any]", key: EventKey
    ) -> None:
        self._type = definition.name
        self._method = method
        self._key = key
        self._names = list(inspect.signature(method.fn).parameters)[1:]
        self._takes_all = len(self._names) == 1 and _is_whole(get_type_hints(method.fn)[self._names[0]])

    def told(self, event: str, payload: dict[str, Any]) -> Told | None:
        """What it is sent for an event; None if its key function says that the event is not for it.

        Raises InvalidArguments.
        """
        what = f"event {event}: {self._type}.{self._method.name}"
        try:
            key = self._key(payload)
        except Exception as error:
            raise InvalidArguments(f"{what}: its key function raised {type(error).__name__}: {error}") from error
        if key is None:
            return None
        try:
            target = EntityId(self._type, check_key(self._type, key))
        except InvalidKey as error:
            raise InvalidArguments(f"{what}: its key function returned {key!r}: {error.message}") from None
        values = (
            {self._names[0]: payload}
            if self._takes_all
            else {name: payload[name] for name in self._names if name in payload}
        )
        args = msgspec.json.encode(values)
        try:
            self._method.signature.load_arguments(args)
        except InvalidArguments as error:
            raise InvalidArguments(f"event {event}: {error.message}", **error.details) from None
        return Told(target, Kind.START if self._method.word == "workflow" else Kind.SEND, self._method.name, args)


def _is_whole(annotation: Any) -> bool:
    """Whether a single parameter of this type takes the payload as a whole rather than a field of it."""
    cls = get_origin(annotation) or annotation
    return is_typeddict(cls) or (
        isinstance(cls, type) and (issubclass(cls, BaseModel | Mapping) or dataclasses.is_dataclass(cls))
    )


class Subscriptions:
    """All subscribers of an application, by event."""

    def __init__(self, definitions: Iterable["EntityDefinition"]) -> None:
        self._by_event: dict[str, list[Subscriber]] = {}
        for definition in definitions:
            methods: list[Handler[Any, Any] | Workflow[Any, Any]] = [
                *definition.handlers.values(),
                *definition.workflows.values(),
            ]
            for method in methods:
                if method.subscription is not None:
                    event, key = method.subscription
                    self._by_event.setdefault(event, []).append(Subscriber(definition, method, key))

    def events(self) -> list[str]:
        """Names of the events that somebody subscribes to."""
        return sorted(self._by_event)

    def told(self, event: str, payload: dict[str, Any]) -> list[Told]:
        """One message per subscriber. Raises InvalidArguments if the payload does not suit one of them."""
        messages = (subscriber.told(event, payload) for subscriber in self._by_event.get(event, ()))
        return [message for message in messages if message is not None]


def payload_of(event: str, payload: object) -> dict[str, Any]:
    """A payload (mapping, pydantic model, dataclass) as a plain JSON object.

    Raises InvalidArguments, PayloadTooLarge.
    """
    if not is_event_name(event):
        raise InvalidArguments(f"publish({event!r}): an event's name is 1 to {EVENT_NAME_MAX} printable characters")
    try:
        data = to_json(payload)
    except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
        raise InvalidArguments(f"event {event}: the payload cannot be written as JSON: {error}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"event {event}: the payload is {len(data)} bytes of JSON; the limit is {PAYLOAD_BYTES_MAX}"
        )
    if has_nul(data):
        raise InvalidArguments(f"event {event}: a string holds a NUL character, which cannot be stored")
    plain = msgspec.json.decode(data)
    if not isinstance(plain, dict):
        raise InvalidArguments(
            f"event {event}: the payload is an object (a mapping, a pydantic model, a dataclass), not "
            f"{type(payload).__name__}"
        )
    return plain
