"""What reading promises, of every store."""

import asyncio
import json
from dataclasses import replace

from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.rows import AttemptRow, DuePosition, ReminderRow, RunStatus

from .conftest import SHARDS, World, meaning
from .rows import HOUR_US, A, B, C, entry, envelope, history, reminder, run

ALL = range(SHARDS)


async def test_missing_entities_have_version_zero_but_may_have_mail(world: World) -> None:
    await world.commit(world.write(A, outbox=[envelope(B)]))
    loaded = await world.store.load([C, B, A])
    assert [(e.entity, e.version, e.state is None, len(e.inbox)) for e in loaded] == [
        (C, 0, True, 0),
        (B, 0, True, 1),
        (A, 1, False, 0),
    ]
    assert await world.store.load([]) == []


async def test_load_keeps_the_order_asked_for(world: World) -> None:
    entities = [EntityId("Order", f"o{number}") for number in range(50)]
    await world.commit(*(world.write(entity, state=b'{"key":"%s"}' % entity.key.encode()) for entity in entities))
    wanted = [*reversed(entities), entities[7]]
    loaded = await world.store.load(wanted)
    assert [e.entity for e in loaded] == wanted
    assert [meaning(e.state) for e in loaded] == [{"key": entity.key} for entity in wanted]


async def test_inbox_is_ordered_by_entity_position_and_id(world: World) -> None:
    messages = [
        envelope(entity, message_id, position)
        for entity in (B, A)
        for message_id, position in [("b", 3), ("a", 3), ("é", 3), ("Z", 3), ("z", 1), ("y", 2)]
    ]
    await world.commit(world.write(C, outbox=messages))
    order = [(1, "z"), (2, "y"), (3, "Z"), (3, "a"), (3, "b"), (3, "é")]
    waiting = await world.store.inbox([B, A, B])
    assert [(e.entity, e.position, e.id) for e in waiting] == [(e, *rest) for e in sorted([A, B]) for rest in order]
    assert [(e.position, e.id) for e in (await world.store.load([A]))[0].inbox] == order
    assert [(e.position, e.id) for e in await world.store.inbox([A], per_entity_max=2)] == order[:2]
    assert [(e.position, e.id) for e in (await world.store.load([A], inbox_max=3))[0].inbox] == order[:3]


async def test_with_mail_names_each_entity_once(world: World) -> None:
    await world.commit(world.write(A, outbox=[envelope(e, m, p) for e in (A, B, C) for m, p in [("x", 1), ("y", 2)]]))
    assert await world.store.with_mail(ALL, limit=10) == sorted([A, B, C])
    assert await world.store.with_mail(ALL, limit=2) == sorted([A, B, C])[:2]
    assert await world.store.with_mail([shard_of(*B, SHARDS)], limit=10) == [B]
    assert await world.store.with_mail([], limit=10) == []


async def test_entities_with_mail_are_paged_by_address(world: World) -> None:
    entities = sorted([EntityId("Order", key) for key in ("a", "b", "Z", "é", "z")] + [EntityId("Éclair", "a")])
    await world.commit(world.write(A, outbox=[envelope(e, m, p) for e in entities for m, p in [("x", 1), ("y", 2)]]))
    paged: list[EntityId] = []
    while page := await world.store.with_mail(ALL, limit=2, after=paged[-1] if paged else None):
        paged += page
    assert paged == entities


