"""From rows of the store to what the routes for a whole namespace answer (overview_schemas.py). Pure functions."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict
from urllib.parse import quote

import msgspec

from ..entities.decisions import OpenDecision
from ..entities.errors import ErrorBody
from ..entities.ids import EntityId
from ..entities.messages import OperationAddress, decode_error
from ..entities.recurrence import from_us
from ..entities.schedules import Schedule
from ..entities.search import Match
from ..entities.store.archive import Letter
from ..entities.store.rows import AttemptRow, ReminderRow, RunRow
from ..entities.store.survey import (
    HOST,
    LATE_US,
    Audited,
    ListedEntity,
    Minute,
    Noted,
    OldMessage,
    SurveyedHost,
    SurveyedHosts,
    Tally,
    Troubles,
    TypeTally,
)
from .overview_schemas import (
    Attention,
    AttentionKind,
    AuditRow,
    Count,
    DecisionRow,
    EntityRow,
    Host,
    HostCounts,
    ReminderDescription,
    ScheduleRow,
    Throughput,
    TypeCounts,
)
from .overview_schemas import Minute as MinuteFigures

REASON_CHARS_MAX = 300
LOST_SHOWN_US = 3_600_000_000
"""How long a host that was fenced counts as lost."""


def path_of(entity: EntityId) -> str:
    """Where the gateway describes an entity, or the hosts."""
    if entity.type == HOST:
        return "/hosts"
    return f"/entities/{quote(entity.type, safe='')}/{quote(entity.key, safe='')}"


class _Address(TypedDict):
    type: str
    key: str
    path: str


def _subject(entity: EntityId) -> _Address:
    return {"type": entity.type, "key": entity.key, "path": path_of(entity)}


def count_of(tally: Tally) -> Count:
    """A number as callers see it."""
    return Count(value=tally.value, is_exact=tally.is_exact, is_at_least=tally.is_at_least)


def _line(text: str) -> str:
    """The first line, not too long."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= REASON_CHARS_MAX else f"{first[: REASON_CHARS_MAX - 1]}…"


def reason_of(error: bytes) -> str:
    """A stored error in one line."""
    try:
        body: ErrorBody = decode_error(error)
    except msgspec.DecodeError:
        return ""  # there was none
    return _line(f"{body.type}: {body.message}" if body.type else body.message)


# --- What needs a person ----------------------------------------------------------------------------------------------


def attention_of(found: Troubles) -> tuple[list[Attention], dict[AttentionKind, Count]]:
    """What to look at, by kind in the order of urgency; and how many there are of each."""
    kinds: list[tuple[AttentionKind, Tally, Iterable[Attention]]] = [
        ("damaged", found.damaged.total, map(_damaged, found.damaged.rows)),
        ("parked", found.parked.total, (_of_run("parked", *one) for one in found.parked.rows)),
        ("poisoned", found.poisoned.total, (_poisoned(*one) for one in found.poisoned.rows)),
        ("wedged", found.wedged.total, (_of_attempt("wedged", *one) for one in found.wedged.rows)),
        ("exhausted", found.exhausted.total, (_of_attempt("exhausted", *one) for one in found.exhausted.rows)),
        ("dead_letter", found.letters.total, map(_of_letter, found.letters.rows)),
        ("late_reminder", found.late.total, map(_of_reminder, found.late.rows)),
        ("old_message", found.waiting.total, map(_of_message, found.waiting.rows)),
        ("paused", found.paused.total, (_of_run("paused", *one) for one in found.paused.rows)),
        ("failed", found.failed.total, (_of_run("failed", *one) for one in found.failed.rows)),
    ]
    rows = [row for _, _, shown in kinds for row in shown]
    return rows, {kind: count_of(tally) for kind, tally, _ in kinds}


def _damaged(note: Noted) -> Attention:
    return Attention(**_subject(note.entity), kind="damaged", since=from_us(note.at_us), reason=_line(note.reason))


def _of_run(kind: AttentionKind, entity: EntityId, row: RunRow) -> Attention:
    since_us = row.ended_us if kind == "failed" else row.started_us if kind == "parked" else 0
    return Attention(
        **_subject(entity),
        kind=kind,
        since=from_us(since_us) if since_us else None,
        reason=_line(row.paused) if kind == "paused" else reason_of(row.outcome),
        workflow=row.workflow,
        run_id=row.run_id,
    )


