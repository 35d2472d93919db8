"""What workloads, checkers and the worlds they run in agree on.

A *workload* drives entities through clients of a *driver* (a simulated world, a local cluster, a real cluster), which
breaks things meanwhile. Every operation of a client is noted in a `Record`. In the end the driver reads everything
that the store holds, as an `Audit`; then `check` compares the two. Checks are pure: the same ones judge a simulated
run, a saved one and a campaign on Postgres.

Phases: `drive` with faults, then the driver heals, then `settle` without, then the audit, then `check`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from perdure.entities import Entity
from perdure.entities.client import Caller
from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope
from perdure.entities.store.archive import Letter
from perdure.entities.store.rows import (
    AttemptRow,
    Batch,
    HistoryRow,
    JournalRow,
    MailboxItem,
    ReminderRow,
    RunRow,
)

from .record import Record


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    checker: str
    """Letter and name: "A set-full"."""
    promise: str
    """One of P1 to P10, of I1 to I32, or both."""
    text: str
    """What, where, and the values that contradict each other."""

    def __str__(self) -> str:
        return f"[{self.checker}; {self.promise}] {self.text}"


class Consumed(NamedTuple):
    """A history row with its entity and the database's time of its commit."""

    entity: EntityId
    at_us: int
    row: HistoryRow


class Resumed(NamedTuple):
    """A journal row with its entity and the database's time of its commit."""

    entity: EntityId
    at_us: int
    row: JournalRow


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All that the store holds at one moment; the same from the memory store and from Postgres."""

    at_us: int = 0
    """The database's time."""
    is_complete: bool = True
    """Nothing was pruned: every version has its history or journal row."""
    versions: Mapping[EntityId, int] = field(default_factory=dict)
    states: Mapping[EntityId, bytes] = field(default_factory=dict)
    """JSON, of every entity that has been written."""
    schema_versions: Mapping[EntityId, int] = field(default_factory=dict)
    history: Sequence[Consumed] = ()
    """Ordered by entity and version."""
    journal: Sequence[Resumed] = ()
    """Ordered by entity, workflow, run and number."""
    inbox: Sequence[Envelope] = ()
    reminders: Sequence[ReminderRow] = ()
    """Reminders, timers and delayed messages."""
    runs: Sequence[tuple[EntityId, RunRow]] = ()
    items: Sequence[tuple[EntityId, MailboxItem]] = ()
    attempts: Sequence[tuple[EntityId, AttemptRow]] = ()
    dead_letters: Sequence[Letter] = ()
    parked: Mapping[EntityId, str] = field(default_factory=dict)

    def of(self, entity: EntityId) -> list[Consumed]:
        """History of one entity, by version."""
        return [past for past in self.history if past.entity == entity]


class Driver(Protocol):
    """The world as a workload sees it."""

    rng: random.Random
    """The workload's own chance: what the world does with its own does not reshuffle it."""
    record: Record

    @property
    def clients(self) -> Sequence[Caller]:
        """Several client processes; `with use(world.clients[i]):` binds one (entities.client.use)."""
        ...

    def time(self) -> float:
        """Seconds, virtual or real, never going back."""
        ...

    async def sleep(self, s: float) -> None:
        """Let time pass."""
        ...

    async def crash_somebody(self) -> None:
        """A workload asks for a crash at a point that it cares about; does nothing where that is not supported."""
        ...


@runtime_checkable
class Cuts(Protocol):
    """A driver that can read one committed moment while the load is on."""

    async def cut(self) -> Audit:
        """Everything that is committed now."""
        ...


@runtime_checkable
class Deploys(Protocol):
    """A driver that can replace every host by one with other code."""

    async def deploy(self, entities: Sequence[type[Entity]]) -> None:
        """A rolling upgrade: returns when all hosts serve these classes."""
        ...


@runtime_checkable
class Watches(Protocol):
    """A driver that tells of each commit at the moment it is written, before its host learns of it."""

    def watch(self, seen: Callable[[Batch], None]) -> None:
        """Call `seen` from now on, also for commits whose answer is going to be lost."""
        ...


@runtime_checkable
class Pipelines(Protocol):
    """A driver whose clients keep the order of what they have in flight, as the router does (P5)."""

    pipelines: bool


@runtime_checkable
class Ends(Protocol):
    """A driver whose hosts can be ended by the code that they run."""

    def end_host(self) -> None:
        """The process that runs now ends at once, as by `os._exit`; whoever calls this has to wait for ever after."""
        ...


@runtime_checkable
class Isolates(Driver, Protocol):
    """A driver that can make a zombie at a point that a workload cares about."""

    def isolate(self, *, deaf: int) -> float:
        """A host loses the database for longer than its lease, or stands still, and this client does not learn of its
        heir. Returns how long that lasts, s.
        """
        ...


class Workload(Protocol):
    """What is done, and what must be true of it afterwards."""

    name: str
    """ "W1 unique adds" """

    @property
    def entities(self) -> Sequence[type[Entity]]:
        """What the hosts serve (at first, if the workload deploys others)."""
        ...

    def __init__(self, rng: random.Random, size: int) -> None: ...

    async def drive(self, world: Driver) -> None:
        """Safety phase: all operations; returns when every one has ended or was given up."""
        ...

    async def settle(self, world: Driver) -> None:
        """After healing: bring everything to its end, read the final states."""
        ...

    def check(self, record: Record, audit: Audit) -> list[Violation]:
        """What went wrong. Pure: calls checkers."""
        ...
