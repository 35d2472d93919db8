"""The survey of the memory store: plain loops over everything, equal in what it answers to that on Postgres."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..ids import EntityId, new_message_id
from .memory_directory import GONE_SHOWN_US
from .rows import AttemptRow, AttemptStatus, ReminderRow, RunRow, RunStatus
from .survey import (
    COUNT_MAX,
    DECISION,
    DRAIN,
    FAILED_SHOWN_US,
    HOST,
    LATE_US,
    MINUTES_KEPT_US,
    POISON_POINTS,
    STATUS_RANK,
    WEDGED_ATTEMPTS,
    AuditCursor,
    Audited,
    Due,
    DueCursor,
    Few,
    Listed,
    ListedEntity,
    Minute,
    Noted,
    OldMessage,
    SurveyedHost,
    SurveyedHosts,
    Tally,
    Troubles,
    TypeTally,
    due_of,
    host_order,
)

if TYPE_CHECKING:
    from ..definition import EntityDefinition
    from .memory import MemoryStore, StoredEntity

T = TypeVar("T")

MINUTE_US = 60_000_000


class MemorySurvey:
    """`Survey` over the memory store's own dictionaries."""

    def __init__(self, store: "MemoryStore") -> None:
        self._store = store

    async def troubles(self, *, limit: int) -> Troubles:
        store = self._store
        now = store.now_us()
        runs = [(entity, run) for entity, stored in self._all() for run in stored.runs.values()]
        attempts = [(entity, row) for entity, stored in self._all() for row in stored.attempts.values()]

        def few(rows: Iterable[T], order: Callable[[T], Any]) -> Few[T]:
            found = sorted(rows, key=order)
            return Few(found[:limit], _at_most(len(found)))

        return Troubles(
            now,
            few((Noted(*note) for note in store.notes()), lambda note: (note.at_us, note.entity)),
            few((one for one in runs if one[1].status is RunStatus.PARKED), _by_start),
            few((one for one in store.suspected() if one[1].points >= POISON_POINTS), lambda one: one[0]),
            few((one for one in attempts if _is_wedged(one[1])), _by_first),
            few((one for one in attempts if one[1].status is AttemptStatus.PAUSED), _by_first),
            few(store.letters(), lambda one: (one.died_us, one.letter.envelope.entity, one.letter.envelope.id)),
            few((row for row in self._reminders() if row.due_us < now - LATE_US), _by_due),
            few(
                (one for one in self._messages() if one.sent_us < now - LATE_US), lambda one: (one.sent_us, one.entity)
            ),
            few((one for one in runs if one[1].paused and not one[1].ended_us), _by_start),
            few(
                (one for one in runs if one[1].status is RunStatus.FAILED and one[1].ended_us > now - FAILED_SHOWN_US),
                lambda one: (one[1].ended_us, one[0]),
            ),
            _at_most(sum(_is_decision(row) for _, row in attempts)),
        )

    async def types(self) -> list[str]:
        return sorted({entity.type for entity, _ in self._existing()})

    async def tally(self, types: Sequence[str]) -> dict[str, TypeTally]:
        found: dict[str, TypeTally] = {}
        for type_name in types:
            of_type = [stored for entity, stored in self._existing() if entity.type == type_name]
            statuses = Counter(str(run.status) for stored in of_type for run in stored.runs.values())
            runs = {status: Tally(count) for status, count in sorted(statuses.items())}
            found[type_name] = TypeTally(Tally(len(of_type)), runs)
        return found

    async def views(self) -> dict[str, str]:
        return {}

    async def make_views(self, definitions: "Sequence[EntityDefinition]") -> list[str]:
        del definitions  # there is no SQL
        return []

    async def versions(self, types: Sequence[str]) -> dict[str, dict[int, Tally]]:
        found: dict[str, dict[int, Tally]] = {}
        for type_name in types:
            counts = Counter(stored.schema_version for entity, stored in self._existing() if entity.type == type_name)
            found[type_name] = {version: Tally(count) for version, count in sorted(counts.items())}
        return found

    async def hosts(self) -> SurveyedHosts:
        store = self._store
        owned = Counter(shard.owner for shard in await store.owners())
        last = {minute.incarnation: minute for _, minute in sorted(store.minutes.items())}
        rows = [
            SurveyedHost(row, registered_us, gone_us, owned[row.incarnation], last.get(row.incarnation))
            for row, registered_us, gone_us in store.incarnations(gone_shown_us=24 * GONE_SHOWN_US)
        ]
        alive = {host.row.incarnation for host in rows if host.row.status in ("active", "draining")}
        unowned = sum(count for owner, count in owned.items() if owner not in alive)
        return SurveyedHosts(store.now_us(), rows, sum(owned.values()), unowned, await store.targets())

    async def drain_host(self, incarnation: str, *, operator: str, reason: str) -> None:
        store = self._store
        if any(host.incarnation == incarnation and host.status == "active" for host in await store.hosts()):
            await store.set_draining(incarnation)
            row = host_order(DRAIN, new_message_id(), operator=operator, reason=reason)
            store.audited.append(Audited(store.now_us(), EntityId(HOST, incarnation), row))

    async def minutes(self, *, since_us: int) -> list[Minute]:
        return [minute for (at_us, _), minute in sorted(self._store.minutes.items()) if at_us >= since_us]

    async def note(self, minute: Minute) -> None:
        minutes, now = self._store.minutes, self._store.now_us()
        at_us = now - now % MINUTE_US
        key = at_us, minute.incarnation
        known = minutes.get(key)
        minutes[key] = minute._replace(at_us=at_us) if known is None else _sum(known, minute)
        for old in [one for one in minutes if one[0] < now - MINUTES_KEPT_US]:
            del minutes[old]

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
        left = sorted(
            (entity.key, stored)
            for entity, stored in self._existing()
            if entity.type == type and entity.key.startswith(prefix) and (after is None or entity.key > after)
        )
        rows: list[ListedEntity] = []
        for examined, (key, stored) in enumerate(left, 1):
            row = self._listed(EntityId(type, key), stored)
            if status in ("", row.status) and waiting in row.waiting and stored.updated_us >= since_us:
                rows.append(row)
            if len(rows) == limit:
                return Listed(rows, key if examined < len(left) else None, examined)
        return Listed(rows, None, len(left))

    def _listed(self, entity: EntityId, stored: "StoredEntity") -> ListedEntity:
        plain = ListedEntity(entity, stored.version, stored.updated_us, stored.schema_version, "idle")
        runs = sorted(stored.runs.values(), key=lambda run: (STATUS_RANK.index(run.status), run.workflow))
        if runs:
            run = runs[0]
            plain = plain._replace(
                status=str(run.status), workflow=run.workflow, waiting=run.waiting, paused=run.paused
            )
        return plain._replace(status="damaged") if entity in self._store.parked else plain

    async def due(
        self, *, until_us: int = 0, type: str = "", kind: str = "", after: DueCursor | None = None, limit: int
    ) -> Due:
        found = sorted(
            (
                row
                for row in self._reminders()
                if (not until_us or row.due_us <= until_us)
                and type in ("", row.entity.type)
                and kind in ("", row.kind)
                and (after is None or _by_due(row) > tuple(after))
            ),
            key=_by_due,
        )
        page = found[:limit]
        return Due(self._store.now_us(), page, DueCursor(*_by_due(page[-1])) if len(found) > limit else None)

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
        found = sorted(
            (
                (AuditCursor(one.at_us, *one.entity, one.row.message_id), one)
                for one in self._store.audited
                if type in ("", one.entity.type)
                and key in ("", one.entity.key)
                and one.at_us >= since_us
                and (not until_us or one.at_us <= until_us)
            ),
            reverse=True,
            key=lambda item: item[0],
        )
        return [one for place, one in found if after is None or place < after][:limit]

    async def groups(self) -> list[str]:
        return sorted({row.activity.removeprefix(DECISION) for _, row in self._decisions()})

    async def decisions(
        self, group: str, *, type: str = "", after: DueCursor | None = None, limit: int
    ) -> list[tuple[EntityId, AttemptRow]]:
        found = sorted(
            (DueCursor(due_of(row), *entity, row.operation), row)
            for entity, row in self._decisions()
            if row.activity == DECISION + group and type in ("", entity.type)
        )
        return [(EntityId(place.type, place.key), row) for place, row in found if after is None or place > after][
            :limit
        ]

    async def decision(self, entity: EntityId, operation: str) -> AttemptRow | None:
        return next((row for owner, row in self._decisions() if owner == entity and row.operation == operation), None)

    # --- What there is ------------------------------------------------------------------------------------------------

    def _all(self) -> "Iterator[tuple[EntityId, StoredEntity]]":
        yield from self._store.stored()

    def _existing(self) -> "Iterator[tuple[EntityId, StoredEntity]]":
        return ((entity, stored) for entity, stored in self._all() if stored.version)

    def _reminders(self) -> Iterator[ReminderRow]:
        return (row for _, stored in self._all() for row in stored.reminders.values())

    def _messages(self) -> Iterator[OldMessage]:
        return (
            OldMessage(entity, one.id, str(one.kind), one.name, one.position)
            for entity, stored in self._all()
            for one in stored.inbox.values()
        )

    def _decisions(self) -> Iterator[tuple[EntityId, AttemptRow]]:
        return (
            (entity, row) for entity, stored in self._all() for row in stored.attempts.values() if _is_decision(row)
        )