async def test_due_reminders_come_earliest_first(world: World) -> None:
    rows = [
        reminder(A, "b", 30),
        reminder(A, "a", 30),
        reminder(B, "c", 10),
        reminder(C, "d", 20),
        reminder(C, "e", 31),
    ]
    for entity in (A, B, C):
        await world.commit(world.write(entity, reminders_set=[row for row in rows if row.entity == entity]))
    before = await world.store.clock_us()
    now, due = await world.store.due(ALL, until_us=30, limit=10)
    assert before <= now <= await world.store.clock_us()
    assert [(row.due_us, row.name) for row in due] == [(10, "c"), (20, "d"), (30, "a"), (30, "b")]
    assert [row.name for row in (await world.store.due(ALL, until_us=30, limit=2))[1]] == ["c", "d"]
    assert [row.name for row in (await world.store.due([shard_of(*B, SHARDS)], until_us=30, limit=9))[1]] == ["c"]
    far = reminder(A, "far", 253_402_300_799_999_999)  # the last microsecond of the year 9999
    await world.commit(world.write(A, 1, reminders_set=[far]))
    assert (await world.store.due(ALL, until_us=far.due_us, limit=9))[1][-1].due_us == far.due_us


async def test_due_reminders_are_paged_past_what_was_read(world: World) -> None:
    """Many are due in the same microsecond: none is left out between two pages, and none comes twice."""
    rows = [
        reminder(entity, name, due_us)
        for entity in (A, B, C, EntityId("Éclair", "a"))
        for name, due_us in [("é", 20), ("Z", 20), ("a", 20), ("early", -5), ("late", 30)]
    ]
    for entity in {row.entity for row in rows}:
        await world.commit(world.write(entity, reminders_set=[row for row in rows if row.entity == entity]))
    paged: list[ReminderRow] = []
    while True:
        after = DuePosition.of(paged[-1]) if paged else None
        _, page = await world.store.due(ALL, until_us=25, limit=3, after=after)
        paged += page
        if len(page) < 3:
            break
    assert list(map(DuePosition.of, paged)) == sorted(DuePosition.of(row) for row in rows if row.due_us <= 25)
    _, late = await world.store.due(ALL, until_us=30, limit=9, after=DuePosition.behind(25))
    assert {row.name for row in late} == {"late"}


async def test_what_is_due_of_some_entities(world: World) -> None:
    for entity in (A, B, C):
        await world.commit(
            world.write(entity, reminders_set=[reminder(entity, "b", 10), reminder(entity, "a", 30)]),
        )
    due = await world.store.due_of([C, A, C], until_us=30, limit=9)
    assert [(row.due_us, row.entity) for row in due] == [(due_us, one) for due_us in (10, 30) for one in sorted([A, C])]
    assert await world.store.due_of([A, C], until_us=29, limit=1) == due[:1]
    assert await world.store.due_of([EntityId("Order", "none")], until_us=30, limit=9) == []
    assert await world.store.due_of([], until_us=30, limit=9) == []


async def test_entities_with_activities_under_way_are_paged_by_address(world: World) -> None:
    entities = sorted([EntityId("Order", key) for key in ("a", "b", "Z", "é", "z")] + [EntityId("Éclair", "a")])
    await world.commit(*(world.write(entity, runs=[run("x"), run("y")]) for entity in entities))
    await world.commit(world.write(A, runs=[run(in_flight=False)]))
    paged: list[EntityId] = []
    while page := await world.store.in_flight(ALL, after=paged[-1] if paged else None, limit=2):
        paged += page
    assert paged == entities
    assert await world.store.in_flight([shard_of(*entities[0], SHARDS)], after=None, limit=1) == entities[:1]


async def test_run_is_read_without_its_entity(world: World) -> None:
    assert await world.store.run(A, "run") is None
    ended = run(status=RunStatus.FAILED, ended_us=1_700_000_000_000_009, outcome=b'{"code":"x"}', in_flight=False)
    await world.commit(world.write(A, runs=[run(), ended]))
    found = await world.store.run(A, "run")
    assert found is not None
    assert found.status is RunStatus.FAILED
    assert found._replace(args=b"", outcome=b"") == ended._replace(args=b"", outcome=b"")
    assert await world.store.run(A, "other") is None
    assert await world.store.run(B, "run") is None