def _poisoned(at_us: int, row: Any) -> Attention:
    is_run = row.message_id.startswith("run:")
    workflow, run_id = row.message_id.split(":", 2)[1:] if is_run else ("", "")
    return Attention(
        **_subject(row.entity),
        kind="poisoned",
        since=from_us(at_us),
        reason=_line(row.reason) or "hosts have died while this was running",
        workflow=workflow,
        run_id=run_id,
        message_id="" if is_run else row.message_id,
    )


def _of_attempt(kind: AttentionKind, entity: EntityId, row: AttemptRow) -> Attention:
    address = OperationAddress.parse(row.operation)
    return Attention(
        **_subject(entity),
        kind=kind,
        since=from_us(row.first_us),
        reason=reason_of(row.error),
        workflow=address.workflow,
        run_id=address.run_id,
        operation=address.number,
        name=row.activity,
        attempts=row.attempt,
        next_at=from_us(row.next_us) if kind == "wedged" else None,
    )


def _of_letter(letter: Letter) -> Attention:
    envelope = letter.letter.envelope
    return Attention(
        **_subject(envelope.entity),
        kind="dead_letter",
        since=from_us(letter.died_us),
        reason=reason_of(letter.letter.error),
        name=envelope.name,
        message_id=envelope.id,
        attempts=letter.letter.attempts,
    )


def _of_reminder(row: ReminderRow) -> Attention:
    what = "a timer of a workflow" if row.kind == "timer" else f"the {row.kind} {row.name!r}"
    return Attention(
        **_subject(row.entity),
        kind="late_reminder",
        since=from_us(row.due_us),
        reason=_line(f"{what} was due more than {LATE_US // 1_000_000} s ago and has not fired: is a host alive?"),
        name=row.name,
    )


def _of_message(row: OldMessage) -> Attention:
    return Attention(
        **_subject(row.entity),
        kind="old_message",
        since=from_us(row.sent_us),
        reason=f"a message has waited for its turn for more than {LATE_US // 1_000_000} s",
        name=row.name,
        message_id=row.message_id,
    )


# --- Figures ----------------------------------------------------------------------------------------------------------


def type_counts(name: str, tally: TypeTally, *, is_served: bool) -> TypeCounts:
    """Of one type."""
    runs = {status: count_of(count) for status, count in tally.runs.items()}
    return TypeCounts(type=name, is_served=is_served, entities=count_of(tally.entities), runs=runs)


def throughput_of(minutes: Sequence[Minute]) -> Throughput:
    """The minutes of all hosts together. A host's minutes follow each other, so each second counts once per host."""
    by_time: dict[int, list[Minute]] = {}
    for minute in minutes:
        by_time.setdefault(minute.at_us, []).append(minute)
    figures = [_figures(at_us, noted) for at_us, noted in sorted(by_time.items())]
    seconds = sum(max(minute.seconds for minute in noted) for noted in by_time.values())
    busy = [one for one in figures if one.commits]
    return Throughput(
        turns_per_s=round(sum(one.turns for one in figures) / seconds, 2) if seconds else 0.0,
        commit_ms_p50=_mean([(one.commit_ms_p50, one.commits) for one in busy]) if busy else None,
        commit_ms_p99=max(one.commit_ms_p99 for one in busy) if busy else None,
        minutes=figures,
    )


def _figures(at_us: int, noted: Sequence[Minute]) -> MinuteFigures:
    return MinuteFigures(
        at=from_us(at_us),
        turns=sum(one.turns for one in noted),
        commits=sum(one.commits for one in noted),
        failed_commits=sum(one.failed_commits for one in noted),
        commit_ms_p50=_mean([(one.commit_us_p50 / 1_000, one.commits) for one in noted]),
        commit_ms_p99=max(one.commit_us_p99 for one in noted) / 1_000,
    )


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    total = sum(weight for _, weight in weighted)
    return round(sum(value * weight for value, weight in weighted) / total, 3) if total else 0.0


def host_of(one: SurveyedHost, now_us: int, *, lease_s: float) -> Host:
    """A host; the age of its heartbeat follows from the end of its lease."""
    row, last = one.row, one.last
    is_live = row.status in ("active", "draining")
    is_lost = is_live and row.lease_us <= now_us
    age_s = max(0.0, (now_us - row.lease_us) / 1e6 + lease_s) if is_live else None
    return Host(
        id=row.incarnation,
        address=row.address,
        node=row.node,
        pid=row.pid,
        status="lost" if is_lost else "alive" if row.status == "active" else row.status,  # type: ignore[arg-type]
        capacity=row.capacity,
        shards=one.shards,
        activations=last.activations if last is not None else None,
        started_at=from_us(one.registered_us) if one.registered_us else None,
        lease_until=from_us(row.lease_us),
        heartbeat_age_s=None if age_s is None else round(age_s, 3),
        gone_at=from_us(one.gone_us) if one.gone_us else None,
        turns_per_s=round(last.turns / last.seconds, 2) if last is not None and last.seconds else None,
    )


