"""The store port in memory: same promises as Postgres within one process, no SQL, no durability.

For the test kit and the engine's tests. One event loop; no method awaits anything, so each is atomic. Faults and
latency are the business of wrappers, not of this module. tests/store holds it to the same suite as Postgres.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from zlib import crc32

import msgspec

from ..ids import EntityId
from ..messages import Envelope, OperationAddress
from ..shard import shard_of
from .archive import Letter
from .memory_archive import MemoryArchive
from .memory_directory import MemoryDirectory
from .memory_survey import MemorySurvey
from .port import HostFenced, StagedRefused, WriteConflict
from .rows import (
    AttemptRow,
    Batch,
    DeadLetter,
    DuePosition,
    EntityWrite,
    HistoryRow,
    JournalRow,
    Loaded,
    MailboxItem,
    ReminderRow,
    RunRow,
    RunStatus,
    Staged,
    Suspicion,
    suspect_id,
)
from .survey import Audited, Minute


@dataclass(slots=True)
class StoredEntity:
    """Everything stored about one entity."""

    version: int = 0
    state: bytes | None = None
    schema_version: int = 0
    clock: int = 0
    history: dict[str, tuple[int, HistoryRow]] = field(default_factory=dict)
    """By message id, with the time it was recorded."""
    inbox: dict[tuple[int, str], Envelope] = field(default_factory=dict)
    reminders: dict[str, ReminderRow] = field(default_factory=dict)
    runs: dict[str, RunRow] = field(default_factory=dict)
    journal: dict[tuple[str, str, int], tuple[int, JournalRow]] = field(default_factory=dict)
    """By (workflow, run, number), with the time it was recorded."""
    items: dict[tuple[str, int], MailboxItem] = field(default_factory=dict)
    attempts: dict[str, AttemptRow] = field(default_factory=dict)
    updated_us: int = 0
    checksum: int | None = None
    """Of what was written; None: not checked."""
    entry_sums: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """Checksums of journal rows; those without are not checked."""


_NOTHING = StoredEntity()


def wall_clock_us() -> int:
    """The machine's own time, µs."""
    return time.time_ns() // 1_000


