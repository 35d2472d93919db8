"""Rows: the values that cross the store port. Times are integer microseconds since the Unix epoch, database clock.

JSON columns travel as UTF-8 bytes and are storable as Postgres `jsonb` (no NUL, no lone surrogate): the engine
checks that before it commits. After a round trip the text may differ in spacing and key order, never in meaning.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from ..ids import EntityId
from ..messages import Envelope

STATE_NOT_KEPT = b"null"
"""In place of a retained state: this row does not say what the turn left (kept off, too large, an older release)."""
STATE_UNCHANGED = b"true"
"""In place of a retained state: the turn left what it found."""


class HistoryRow(NamedTuple):
    """Outcome of one message, written by the turn that consumed it; unique per (entity, message_id)."""

    message_id: str
    version: int
    """Entity version that the turn made."""
    kind: str
    name: str
    sender: str
    fingerprint: bytes
    """Of name and arguments: tells a repeat from another payload under the same id."""
    args: bytes
    ok: bool
    outcome: bytes
    """JSON result, or JSON ErrorBody if not ok."""
    state: bytes = STATE_NOT_KEPT
    """The state that the turn left, or one of the two marks above."""


class ReminderKind(StrEnum):
    """Why something is due."""

    REMINDER = "reminder"
    """Set by `remind()`: runs a handler."""
    TIMER = "timer"
    """A workflow's sleep or time limit: `name` is the operation's address."""
    MESSAGE = "message"
    """A delayed message: `name` is its message id."""


class ReminderRow(NamedTuple):
    """Something due in the future; unique per (entity, name)."""

    entity: EntityId
    name: str
    kind: ReminderKind
    generation: int
    """Entity version that set it. Firing or cancelling names the generation, so a replaced one cannot fire."""
    due_us: int
    every_us: int = 0
    """Period of a recurring reminder; 0 = once."""
    catch_up_all: bool = False
    """After downtime fire every missed occurrence instead of one."""
    handler: str = ""
    args: bytes = b"{}"
    cron: str = ""
    """Cron expression and time zone of a recurring reminder (see recurrence), or empty."""

    @property
    def is_recurring(self) -> bool:
        """Whether another occurrence may follow."""
        return bool(self.every_us or self.cron)


class DuePosition(NamedTuple):
    """A place in the order of what is due: by time, then by address and name."""

    due_us: int
    type: str = ""
    key: str = ""
    name: str = ""

    @classmethod
    def of(cls, row: ReminderRow) -> "DuePosition":
        """Where this one is."""
        return cls(row.due_us, *row.entity, row.name)

    @classmethod
    def behind(cls, until_us: int) -> "DuePosition":
        """Behind all that is due at or before `until_us`."""
        return cls(until_us + 1)


class ReminderKey(NamedTuple):
    """One occurrence of a reminder, to be deleted by the turn that fires, cancels or replaces it."""

    name: str
    generation: int
    due_us: int
    """Must equal the stored due time."""
    is_fired: bool
    """Fired rather than withdrawn: the commit also checks that it is really due by the database's clock."""


