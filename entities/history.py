"""An entity's history as ordered events, for people: messages, operations of workflows, operators' actions.

Derived from what is stored anyway: history rows (a message and its outcome), the journals of runs (what the code asked
for and what came of it), the latest run of each workflow, and notes on activities that are being retried. It works
while no host runs and shows committed facts only (promise P8).

What there is obeys the retention (24 hours by default): messages older than it are gone; a run's operations stay as
long as the run lives or its row is kept. Of runs that were replaced by a restart the end is not known. Times are those
of the commit, by the database's clock.
"""

import datetime as dt
from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from .archive import address_of, ambient_archive
from .engine.journal import Entry, Event, EventKind, OperationKind, Scheduled, decode_entry, sent_id
from .entity import Entity
from .errors import InvalidArguments
from .ids import EntityId
from .messages import Kind
from .recurrence import from_us
from .store.archive import STATE_IS_KEPT, Archive, Recorded, Timeline
from .store.rows import AttemptRow, HistoryRow, JournalRow, RunRow, RunStatus

HISTORY_LIMIT_MAX = 1_000


class What(StrEnum):
    """Kinds of events."""

    MESSAGE = "message"
    """A message was applied, or refused with its error: call, send, start, signal, …"""
    OPERATOR = "operator"
    """An operator did something: an edit, a fork, a dead letter replayed, …"""
    TRANSACTION = "transaction"
    """The entity took part in a transaction over several."""
    STARTED = "started"
    """A workflow run began."""
    SCHEDULED = "scheduled"
    """A run asked for an activity, a call, or to receive from a mailbox."""
    TIMER_STARTED = "timer_started"
    WAITING = "waiting"
    """A run waits for a condition."""
    SENT = "sent"
    CONTINUED = "continued"
    """A run goes on in another one with an empty journal."""
    REMINDER_CHANGED = "reminder_changed"
    COMPLETED = "completed"
    """An operation has its result."""
    FAILED = "failed"
    """An operation failed for good."""
    TIMER_FIRED = "timer_fired"
    RECEIVED = "received"
    """A run took an item out of a mailbox."""
    CONDITION_MET = "condition_met"
    CANCEL_REQUESTED = "cancel_requested"
    ENDED = "ended"
    """A run has ended: completed, failed, cancelled or terminated."""
    ATTEMPT_FAILED = "attempt_failed"
    """Attempts of an activity failed: `details["attempts"]` so many, `error` is the last one's. While it is being tried
    again it stands at the end of the history, then before the outcome."""
    PARKED = "parked"
    """At present: a run's code does not fit its journal. Stands at the end."""


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event."""

    version: int
    """Entity version that it belongs to."""
    at: dt.datetime
    what: What
    kind: str = ""
    """Kind of the message (`call`, `send`, …) or of the operation (`activity`, `timer`, …)."""
    name: str = ""
    ok: bool = True
    workflow: str = ""
    run_id: str = ""
    operation: int | None = None
    sender: str = ""
    message_id: str = ""
    """Of the message applied, or of the one that a run sent or called with."""
    input: Any = None
    """Arguments, where they are kept (of operations: up to 4 kB)."""
    output: Any = None
    """Result, item or value."""
    error: Any = None
    """ErrorBody as JSON if not `ok`."""
    details: dict[str, Any] = {}
    has_state: bool = False
    """The state that this event left is kept: `state_at` returns it."""


class HistoryPage(msgspec.Struct, frozen=True):
    """A piece of history."""

    version: int
    """The entity's present version; 0 = it does not exist (yet)."""
    events: list[HistoryEvent]
    next: int | None
    """Pass it as `after` for the next piece; None at the end. A piece may be empty and yet not the last."""


