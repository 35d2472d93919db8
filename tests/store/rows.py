"""Rows with everything filled in, so that a column that is lost or swapped shows."""

from typing import Any

from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope, Kind
from perdure.entities.store.rows import (
    AttemptRow,
    AttemptStatus,
    Child,
    HistoryRow,
    JournalRow,
    MailboxItem,
    ReminderKey,
    ReminderKind,
    ReminderRow,
    RunRow,
    RunStatus,
)

A = EntityId("Order", "order-1")
B = EntityId("Order", "order/2 ü 😀")
C = EntityId("Account", "c")
HOUR_US = 3_600_000_000


def history(message_id: str = "m1", version: int = 1, **more: Any) -> HistoryRow:
    row = HistoryRow(message_id, version, "call", "pick_up", "Account/a", b"\x00\xff" * 8, b'{"a":1}', True, b'"done"')
    return row._replace(**more)


def envelope(entity: EntityId, message_id: str = "m1", position: int = 1, **more: Any) -> Envelope:
    return Envelope(
        id=message_id, type=entity.type, key=entity.key, kind=Kind.SEND, name="pick_up", position=position, **more
    )


def full_envelope(entity: EntityId, message_id: str = "m9") -> Envelope:
    return Envelope(
        id=message_id, type=entity.type, key=entity.key, kind=Kind.SIGNAL, name="decision", args=b'{"x":[1,2]}',
        sender="client-7", position=77, is_retry=True, reply_to="A/b#run/1/2", delay_us=5, chain=("A/b#run", "C/d#go"),
        trace="00-ab-cd-01", timeout_us=9, options="restart",
    )  # fmt: skip


def reminder(entity: EntityId, name: str = "rating", due_us: int = 1_000_001, **more: Any) -> ReminderRow:
    return ReminderRow(
        entity, name, ReminderKind.TIMER, generation=1, due_us=due_us, every_us=60, catch_up_all=True,
        handler="ask", args=b'{"k":null}', cron="0 9 * * mon-fri Europe/Berlin",
    )._replace(**more)  # fmt: skip


def fired(row: ReminderRow, *, is_fired: bool = True) -> ReminderKey:
    return ReminderKey(row.name, row.generation, row.due_us, is_fired)


def run(workflow: str = "run", run_id: str = "r1", **more: Any) -> RunRow:
    return RunRow(
        workflow, run_id, RunStatus.RUNNING,
        args=b'{"p":3}', fingerprint=b"\x01" * 16, started_us=1_700_000_000_000_000,
        in_flight=True, waiting="charge", paused="ann: audit", reply_to=("A/b#run/1/2",), chain=("A/b#run",),
        parent="A/b#run/1/2",
        children=(Child("run/r1/0", "C/d#go", "cancel"), Child("run/r1/1", "C/e#go", "terminate")),
    )._replace(**more)  # fmt: skip


def entry(number: int = 0, workflow: str = "run", run_id: str = "r1") -> JournalRow:
    return JournalRow(workflow, run_id, number, number + 1, b'{"n":%d}' % number)


def item(position: int = 1, mailbox: str = "decision") -> MailboxItem:
    return MailboxItem(mailbox, position, f"m{position}", b'{"yes":true}')


def attempt(operation: str = "run/r1/1", number: int = 2) -> AttemptRow:
    return AttemptRow(
        operation, "charge", number, b'{"code":"x"}', 1_700_000_000_000_002, 1_700_000_000_000_001,
        status=AttemptStatus.PAUSED, details=b'{"done":5}', started_us=1_700_000_000_000_003,
    )  # fmt: skip
