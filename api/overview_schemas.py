"""What the routes for looking at a whole namespace answer (overview.py, worklist.py): the contract of console and CLI.

Everything is read from the database, so it is answered while hosts, or all of Ray, are down. Times are those of the
database, with their zone. An entity is named by `type` and `key` everywhere; `path` is where the gateway describes it.
A list goes on at `next`, passed as `after` with the same conditions; None: that was the last page. A page may hold
fewer rows than asked for, even none, and yet not be the last: `examined` says how many were looked at.
"""

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LIST_LIMIT_MAX = 1_000
"""Rows of a page, at most."""


class Count(BaseModel):
    """A number of rows. Large ones are estimated from a sample of the shards: no route counts a whole table."""

    value: int
    is_exact: bool
    """False: estimated, or (`is_at_least`) a lower bound."""
    is_at_least: bool = False
    """There may be more: counting stopped here. Shown as "1,000+"."""


class Subject(BaseModel):
    """Which entity a row is about."""

    type: str
    key: str
    path: str
    """`/entities/{type}/{key}`, the key percent-encoded."""


# --- GET /overview ----------------------------------------------------------------------------------------------------

AttentionKind = Literal[
    "damaged", "parked", "poisoned", "wedged", "exhausted", "dead_letter", "late_reminder", "old_message", "paused",
    "failed",
]  # fmt: skip
"""In this order they need a person.

`damaged`: the stored state cannot be loaded; nothing of the entity runs. `parked`: a run's code does not fit its
journal, or the run was stopped because hosts died over it. `poisoned`: hosts have died over a message or a run.
`wedged`: an activity has failed many times and is being tried again. `exhausted`: an activity's attempts are used up;
it waits for a person. `dead_letter`: a message was given up. `late_reminder`: due for more than a minute.
`old_message`: a message waits for its turn for more than a minute. `paused`: somebody has paused a run. `failed`: a
run failed within the last day.
"""


class Attention(Subject):
    """Something that a person should look at."""

    kind: AttentionKind
    since: dt.datetime | None
    """When it began; None: not known."""
    reason: str
    """The last error, or why, in one line."""
    workflow: str = ""
    run_id: str = ""
    operation: int | None = None
    """Number of the operation that does not end (`wedged`, `exhausted`)."""
    name: str = ""
    """Of the activity, reminder, handler or message."""
    message_id: str = ""
    attempts: int = 0
    next_at: dt.datetime | None = None
    """Next attempt."""


class TypeCounts(BaseModel):
    """How many entities of a type there are, and what its workflow runs are doing."""

    type: str
    is_served: bool
    """False: there are entities of it in the database, but this gateway has no such class."""
    entities: Count
    runs: dict[str, Count]
    """Latest runs by status: `running`, `parked`, `completed`, `failed`, `cancelled`, `terminated`; only what there is.
    """


class Minute(BaseModel):
    """What all hosts did in one minute."""

    at: dt.datetime
    """Its beginning."""
    turns: int
    commits: int
    failed_commits: int
    commit_ms_p50: float
    """Median time of a group commit; of several hosts the mean, weighted by commits."""
    commit_ms_p99: float
    """Of several hosts the largest."""


class Throughput(BaseModel):
    """The last hour. Hosts note each minute's figures when it is over, so the present minute is missing."""

    turns_per_s: float
    """Mean over the minutes that were noted; 0 if none was."""
    commit_ms_p50: float | None
    commit_ms_p99: float | None
    minutes: list[Minute]
    """Oldest first; minutes in which no host was alive are missing."""


class HostCounts(BaseModel):
    """Hosts by what the directory says of them."""

    alive: int
    """Active, with a lease that has not ended."""
    draining: int
    lost: int
    """Their lease has ended and nobody has fenced them yet, or they were fenced within the last hour."""
    shards: int
    shards_without_host: int
    """Owned by nobody, or by a host that is not alive. Entities in them answer from the database only."""


