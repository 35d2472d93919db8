"""Entity classes as the engine sees them, and the registry through which alone types are found.

Data never names an import path: a stored or received type name is looked up in a `Registry` that was built from
classes which the application listed.
"""

import dis
import importlib
import inspect
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Any, Self

from pydantic import PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError

from .change import Upgrade, Upgrades
from .descriptors import Handler, Method, Query, Workflow
from .entity import Entity, place_of
from .errors import DefinitionError, EntityParked, StateNotSerialisable, UnknownHandler, UnknownType
from .events import Events
from .mailbox import Mailbox
from .schedules import Schedule
from .signature import has_nul, validation_problems
from .storable import python_only
from .store.survey import HOST
from .subscriptions import Subscriptions

STATE_BYTES_MAX = 4 * 1024 * 1024

_SUSPENDING = frozenset({"GET_AWAITABLE", "GET_ANEXT", "BEFORE_ASYNC_WITH", "END_ASYNC_FOR"})


BUILT_IN: tuple[type[Entity], ...] = (Events, Schedule)
"""Entity classes that every host serves without being told."""


def can_suspend(fn: Any) -> bool:
    """Whether an `async def` has any await in it. One that has none can be driven without a task."""
    return any(instruction.opname in _SUSPENDING for instruction in dis.get_instructions(fn.__code__))


class EntityDefinition:
    """One entity class: its members by name, and how its state is read and written."""

    def __init__(self, cls: type[Entity]) -> None:
        """Compiles every signature. Raises DefinitionError."""
        self.cls = cls
        self.name = cls.entity_type()
        self.version = cls.perdure_.version
        self.hosting = cls.perdure_.hosting
        self.keep_states = cls.perdure_.keep_states
        self.index = cls.perdure_.index
        self.handlers: dict[str, Handler[Any, Any]] = {}
        self.queries: dict[str, Query[Any, Any]] = {}
        self.workflows: dict[str, Workflow[Any, Any]] = {}
        self.mailboxes: dict[str, Mailbox[Any]] = {}
        upgrades: list[Upgrade] = []
        for name in dir(cls):
            member = inspect.getattr_static(cls, name, None)
            match member:
                case Handler():
                    self.handlers[name] = member
                case Query():
                    self.queries[name] = member
                case Workflow():
                    self.workflows[name] = member
                case Mailbox():
                    self.mailboxes[name] = member
                case Upgrade():
                    upgrades.append(member)
                case _:
                    continue
            if isinstance(member, Method):
                member.signature.compile()
            elif isinstance(member, Mailbox):
                member.compile(place_of(cls))
        self.upgrades = Upgrades(self.name, self.version, upgrades)
        self.suspending = {name for name, method in (self.handlers | self.queries).items() if can_suspend(method.fn)}
        _complete(cls)
        self._validate_json = cls.__pydantic_validator__.validate_json
        self._to_json = cls.__pydantic_serializer__.to_json
        try:
            self.default_state = self.dump(self.new("default"))
            self.check_loads("default", self.default_state)
        except Exception as error:
            raise DefinitionError(f"class {cls.__name__}: its default state cannot be stored: {error}") from error

    @property
    def spec(self) -> str:
        """`module:Class`, for a host to import."""
        return f"{self.cls.__module__}:{self.cls.__qualname__}"

    def new(self, key: str) -> Entity:
        """A fresh instance with default state."""
        return self.cls(key=key)

    def dump(self, entity: Entity) -> bytes:
        """The state as JSON. Raises StateNotSerialisable."""
        try:
            data = self._to_json(entity, warnings="error")
        except (PydanticSerializationError, UnicodeError, ValueError, RecursionError) as error:
            raise StateNotSerialisable(
                f"{self.name}/{entity.key}: the state cannot be written as JSON: {error}"
            ) from None
        if len(data) > STATE_BYTES_MAX:
            raise StateNotSerialisable(
                f"{self.name}/{entity.key}: the state is {len(data)} bytes of JSON; the limit is {STATE_BYTES_MAX}. "
                "Keep large or growing data in entities of its own",
                limit=STATE_BYTES_MAX,
            )
        if has_nul(data):
            raise StateNotSerialisable(f"{self.name}/{entity.key}: a string in the state holds a NUL character")
        return data

    def check_loads(self, key: str, data: bytes) -> None:
        """Raise StateNotSerialisable if this state would not load again: no turn may commit such a state."""
        try:
            self._validate_json(data)
        except ValidationError as error:
            text = "; ".join(f"{p['field']}: {p['message']}" for p in validation_problems(error))
            raise StateNotSerialisable(f"{self.name}/{key}: the state after the turn is invalid: {text}") from None

    def load(self, key: str, data: bytes | None, *, version: int | None = None) -> Entity:
        """An instance from stored state (None: default state). `version`: schema version of `data`, if not the present.

        Raises EntityParked if the bytes do not fit the class, or cannot be upgraded to it.
        """
        if data is None:
            return self.new(key)
        if version is not None and version != self.version:
            data = self.upgrades.apply(key, data, version)
        try:
            entity: Entity = self._validate_json(data)
        except ValidationError as error:
            text = "; ".join(f"{p['field']}: {p['message']}" for p in validation_problems(error))
            raise EntityParked(f"{self.name}/{key}: its stored state does not fit the class: {text}") from None
        vars(entity)["key"] = key  # the field is frozen for users
        return entity

    def replace_fields(self, entity: Entity, data: bytes, *, version: int | None = None) -> None:
        """Give `entity` the state `data` as fresh values: nothing that user code kept aliases them."""
        fresh = self.load(entity.key, data, version=version)
        object.__setattr__(entity, "__dict__", fresh.__dict__)
        object.__setattr__(entity, "__pydantic_fields_set__", fresh.__pydantic_fields_set__)

    def is_same(self, one: bytes, other: bytes) -> bool:
        """Whether two dumped states are equal. Bytes may differ where states do not: a set's order has a history."""
        return one == other or self.load("same", one) == self.load("same", other)

    def method(self, name: str) -> "Method[Any, Any] | Mailbox[Any]":
        """Any member by name. Raises UnknownHandler, listing what there is."""
        found = (
            self.handlers.get(name) or self.queries.get(name) or self.workflows.get(name) or self.mailboxes.get(name)
        )
        if found is None:
            raise self.unknown(name)
        return found

    def unknown(self, name: str) -> UnknownHandler:
        """The error for a name that is not there."""
        names = sorted(self.handlers | self.queries | self.workflows | self.mailboxes)
        return UnknownHandler(f"{self.name} has no handler {name[:80]!r}; it has {', '.join(names) or 'none'}")