async def history(
    entity: Entity | EntityId,
    *,
    after: int = 0,
    limit: int = 100,
    kinds: Collection[What | str] = (),
    newest_first: bool = False,
    archive: Archive | None = None,
) -> HistoryPage:
    """Events of about `limit` turns after version `after` (`newest_first`: before it), optionally only some kinds.

    Works while no host runs, given an `archive`. Raises InvalidArguments, StoreUnavailable.
    """
    if not 1 <= limit <= HISTORY_LIMIT_MAX or after < 0:
        raise InvalidArguments(f"limit is 1 to {HISTORY_LIMIT_MAX} and after a version, not {limit} and {after}")
    try:
        wanted = frozenset(map(What, kinds))
    except ValueError:
        unknown = next(kind for kind in kinds if kind not in set(What))
        raise InvalidArguments(f"no events are {unknown[:40]!r}; there is {', '.join(What)}", errors=[]) from None
    reading = archive or ambient_archive()
    timeline = await reading.timeline(address_of(entity), after=after, limit=limit, newest_first=newest_first)
    is_at_end = after == 0 if newest_first else timeline.next is None
    events = [e for e in events_of(timeline, is_at_end=is_at_end) if not wanted or e.what in wanted]
    if newest_first:
        events.reverse()
    return HistoryPage(timeline.version, events, timeline.next)


def events_of(timeline: Timeline, *, is_at_end: bool) -> list[HistoryEvent]:
    """Oldest first. `is_at_end`: what is going on at present belongs to it."""
    journal = _Journal(timeline)
    events: list[HistoryEvent] = []
    for record in sorted(timeline.records, key=lambda r: (r.row.version, isinstance(r.row, JournalRow))):
        if not record.row.version:
            continue  # a run's copy of an older one's beginning (engine.turns.reruns): it did not happen again
        if isinstance(record.row, HistoryRow):
            events += journal.of_message(record.at_us, record.row)
        else:
            events += journal.of_resume(record.at_us, record.row, record)
    if is_at_end:
        events += _at_present(timeline)
    return events


class _Journal:
    """What the numbers in journal rows mean."""

    def __init__(self, timeline: Timeline) -> None:
        self._operations: dict[tuple[str, str, int], Scheduled] = {}
        self._last: dict[str, int] = {}
        self._runs = {(run.workflow, run.run_id): run for run in timeline.runs}
        for row in timeline.operations:
            self._last[row.run_id] = max(self._last.get(row.run_id, -1), row.number)
            for operation in entry_of(row).operations:
                self._operations[row.workflow, row.run_id, operation.number] = operation

    def of_message(self, at_us: int, row: HistoryRow) -> Iterator[HistoryEvent]:
        outcome = _json(row.outcome)
        yield HistoryEvent(
            version=row.version,
            at=from_us(at_us),
            what=_WHAT.get(row.kind, What.MESSAGE),
            kind=str(row.kind),
            name=row.name,
            ok=row.ok,
            sender=row.sender,
            message_id=row.message_id,
            input=_json(row.args),
            output=outcome if row.ok else None,
            error=None if row.ok else outcome,
            has_state=row.state == STATE_IS_KEPT,
        )
        if row.kind == Kind.TERMINATE and row.ok:
            for (workflow, _), run in self._runs.items():
                if workflow == row.name and run.status is RunStatus.TERMINATED:
                    yield _ended(row.version, at_us, run)

    def of_resume(self, at_us: int, row: JournalRow, record: Recorded) -> Iterator[HistoryEvent]:
        entry = entry_of(row)
        run = self._runs.get((row.workflow, row.run_id))

        def event(what: What, **more: Any) -> HistoryEvent:
            return HistoryEvent(
                version=row.version,
                at=from_us(at_us),
                what=what,
                workflow=row.workflow,
                run_id=row.run_id,
                has_state=record.row.state == STATE_IS_KEPT,
                **more,
            )

        def outcome(fed: Event) -> HistoryEvent:
            if fed.kind is EventKind.START:
                return event(What.STARTED, name=row.workflow, input=_json(run.args) if run is not None else None)
            if fed.kind is EventKind.CANCEL:
                return event(What.CANCEL_REQUESTED, name=row.workflow)
            known = self._operations.get((row.workflow, row.run_id, fed.operation))
            kind, name = (str(known.kind), known.name) if known is not None else ("", "")
            is_error = fed.kind is EventKind.ERROR
            value = _json(bytes(fed.value))
            return event(
                _outcome(fed.kind, kind),
                kind=kind,
                name=name,
                operation=fed.operation,
                ok=not is_error,
                output=None if is_error else value,
                error=value if is_error else None,
            )

        asked_here = {asked.number for asked in entry.operations}
        at_once = {fed.operation: fed for fed in entry.events if fed.operation in asked_here}
        for fed in entry.events:
            if fed.operation in asked_here:
                continue
            tried = entry.tried.get(str(fed.operation))
            if tried is not None:
                known = self._operations.get((row.workflow, row.run_id, fed.operation))
                yield event(
                    What.ATTEMPT_FAILED,
                    kind="activity",
                    name=known.name if known is not None else "",
                    operation=fed.operation,
                    ok=False,
                    error=_json(bytes(tried.error)),
                    details={"attempts": tried.attempts, "first_at": from_us(tried.first_us).isoformat()},
                )
            yield outcome(fed)
        for asked in entry.operations:
            given = entry.inputs.get(str(asked.number))
            target = entry.targets.get(str(asked.number))
            usual_id = sent_id(row.run_id, asked.number) if target is not None else ""
            yield event(
                _ASKED.get(asked.kind, What.SCHEDULED),
                kind=str(asked.kind),
                name=asked.name,
                operation=asked.number,
                message_id=entry.own_ids.get(str(asked.number), usual_id),
                input=_json(bytes(given)) if given is not None else None,
                details={} if target is None else {"target": target},
            )
            if asked.number in at_once:
                yield outcome(at_once[asked.number])
        is_last = row.number == self._last.get(row.run_id)
        if is_last and run is not None and run.status.is_terminal and run.status is not RunStatus.TERMINATED:
            yield _ended(row.version, at_us, run)


