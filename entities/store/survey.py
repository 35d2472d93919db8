"""The survey: reading a whole namespace, for people who want to know what is wrong and where.

Beside the archive, which reads single entities. Everything is answered by the store alone, so it works while no host
runs; every method reads one committed moment (promise P8). Both implementations are held to one conformance suite
(tests/store/test_survey.py).

Nothing here reads a whole table. What needs a person is rare and has partial indexes; numbers beyond a bound are "at
least" or estimated from some of the shards, among which entities are spread evenly by their hash (error about 2 %);
lists look at a bounded number of rows per page. So the cost of an answer does not grow with the number of entities.

What people do to the cluster itself goes through here as well (`drain_host`): it must work while no host runs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from ..ids import EntityId
from ..messages import Kind
from .archive import Letter
from .rows import AttemptRow, HistoryRow, HostRow, ReminderRow, RunRow, Suspicion

if TYPE_CHECKING:
    from ..definition import EntityDefinition

T = TypeVar("T")

COUNT_MAX = 1_000
"""Rare things are counted up to this number."""
WEDGED_ATTEMPTS = 5
"""An activity that has failed so often is wedged, until it succeeds. Part of an index: see schema."""
LATE_US = 60_000_000
"""A reminder so long after its time is late; a message that has waited so long is old."""
FAILED_SHOWN_US = 24 * 3_600_000_000
"""How long a failed run is something to look at."""
POISON_POINTS = 2
"""Evidence that makes a suspect worth a look: below it may have been anybody's fault."""
DECISION = "decision:"
"""Activities of this name wait for a person of the group that follows: see decisions.py. Part of an index."""
MINUTES_KEPT_US = 24 * 3_600_000_000
HOST = "PerdureHost"
"""Stands for the type where the audit, grants and logs speak of a host; the key is its incarnation."""
DRAIN = "drain"
"""The name of an order to a host: leave in order."""


class Tally(NamedTuple):
    """A number of rows."""

    value: int
    is_exact: bool = True
    is_at_least: bool = False
    """Counting stopped here."""


class Few(NamedTuple, Generic[T]):
    """The first of some rows, and how many there are."""

    rows: list[T]
    total: Tally


class Noted(NamedTuple):
    """An entity that cannot be loaded."""

    entity: EntityId
    reason: str
    at_us: int


class OldMessage(NamedTuple):
    """A message that waits for its turn."""

    entity: EntityId
    message_id: str
    kind: str
    name: str
    sent_us: int
    """By its sender's clock."""


class Troubles(NamedTuple):
    """What needs a person; every list oldest first."""

    at_us: int
    damaged: Few[Noted]
    parked: Few[tuple[EntityId, RunRow]]
    poisoned: Few[tuple[int, Suspicion]]
    """(time of the last evidence, evidence)"""
    wedged: Few[tuple[EntityId, AttemptRow]]
    exhausted: Few[tuple[EntityId, AttemptRow]]
    letters: Few[Letter]
    late: Few[ReminderRow]
    waiting: Few[OldMessage]
    """Of a long inbox only the first rows of every shard are looked at."""
    paused: Few[tuple[EntityId, RunRow]]
    failed: Few[tuple[EntityId, RunRow]]
    decisions: Tally


class TypeTally(NamedTuple):
    """How many entities of a type there are."""

    entities: Tally
    runs: dict[str, Tally]
    """Latest runs, by status."""


class Minute(NamedTuple):
    """What one host did in about a minute. A lost one is no loss: nothing depends on it."""

    incarnation: str
    at_us: int
    """When it was noted, cut to the minute; by the database's clock."""
    seconds: int
    turns: int
    commits: int
    failed_commits: int
    commit_us_p50: int
    commit_us_p99: int
    activations: int


class SurveyedHost(NamedTuple):
    """A host as the directory knows it."""

    row: HostRow
    registered_us: int
    gone_us: int
    """0: it has not gone."""
    shards: int
    last: Minute | None


class SurveyedHosts(NamedTuple):
    """Hosts that live, and those that went within the last day."""

    at_us: int
    hosts: list[SurveyedHost]
    shards: int
    unowned: int
    """Shards without a host that may commit."""
    targets: bytes | None
    """What should run, as `Directory.targets`."""


class ListedEntity(NamedTuple):
    """An entity with the run that says most about it."""

    entity: EntityId
    version: int
    updated_us: int
    schema_version: int
    status: str
    """`damaged`, that of the run (parked before running, failed, terminated, cancelled, completed), or `idle`."""
    workflow: str = ""
    waiting: str = ""
    paused: str = ""


class Listed(NamedTuple):
    """A page of entities of one type, by key."""

    rows: list[ListedEntity]
    next: str | None
    """The key after which to go on; None at the end."""
    examined: int


