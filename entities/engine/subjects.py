"""What user code is running, by name: for the log, and for what is held against it (`suspects`, the host's watchdog).

A resume of a workflow run is the run's doing, whichever event caused it; everything else is the message's.
"""

from typing import NamedTuple

from ..ids import EntityId
from ..messages import Kind, OperationAddress
from ..store.rows import ReminderKind, ReminderRow, suspect_id
from .deliveries import ActivityDone, Begin, CheckConditions, Delivery, Fire, Item


class Subject(NamedTuple):
    """A message or a run."""

    entity: EntityId
    id: str
    """Message id, or `run:<workflow>:<run_id>`."""
    name: str
    """Handler, query, workflow or mailbox."""

    def __str__(self) -> str:
        return f"{self.entity}.{self.name}"


def run_subject(entity: EntityId, workflow: str, run_id: str) -> Subject:
    """A workflow run."""
    return Subject(entity, suspect_id(workflow, run_id), workflow)


def occurrence_id(row: ReminderRow) -> str:
    """Message id of one occurrence of a reminder, or of a delayed message."""
    return f"{row.name}:due" if row.kind is ReminderKind.MESSAGE else f"{row.name}:{row.generation}:{row.due_us}"


def subject_of(entity: EntityId, item: Item) -> Subject:
    """Whose code runs when this item is processed."""
    match item:
        case Delivery():
            if item.envelope.kind is Kind.REPLY:
                return _run_of(entity, item.envelope.name)
            return Subject(entity, item.envelope.id, item.envelope.name)
        case ActivityDone():
            return _run_of(entity, item.call.operation)
        case Fire():
            if item.row.kind is ReminderKind.TIMER:
                return _run_of(entity, item.row.name)
            return Subject(entity, occurrence_id(item.row), item.row.handler)
        case CheckConditions() | Begin():
            return run_subject(entity, item.run.row.workflow, item.run.row.run_id)


def _run_of(entity: EntityId, operation: str) -> Subject:
    address = OperationAddress.parse(operation)
    return run_subject(entity, address.workflow, address.run_id)