_WHAT = {
    Kind.MAINTAIN.value: What.OPERATOR,
    "operate": What.OPERATOR,
    "transaction": What.TRANSACTION,
}
_ASKED = {
    OperationKind.TIMER: What.TIMER_STARTED,
    OperationKind.CONDITION: What.WAITING,
    OperationKind.SEND: What.SENT,
    OperationKind.CONTINUE: What.CONTINUED,
    OperationKind.REMIND: What.REMINDER_CHANGED,
}


def _outcome(fed: EventKind, kind: str) -> What:
    match fed:
        case EventKind.ERROR:
            return What.FAILED
        case EventKind.FIRED:
            return What.TIMER_FIRED
        case EventKind.TRUE:
            return What.CONDITION_MET
        case _:
            return What.RECEIVED if kind == OperationKind.RECEIVE else What.COMPLETED


def _ended(version: int, at_us: int, run: RunRow) -> HistoryEvent:
    ok = run.status is RunStatus.COMPLETED
    outcome = _json(run.outcome)
    return HistoryEvent(
        version=version,
        at=from_us(at_us),
        what=What.ENDED,
        kind=str(run.status),
        name=run.workflow,
        workflow=run.workflow,
        run_id=run.run_id,
        ok=ok,
        output=outcome if ok else None,
        error=None if ok else outcome,
    )


def _at_present(timeline: Timeline) -> Iterator[HistoryEvent]:
    for attempt in timeline.attempts:
        yield _retrying(timeline.version, attempt)
    for run in timeline.runs:
        if run.status is RunStatus.PARKED:
            yield HistoryEvent(
                version=timeline.version,
                at=from_us(run.started_us),
                what=What.PARKED,
                name=run.workflow,
                workflow=run.workflow,
                run_id=run.run_id,
                ok=False,
                error=_json(run.outcome),
            )


def _retrying(version: int, attempt: AttemptRow) -> HistoryEvent:
    workflow, run_id, number = attempt.operation.split("/")
    return HistoryEvent(
        version=version,
        at=from_us(attempt.first_us),
        what=What.ATTEMPT_FAILED,
        kind="activity",
        name=attempt.activity,
        workflow=workflow,
        run_id=run_id,
        operation=int(number),
        ok=False,
        error=_json(attempt.error),
        details={"attempts": attempt.attempt, "next_at": from_us(attempt.next_us).isoformat()},
    )


def entry_of(row: JournalRow) -> Entry:
    """What happened in one resume, as far as this release can read it."""
    try:
        return decode_entry(row.entry)
    except msgspec.DecodeError:  # written by a newer release: its operations are not known here
        return Entry(now_us=0, events=[])


def _json(data: bytes) -> Any:
    return msgspec.json.decode(data)
