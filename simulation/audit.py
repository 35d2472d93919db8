"""Reading an `Audit`: all of a memory store in one cut, or entities of any store through its archive."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from perdure.entities.ids import EntityId
from perdure.entities.store.archive import Archive, Everything, Letter
from perdure.entities.store.memory import MemoryStore

from .contract import Audit, Consumed, Resumed


def audit_memory(store: MemoryStore) -> Audit:
    """Everything, as of this moment. Of a store that wraps faults around a memory store: without the faults."""
    stored = sorted(store._entities.items())
    written = [(entity, row) for entity, row in stored if row.version]
    letters = [Letter(died_us, letter) for died_us, letter in store._dead_letters.values()]
    return Audit(
        at_us=store._now_us(),
        versions={entity: row.version for entity, row in written},
        states={entity: row.state or b"null" for entity, row in written},
        schema_versions={entity: row.schema_version for entity, row in written},
        history=[
            Consumed(entity, at_us, past)
            for entity, row in stored
            for at_us, past in sorted(row.history.values(), key=_version)
        ],
        journal=[Resumed(entity, *resumed) for entity, row in stored for _, resumed in sorted(row.journal.items())],
        inbox=[envelope for _, row in stored for _, envelope in sorted(row.inbox.items())],
        reminders=[reminder for _, row in stored for _, reminder in sorted(row.reminders.items())],
        runs=[(entity, run) for entity, row in stored for _, run in sorted(row.runs.items())],
        items=[(entity, item) for entity, row in stored for _, item in sorted(row.items.items())],
        attempts=[(entity, attempt) for entity, row in stored for _, attempt in sorted(row.attempts.items())],
        dead_letters=letters,
        parked={
            entity: reason
            for entity, reason in store.parked.items()
            if store._entities[entity].updated_us <= store._parked_us[entity]
        },
    )


async def audit_archive(archive: Archive, entities: Iterable[EntityId], *, at_us: int = 0) -> Audit:
    """What the store says of these entities, each as of one moment of its own: for when nothing happens any more."""
    found: list[Everything] = []
    for entity in sorted(set(entities)):
        everything = await archive.everything(entity)
        if everything is not None:
            found.append(everything)
    return _audit_of(found, at_us)


def _audit_of(found: Sequence[Everything], at_us: int) -> Audit:
    written = [(one.loaded.entity, one) for one in found if one.loaded.version]
    return Audit(
        at_us=at_us,
        versions={entity: one.loaded.version for entity, one in written},
        states={entity: one.loaded.state or b"null" for entity, one in written},
        schema_versions={entity: one.loaded.schema_version for entity, one in written},
        history=[Consumed(one.loaded.entity, *past) for one in found for past in one.history],
        journal=[
            Resumed(one.loaded.entity, *resumed)
            for one in found
            for resumed in sorted(one.journal, key=lambda item: (item[1].workflow, item[1].run_id, item[1].number))
        ],
        inbox=[envelope for one in found for envelope in one.loaded.inbox],
        reminders=[reminder for one in found for reminder in one.reminders],
        runs=[(one.loaded.entity, run) for one in found for run in one.loaded.runs],
        items=[(one.loaded.entity, item) for one in found for item in one.loaded.items],
        attempts=[(one.loaded.entity, attempt) for one in found for attempt in one.loaded.attempts],
        dead_letters=sorted((letter for one in found for letter in one.letters), key=attrgetter("died_us")),
    )


def _version(recorded: tuple[int, object]) -> tuple[int, str]:
    row = recorded[1]
    return row.version, row.message_id  # type: ignore[attr-defined]
