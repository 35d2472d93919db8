"""`Entity`: the base class of user code. Fields are the durable state; decorated methods are its behaviour."""

import difflib
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError
from pydantic._internal._model_construction import ModelMetaclass
from pydantic.fields import FieldInfo

from .calls import Target
from .change import Upgrade
from .context import current
from .descriptors import Handler, Method, Query, Workflow
from .errors import DefinitionError, DurableAwaitInHandler
from .hosting import Dedicated
from .ids import EntityId, check_key
from .mailbox import Mailbox
from .repeatable import check_repeatable, warn_of_stale_reads
from .signature import where
from .storable import has_alias, hidden_method, is_shared

log = logging.getLogger("perdure.definition")

RESERVED = ("key", "ref")
TYPE_NAME_MAX = 128
"""Characters: it is part of every key in the database."""


if TYPE_CHECKING:
    _EntityMeta = ModelMetaclass  # else its dataclass transform, which types the constructor, would be lost
else:

    class _EntityMeta(ModelMetaclass):
        """Makes mistakes that pydantic finds DefinitionErrors with file and line."""

        def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **kwargs: Any) -> type:
            try:
                return super().__new__(mcs, name, bases, namespace, **kwargs)
            except PydanticUserError as error:
                reason = str(error).split("\n", 1)[0]
                raise DefinitionError(
                    f"class {name} ({_line_of(namespace)}): {reason} State is annotated fields of types that "
                    "can be written as JSON and read again; what all instances share is a ClassVar"
                ) from error


class Entity(BaseModel, metaclass=_EntityMeta):
    """Base of durable entities.

    ```python
    class Counter(Entity):
        value: int = 0

        @handler
        async def add(self, amount: int) -> int:
            self.value += amount
            return self.value

    await Counter.ref("visits").add(1)
    ```

    Class keywords: `hosting=Dedicated(...)` gives each active instance a Ray actor of its own; `name="..."` sets the
    stored type name (default: the class's name), so that a class can be renamed; `version=N` is the state's schema
    version (see `@upgrade`); `keep_states=False` keeps no states of past versions (for time travel); `index=["status"]`
    makes searching by these fields fast. Definition mistakes raise DefinitionError at import, naming file, line and the
    fix.
    """

    model_config = ConfigDict(ignored_types=(Handler, Query, Workflow, Mailbox, Upgrade), extra="ignore")

    key: str = Field(default="", exclude=True, frozen=True)
    """The entity's key. Not part of the stored state."""

    perdure_: ClassVar["ClassOptions"]

    if TYPE_CHECKING:
        # Pydantic's metaclass passes class keywords on to __init_subclass__; type checkers need them declared.
        def __init_subclass__(
            cls,
            *,
            hosting: Dedicated | None = None,
            name: str = "",
            version: int = 1,
            keep_states: bool = True,
            index: Sequence[str] = (),
            **kwargs: Any,
        ) -> None: ...

    else:

        def __init_subclass__(
            cls,
            *,
            hosting: Dedicated | None = None,
            name: str = "",
            version: int = 1,
            keep_states: bool = True,
            index: Sequence[str] = (),
            **kwargs: Any,
        ) -> None:
            if kwargs:
                _refuse_keywords(cls, kwargs)
            super().__init_subclass__()
            cls.perdure_ = ClassOptions(
                name or cls.__name__, hosting, version, keep_states=keep_states, index=tuple(index)
            )

        @classmethod
        def __pydantic_init_subclass__(
            cls,
            *,
            hosting: Dedicated | None = None,
            name: str = "",
            version: int = 1,
            keep_states: bool = True,
            index: Sequence[str] = (),
            **kwargs: Any,
        ) -> None:
            super().__pydantic_init_subclass__(**kwargs)
            check_class(cls)

    if not TYPE_CHECKING:  # or every misspelt field would be legal

        def __setattr__(self, name: str, value: Any) -> None:
            turn = current.get()
            if turn is not None and turn.is_closed:
                raise DurableAwaitInHandler(
                    f"{turn.entity}: the turn has ended; a task that outlives its handler cannot set `{name}`. Await "
                    "the task in the handler, or make it a @workflow"
                )
            super().__setattr__(name, value)

    @classmethod
    def ref(cls, key: str) -> Self:
        """The entity of this class at `key`, wherever it lives; it need not exist yet.

        Typed as the class itself: its handlers, queries, workflows and mailboxes are calls to that entity.
        Raises InvalidKey.
        """
        return cast("Self", Target(cls, EntityId(cls.perdure_.name, check_key(cls.perdure_.name, key))))

    @classmethod
    def entity_type(cls) -> str:
        """The name under which instances are stored."""
        return cls.perdure_.name


