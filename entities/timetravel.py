"""Past states of an entity: as of a version, the difference between two, a new entity made from one.

A turn that changes the state leaves it in its history row, if it is no larger than 8 kB (`keep_state_bytes`; larger
ones at most once a minute) and the class does not say `keep_states=False`. States go with their rows when the retention
is over. Reading needs the database only; a fork is a message to the owner of the new entity.
"""

from typing import TypeVar

import msgspec

from .archive import address_of, ambient_archive, ask_owner, class_of, definition_of
from .entity import Entity
from .errors import NoSuchEntity, VersionNotRetained
from .ids import EntityId
from .json_patch import Change, changes_between
from .messages import encode_json
from .operators import FORK, Fork
from .store.archive import Archive

E = TypeVar("E", bound=Entity)

VERSION_MAX = 2**63 - 1
"""What the store can count to."""


async def state_json(entity: Entity | EntityId, version: int | None = None, *, archive: Archive | None = None) -> bytes:
    """The state as JSON that this version left (None: the present one).

    Raises NoSuchEntity, VersionNotRetained, StoreUnavailable.
    """
    address = address_of(entity)
    reading = archive or ambient_archive()
    if version is None:
        snapshot = await reading.snapshot(address)
        if snapshot is None:
            raise NoSuchEntity(f"{address}: nothing has been committed for it yet")
        return snapshot.state
    kept = await reading.state_at(address, min(version, VERSION_MAX))
    if not kept.present:
        raise NoSuchEntity(f"{address}: nothing has been committed for it yet")
    if kept.state is None:
        raise VersionNotRetained(
            f"{address}: the state of version {version} is not kept (present version: {kept.present}). It is older "
            "than the retention, larger than what is kept of every turn, or the class says keep_states=False; "
            "`history(...)` marks the versions whose state is kept",
            version=version,
            present=kept.present,
        )
    return kept.state


async def state_at(ref: E, version: int | None = None, *, archive: Archive | None = None) -> E:
    """The entity as this version left it, as an instance of its class (None: as it is now).

    Raises NoSuchEntity, VersionNotRetained, EntityParked (the state does not fit the class of today), StoreUnavailable.
    """
    address = address_of(ref)
    reading = archive or ambient_archive()
    snapshot = await reading.snapshot(address)
    schema_version: int | None = None
    if snapshot is not None and version in (None, snapshot.version):
        data, schema_version = snapshot.state, snapshot.schema_version
    else:
        data = await state_json(ref, version, archive=reading)
    return definition_of(class_of(ref)).load(address.key, data, version=schema_version)  # type: ignore[return-value]


async def diff(entity: Entity | EntityId, one: int, other: int, *, archive: Archive | None = None) -> list[Change]:
    """What changed from version `one` to version `other`, as JSON Patch with the old values.

    Raises NoSuchEntity, VersionNotRetained, StoreUnavailable.
    """
    before = msgspec.json.decode(await state_json(entity, one, archive=archive))
    after = msgspec.json.decode(await state_json(entity, other, archive=archive))
    return changes_between(before, after)


async def fork(
    ref: E,
    version: int | None,
    new_key: str,
    *,
    reason: str = "",
    operator: str = "",
    archive: Archive | None = None,
) -> E:
    """A new entity of the same class with the state of this version (None: the present one); returns its ref.

    Only the state is copied: no workflow runs, reminders, messages or mailbox items. The new entity's history names the
    origin. Raises EntityExists if `new_key` is in use, InvalidArguments if the state does not fit the class of today,
    NoSuchEntity, VersionNotRetained, InvalidKey.
    """
    cls = class_of(ref)
    target = cls.ref(new_key)
    origin = address_of(ref)
    reading = archive or ambient_archive()
    snapshot = await reading.snapshot(origin)
    schema_version = 0
    if snapshot is not None and version in (None, snapshot.version):
        version, state, schema_version, _ = snapshot
    else:
        state = await state_json(ref, version, archive=reading)
    args = Fork(
        state=msgspec.Raw(state),
        origin=str(origin),
        origin_version=version or 0,
        schema_version=schema_version,
        reason=reason,
        operator=operator,
    )
    await ask_owner(address_of(target), FORK, encode_json(args))
    return target