class Overview(BaseModel):
    """Home."""

    namespace: str
    at: dt.datetime
    """When it was read."""
    attention: list[Attention]
    """What needs a person first, by kind in the order of AttentionKind, oldest first; up to ten of each kind."""
    attention_counts: dict[AttentionKind, Count]
    """Every kind, also those with none."""
    types: list[TypeCounts]
    """By name."""
    decisions_open: Count
    """Rows of the work list."""
    hosts: HostCounts
    last_hour: Throughput


# --- GET /types -------------------------------------------------------------------------------------------------------


class MemberDescription(BaseModel):
    """A handler, query, workflow or mailbox."""

    name: str
    kind: Literal["handler", "query", "workflow", "mailbox"]
    description: str | None
    is_private: bool
    """Not served over HTTP."""
    arguments: dict[str, Any] | None
    """JSON schema of the object of arguments (of a mailbox: of an item); None if it cannot be described."""
    result: dict[str, Any] | None


class SchemaVersion(BaseModel):
    """Entities whose state was last written by this version of their class."""

    version: int
    entities: Count


class TypeDescription(BaseModel):
    """A class of entities."""

    type: str
    is_served: bool
    is_built_in: bool
    description: str | None
    version: int | None
    """Schema version of the class here; None if it is not served."""
    entities: Count
    versions: list[SchemaVersion]
    """What is stored, oldest first; those before `version` are upgraded when they are loaded. From a sample."""
    pending_upgrades: Count
    """Entities that an older version of the class wrote."""
    indexed: list[str]
    """Fields of the state that searches find by an index."""
    view: str | None
    """The SQL view of its state with typed columns; None if there is none."""
    members: list[MemberDescription]
    state: dict[str, Any] | None
    """JSON schema of the state."""


class Types(BaseModel):
    """All types, by name: those of this gateway, Perdure's own, and those found in the database only."""

    types: list[TypeDescription]


# --- GET /hosts -------------------------------------------------------------------------------------------------------


class Host(BaseModel):
    """A host incarnation."""

    id: str
    address: str
    """Name of its Ray actor."""
    node: str
    """Ray node."""
    pid: int
    status: Literal["alive", "lost", "draining", "stopped", "fenced"]
    """`lost`: its lease has ended and nobody has fenced it yet. `fenced`: declared dead, it can never commit again."""
    capacity: int
    shards: int
    """That it owns."""
    activations: int | None
    """Entities in its memory, at the end of the last whole minute; None: it has not said yet."""
    started_at: dt.datetime | None
    lease_until: dt.datetime
    heartbeat_age_s: float | None
    """Seconds since its last heartbeat (to within the time between two); None if it is not alive."""
    gone_at: dt.datetime | None
    turns_per_s: float | None
    """In its last whole minute."""


class Hosts(BaseModel):
    """Hosts that are alive or draining, then those that went within the last day."""

    at: dt.datetime
    hosts: list[Host]
    hosts_wanted: int | None
    """So many are to be alive; None: nobody has said yet (`perdure up`)."""
    shards: int
    shards_without_host: int


# --- POST /hosts/{host}/drain -----------------------------------------------------------------------------------------


class HostDrain(BaseModel):
    """The host leaves in order, or has left. Asking again changes nothing."""

    host: Host
    hosts_active: int
    """Hosts that are alive and do not leave. This one is asked to go once they are as many as are wanted."""
    hosts_wanted: int | None
    is_supervised: bool
    """False: no supervisor answered this gateway. The order is kept, and carried out once there is one."""
    next: str
    """What happens next, in a sentence."""


# --- GET /all-entities ------------------------------------------------------------------------------------------------

EntityStatus = Literal["idle", "running", "parked", "completed", "failed", "cancelled", "terminated", "damaged"]
"""`idle`: it has never run a workflow. The others: the latest run of any of its workflows that is the most in need of
attention (parked, running, failed, then how the others ended). `damaged`: its state cannot be loaded."""


class EntityRow(Subject):
    """An entity in a list."""

    version: int
    updated_at: dt.datetime
    schema_version: int
    status: EntityStatus
    workflow: str = ""
    """Of the run that the status is about."""
    waiting: str = ""
    """What that run waits for."""
    paused: str = ""
    """Who has paused it, and why."""