class ClassOptions:
    """Class keywords of an entity class."""

    __slots__ = ("hosting", "index", "keep_states", "name", "version")

    def __init__(
        self,
        name: str,
        hosting: Dedicated | None,
        version: int,
        *,
        keep_states: bool = True,
        index: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.hosting = hosting
        self.version = version
        self.keep_states = keep_states
        self.index = index


def check_class(cls: type[Entity]) -> None:
    """Raise DefinitionError if the class cannot be a durable entity."""
    place = place_of(cls)
    name = cls.perdure_.name
    _check_options(cls, place)
    if not name.isidentifier():
        raise DefinitionError(f"{place}: the type name {name!r} is not an identifier")
    if cls.perdure_.version < 1:
        raise DefinitionError(f"{place}: version={cls.perdure_.version}; schema versions count from 1")
    _check_index(cls, place)
    if cls.__private_attributes__:
        private = ", ".join(cls.__private_attributes__)
        raise DefinitionError(
            f"{place}: {private} would be lost with every passivation; make it a field (without the underscore) or a "
            "ClassVar"
        )
    for field_name, field in cls.model_fields.items():
        _check_field(cls, place, field_name, field)
    for member_name, member in vars(cls).items():
        hidden = hidden_method(member)
        if hidden is not member and isinstance(hidden, Method):
            raise DefinitionError(
                f"{place}: `{member_name}` is a @{hidden.word} under another decorator ({type(member).__name__}) "
                f"that hides it; write @{hidden.word} above all others, and no property or classmethod"
            )
        if isinstance(member, Method | Mailbox):
            _check_member(place, member_name, member)
        if isinstance(member, Workflow):
            check_repeatable(cls, member_name, member.fn)
            warn_of_stale_reads(cls, member_name, member.fn, cls.model_fields)
        if member_name in cls.__class_vars__ and is_shared(member):
            log.warning(
                "%s: ClassVar `%s` is one %s that all entities of a process share and nobody stores; make it a field, "
                "or a tuple or frozenset if it never changes", place, member_name, type(member).__name__,
            )  # fmt: skip
    _check_inherited(cls, place)


def _check_inherited(cls: type[Entity], place: str) -> None:
    for base in cls.__mro__[1:]:
        for member_name, member in vars(base).items():
            if isinstance(member, Method):
                own = inspect.getattr_static(cls, member_name)
                if own is member and isinstance(own, Workflow):
                    check_repeatable(cls, member_name, own.fn)  # again: its helpers may be other ones here
                if not isinstance(own, Method) or own.word != member.word:
                    raise DefinitionError(
                        f"{place}: `{member_name}` is a @{member.word} in {base.__name__} but "
                        f"{'a @' + own.word if isinstance(own, Method) else 'something else'} here; decorate it alike"
                    )


def _check_index(cls: type[Entity], place: str) -> None:
    for name in cls.perdure_.index:
        if name not in cls.model_fields or name == "key":
            raise DefinitionError(f"{place}: index={list(cls.perdure_.index)}: there is no field `{name}`")


def _check_options(cls: type[Entity], place: str) -> None:
    options = cls.perdure_
    for word, given, wanted in (
        ("name", options.name, str),
        ("version", options.version, int),
        ("hosting", options.hosting, Dedicated | None),
        ("keep_states", options.keep_states, bool),
    ):
        if not isinstance(given, wanted) or (wanted is int and isinstance(given, bool)):
            raise DefinitionError(f"{place}: {word}={given!r} is not of type {getattr(wanted, '__name__', wanted)}")
    if len(options.name) > TYPE_NAME_MAX:
        raise DefinitionError(f"{place}: the type name has {len(options.name)} characters; at most {TYPE_NAME_MAX}")
    if cls.model_config.get("frozen"):
        raise DefinitionError(f"{place}: a frozen entity could never change its state; remove `frozen`")


def _refuse_keywords(cls: type, given: Mapping[str, Any]) -> NoReturn:
    known = ("hosting", "index", "keep_states", "name", "version")
    close = difflib.get_close_matches(next(iter(given)), known, n=1)
    raise DefinitionError(
        f"class {cls.__name__} ({cls.__module__}): {', '.join(given)} is no class keyword of an entity"
        + (f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}")
    )


def _line_of(namespace: Mapping[str, Any]) -> str:
    """Where a class that could not be made is written: the line of the class statement, as far as it can be told."""
    frame = sys._getframe(2)  # noqa: SLF001 - the class statement, or somebody's metaclass
    while frame.f_back is not None and frame.f_globals.get("__name__") != namespace.get("__module__"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def place_of(cls: type) -> str:
    """The class with its file and line, for messages."""
    for member in vars(cls).values():
        if isinstance(member, Method):
            return f"class {cls.__name__} ({where(member.fn)})"
    try:
        return f"class {cls.__name__} ({inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]})"
    except (OSError, TypeError):
        return f"class {cls.__name__} ({cls.__module__})"


def _check_field(cls: type[Entity], place: str, name: str, field: FieldInfo) -> None:
    if isinstance(field.default, Method | Mailbox):
        word = field.default.word if isinstance(field.default, Method) else "mailbox"
        raise DefinitionError(f"{place}: `{name}` is a field of a base class and cannot be a {word} here; rename it")
    if name == "key":
        if "key" in inspect.get_annotations(cls) or (isinstance(field.default, str) and field.default):
            raise DefinitionError(f"{place}: `key` is the entity's address and cannot be a field; call it otherwise")
        return
    if field.is_required():
        raise DefinitionError(
            f"{place}: field `{name}` has no default; every field needs one, because an entity exists from its first "
            f"message on. Write `{name}: ... = <default>` (or `Field(default_factory=...)`)"
        )
    if has_alias(field):
        raise DefinitionError(
            f"{place}: field `{name}` has an alias: it would be stored under one name and looked for under another, "
            "and be lost; remove it (for a renamed field write an @upgrade)"
        )
    if field.exclude:
        raise DefinitionError(f"{place}: field `{name}` is excluded from the state and would be lost; use a ClassVar")


def _check_member(place: str, name: str, member: "Method[Any, Any] | Mailbox[Any]") -> None:
    word = member.word if isinstance(member, Method) else "mailbox"
    if name in RESERVED or name.startswith(("_", "model_")):
        raise DefinitionError(
            f"{place}: `{name}` cannot be a {word}: names with `_` or `model_` in front, `key` and "
            "`ref` are reserved; rename it"
        )
    if isinstance(member, Method) and member.fn.__name__ not in (name, "<lambda>"):
        raise DefinitionError(
            f"{place}: `{name}` and `{member.fn.__name__}` are one {word} under two names; keep one of them"
        )