async def test_only_live_runs_bring_their_journal(world: World) -> None:
    parked = run("parked", "p1", status=RunStatus.PARKED)
    done = run("done", "d1", status=RunStatus.COMPLETED, ended_us=5)
    journal = [
        entry(1, "run"),
        entry(0, "run"),
        entry(0, "parked", "p1"),
        entry(0, "done", "d1"),
        entry(0, "run", "old"),
    ]
    await world.commit(world.write(A, runs=[run(), parked, done], journal=journal))
    (loaded,) = await world.store.load([A])
    assert [r.workflow for r in loaded.runs] == ["done", "parked", "run"]
    assert [(e.workflow, e.run_id, e.number) for e in loaded.journal] == [
        ("parked", "p1", 0),
        ("run", "r1", 0),
        ("run", "r1", 1),
    ]


async def test_outcomes_may_be_asked_for_twice(world: World) -> None:
    await world.commit(world.write(A, history=[history("m1"), history("m2", ok=False)]))
    found = await world.store.outcomes([(A, "m2"), (A, "m1"), (A, "m2"), (B, "m1")])
    assert {key: row.ok for key, row in found.items()} == {(A, "m1"): True, (A, "m2"): False}


async def test_parking_leaves_the_state_alone(world: World) -> None:
    await world.commit(world.write(A))
    before = await world.store.load([A])
    await world.store.park(A, "no such field")
    await world.store.park(A, "still no such field")
    assert await world.store.load([A]) == [replace(before[0], is_noted=True)]
    await world.store.park(A, "")
    await world.store.park(A, "")
    assert await world.store.load([A]) == before


async def test_prune_removes_the_note_of_what_has_been_written_since(world: World) -> None:
    await world.commit(world.write(A), world.write(B))
    await world.store.park(A, "no such field")
    await world.store.park(B, "no such letter")
    await asyncio.sleep(0.001)  # clocks have microseconds
    await world.commit(world.write(A, 1))  # a fixed deploy could load it
    await world.store.prune(older_than_us=HOUR_US, limit=100)
    assert [loaded.is_noted for loaded in await world.store.load([A, B])] == [False, True]


async def test_prune_removes_notes_of_attempts_for_runs_that_do_not_live(world: World) -> None:
    live, parked = run("live", "l"), run("parked", "p", status=RunStatus.PARKED)
    await world.commit(world.write(A, runs=[live, parked, run("ended", "e", status=RunStatus.COMPLETED)]))
    operations = ["live/l/0", "parked/p/1", "live/former/0", "ended/e/2"]
    shard = shard_of(*A, SHARDS)
    notes = [(A, shard, AttemptRow(operation, "pay", 1, b"{}", 0, 0)) for operation in operations]
    await world.store.commit(world.batch(attempts=notes))  # late: the outcomes are committed already
    await world.store.prune(older_than_us=HOUR_US, limit=100)
    [loaded] = await world.store.load([A])
    assert [row.operation for row in loaded.attempts] == ["live/l/0", "parked/p/1"]


async def test_prune_removes_old_outcomes_in_pieces(world: World) -> None:
    await world.commit(world.write(A, history=[history(f"m{n}") for n in range(5)]))
    assert await world.store.prune(older_than_us=HOUR_US, limit=100) == 0
    assert await world.store.prune(older_than_us=-1, limit=3) == 3
    assert await world.store.prune(older_than_us=-1, limit=3) == 2
    assert await world.store.prune(older_than_us=-1, limit=3) == 0
    assert await world.store.outcomes([(A, f"m{n}") for n in range(5)]) == {}


