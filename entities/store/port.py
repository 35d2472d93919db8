"""The store port: everything that the engine and the cluster ask of durable storage.

Three concerns, three protocols. `EntityStore`: reading entities and the group commit. `Directory`: host incarnations,
leases and shard ownership. Every method is one transaction. Both implementations (Postgres, memory) are held to one
conformance suite (tests/store).

Fencing protocol
----------------
* A shard changes owner in two ways only: its owner *releases* it (after its own last commit), or the owner's host row
  is *fenced* and then anybody claims the shard. `fence` and `commit` exclude each other on the host's row: commit
  holds a share lock on it, fence updates it. So once `fence` has returned, no commit of that incarnation can happen,
  whatever the process believes.
* `commit` also checks that each touched shard is owned by this incarnation at the epoch it names, and each entity's
  version (compare and set). Any mismatch aborts the whole batch.
* A commit whose answer was lost may yet happen, until its host has raised the epochs that it names (`settle`).
* A host lease only decides when others *may* fence without being sure that the process is dead, and when the host
  itself must stop answering queries. It is never what protects a commit.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ..errors import PerdureError
from ..ids import EntityId
from ..messages import Envelope
from .rows import (
    Batch,
    DuePosition,
    HistoryRow,
    HostRow,
    JournalRow,
    Loaded,
    ReminderRow,
    RunRow,
    ShardOwner,
    Suspicion,
)


class StoreUnavailable(PerdureError):
    """The database cannot be reached or refuses for now. `details["maybe_applied"]` tells whether a commit may have
    happened all the same (the answer was lost).
    """

    code = "store_unavailable"


class HostFenced(PerdureError):
    """This host incarnation may never commit again, or does not own a shard it tried to write: drop everything."""

    code = "host_fenced"


class WriteConflict(PerdureError):
    """Nothing of the batch was written: `entities` (ids as text) differ in the store from what the host believed.

    The host drops their activations, reloads them, and runs their messages again after looking up outcomes.
    """

    code = "write_conflict"

    def __init__(self, message: str = "", /, *, entities: Sequence[EntityId] = (), **details: object) -> None:
        super().__init__(message, **details)
        self.entities = tuple(entities)


class NotStorable(PerdureError):
    """Nothing of the batch was written: the database refuses values of `entities`, and always will.

    A safety net: the engine checks values before it commits. Without it one entity's value would fail every batch.
    """

    code = "not_storable"

    def __init__(self, message: str = "", /, *, entities: Sequence[EntityId] = (), **details: object) -> None:
        super().__init__(message, **details)
        self.entities = tuple(entities)


class StagedRefused(NotStorable):
    """Nothing of the batch was written: the database refuses a statement that a turn of `entities` staged."""

    code = "staged_refused"


class EntityStore(Protocol):
    """Reading entities, and the group commit."""

    async def commit(self, batch: Batch) -> int:
        """Write all of the batch or nothing; durable when it returns. Returns the database's time (µs).

        Raises HostFenced if the incarnation is not active or draining, or does not own a touched shard at the given
        epoch; WriteConflict if an entity's version is not `expected_version`, a history row's message id exists
        already, a reminder in `reminders_gone` is not there exactly so (or, if fired, is not due yet), or a taken
        mailbox item is gone; StagedRefused if a staged statement is refused; NotStorable if the database cannot hold a
        value; StoreUnavailable if the database failed (then look at `maybe_applied`).
        """
        ...

    async def transact(self, batch: Batch) -> int:
        """Write a transaction over entities of whatever owners, all or nothing. Returns the database's time (µs).

        `batch.epochs` are the epochs under which the entities were held: shards at these epochs have had no new owner
        since, and cannot get one before this has ended. `batch.incarnation` is who writes; it need own none of them.
        Raises HostFenced if the incarnation is not active or draining; WriteConflict if a shard's epoch or an
        entity's version differs, or a history row's message id exists already; NotStorable and StoreUnavailable as
        `commit`.
        """
        ...

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        """Exclude that a commit of `incarnation` which names these epochs (shard → epoch) still happens.

        Raises each epoch by one; a commit under way ends first. Returns the new epochs; shards that it does not own,
        or owns at yet another epoch, are absent. Repeatable: what was raised from the named epoch already is not
        raised again, and counts. Raises HostFenced if the incarnation is not active or draining; StoreUnavailable.
        """
        ...

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        """The entities as committed, in the order asked for, from one snapshot; missing ones have version 0.

        Rows that are not as they were written harm nobody else: of the entity and of its runs the answer says so
        (`damage`, `damaged_runs`); a message is moved to the dead letters as it is, here and in `inbox`.
        """
        ...

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        """Messages waiting for these entities, ordered by (entity, position, id)."""
        ...

    async def with_mail(self, shards: Collection[int], *, limit: int, after: EntityId | None = None) -> list[EntityId]:
        """Entities of these shards that have messages waiting, ordered by address, those after `after`."""
        ...

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        """Recorded outcomes of these (entity, message id) pairs; unknown ones are absent."""
        ...

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        """(database time µs, reminders of these shards due at or before `until_us`, those after `after`).

        In the order of `DuePosition`; less than `limit` are all. Damaged ones are left out and stay as they are, with a
        note as by `park`.
        """
        ...

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        """As `due`, of these entities."""
        ...

    async def in_flight(self, shards: Collection[int], *, after: EntityId | None, limit: int) -> list[EntityId]:
        """Entities of these shards with activities under way, ordered by address, those after `after`."""
        ...

    async def run(self, entity: EntityId, workflow: str) -> RunRow | None:
        """The latest run of a workflow, without activating its entity."""
        ...

    async def journal(self, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        """The journal of a run, also of an ended one, in order; empty if it has been pruned or never was."""
        ...

    async def park(self, entity: EntityId, reason: str) -> None:
        """Note for people that the stored state cannot be loaded. The state's bytes are not touched.

        An empty reason removes the note.
        """
        ...

    async def suspect(self, evidence: Sequence[Suspicion]) -> None:
        """Add these points (below 0: take them back) to what is known; at most one of each (entity, message id).

        A change that the row has already (`Suspicion.change`, of the last 20 at least) changes nothing, so one whose
        answer was lost may be sent again, even if the first is still on its way.

        A row that comes to no points is deleted, a new reason replaces the old one. Not fenced: whoever saw a host
        fail may say so, also the host itself after others have taken over.
        """
        ...

    async def suspicions(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], Suspicion]:
        """What is held against these (entity, message id) pairs; pairs without a row are absent."""
        ...

    async def acquit(self, keys: Sequence[tuple[EntityId, str]]) -> None:
        """Delete what is held against these: they were seen to be harmless, or an operator says so."""
        ...

    async def prune(self, *, older_than_us: int, limit: int) -> int:
        """Delete history rows older than `older_than_us` microseconds, and journals (and results of transactional
        steps) of runs that ended longer ago than that, or that others have replaced. Suspicions as old go as well,
        but for those of parked runs: they are what keeps the run parked. So do notes of parked entities that have been
        written since, and of attempts for runs that do not live.

        At most `limit` rows of a kind per call; returns how many of the kind of which most were deleted, so less than
        `limit` means that nothing is left to delete.

        Never touches inbox rows, reminders, dead letters, or the rows of runs: that of the latest run of each workflow,
        with its outcome, is kept as long as its entity (one per workflow method, so P10 holds).
        """
        ...

    async def clock_us(self) -> int:
        """The database's time in microseconds since the epoch."""
        ...