def _complete(cls: type[Entity]) -> None:
    """Raise DefinitionError for fields of types that do not exist, or that no stored state could be read into."""
    try:
        if not cls.__pydantic_complete__:
            cls.model_rebuild()
    except (PydanticUserError, NameError) as error:
        raise DefinitionError(f"{place_of(cls)}: {str(error).splitlines()[0]}") from error
    fields: Any = cls.__pydantic_core_schema__
    if found := python_only(fields):
        raise DefinitionError(
            f"{place_of(cls)}: a field is {found}, which cannot be read from JSON; keep data in the state, and open "
            "what cannot be stored (connections, locks, functions) where it is used"
        )


class Registry:
    """The entity classes that an application serves, by type name.

    The built-in ones are found by name as well, but not listed: they are no part of the application.
    """

    def __init__(self, classes: Iterable[type[Entity]]) -> None:
        """Raises DefinitionError for two classes of one name."""
        self._definitions: dict[str, EntityDefinition] = {}
        for cls in classes:
            if cls in BUILT_IN:  # a module that imports them to use them
                continue
            definition = EntityDefinition(cls)
            other = self._definitions.get(definition.name)
            if other is not None and other.cls is not cls:
                raise DefinitionError(
                    f"two entity classes are named {definition.name}: {other.spec} and {definition.spec}; "
                    f"rename one, or give it `class {cls.__name__}(Entity, name=...)`"
                )
            self._definitions[definition.name] = definition
        self._built_in = {cls.entity_type(): EntityDefinition(cls) for cls in BUILT_IN}
        taken = {*self._built_in, HOST} & self._definitions.keys()
        if taken:
            spec = self._definitions[min(taken)].spec
            raise DefinitionError(f"{spec}: the type name {min(taken)} is Perdure's own; rename the class")

    @cached_property
    def subscriptions(self) -> Subscriptions:
        """Who is told of which event."""
        return Subscriptions(self)

    @classmethod
    def load(cls, specs: Iterable[str]) -> Self:
        """From `module:Class` specs, or `module` for every entity class that the module holds.

        Raises DefinitionError if a module or class cannot be found.
        """
        classes: list[type[Entity]] = []
        for spec in specs:
            module_name, _, class_name = spec.partition(":")
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                if error.name and not (module_name + ".").startswith(error.name + "."):
                    raise
                raise DefinitionError(
                    f"there is no module {module_name!r} (working directory and PYTHONPATH?)"
                ) from error
            if not class_name:
                classes.extend(entity_classes(module))
                continue
            found: Any = module
            for part in class_name.split("."):
                found = getattr(found, part, None)
            if not (isinstance(found, type) and issubclass(found, Entity)):
                raise DefinitionError(f"{module_name} has no entity class {class_name!r}")
            classes.append(found)
        return cls(dict.fromkeys(classes))

    def names(self) -> list[str]:
        """`module:Class` specs; a host in another process builds an equal registry from them.

        Raises DefinitionError for classes that another process could not import.
        """
        for definition in self:
            if "<locals>" in definition.cls.__qualname__:
                raise DefinitionError(
                    f"{definition.spec} is defined inside a function; hosts could not import it. Move it to "
                    "module level"
                )
            if definition.cls.__module__ == "__main__":
                raise DefinitionError(
                    f"{definition.name} is defined in the script that is being run (`__main__`); hosts could not "
                    "import it. Move the class to a module of its own"
                )
        return [definition.spec for definition in self]

    def get(self, type_name: str) -> EntityDefinition:
        """The definition of a type. Raises UnknownType, listing what there is."""
        definition = self.find(type_name)
        if definition is None:
            names = ", ".join(sorted(self._definitions)) or "none"
            raise UnknownType(f"no entity type {type_name[:80]!r} is served here; there is {names}")
        return definition

    def find(self, type_name: str) -> EntityDefinition | None:
        """The definition of a type, or None."""
        return self._definitions.get(type_name) or self._built_in.get(type_name)

    def built_in(self) -> Iterator[EntityDefinition]:
        """Perdure's own classes, which every host serves."""
        return iter(self._built_in.values())

    def __iter__(self) -> Iterator[EntityDefinition]:
        return iter(self._definitions.values())

    def __len__(self) -> int:
        return len(self._definitions)


def entity_classes(module: ModuleType) -> list[type[Entity]]:
    """Entity classes that a module holds (its own and imported ones), in order of definition."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Entity) and value is not Entity
    ]
