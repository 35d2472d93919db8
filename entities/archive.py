"""How functions for people reach the archive, and how they ask an entity's owner for maintenance.

Reading needs the database only; whatever changes something is a message to the owner of the entity, so that entities in
memory see it.
"""

from functools import cache
from typing import Any, Protocol, TypeVar, runtime_checkable

from .calls import CallOptions, Target, maintain
from .client import ambient
from .definition import EntityDefinition
from .entity import Entity
from .errors import NotConnected
from .ids import EntityId, new_message_id
from .store.archive import Archive
from .store.survey import Survey

E = TypeVar("E", bound=Entity)


@runtime_checkable
class HasArchive(Protocol):
    """A caller that can also read the store."""

    @property
    def archive(self) -> Archive:
        """The read side of its store."""
        ...


def ambient_archive() -> Archive:
    """The archive of the caller in force. Raises NotConnected."""
    caller = ambient()
    if isinstance(caller, HasArchive):
        return caller.archive
    raise NotConnected(
        f"the client here ({type(caller).__name__}) cannot read the store; pass `archive=`, or connect with "
        "`perdure.cluster.connect`"
    )


@runtime_checkable
class HasSurvey(Protocol):
    """A caller that can also read the whole namespace."""

    @property
    def survey(self) -> Survey:
        """Of its store."""
        ...


def ambient_survey() -> Survey:
    """The survey of the caller in force. Raises NotConnected."""
    caller = ambient()
    if isinstance(caller, HasSurvey):
        return caller.survey
    raise NotConnected(
        f"the client here ({type(caller).__name__}) cannot read the store; connect with `perdure.cluster.connect`"
    )


def address_of(entity: Entity | EntityId) -> EntityId:
    """The address of a ref (or of an instance in a turn)."""
    return entity if isinstance(entity, EntityId) else Target.of(entity).entity_id


def class_of(ref: E) -> type[E]:
    """The entity class of a ref or instance."""
    found: Any = Target.of(ref).entity_class
    return found  # type: ignore[no-any-return]


@cache
def definition_of(cls: type[Entity]) -> EntityDefinition:
    """The class as the engine sees it."""
    return EntityDefinition(cls)


async def ask_owner(
    entity: EntityId, what: str, args: bytes, *, message_id: str = "", timeout_s: float | None = None
) -> bytes:
    """Have the owner do something to the entity's data; returns its answer as JSON.

    `message_id`: asked again under the same id, it is done once.
    """
    options = CallOptions(timeout_s=timeout_s, idempotency_key=message_id)
    return await maintain(entity, what, args, options, message_id=message_id or new_message_id())