class Entities(BaseModel):
    """A page of entities, ordered by type and key.

    Conditions: `type`, `prefix` (of the key), `status`, `waiting` (a part of what the run waits for), `since` (changed
    at this time or later), `limit`, `after`.
    """

    entities: list[EntityRow]
    next: str | None
    examined: int


# --- GET /reminders, GET /schedules -----------------------------------------------------------------------------------


class ReminderDescription(Subject):
    """Something due in the future, or late."""

    name: str
    kind: Literal["reminder", "timer", "message"]
    """`timer`: a workflow's sleep or time limit. `message`: a message sent with a delay."""
    handler: str
    due_at: dt.datetime
    late_s: float
    """0: not due yet."""
    every_s: float | None
    cron: str


class Reminders(BaseModel):
    """By due time. Conditions: `late=true`, `type`, `kind`, `limit`, `after`."""

    at: dt.datetime
    reminders: list[ReminderDescription]
    next: str | None


class ScheduleRow(BaseModel):
    """A schedule in a list; `perdure schedule describe` and its own queries tell the rest."""

    name: str
    when: str
    """Its times, as written."""
    target: str
    """`Type/key.member` that it starts or sends to."""
    is_paused: bool
    paused_reason: str
    running: int
    """Runs that have not ended yet."""
    next_at: dt.datetime | None
    last_at: dt.datetime | None
    last_status: str
    last_error: str


class Schedules(BaseModel):
    """Schedules, in an order that never changes. Conditions: `limit`, `after`."""

    schedules: list[ScheduleRow]
    next: str | None


# --- GET /audit -------------------------------------------------------------------------------------------------------


class AuditRow(Subject):
    """Something that an operator did to an entity or to one of its runs, applied or refused by it.

    Of a host: `type` is `PerdureHost`, `key` its incarnation, and `path` the list of hosts.
    """

    at: dt.datetime
    action: str
    """`edit`, `fork`, `pause`, `resume`, `retry`, `complete`, `fail`, `decide`, `cancel`, `terminate`, …; of a host
    `drain`."""
    operator: str
    """Subject of the credential; without credentials what the operator said."""
    reason: str
    target: str
    """The workflow, message or operation that it was done to; empty: the entity as a whole."""
    version: int
    """Entity version that it made."""
    message_id: str
    ok: bool
    error: str
    """Why it was refused, in one line."""


class Audit(BaseModel):
    """Newest first. Conditions: `type` and `key`, `operator`, `action`, `since`, `until`, `limit`, `after`."""

    actions: list[AuditRow]
    next: str | None


# --- GET /worklist, POST /worklist/{id} -------------------------------------------------------------------------------


class DecisionRow(Subject):
    """A decision that a workflow waits for."""

    id: str
    """Pass it to `POST /worklist/{id}`. Good until it is decided or overdue."""
    group: str
    """Who is to decide."""
    workflow: str
    run_id: str
    operation: int
    asked_at: dt.datetime
    due_at: dt.datetime | None
    """Then the workflow goes on without (DecisionOverdue); None: it waits without limit."""
    title: str
    show: dict[str, Any]
    """What the workflow wants to be shown to whoever decides."""
    schema_: dict[str, Any] | None = Field(alias="schema")
    """JSON schema of an answer; as `schema`."""


class WorkList(BaseModel):
    """Open decisions that the caller may take, by due time. Conditions: `group`, `type`, `limit`, `after`."""

    decisions: list[DecisionRow]
    next: str | None


class DecideBody(BaseModel):
    """Body of `POST /worklist/{id}`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    value: Any
    """The answer; it must fit `schema`."""
    reason: str = Field(default="", max_length=1_000)
    operator: str = Field(default="", max_length=1_000)
    """Who, where there are no credentials."""


class Decided(BaseModel):
    """The answer was applied, exactly once. Deciding again: 409 `operation_settled`."""

    id: str
    decided: bool
    idempotency_key: str