async def test_prune_never_touches_what_is_still_needed(world: World) -> None:
    live, parked = run("live", "l"), run("parked", "p", status=RunStatus.PARKED)
    ended, replaced = run("ended", "e", status=RunStatus.COMPLETED, ended_us=1), entry(0, "live", "former")
    journal = [entry(0, "live", "l"), entry(0, "parked", "p"), entry(0, "ended", "e"), replaced]
    await world.commit(
        world.write(
            A,
            waiting=[envelope(A)],
            reminders_set=[reminder(A)],
            runs=[live, parked, ended],
            journal=journal,
            history=[history()],
        )
    )
    for _ in range(2):
        await world.store.prune(older_than_us=-1, limit=100)
    (loaded,) = await world.store.load([A])
    assert loaded.version == 1
    assert len(loaded.inbox) == 1
    assert [r.workflow for r in loaded.runs] == ["ended", "live", "parked"]
    assert [e.workflow for e in loaded.journal] == ["live", "parked"]
    for workflow, run_id, left in (("ended", "e", 0), ("live", "former", 0), ("live", "l", 1)):
        assert len(await world.store.journal(A, workflow, run_id)) == left, workflow
    assert len((await world.store.due(ALL, until_us=2_000_000, limit=5))[1]) == 1
    # The removed runs' journals are really gone: their places are free again.
    await world.commit(world.write(A, 1, runs=[ended], journal=[entry(0, "ended", "e"), replaced]))


async def test_the_latest_run_of_a_workflow_is_kept_with_its_outcome(world: World) -> None:
    """A start repeated years later joins it; only its journal goes."""
    outcome = b'{"paid": 5}'
    ended = run("w", "r1", status=RunStatus.COMPLETED, outcome=outcome, ended_us=1)
    failed = run("v", "r2", status=RunStatus.FAILED, outcome=b'{"code": "x"}', ended_us=1)
    await world.commit(world.write(A, runs=[ended, failed], journal=[entry(0, "w", "r1"), entry(1, "w", "r1")]))
    kept = await world.store.run(A, "w"), await world.store.run(A, "v")
    for _ in range(2):
        await world.store.prune(older_than_us=-1, limit=100)
    assert (await world.store.run(A, "w"), await world.store.run(A, "v")) == kept
    assert kept[0] is not None
    assert json.loads(kept[0].outcome) == json.loads(outcome)
    assert await world.store.journal(A, "w", "r1") == []


async def test_the_journal_of_an_ended_run_is_kept_for_the_retention(world: World) -> None:
    """Counted from its end, however old its entries are."""
    now_us = await world.store.clock_us()
    ended = run("w", "r1", status=RunStatus.COMPLETED, ended_us=now_us + HOUR_US)
    await world.commit(world.write(A, runs=[ended], journal=[entry(0, "w", "r1")]))
    await world.store.prune(older_than_us=-1, limit=100)
    assert len(await world.store.journal(A, "w", "r1")) == 1
    await world.store.prune(older_than_us=-2 * HOUR_US, limit=100)
    assert await world.store.journal(A, "w", "r1") == []


async def test_prune_says_whether_journals_are_left(world: World) -> None:
    """A workflow writes many journal rows for each message: they must not pile up behind the limit."""
    ended = run("w", "r1", status=RunStatus.COMPLETED, ended_us=1)
    await world.commit(world.write(A, runs=[ended], journal=[entry(n, "w", "r1") for n in range(10)]))
    while await world.store.prune(older_than_us=-1, limit=3) >= 3:
        pass
    assert await world.store.journal(A, "w", "r1") == []


async def test_the_journal_of_an_ended_run_can_be_read(world: World) -> None:
    over = run(status=RunStatus.FAILED, ended_us=1_700_000_000_000_009, in_flight=False)
    other = entry(0, run_id="r2")
    await world.commit(
        world.write(A, runs=[over], journal=[entry(1), entry(0), other]), world.write(B, journal=[entry(0)])
    )
    rows = await world.store.journal(A, "run", "r1")
    assert [(row.number, row.version, meaning(row.entry)) for row in rows] == [(0, 1, {"n": 0}), (1, 2, {"n": 1})]
    assert [row.run_id for row in await world.store.journal(A, "run", "r2")] == ["r2"]
    assert await world.store.journal(A, "run", "r3") == []
    assert await world.store.journal(C, "run", "r1") == []
