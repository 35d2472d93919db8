"""P9, I32, F34: stored rows that mean nothing are refused with their reason, bounded, and harm no other entity.

In memory, where rows carry no checksum of their own: what gets here was written so, by an older release or by a bug.
"""

from dataclasses import replace

import pytest

from perdure.entities import Entity, EntityId, EntityParked, Mailbox, handler, query, workflow
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.messages import Envelope, Kind
from perdure.entities.recurrence import cannot_recur
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import ReminderKind, ReminderRow
from perdure.entities.testing import LocalCluster

from .waiting import becomes, eventually

QUICK = EngineSettings(mail_poll_s=0.05, timer_window_s=0.1, idle_s=0.05)


class Bell(Entity):
    rung: int = 0
    notes = Mailbox(str)

    @handler
    async def ring(self, times: int = 1) -> None:
        self.rung += times

    @query
    async def rings(self) -> int:
        return self.rung

    @workflow
    async def run(self) -> str:
        return await self.notes.receive()


MESSAGES: list[tuple[Kind, str, bytes]] = [
    (Kind.SEND, "ring", b"garbage"),
    (Kind.SEND, "ring", b'{"times": "many"}'),
    (Kind.SEND, "gone", b"{}"),
    (Kind.CALL, "ring", b"\xff"),
    (Kind.QUERY, "rings", b"{}"),
    (Kind.START, "run", b"garbage"),
    (Kind.SIGNAL, "notes", b"5"),
    (Kind.REPLY, "run/x/1", b"garbage"),
    (Kind.REPLY, "nonsense", b"{}"),
    (Kind.OPERATE, "run", b"garbage"),
    (Kind.MAINTAIN, "edit", b"garbage"),
    (Kind.TRANSACTION, "hold", b"garbage"),
]


async def test_messages_that_mean_nothing_become_dead_letters() -> None:
    store = MemoryStore()
    keys: list[str] = []
    for number, (kind, name, args) in enumerate(MESSAGES):
        keys.append(f"{number} {kind} {name}")
        message = Envelope(id="m", type="Bell", key=keys[-1], kind=kind, name=name, args=args, position=1)
        store._entity(message.entity).inbox[1, "m"] = message
    async with LocalCluster([Bell], store=store, settings=replace(QUICK, unknown_handler_s=0.0)):
        await Bell.ref("well").ring()
        await eventually(lambda: not any(stored.inbox for stored in store._entities.values()))
        dead = {letter.envelope.key: letter.error for letter in store.dead_letters}
        assert {key for key in keys if key not in dead} <= {"5 start run"}, "a start is refused where it is recorded"
        assert all(b'"message"' in error for error in dead.values())
        assert await Bell.ref("well").rings() == 1


def damaged(key: str, **fields: object) -> ReminderRow:
    row = ReminderRow(EntityId("Bell", key), "r", ReminderKind.REMINDER, 0, 1_000, handler="ring")
    return row._replace(**fields)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


REMINDERS = [
    damaged("cron", cron="garbage UTC"),
    damaged("zone", cron="* * * * * Nowhere/Land"),
    damaged("period", every_us=-5),
    damaged("timer", kind=ReminderKind.TIMER, name="no address"),
]


async def test_a_reminder_that_cannot_recur_waits_and_costs_next_to_nothing() -> None:
    """It used to be tried again at once, for ever: the engine failed each time after the handler had run."""
    store = MemoryStore()
    for row in REMINDERS:
        store._entity(row.entity).reminders[row.name] = row
    async with LocalCluster([Bell], store=store, settings=QUICK) as cluster:
        await eventually(lambda: len(store.parked) == len(REMINDERS))
        turns = cluster.engines[0].turns
        for number in range(20):
            await Bell.ref("well").ring(number)
        await becomes(Bell.ref("well").rings, sum(range(20)))
        assert cluster.engines[0].turns - turns < 500
        for row in REMINDERS:
            stored = store._entities[row.entity]
            assert (stored.reminders, stored.version) == ({row.name: row}, 0), "left as it is, and nothing was done"
            assert row.name in store.parked[row.entity]
        # The zone becomes known (a deploy brings it): it goes on.
        store._entities[REMINDERS[1].entity].reminders["r"] = REMINDERS[1]._replace(cron="0 0 1 1 * UTC")
        await becomes(Bell.ref("zone").rings, 1)


@pytest.mark.parametrize("version", [0, -1, -(2**31)])
async def test_a_schema_version_that_cannot_be_parks_the_entity_at_once(version: int) -> None:
    """-2147483648 used to be counted up from, one by one."""
    store = MemoryStore()
    async with LocalCluster([Bell], store=store, settings=QUICK) as cluster:
        await Bell.ref("b").ring()
        await eventually(lambda: not cluster.engines[0].active)
        stored = store._entities[EntityId("Bell", "b")]
        stored.schema_version, stored.checksum = version, None
        with pytest.raises(EntityParked, match="so the row is damaged"):
            await Bell.ref("b").rings()
        stored.schema_version = 1
        assert await Bell.ref("b").rings() == 1
        await eventually(lambda: not store.parked)


async def test_a_damaged_state_parks_its_entity_and_nothing_is_written_over() -> None:
    store = MemoryStore()
    async with LocalCluster([Bell], store=store, settings=QUICK) as cluster:
        await Bell.ref("b").ring()
        await Bell.ref("b").run.start()
        await eventually(lambda: not cluster.engines[0].active)
        stored = store._entities[EntityId("Bell", "b")]
        before, stored.state = stored.state, b'{"rung": 2}'
        for attempt in (Bell.ref("b").ring(), Bell.ref("b").rings()):
            with pytest.raises(EntityParked, match=r"Bell/b: the row of its state .*perdure db accept Bell/b"):
                await attempt
        assert stored.state == b'{"rung": 2}'
        await Bell.ref("other").ring()
        stored.state = before
        await Bell.ref("b").notes.send("x")
        assert await Bell.ref("b").run.result(timeout=30) == "x"


def test_what_can_recur() -> None:
    assert cannot_recur(0, "") == ""
    assert cannot_recur(5, "") == ""
    assert cannot_recur(0, "*/5 * * * * Europe/Berlin") == ""
    for every_us, cron in ((-1, ""), (0, "x"), (0, "* * * * * No/Zone"), (0, "99 * * * * UTC"), (0, " ")):
        assert cannot_recur(every_us, cron), (every_us, cron)