class MemoryStore(MemoryDirectory):
    """EntityStore and Directory in memory. `now_us` is "the database's" clock in microseconds since the epoch."""

    def __init__(self, *, shards: int = 16, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(shards=shards, now_us=now_us)
        self._entities: dict[EntityId, StoredEntity] = {}
        self.parked: dict[EntityId, str] = {}
        """Entities whose stored state cannot be loaded, with the reason."""
        self._parked_us: dict[EntityId, int] = {}
        self.execute: Callable[[Staged], None] | None = None
        """Stands for the database that staged SQL would be executed in; raises to refuse a statement."""
        self._dead_letters: dict[tuple[EntityId, str], tuple[int, DeadLetter]] = {}
        """With the time of death."""
        self._suspicions: dict[tuple[EntityId, str], tuple[int, Suspicion]] = {}
        self._changes: dict[tuple[EntityId, str], set[str]] = {}
        """Of the points of those suspicions."""
        """With the time of the last change."""
        self.audited: list[Audited] = []
        """What operators did, in order."""
        self.minutes: dict[tuple[int, str], Minute] = {}
        """What hosts did, by time and incarnation."""

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Messages given up, oldest first; one that dies again is there once."""
        return [letter for _, letter in self._dead_letters.values()]

    async def close(self) -> None:
        """Nothing to close."""

    # --- The group commit ---------------------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> int:
        now = self._now_us()
        self._check_owner(batch)
        conflicts = [write.entity for write in batch.writes if not self._fits(write, now)]
        if conflicts:
            names = ", ".join(map(str, conflicts[:5]))
            raise WriteConflict(f"{len(conflicts)} entities are not as expected: {names}", entities=conflicts)
        for write in batch.writes:
            for staged in write.staged:
                self._run_staged(write.entity, staged)
        for entity, _, attempt in batch.attempts:
            self._entity(entity).attempts[attempt.operation] = attempt
        for write in batch.writes:
            self._delete(write)
        for write in batch.writes:
            self._insert(write, now)
        self._deliver(envelope for _, envelope in batch.arrivals)
        return now

    async def transact(self, batch: Batch) -> int:
        if not self._can_commit(batch.incarnation):
            raise HostFenced(f"host {batch.incarnation} is fenced, stopped or unknown; it may not write any more")
        now = self._now_us()
        conflicts = [
            write.entity
            for write in batch.writes
            if self._owners[write.shard].epoch != batch.epochs[write.shard] or not self._fits(write, now)
        ]
        if conflicts:
            names = ", ".join(map(str, conflicts[:5]))
            raise WriteConflict(f"{len(conflicts)} entities are not as expected: {names}", entities=conflicts)
        for write in batch.writes:
            self._delete(write)
        for write in batch.writes:
            self._insert(write, now)
        return now

    def _run_staged(self, entity: EntityId, staged: Staged) -> None:
        if self.execute is None:
            raise StagedRefused(
                "there is no SQL in the memory store; in tests give it something to execute staged statements: "
                "MemoryStore().execute = ...",
                entities=[entity],
            )
        try:
            self.execute(staged)
        except Exception as error:
            raise StagedRefused(f"staged SQL was refused: {error}", entities=[entity]) from error

    def _check_owner(self, batch: Batch) -> None:
        incarnation = batch.incarnation
        if not self._can_commit(incarnation):
            raise HostFenced(f"host {incarnation} is fenced, stopped or unknown; it may not write any more")
        for entity, shard in _touched(batch):
            if shard != shard_of(*entity, len(self._owners)):
                raise ValueError(f"{entity} does not belong to shard {shard}")
            if not self._owns(incarnation, shard, batch.epochs[shard]):
                raise HostFenced(f"host {incarnation} does not own shard {shard} at epoch {batch.epochs[shard]}")

    def _fits(self, write: EntityWrite, now: int) -> bool:
        """Whether the store is as the writer believes. Sees the store as before the batch."""
        stored = self._entities.get(write.entity, _NOTHING)
        message_ids = {row.message_id for row in write.history}
        gone = {key.name for key in write.reminders_gone}
        resumes = {(row.workflow, row.run_id, row.number) for row in write.journal}
        taken = set(write.items_taken)
        put = {(item.mailbox, item.position) for item in write.items_put}
        return (
            stored.version == write.expected_version
            and len(message_ids) == len(write.history)
            and message_ids.isdisjoint(stored.history)
            and len(gone) == len(write.reminders_gone)
            and all(
                (reminder := stored.reminders.get(key.name)) is not None
                and (reminder.generation, reminder.due_us) == (key.generation, key.due_us)
                and not (key.is_fired and key.due_us > now)
                for key in write.reminders_gone
            )
            and len(resumes) == len(write.journal)
            and resumes.isdisjoint(stored.journal)
            and len(taken) == len(write.items_taken)
            and taken <= stored.items.keys()
            and len(put) == len(write.items_put)
            and put.isdisjoint(stored.items.keys() - taken)
        )

    def _delete(self, write: EntityWrite) -> None:
        stored = self._entity(write.entity)
        for consumed in write.consumed:
            stored.inbox.pop(consumed, None)
        for name in chain((key.name for key in write.reminders_gone), write.reminders_cancelled):
            stored.reminders.pop(name, None)
        for taken in write.items_taken:
            del stored.items[taken]
        for operation in write.attempts_gone:
            stored.attempts.pop(operation, None)
        for message_id in write.letters_discarded:
            self._dead_letters.pop((write.entity, message_id), None)
        for message_id, new_id, position in write.letters_replayed:
            letter = self._dead_letters.pop((write.entity, message_id), None)
            if letter is not None:
                again = msgspec.structs.replace(letter[1].envelope, id=new_id, position=position)
                stored.inbox.setdefault((position, new_id), again)

    def _insert(self, write: EntityWrite, now: int) -> None:
        stored = self._entity(write.entity)
        stored.version, stored.state, stored.updated_us = write.version, write.state, now
        stored.schema_version, stored.clock = write.schema_version, write.clock
        stored.checksum = _checksum(write.entity, write)
        stored.history.update((row.message_id, (now, row)) for row in write.history)
        stored.reminders.update((row.name, row) for row in write.reminders_set)
        stored.runs.update((row.workflow, row) for row in write.runs)
        stored.journal.update(((row.workflow, row.run_id, row.number), (now, row)) for row in write.journal)
        if write.journal:
            stored.entry_sums.update(
                ((row.workflow, row.run_id, row.number), _entry_sum(write.entity, row)) for row in write.journal
            )
        stored.items.update(((item.mailbox, item.position), item) for item in write.items_put)
        stored.attempts.update((row.operation, row) for row in write.attempts_set)
        self._dead_letters.update(((write.entity, letter.envelope.id), (now, letter)) for letter in write.dead_letters)
        if write.audited:
            self.audited += [
                Audited(now, write.entity, row) for row in write.history if row.message_id in write.audited
            ]
        self._deliver(write.waiting)
        self._deliver(write.outbox)

    def _deliver(self, envelopes: "Sequence[Envelope] | Iterator[Envelope]") -> None:
        for envelope in envelopes:
            self._entity(envelope.entity).inbox.setdefault((envelope.position, envelope.id), envelope)

    def _entity(self, entity: EntityId) -> StoredEntity:
        return self._entities.setdefault(EntityId(*entity), StoredEntity())

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        return [self._load(entity, inbox_max) for entity in entities]

    def _load(self, entity: EntityId, inbox_max: int) -> Loaded:
        stored = self._entities.get(entity, _NOTHING)
        if stored.checksum is not None and stored.checksum != _checksum(EntityId(*entity), stored):
            reason = f"the row of its state (version {stored.version}) is damaged: its checksum does not fit"
            return Loaded(
                entity=EntityId(*entity),
                version=stored.version,
                inbox=_first(stored.inbox, inbox_max),
                damage=reason,
                is_noted=entity in self.parked,
            )
        live = {run.run_id for run in stored.runs.values() if not run.status.is_terminal}
        return Loaded(
            entity=EntityId(*entity),
            version=stored.version,
            state=stored.state,
            schema_version=stored.schema_version,
            clock=stored.clock,
            runs=[run for _, run in sorted(stored.runs.items())],
            journal=[
                row
                for (workflow, run_id, _), (_, row) in sorted(stored.journal.items())
                if run_id in live and stored.runs[workflow].run_id == run_id
            ],
            items=[item for _, item in sorted(stored.items.items())],
            attempts=[attempt for _, attempt in sorted(stored.attempts.items())],
            inbox=_first(stored.inbox, inbox_max),
            damaged_runs={
                workflow: f"entry {number} of its journal is damaged: its checksum does not fit"
                for (workflow, run_id, number), (_, row) in stored.journal.items()
                if run_id in live
                and stored.entry_sums.get((workflow, run_id, number), known := _entry_sum(EntityId(*entity), row))
                != known
            },
            is_noted=entity in self.parked,
        )

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        return [
            envelope
            for entity in sorted(set(entities))
            for envelope in _first(self._entities.get(entity, _NOTHING).inbox, per_entity_max)
        ]

    async def with_mail(self, shards: Collection[int], *, limit: int, after: EntityId | None = None) -> list[EntityId]:
        waiting = [entity for entity, stored in self._of_shards(shards) if stored.inbox]
        return [entity for entity in waiting if after is None or entity > after][:limit]

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        found: dict[tuple[EntityId, str], HistoryRow] = {}
        for entity, message_id in keys:
            recorded = self._entities.get(entity, _NOTHING).history.get(message_id)
            if recorded is not None:
                found[entity, message_id] = recorded[1]
        return found

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        due = _due((stored for _, stored in self._of_shards(shards)), until_us)
        return self._now_us(), [row for row in due if after is None or DuePosition.of(row) > after][:limit]

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        return _due((self._entities.get(entity, _NOTHING) for entity in set(entities)), until_us)[:limit]

    async def in_flight(self, shards: Collection[int], *, after: EntityId | None, limit: int) -> list[EntityId]:
        busy = [
            entity
            for entity, stored in self._of_shards(shards)
            if (after is None or entity > after) and any(run.in_flight for run in stored.runs.values())
        ]
        return busy[:limit]

    async def with_live_runs(self, type_name: str, *, after: EntityId | None, limit: int) -> list[EntityId]:
        live = [
            entity
            for entity, stored in sorted(self._entities.items(), key=lambda item: item[0])
            if (not type_name or entity.type == type_name)
            and (after is None or entity > after)
            and any(not run.status.is_terminal for run in stored.runs.values())
        ]
        return live[:limit]

    def _of_shards(self, shards: Collection[int]) -> list[tuple[EntityId, StoredEntity]]:
        """Entities of these shards, ordered by address."""
        wanted, count = frozenset(shards), len(self._owners)
        return [
            (entity, self._entities[entity]) for entity in sorted(self._entities) if shard_of(*entity, count) in wanted
        ]

    async def run(self, entity: EntityId, workflow: str) -> RunRow | None:
        return self._entities.get(entity, _NOTHING).runs.get(workflow)

    async def journal(self, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        stored = self._entities.get(entity, _NOTHING)
        return [row for key, (_, row) in sorted(stored.journal.items()) if key[:2] == (workflow, run_id)]

    def archive(self) -> MemoryArchive:
        """The read side, for people."""
        return MemoryArchive(self._entities, self._dead_letters, len(self._owners))

    def survey(self) -> MemorySurvey:
        """Reading the whole namespace, for people."""
        return MemorySurvey(self)

    def now_us(self) -> int:
        """By "the database's" clock."""
        return self._now_us()

    def stored(self) -> Iterator[tuple[EntityId, StoredEntity]]:
        """All there is, in no order."""
        yield from self._entities.items()

    def notes(self) -> Iterator[tuple[EntityId, str, int]]:
        """(entity, reason, time) of those that cannot be loaded."""
        yield from ((entity, reason, self._parked_us[entity]) for entity, reason in self.parked.items())

    def suspected(self) -> Iterator[tuple[int, Suspicion]]:
        """Evidence, with the time of the last change."""
        yield from self._suspicions.values()

    def letters(self) -> Iterator[Letter]:
        """Dead letters with the time of death."""
        yield from (Letter(*item) for item in self._dead_letters.values())

    def restore(self, entity: EntityId, stored: StoredEntity, letters: Sequence[tuple[int, DeadLetter]] = ()) -> bool:
        """Put an entity as it is (an imported one) under an address that is not in use; False if it is."""
        if entity in self._entities:
            return False
        self._entities[entity] = stored
        self._dead_letters.update(((entity, letter.envelope.id), (died_us, letter)) for died_us, letter in letters)
        return True

    # --- For people and janitors --------------------------------------------------------------------------------------

    async def park(self, entity: EntityId, reason: str) -> None:
        if reason:
            self.parked[entity] = reason
            self._parked_us[entity] = self._now_us()
        else:
            self.parked.pop(entity, None)

    async def suspect(self, evidence: Sequence[Suspicion]) -> None:
        for entity, message_id, points, reason, change in evidence:
            key = (EntityId(*entity), message_id)
            known = self._suspicions[key][1] if key in self._suspicions else Suspicion(*key, 0)
            changes = self._changes.get(key, set()) if key in self._suspicions else set[str]()
            if change in changes:
                continue
            self._changes[key] = changes | ({change} - {""})
            total = known.points + points
            if total > 0:
                self._suspicions[key] = (self._now_us(), Suspicion(*key, total, reason or known.reason))
            else:
                self._suspicions.pop(key, None)

    async def suspicions(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], Suspicion]:
        return {key: self._suspicions[key][1] for key in keys if key in self._suspicions}

    async def acquit(self, keys: Sequence[tuple[EntityId, str]]) -> None:
        for key in keys:
            self._suspicions.pop(key, None)

    async def prune(self, *, older_than_us: int, limit: int) -> int:
        before = self._now_us() - older_than_us
        expired = [
            (stored, message_id)
            for stored in self._entities.values()
            for message_id, (recorded_us, _) in stored.history.items()
            if recorded_us < before
        ]
        for stored, message_id in expired[:limit]:
            del stored.history[message_id]
        for stored in self._entities.values():
            _prune_journals(stored, before)
        for stored in self._entities.values():
            live = {(run.workflow, run.run_id) for run in stored.runs.values() if not run.status.is_terminal}
            for operation in list(stored.attempts):
                if OperationAddress.parse(operation)[:2] not in live:
                    del stored.attempts[operation]
        for entity in list(self.parked):
            if self._entities.get(entity, _NOTHING).updated_us > self._parked_us[entity]:
                del self.parked[entity]  # written since: it could be loaded again
        for key, (noted_us, _) in list(self._suspicions.items()):
            if noted_us < before and key[1] not in self._parked_runs(key[0]):
                del self._suspicions[key]
        return min(len(expired), limit)

    def _parked_runs(self, entity: EntityId) -> set[str]:
        runs = self._entities.get(entity, _NOTHING).runs.values()
        return {suspect_id(run.workflow, run.run_id) for run in runs if run.status is RunStatus.PARKED}


def _touched(batch: Batch) -> Iterator[tuple[EntityId, int]]:
    yield from ((write.entity, write.shard) for write in batch.writes)
    yield from ((entity, shard) for entity, shard, _ in batch.attempts)
    yield from ((envelope.entity, shard) for shard, envelope in batch.arrivals)


def _checksum(entity: EntityId, row: EntityWrite | StoredEntity) -> int:
    """Of a state and of where and how it belongs."""
    return crc32(row.state or b"", crc32(f"{entity}/{row.version}/{row.schema_version}/{row.clock}".encode()))


def _entry_sum(entity: EntityId, row: JournalRow) -> int:
    place = f"{entity}/{row.workflow}/{row.run_id}/{row.number}/{row.version}"
    return crc32(row.entry, crc32(place.encode(errors="replace")))


def _first(inbox: dict[tuple[int, str], Envelope], limit: int) -> list[Envelope]:
    return [envelope for _, envelope in islice(sorted(inbox.items()), limit)]


def _due(stored: Iterable[StoredEntity], until_us: int) -> list[ReminderRow]:
    due = (row for one in stored for row in one.reminders.values() if row.due_us <= until_us)
    return sorted(due, key=DuePosition.of)


def _prune_journals(stored: StoredEntity, before: int) -> None:
    """Remove journals of runs that ended before then or were replaced, and are as old. The latest runs' rows stay."""
    for (workflow, run_id, number), (recorded_us, _) in list(stored.journal.items()):
        run = stored.runs.get(workflow)
        is_needed = run is not None and run.run_id == run_id and not (run.status.is_terminal and run.ended_us < before)
        if not is_needed and recorded_us < before:
            del stored.journal[workflow, run_id, number]
            stored.entry_sums.pop((workflow, run_id, number), None)