class DueCursor(NamedTuple):
    """A place in a list by due time."""

    due_us: int
    type: str
    key: str
    name: str
    """Of the reminder; of a decision its operation."""


class Due(NamedTuple):
    """A page of reminders."""

    at_us: int
    rows: list[ReminderRow]
    next: DueCursor | None


class AuditCursor(NamedTuple):
    """A place in the audit."""

    at_us: int
    type: str
    key: str
    message_id: str


class Audited(NamedTuple):
    """What an operator did: the message's row in the history, which outlives it here.

    What was done to a host (`HOST`) was no message, but looks like one.
    """

    at_us: int
    entity: EntityId
    row: HistoryRow


STATUS_RANK = ("parked", "running", "failed", "terminated", "cancelled", "completed")
"""Of several runs the one whose status stands first says most about an entity."""


class Survey(Protocol):
    """What can be asked. Raises StoreUnavailable if the database does not answer."""

    async def troubles(self, *, limit: int) -> Troubles:
        """What needs a person, at most `limit` of a kind."""
        ...

    async def types(self) -> list[str]:
        """Names of all types of which there are entities, sorted."""
        ...

    async def tally(self, types: Sequence[str]) -> dict[str, TypeTally]:
        """How many entities of these types there are, and what their runs do."""
        ...

    async def views(self) -> dict[str, str]:
        """Type → name of the SQL view of its states; nothing where there is no SQL."""
        ...

    async def make_views(self, definitions: "Sequence[EntityDefinition]") -> list[str]:
        """Make or replace the SQL views of these types, as far as there is SQL. Returns the names of those it made.

        Raises StoreUnavailable if the database refuses: the role may not, or others have built on a view.
        """
        ...

    async def versions(self, types: Sequence[str]) -> dict[str, dict[int, Tally]]:
        """How many entities of these types were last written by each schema version."""
        ...

    async def hosts(self) -> SurveyedHosts:
        """Who owns what."""
        ...

    async def drain_host(self, incarnation: str, *, operator: str, reason: str) -> None:
        """Order a host out: mark it as draining if it is active, and keep in the audit who ordered it and why.

        Both in one commit, or neither: of a host that is draining or gone, or unknown, nothing is written. So it may be
        repeated. Whoever is the supervisor sees to the rest (cluster/reconcile.py).
        """
        ...

    async def minutes(self, *, since_us: int) -> list[Minute]:
        """What hosts noted at this time or later, by time and host."""
        ...

    async def note(self, minute: Minute) -> None:
        """Keep a minute for a day (`at_us` is set here). A second one in the same minute adds to the first."""
        ...

    async def entities(
        self,
        type: str,
        *,
        prefix: str = "",
        status: str = "",
        waiting: str = "",
        since_us: int = 0,
        after: str | None = None,
        limit: int,
    ) -> Listed:
        """Entities of a type by key: those whose key begins so, of this status, whose run waits for something that
        holds this text, changed at this time or later. A page ends early when it has looked at many.
        """
        ...

    async def due(
        self, *, until_us: int = 0, type: str = "", kind: str = "", after: DueCursor | None = None, limit: int
    ) -> Due:
        """Reminders by due time: until this time, of a type, of a kind. A page ends early when it has looked at
        many.
        """
        ...

    async def audit(
        self,
        *,
        type: str = "",
        key: str = "",
        since_us: int = 0,
        until_us: int = 0,
        after: AuditCursor | None = None,
        limit: int,
    ) -> list[Audited]:
        """What operators did, newest first; kept as long as the namespace."""
        ...

    async def groups(self) -> list[str]:
        """Groups that have decisions to take, sorted."""
        ...

    async def decisions(
        self, group: str, *, type: str = "", after: DueCursor | None = None, limit: int
    ) -> list[tuple[EntityId, AttemptRow]]:
        """Open decisions of a group by due time; those without come last. Their cursor has the due time `NEVER_US`."""
        ...

    async def decision(self, entity: EntityId, operation: str) -> AttemptRow | None:
        """One of them, or None."""
        ...


NEVER_US = 2**53
"""In place of the due time of a decision that waits without limit."""


def host_order(name: str, message_id: str, *, operator: str, reason: str) -> HistoryRow:
    """What the audit keeps of an order to a host. In the clear in encrypted namespaces, too: it is about no entity."""
    args = msgspec.json.encode({"operator": operator, "reason": reason})
    return HistoryRow(message_id, 0, Kind.MAINTAIN, name, "", b"", args, ok=True, outcome=b"null")


def due_of(row: AttemptRow) -> int:
    """When a decision is due, for ordering."""
    return row.next_us or NEVER_US