def host_counts(found: SurveyedHosts) -> HostCounts:
    """How many there are of each kind."""
    live = [one for one in found.hosts if one.row.status in ("active", "draining")]
    fenced = [one for one in found.hosts if one.row.status == "fenced" and one.gone_us > found.at_us - LOST_SHOWN_US]
    silent = [one for one in live if one.row.lease_us <= found.at_us]
    return HostCounts(
        alive=sum(one.row.status == "active" for one in live) - sum(one.row.status == "active" for one in silent),
        draining=sum(one.row.status == "draining" for one in live),
        lost=len(silent) + len(fenced),
        shards=found.shards,
        shards_without_host=found.unowned + sum(one.shards for one in silent),
    )


# --- Lists ------------------------------------------------------------------------------------------------------------


def entity_row(row: ListedEntity) -> EntityRow:
    """An entity of a list."""
    return EntityRow(
        **_subject(row.entity),
        version=row.version,
        updated_at=from_us(row.updated_us),
        schema_version=row.schema_version,
        status=row.status,  # type: ignore[arg-type]
        workflow=row.workflow,
        waiting=row.waiting,
        paused=row.paused,
    )


def reminder_row(row: ReminderRow, now_us: int) -> ReminderDescription:
    """A reminder of a list."""
    return ReminderDescription(
        **_subject(row.entity),
        name=row.name,
        kind=str(row.kind),  # type: ignore[arg-type]
        handler=row.handler,
        due_at=from_us(row.due_us),
        late_s=max(0.0, round((now_us - row.due_us) / 1e6, 3)),
        every_s=row.every_us / 1e6 if row.every_us else None,
        cron=row.cron,
    )


def schedule_row(match: Match[Schedule], now_us: int) -> ScheduleRow | None:
    """A schedule of a list; None for one that was deleted."""
    state = match.state
    spec = state.spec
    if spec is None:
        return None
    following = None
    if not state.is_paused:
        due_us = next(spec.occurrences(max(state.looked_us, now_us), state.anchor_us), None)
        following = from_us(due_us) if due_us is not None else None
    last = state.last[-1] if state.last else None
    running = [run for run in state.running if run.status in ("running", "cancelling")]
    return ScheduleRow(
        name=match.key,
        when=f"{spec.cron} {spec.tz}" if spec.cron else f"every {spec.every}",
        target=f"{spec.type}/{spec.key}.{spec.name}",
        is_paused=state.is_paused,
        paused_reason=state.note if state.is_paused else "",
        running=len(running),
        next_at=following,
        last_at=last.started_at if last is not None else None,
        last_status=last.status if last is not None else "",
        last_error=_line(last.error) if last is not None else "",
    )


class _Words(msgspec.Struct):
    """What an operator's message says of itself, whatever kind it is."""

    action: str = ""
    operator: str = ""
    reason: str = ""
    operation: int | str | None = None
    message_id: str = ""


def audit_row(one: Audited) -> AuditRow:
    """Something that an operator did."""
    row = one.row
    try:
        words = msgspec.json.decode(row.args, type=_Words)
    except msgspec.DecodeError:  # encrypted, and there is no key here
        words = _Words()
    target = words.message_id if row.kind == "maintain" else row.name
    if words.operation is not None:
        target = f"{row.name}#{words.operation}"
    return AuditRow(
        **_subject(one.entity),
        at=from_us(one.at_us),
        action=words.action or (row.name if row.kind == "maintain" else row.kind),
        operator=words.operator,
        reason=words.reason,
        target=target,
        version=row.version,
        message_id=row.message_id,
        ok=row.ok,
        error="" if row.ok else reason_of(row.outcome),
    )


def decision_row(one: OpenDecision) -> DecisionRow:
    """An open decision."""
    return DecisionRow(
        **_subject(one.entity),
        id=one.id,
        group=one.group,
        workflow=one.workflow,
        run_id=one.run_id,
        operation=one.operation,
        asked_at=one.asked_at,
        due_at=one.due_at,
        title=one.title,
        show=one.show,
        schema=one.schema,
    )