class LiveRuns(Protocol):
    """Finding unfinished runs, for tools: hosts never ask."""

    async def with_live_runs(self, type_name: str, *, after: EntityId | None, limit: int) -> list[EntityId]:
        """Entities of this type (empty: of any) with a run that is running or parked, ordered by address, those after
        `after`; at most `limit`. May read the whole table of runs.
        """
        ...


class Directory(Protocol):
    """Host incarnations, their leases, and who owns which shard. All times are the database's."""

    async def shard_count(self) -> int:
        """Number of shards of this namespace, fixed when it was created."""
        ...

    async def register(self, host: HostRow, *, lease_s: float) -> None:
        """Add a new host incarnation (status `active`) with a lease from now. The name must be new."""
        ...

    async def renew(self, incarnation: str, *, lease_s: float) -> int:
        """Extend the lease to now + lease_s; returns the database's time. Raises HostFenced if fenced or stopped.

        An expired lease of a host that nobody has fenced is simply renewed: nobody else owned its shards meanwhile.
        """
        ...

    async def set_draining(self, incarnation: str) -> None:
        """Mark an active host as draining: it keeps what it owns but gets nothing new."""
        ...

    async def fence(self, incarnation: str, *, is_dead: bool, waited_out_us: int = 0) -> bool:
        """Make any further commit of this incarnation impossible. True if it is fenced (or stopped) afterwards.

        With `is_dead` False only if its lease has expired, or still ends at `waited_out_us` (`HostRow.lease_us`): the
        caller has waited that lease out by its own clock, since the database's may have been set back. With True (its
        process is known to be gone) at once.
        Waits for a commit of that host that is under way; ends that host's sessions if it does not finish.
        """
        ...

    async def claim(self, incarnation: str, shards: Collection[int]) -> dict[int, int]:
        """Take those of `shards` that have no owner, or whose owner is fenced or stopped. Returns shard → new epoch.

        Of the latter the directory notes when that was (`ShardOwner.taken_us`); releasing them leaves the note.

        Raises HostFenced if the claimer itself is not active. Two claimers of one shard: exactly one gets it.
        """
        ...

    async def release(self, incarnation: str, shards: Collection[int]) -> None:
        """Give up shards that this incarnation owns (others are ignored)."""
        ...

    async def retire(self, incarnation: str) -> None:
        """Leave in order: release everything and set status `stopped`."""
        ...

    async def owners(self) -> list[ShardOwner]:
        """All shards, ordered by number."""
        ...

    async def hosts(self) -> list[HostRow]:
        """All hosts that are active or draining, and the recently gone ones."""
        ...

    async def targets(self) -> bytes | None:
        """What the operator wants to be running in this namespace (JSON object), or None if nobody has said yet."""
        ...

    async def set_targets(self, targets: bytes) -> None:
        """Replace the targets; the last writer wins."""
        ...