def _is_wedged(row: AttemptRow) -> bool:
    return row.status is AttemptStatus.RETRYING and row.attempt >= WEDGED_ATTEMPTS


def _is_decision(row: AttemptRow) -> bool:
    return row.status is AttemptStatus.OUTSIDE and row.activity.startswith(DECISION)


def _by_start(one: tuple[EntityId, RunRow]) -> tuple[int, EntityId, str]:
    return one[1].started_us, one[0], one[1].workflow


def _by_first(one: tuple[EntityId, AttemptRow]) -> tuple[int, EntityId, str]:
    return one[1].first_us, one[0], one[1].operation


def _by_due(row: ReminderRow) -> tuple[int, str, str, str]:
    return row.due_us, row.entity.type, row.entity.key, row.name


def _at_most(count: int) -> Tally:
    return Tally(min(count, COUNT_MAX), count <= COUNT_MAX, count > COUNT_MAX)


def _sum(one: Minute, other: Minute) -> Minute:
    return one._replace(
        seconds=one.seconds + other.seconds,
        turns=one.turns + other.turns,
        commits=one.commits + other.commits,
        failed_commits=one.failed_commits + other.failed_commits,
        commit_us_p50=max(one.commit_us_p50, other.commit_us_p50),
        commit_us_p99=max(one.commit_us_p99, other.commit_us_p99),
        activations=other.activations,
    )
