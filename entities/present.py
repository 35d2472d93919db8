"""What is going on at an entity now, for people: its runs and what they wait for, and everything that waits for it.

From committed rows alone (promise P8), so it is told while no host runs, and bounded whatever the entity holds. What a
run waits for is what its journal says it has asked for without an outcome; the journal does not say which operations
the code has given up since, so of timers only those count that are set, and of the others those that the run's own row
names. While a host runs, `Order.ref(k).run.operations()` has it from the run itself.
"""

import datetime as dt
from collections import Counter
from typing import Any

import msgspec

from .archive import address_of, ambient_archive
from .engine.journal import OperationKind
from .engine.limits import without_note
from .entity import Entity
from .errors import InvalidArguments, NoSuchEntity
from .history import entry_of
from .ids import EntityId
from .maintenance import DeadLetterInfo, letter_info
from .recurrence import from_us
from .store.archive import Archive, Present
from .store.rows import AttemptRow, AttemptStatus, ReminderRow, RunRow

ROWS_MAX = 200
"""Rows of each kind that are shown."""
JOURNAL_MAX = 2_000
"""Journal entries of live runs that are looked at, newest first."""
_NAMED_MAX = 5
"""Operations that a run's row names."""
_WAITED_FOR = frozenset(
    (OperationKind.ACTIVITY, OperationKind.TIMER, OperationKind.CONDITION, OperationKind.RECEIVE, OperationKind.CALL)
)


class PendingOperation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a run waits for."""

    number: int
    kind: str
    """`activity`, `timer`, `condition`, `receive` or `call`."""
    name: str
    status: str
    """`waiting`; of activities: `running` (as far as is stored), `retrying`, `paused` (waits for a person) or
    `outside` (waits for completion by its token)."""
    since: dt.datetime | None
    """When it was asked for."""
    attempts: int = 0
    """Failed attempts so far."""
    last_error: Any = None
    """ErrorBody as JSON."""
    next_at: dt.datetime | None = None
    """Next attempt, end of the limit, or when the timer is due."""
    heartbeat: Any = None
    input: Any = None


class PresentRun(msgspec.Struct, frozen=True, kw_only=True):
    """The latest run of a workflow."""

    workflow: str
    run_id: str
    status: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    paused: str
    """Who has paused it, and why; empty: it is not paused."""
    waiting: str
    """What it waits for, in its own words."""
    input: Any
    outcome: Any
    """Result, or ErrorBody of a run that failed or is parked."""
    parent: str
    """`Type/key#workflow/run_id/number` that started it and decides about its end."""
    chain: list[str]
    """Runs that wait for this one, outermost first: `Type/key#workflow`."""
    children: list[str]
    """Runs that it has started: `Type/key#workflow`."""
    operations: list[PendingOperation]


class PendingMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A stored message that waits for its turn."""

    message_id: str
    kind: str
    name: str
    sender: str
    input: Any


class PendingReminder(msgspec.Struct, frozen=True, kw_only=True):
    """Something due."""

    name: str
    kind: str
    due_at: dt.datetime
    handler: str
    every_s: float | None
    cron: str
    input: Any


class PendingItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item that waits in a mailbox."""

    mailbox: str
    message_id: str
    item: Any


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """An entity now."""

    type: str
    key: str
    version: int
    schema_version: int
    updated_at: dt.datetime | None
    state: Any
    runs: list[PresentRun]
    inbox: list[PendingMessage]
    reminders: list[PendingReminder]
    items: list[PendingItem]
    dead_letters: list[DeadLetterInfo]
    rows_max: int = ROWS_MAX
    """A list of this length may have been cut."""


async def present(entity: Entity | EntityId, *, limit: int = ROWS_MAX, archive: Archive | None = None) -> Now:
    """What is going on at an entity. Works while no host runs, given an `archive`.

    Raises NoSuchEntity, InvalidArguments, StoreUnavailable.
    """
    if not 1 <= limit <= ROWS_MAX:
        raise InvalidArguments(f"limit is 1 to {ROWS_MAX}, not {limit}", errors=[])
    address = address_of(entity)
    found = await (archive or ambient_archive()).present(address, limit=limit, journal_max=JOURNAL_MAX)
    if found is None:
        raise NoSuchEntity(f"{address}: nothing is stored for it")
    loaded = found.loaded
    return Now(
        type=address.type,
        key=address.key,
        version=loaded.version,
        schema_version=loaded.schema_version,
        updated_at=from_us(found.updated_us) if loaded.version else None,
        state=msgspec.Raw(loaded.state or b"null"),
        runs=[_run(found, row) for row in loaded.runs],
        inbox=[
            PendingMessage(
                message_id=waiting.id,
                kind=str(waiting.kind),
                name=waiting.name,
                sender=waiting.sender,
                input=msgspec.Raw(waiting.args),
            )
            for waiting in loaded.inbox
        ],
        reminders=list(map(_reminder, found.reminders)),
        items=[
            PendingItem(mailbox=item.mailbox, message_id=item.message_id, item=msgspec.Raw(item.item))
            for item in loaded.items
        ],
        dead_letters=list(map(letter_info, found.letters)),
        rows_max=limit,
    )


def _reminder(row: ReminderRow) -> PendingReminder:
    return PendingReminder(
        name=row.name,
        kind=str(row.kind),
        due_at=from_us(row.due_us),
        handler=row.handler,
        every_s=row.every_us / 1e6 if row.every_us else None,
        cron=row.cron,
        input=msgspec.Raw(row.args),
    )


def _run(found: Present, row: RunRow) -> PresentRun:
    return PresentRun(
        workflow=row.workflow,
        run_id=row.run_id,
        status=str(row.status),
        started_at=from_us(row.started_us),
        ended_at=from_us(row.ended_us) if row.ended_us else None,
        paused=row.paused,
        waiting=row.waiting,
        input=msgspec.Raw(row.args),
        outcome=msgspec.Raw(row.outcome),
        parent=row.parent,
        chain=list(row.chain),
        children=[child.run for child in row.children],
        operations=[] if row.status.is_terminal else _operations(found, row),
    )


# --- What a run waits for ---------------------------------------------------------------------------------------------


def _operations(found: Present, run: RunRow) -> list[PendingOperation]:
    asked: dict[int, PendingOperation] = {}
    attempts = {row.operation: row for row in found.loaded.attempts}
    timers = {row.name: row for row in found.reminders}
    for row in found.loaded.journal:
        if (row.workflow, row.run_id) != (run.workflow, run.run_id):
            continue
        entry = entry_of(row)
        for scheduled in entry.operations:
            if scheduled.kind not in _WAITED_FOR:
                continue
            address = f"{run.workflow}/{run.run_id}/{scheduled.number}"
            given = entry.inputs.get(str(scheduled.number))
            asked[scheduled.number] = _operation(
                PendingOperation(
                    number=scheduled.number,
                    kind=str(scheduled.kind),
                    name=scheduled.name,
                    status="running" if scheduled.kind is OperationKind.ACTIVITY else "waiting",
                    since=from_us(entry.now_us),
                    input=None if given is None else msgspec.Raw(bytes(given)),
                ),
                attempts.get(address),
                timers.get(address),
            )
        for event in entry.events:
            asked.pop(event.operation, None)
    return _still_wanted(list(asked.values()), run)


def _operation(plain: PendingOperation, attempt: AttemptRow | None, timer: ReminderRow | None) -> PendingOperation:
    if attempt is not None:
        has_limit = attempt.next_us and (attempt.status is not AttemptStatus.PAUSED)
        return msgspec.structs.replace(
            plain,
            status=str(attempt.status),
            attempts=attempt.attempt,
            last_error=msgspec.json.decode(attempt.error),
            next_at=from_us(attempt.next_us) if has_limit else None,
            since=from_us(attempt.first_us),
            heartbeat=msgspec.json.decode(attempt.details),
        )
    return plain if timer is None else msgspec.structs.replace(plain, next_at=from_us(timer.due_us))


def _still_wanted(asked: list[PendingOperation], run: RunRow) -> list[PendingOperation]:
    """Without what the code has given up: timers that are not set, and the oldest of a name beyond those named."""
    kept = [one for one in asked if one.kind != OperationKind.TIMER or one.next_at is not None]
    named = [text for text in without_note(run.waiting).split(", ") if text]
    if not named or len(named) >= _NAMED_MAX:
        return kept
    left = Counter(named)
    wanted: list[PendingOperation] = []
    for one in reversed(kept):
        text = f"{one.kind} {one.name}".rstrip()
        if left[text] > 0:
            left[text] -= 1
            wanted.append(one)
    return wanted[::-1]