class RunStatus(StrEnum):
    """Life of a workflow run. RUNNING → one of the others; only PARKED goes back to RUNNING."""

    RUNNING = "running"
    PARKED = "parked"
    """Its code no longer fits its journal; nothing is executed until a fixed deploy or an operator resumes it."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"

    @property
    def is_terminal(self) -> bool:
        """Whether the run is over for good."""
        return self not in (RunStatus.RUNNING, RunStatus.PARKED)


class Child(NamedTuple):
    """A run that another one has started with a parent-close policy, and that may still be going on."""

    operation: str
    """`workflow/run_id/number` of the operation that started it."""
    run: str
    """`Type/key#workflow`"""
    policy: str
    """`cancel` or `terminate`"""


class RunRow(NamedTuple):
    """The latest run of one workflow method of one entity; unique per (entity, workflow)."""

    workflow: str
    run_id: str
    status: RunStatus
    args: bytes
    fingerprint: bytes
    started_us: int
    ended_us: int = 0
    """0 while it lives."""
    outcome: bytes = b"null"
    """JSON result (COMPLETED) or ErrorBody (other terminal states, and PARKED: the reason)."""
    in_flight: bool = False
    """Activities are under way, the run has its turn to come, or it is parked: whoever gains the shard activates the
    entity at once."""
    waiting: str = ""
    """What the run waits for, for people."""
    paused: str = ""
    """Who has paused it and why; empty: it is not paused. A paused run executes nothing."""
    reply_to: tuple[str, ...] = ()
    """Operations of other entities' workflows that wait for this run's outcome."""
    chain: tuple[str, ...] = ()
    """Runs that wait for this one, outermost first."""
    parent: str = ""
    """`Type/key#workflow/run_id/number`: the operation that started it, if its parent has a close policy for it."""
    children: "tuple[Child, ...]" = ()
    """What is to be cancelled or terminated when this run ends."""


class JournalRow(NamedTuple):
    """One resume of a run; unique per (entity, workflow, run_id, number); numbers are gapless from 0."""

    workflow: str
    run_id: str
    number: int
    version: int
    entry: bytes
    """JSON (engine.journal.Entry)."""
    state: bytes = STATE_NOT_KEPT
    """The state that the resume left, or a mark, as in HistoryRow."""


class MailboxItem(NamedTuple):
    """An item waiting in a durable mailbox; received in order of `position`."""

    mailbox: str
    position: int
    """Entity version that accepted it."""
    message_id: str
    item: bytes


class AttemptStatus(StrEnum):
    """Why an activity whose outcome is not known has a row. All end with the row, once the operation has an outcome."""

    RETRYING = "retrying"
    """An attempt is under way or due at `next_us`."""
    PAUSED = "paused"
    """Its attempts are used up; it waits for a person."""
    OUTSIDE = "outside"
    """It has been executed; its result comes from outside by its token, until `next_us` (0: without limit)."""


class AttemptRow(NamedTuple):
    """An activity that is not simply being executed for the first time; unique per (entity, operation)."""

    operation: str
    """Operation address `workflow/run_id/number`."""
    activity: str
    attempt: int
    """Attempts made so far."""
    error: bytes
    """ErrorBody of the last one."""
    next_us: int
    first_us: int
    """When the first attempt started (for the total time limit)."""
    status: AttemptStatus = AttemptStatus.RETRYING
    details: bytes = b"null"
    """JSON that the last heartbeat carried."""
    started_us: int = 0
    """When the last attempt started; 0 = not known."""


class Suspicion(NamedTuple):
    """Evidence that a message (or a workflow run) ends the process that runs it; unique per (entity, message_id)."""

    entity: EntityId
    message_id: str
    """Id of a message, or `run:<workflow>:<run_id>`."""
    points: int
    """Hosts that died or had to be ended over it, weighted (see engine.suspects)."""
    reason: str = ""
    """What was seen, for people; empty: nothing but that a host died."""
    change: str = ""
    """Id of this change of the points: it counts once, however often it is sent. Empty: each time; so in what is read.
    """


def suspect_id(workflow: str, run_id: str) -> str:
    """What stands for the message id where a workflow run is suspected."""
    return f"run:{workflow}:{run_id}"


class DeadLetter(NamedTuple):
    """A message that was given up after its last attempt, with the reason."""

    envelope: Envelope
    attempts: int
    error: bytes


class Staged(NamedTuple):
    """A statement of user code, executed in the commit of its turn after everything else."""

    sql: str
    """With `:name` where values go."""
    values: tuple[tuple[str, str | None], ...]
    """By name, as Postgres reads them."""


@dataclass(slots=True, kw_only=True, init=False)
class EntityWrite:
    """Everything that one group commit writes for one entity: one or more consecutive turns.

    Consecutive turns lead from `expected_version` to `version`; 0 = the entity must not exist yet.
    """

    entity: EntityId
    shard: int
    expected_version: int
    version: int
    state: bytes
    schema_version: int
    clock: int
    """Last position that the entity used as a sender."""
    history: list[HistoryRow]
    consumed: list[tuple[int, str]]
    """(position, message_id) of inbox rows that these turns consumed; absent rows are ignored."""
    waiting: list[Envelope]
    """Accepted messages to this entity that wait for a later turn; existing rows are left alone."""
    outbox: list[Envelope]
    """Messages to entities (any shard); existing rows are left alone."""
    reminders_gone: list[ReminderKey]
    """Each must exist exactly so, else the write conflicts."""
    reminders_cancelled: list[str]
    """Names to delete whether they exist or not."""
    reminders_set: list[ReminderRow]
    """Insert or replace by name (after the deletions)."""
    runs: list[RunRow]
    """Insert or replace by workflow."""
    journal: list[JournalRow]
    items_put: list[MailboxItem]
    items_taken: list[tuple[str, int]]
    """(mailbox, position); each must exist, else the write conflicts."""
    attempts_set: list[AttemptRow]
    attempts_gone: list[str]
    dead_letters: list[DeadLetter]
    staged: tuple[Staged, ...]
    """Only in a write of one turn."""
    letters_replayed: list[tuple[str, str, int]]
    """(message id, new id, position): a dead letter that is there goes into the inbox under the new id."""
    letters_discarded: list[str]
    """Message ids of dead letters to delete, whether they are there or not."""
    audited: tuple[str, ...]
    """Ids of those messages in `history` with which an operator did something: they go into the audit as well."""

    def __init__(
        self,
        *,
        entity: EntityId,
        shard: int,
        expected_version: int,
        version: int,
        state: bytes,
        schema_version: int = 1,
        clock: int = 0,
        **rows: Any,
    ) -> None:
        # By hand: one is made per turn, and a generated initialiser with fifteen list factories is four times slower.
        self.entity = entity
        self.shard = shard
        self.expected_version = expected_version
        self.version = version
        self.state = state
        self.schema_version = schema_version
        self.clock = clock
        self.history = []
        self.consumed = []
        self.waiting = []
        self.outbox = []
        self.reminders_gone = []
        self.reminders_cancelled = []
        self.reminders_set = []
        self.runs = []
        self.journal = []
        self.items_put = []
        self.items_taken = []
        self.attempts_set = []
        self.attempts_gone = []
        self.dead_letters = []
        self.staged = ()
        self.letters_replayed = []
        self.letters_discarded = []
        self.audited = ()
        for name, value in rows.items():
            setattr(self, name, value)

    def merge(self, later: "EntityWrite") -> None:
        """Append the turns that followed these: one write with the effect of both in order."""
        self.version, self.state, self.clock = later.version, later.state, later.clock
        self.staged += later.staged
        self.audited += later.audited
        put = {(item.mailbox, item.position) for item in self.items_put}
        withdrawn = put & set(later.items_taken)
        self.items_put = [i for i in self.items_put if (i.mailbox, i.position) not in withdrawn] + later.items_put
        self.items_taken += [key for key in later.items_taken if key not in withdrawn]
        touched = {*later.reminders_cancelled, *(row.name for row in later.reminders_set)}
        self.reminders_set = [row for row in self.reminders_set if row.name not in touched] + later.reminders_set
        self.runs = [r for r in self.runs if r.workflow not in {x.workflow for x in later.runs}] + later.runs
        if later.attempts_gone or later.attempts_set:
            touched = {*later.attempts_gone, *(row.operation for row in later.attempts_set)}
            self.attempts_set = [row for row in self.attempts_set if row.operation not in touched] + later.attempts_set
        for name in ("history", "consumed", "waiting", "outbox", "reminders_gone", "reminders_cancelled", "journal",
                     "attempts_gone", "dead_letters", "letters_replayed", "letters_discarded"):  # fmt: skip
            getattr(self, name).extend(getattr(later, name))


@dataclass(slots=True, kw_only=True)
class Batch:
    """One group commit of one host."""

    incarnation: str
    epochs: dict[int, int]
    """Epoch, as this host knows it, of every shard that a write of this batch touches."""
    writes: list[EntityWrite]
    """At most one per entity."""
    attempts: list[tuple[EntityId, int, AttemptRow]] = field(default_factory=list)
    """(entity, shard, row): notes on retrying activities, outside any turn."""
    arrivals: list[tuple[int, Envelope]] = field(default_factory=list)
    """(shard, message): accepted one-way messages persisted for entities that make no turn in this batch."""


@dataclass(slots=True, kw_only=True)
class Loaded:
    """An entity as stored. `version` 0: it does not exist yet (but may have messages waiting)."""

    entity: EntityId
    version: int = 0
    state: bytes | None = None
    schema_version: int = 0
    clock: int = 0
    runs: list[RunRow] = field(default_factory=list)
    journal: list[JournalRow] = field(default_factory=list)
    """Of runs that are RUNNING or PARKED, ordered by (workflow, number)."""
    items: list[MailboxItem] = field(default_factory=list)
    """Ordered by (mailbox, position)."""
    attempts: list[AttemptRow] = field(default_factory=list)
    inbox: list[Envelope] = field(default_factory=list)
    """Ordered by (position, id); at most `inbox_max` of them."""
    problem: str = ""
    """Not empty: something of it cannot be read, for this reason, and nothing else here says anything."""
    damage: str = ""
    """What is wrong with its rows: the entity must not be run on them, and nothing of it may be overwritten."""
    damaged_runs: dict[str, str] = field(default_factory=dict)
    """Workflow → what is wrong with the journal of its live run, which cannot be rebuilt."""
    is_noted: bool = False
    """There is a note that it is parked (see `EntityStore.park`)."""


class ShardOwner(NamedTuple):
    """Who owns a shard; `owner` is a host incarnation or empty."""

    shard: int
    owner: str
    epoch: int
    taken_us: int = 0
    """When it was last claimed from an owner that had not released it (database clock); 0: never."""


class HostRow(NamedTuple):
    """A host incarnation as the directory knows it."""

    incarnation: str
    address: str
    """Name of its Ray actor."""
    node: str
    pid: int
    status: str
    """`active`, `draining`, `stopped` (left in order) or `fenced` (declared dead; can never commit again)."""
    lease_us: int
    """When its lease ends, database clock."""
    capacity: int = 1
