"""What the survey promises, of every store: what needs a person, counts, lists, hosts, audit, decisions."""

from typing import Any

import psycopg
import pytest

from perdure.cluster.postgres import listing, sampling
from perdure.entities.ids import EntityId
from perdure.entities.store.rows import AttemptRow, AttemptStatus, DeadLetter, ReminderKind, RunStatus, Suspicion
from perdure.entities.store.survey import (
    DECISION,
    DRAIN,
    HOST,
    LATE_US,
    NEVER_US,
    AuditCursor,
    Due,
    DueCursor,
    Listed,
    Minute,
    Tally,
    due_of,
)

from .conftest import World, host, meaning
from .rows import HOUR_US, A, B, C, attempt, envelope, history, reminder, run


def order(number: int) -> EntityId:
    return EntityId("Order", f"o-{number:04}")


async def a_troubled_namespace(world: World) -> int:
    """One of everything, each on an entity of its own. Returns the time."""
    now = await world.store.clock_us()
    failed = run("go", status=RunStatus.FAILED, ended_us=now, paused="", outcome=b'{"code":"x"}', started_us=now - 5)
    await world.commit(
        world.write(order(1), runs=[run("go", status=RunStatus.PARKED, paused="")]),
        world.write(order(2), runs=[failed]),
        world.write(order(3), runs=[failed._replace(ended_us=now - 25 * HOUR_US)]),
        world.write(order(4), runs=[run("go", paused="ann: audit")]),
        world.write(order(5), runs=[failed._replace(paused="ann")]),
        world.write(order(6), attempts_set=[attempt("go/r1/1", 9)._replace(status=AttemptStatus.RETRYING)]),
        world.write(order(7), attempts_set=[attempt("go/r1/1", 4)._replace(status=AttemptStatus.RETRYING)]),
        world.write(order(8), attempts_set=[attempt("go/r1/1", 3)]),
        world.write(order(9), dead_letters=[DeadLetter(envelope(order(9), "m1"), 5, b'{"code":"y"}')]),
        world.write(order(10), reminders_set=[reminder(order(10), "late", now - 2 * LATE_US)]),
        world.write(order(11), reminders_set=[reminder(order(11), "soon", now + HOUR_US)]),
        world.write(order(12), waiting=[envelope(order(12), "old", now - 2 * LATE_US)]),
        world.write(order(13), waiting=[envelope(order(13), "new", now)]),
        world.write(order(14)),
    )
    await world.store.park(order(14), "cannot be loaded")
    await world.store.suspect([Suspicion(order(1), "run:go:r1", 3, "host died"), Suspicion(order(2), "m", 1)])
    return now


async def test_what_needs_a_person_is_found_and_nothing_else(world: World) -> None:
    now = await a_troubled_namespace(world)
    found = await world.store.survey().troubles(limit=10)
    assert found.at_us >= now
    assert [(note.entity, note.reason) for note in found.damaged.rows] == [(order(14), "cannot be loaded")]
    assert found.damaged.rows[0].at_us >= now
    assert [(entity, row.workflow) for entity, row in found.parked.rows] == [(order(1), "go")]
    assert [row for _, row in found.poisoned.rows] == [Suspicion(order(1), "run:go:r1", 3, "host died")]
    assert [(entity, row.attempt, meaning(row.error)) for entity, row in found.wedged.rows] == [
        (order(6), 9, {"code": "x"})
    ]
    assert [entity for entity, _ in found.exhausted.rows] == [order(8)]
    assert [letter.letter.envelope.entity for letter in found.letters.rows] == [order(9)]
    assert [(row.entity, row.name) for row in found.late.rows] == [(order(10), "late")]
    assert [(row.entity, row.message_id) for row in found.waiting.rows] == [(order(12), "old")]
    assert [entity for entity, _ in found.paused.rows] == [order(4)]
    assert [(entity, meaning(row.outcome)) for entity, row in found.failed.rows] == [
        (order(2), {"code": "x"}),
        (order(5), {"code": "x"}),
    ]
    for few in (found.damaged, found.parked, found.poisoned, found.wedged, found.exhausted, found.letters, found.late):
        assert few.total == Tally(1)
    assert found.failed.total == Tally(2)
    assert found.decisions == Tally(0)


async def test_the_oldest_are_shown_and_all_are_counted(world: World) -> None:
    rows = [attempt("go/r1/1", 9)._replace(status=AttemptStatus.RETRYING, first_us=1_000_000 - n) for n in range(20)]
    await world.commit(*(world.write(order(n), attempts_set=[row]) for n, row in enumerate(rows)))
    found = (await world.store.survey().troubles(limit=3)).wedged
    assert [entity for entity, _ in found.rows] == [order(19), order(18), order(17)]
    assert found.total == Tally(20)


async def test_counts_by_type_status_and_schema_version(world: World) -> None:
    await a_troubled_namespace(world)
    await world.commit(world.write(C, schema_version=3), world.write(EntityId("Account", "d"), schema_version=2))
    await world.store.commit(world.batch(arrivals=[(world.write(B).shard, envelope(B))]))  # no entity yet
    survey = world.store.survey()
    assert await survey.types() == ["Account", "Order"]
    tally = await survey.tally(["Account", "Order", "Nothing"])
    assert tally["Account"].entities == Tally(2)
    assert tally["Account"].runs == {}
    assert tally["Order"].entities == Tally(14)
    assert tally["Order"].runs == {"failed": Tally(3), "parked": Tally(1), "running": Tally(1)}
    assert tally["Nothing"].entities == Tally(0)
    assert await survey.versions(["Account", "Nothing"]) == {"Account": {2: Tally(1), 3: Tally(1)}, "Nothing": {}}


async def everything(world: World, limit: int, **conditions: Any) -> list[str]:
    keys: list[str] = []
    after: str | None = None
    for _ in range(100):
        page: Listed = await world.store.survey().entities("Order", after=after, limit=limit, **conditions)
        assert len(page.rows) <= limit
        keys += [row.entity.key for row in page.rows]
        after = page.next
        if after is None:
            return keys
    raise AssertionError("the list has no end")


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_a_list_by_key_over_all_shards_misses_nothing(world: World, limit: int) -> None:
    await world.commit(*(world.write(order(number)) for number in range(40)), world.write(B), world.write(C))
    assert await everything(world, limit) == sorted([*(order(n).key for n in range(40)), B.key])
    assert await everything(world, limit, prefix="o-001") == [order(n).key for n in range(10, 20)]
    assert await everything(world, limit, prefix="order/2 ü") == [B.key]
    assert await everything(world, limit, prefix="x") == []


@pytest.mark.parametrize("limit", [1, 100])
async def test_a_list_may_have_conditions(world: World, limit: int) -> None:
    await a_troubled_namespace(world)
    later = await world.store.clock_us()
    await world.commit(world.write(order(15), runs=[run("go", waiting="decision:legal, timer", paused="")]))

    def keys(*numbers: int) -> list[str]:
        return [order(number).key for number in numbers]

    assert await everything(world, limit, status="parked") == keys(1)
    assert await everything(world, limit, status="failed") == keys(2, 3, 5)
    assert await everything(world, limit, status="failed", prefix="o-0003") == keys(3)
    assert await everything(world, limit, status="damaged") == keys(14)
    assert await everything(world, limit, status="running") == keys(4, 15)
    assert await everything(world, limit, status="idle") == keys(6, 7, 8, 9, 10, 11, 12, 13)
    assert await everything(world, limit, waiting="legal") == keys(15)
    assert await everything(world, limit, since_us=later) == keys(15)


async def test_the_run_that_says_most_is_shown(world: World) -> None:
    done = run("a", status=RunStatus.COMPLETED, ended_us=5, paused="", waiting="")
    live = run("b", paused="ann", waiting="charge")
    await world.commit(world.write(A, version=7, schema_version=2, runs=[done, live]))
    (row,) = (await world.store.survey().entities("Order", limit=5)).rows
    assert row[:2] == (A, 7)
    assert row[3:] == (2, "running", "b", "charge", "ann")


async def test_reminders_come_by_due_time(world: World) -> None:
    rows = [reminder(order(n % 5), f"r{n}", 1_000_000 * (n % 7), kind=ReminderKind.REMINDER) for n in range(30)]
    rows.append(reminder(C, "t", 500, kind=ReminderKind.TIMER))
    by_entity = {entity: [row for row in rows if row.entity == entity] for entity in {row.entity for row in rows}}
    await world.commit(*(world.write(entity, reminders_set=found) for entity, found in sorted(by_entity.items())))
    expected = sorted(rows, key=lambda row: (row.due_us, row.entity, row.name))

    async def listed(limit: int, **conditions: Any) -> list[str]:
        names: list[str] = []
        after: DueCursor | None = None
        for _ in range(50):
            page: Due = await world.store.survey().due(after=after, limit=limit, **conditions)
            names += [row.name for row in page.rows]
            after = page.next
            if after is None:
                return names
        raise AssertionError("the list has no end")

    for limit in (1, 4, 100):
        assert await listed(limit) == [row.name for row in expected]
        assert await listed(limit, type="Account") == ["t"]
        assert await listed(limit, kind="timer") == ["t"]
        assert await listed(limit, until_us=999_999) == [row.name for row in expected if row.due_us < 1_000_000]


async def test_hosts_with_their_shards_and_last_minute(world: World) -> None:
    await world.store.register(host("h2"), lease_s=60)
    await world.store.release("h1", [0, 1, 2])
    await world.store.claim("h2", [0])
    await world.store.register(host("h3"), lease_s=60)
    await world.store.claim("h3", [1])
    await world.store.fence("h3", is_dead=True)
    survey = world.store.survey()
    await survey.note(Minute("h2", 0, 60, 100, 10, 1, 2_000, 9_000, 7))
    await survey.note(Minute("h2", 0, 60, 50, 5, 0, 3_000, 4_000, 8))
    found = await survey.hosts()
    assert [(one.row.incarnation, one.row.status, one.shards) for one in found.hosts] == [
        ("h1", "active", 13),
        ("h2", "active", 1),
        ("h3", "fenced", 1),
    ]
    assert (found.shards, found.unowned) == (16, 2)
    assert found.hosts[0].last is None
    assert found.hosts[0].gone_us == 0 < found.hosts[2].gone_us <= found.at_us
    assert all(0 < one.registered_us <= found.at_us for one in found.hosts)
    minutes = await survey.minutes(since_us=0)
    assert sum(minute.turns for minute in minutes) == 150
    assert all(minute.at_us % 60_000_000 == 0 for minute in minutes)
    assert found.hosts[1].last == minutes[-1]
    assert await survey.minutes(since_us=found.at_us + HOUR_US) == []


async def test_the_audit_keeps_what_operators_did(world: World) -> None:
    rows = [history(f"m{n}", n, kind="operate", args=b'{"reason":"r%d"}' % n) for n in range(1, 6)]
    await world.commit(world.write(A, version=5, history=rows, audited=["m2", "m4"]))
    await world.commit(world.write(C, history=[history("m9", kind="maintain")], audited=["m9"]))
    await world.store.prune(older_than_us=0, limit=1_000)
    survey = world.store.survey()
    found = await survey.audit(limit=10)
    assert [(one.entity, one.row.message_id) for one in found] == [(C, "m9"), (A, "m4"), (A, "m2")]
    assert meaning(found[1].row.args) == {"reason": "r4"}
    assert [one.row.version for one in found] == [1, 4, 2]
    first = found[0]
    after = AuditCursor(first.at_us, first.entity.type, first.entity.key, first.row.message_id)
    assert [one.row.message_id for one in await survey.audit(after=after, limit=1)] == ["m4"]
    assert [one.row.message_id for one in await survey.audit(type="Order", key=A.key, limit=9)] == ["m4", "m2"]
    assert await survey.audit(since_us=first.at_us + 1, limit=9) == []
    assert [one.row.message_id for one in await survey.audit(until_us=found[2].at_us, limit=9)] == ["m4", "m2"]


async def test_an_order_to_a_host_and_who_gave_it_are_one_commit(world: World) -> None:
    survey = world.store.survey()
    for reason in ("the node goes", "again", "and again"):
        await survey.drain_host("h1", operator="ann", reason=reason)
    (host,) = [one.row for one in (await survey.hosts()).hosts if one.row.incarnation == "h1"]
    assert host.status == "draining"
    (kept,) = await survey.audit(limit=9)
    assert (kept.entity, kept.row.kind, kept.row.name, kept.row.ok) == (EntityId(HOST, "h1"), "maintain", DRAIN, True)
    assert meaning(kept.row.args) == {"operator": "ann", "reason": "the node goes"}
    assert await survey.audit(type=HOST, key="h1", limit=9) == [kept]
    await world.commit(world.write(A))  # it serves what it owns until it is asked to go


@pytest.mark.parametrize("status", ["draining", "stopped", "fenced", "unknown"])
async def test_an_order_to_a_host_that_is_not_active_changes_nothing(world: World, status: str) -> None:
    store = world.store
    match status:
        case "draining":
            await store.set_draining("h1")
        case "stopped":
            await store.retire("h1")
        case "fenced":
            await store.fence("h1", is_dead=True)
        case _:
            pass
    name = "h1" if status != "unknown" else "nobody"
    before = await store.hosts()
    await store.survey().drain_host(name, operator="ann", reason="")
    assert await store.hosts() == before
    assert await store.survey().audit(limit=9) == []


async def test_a_replaced_row_of_the_audit_does_not_fail_a_commit(world: World) -> None:
    """Merged turns carry the ids of all of them."""
    one = world.write(A, history=[history("m1")], audited=["m1"])
    one.merge(world.write(A, 1, history=[history("m2", 2)], audited=["m2"]))
    await world.commit(one)
    assert [found.row.message_id for found in await world.store.survey().audit(limit=9)] == ["m2", "m1"]


def question(operation: str, group: str, due_us: int) -> AttemptRow:
    row = attempt(operation, 1)._replace(activity=DECISION + group, next_us=due_us, details=b'{"title":"?"}')
    return row._replace(status=AttemptStatus.OUTSIDE)


async def test_open_decisions_by_group_and_due_time(world: World) -> None:
    asked = {
        order(1): question("go/r1/1", "legal", 9_000_000),
        order(2): question("go/r1/2", "legal", 0),
        order(3): question("go/r1/3", "legal", 5_000_000),
        order(4): question("go/r1/4", "legal", 0),
        C: question("go/r1/5", "credit", 7_000_000),
        order(6): attempt("go/r1/6")._replace(status=AttemptStatus.OUTSIDE),
        order(7): question("go/r1/7", "other", 1)._replace(status=AttemptStatus.RETRYING),
    }
    await world.commit(*(world.write(entity, attempts_set=[row]) for entity, row in asked.items()))
    survey = world.store.survey()
    assert await survey.groups() == ["credit", "legal"]
    assert (await survey.troubles(limit=1)).decisions == Tally(5)
    expected = [order(3), order(1), order(2), order(4)]
    for limit in (1, 2, 9):
        found: list[tuple[EntityId, AttemptRow]] = []
        after: DueCursor | None = None
        while page := await survey.decisions("legal", after=after, limit=limit):
            found += page
            entity, row = page[-1]
            after = DueCursor(due_of(row), entity.type, entity.key, row.operation)
        assert [entity for entity, _ in found] == expected
        assert due_of(found[-1][1]) == NEVER_US
        assert [meaning(row.details) for _, row in found] == [{"title": "?"}] * 4
    assert await survey.decisions("legal", type="Account", limit=9) == []
    known = await survey.decision(C, "go/r1/5")
    assert known is not None
    assert known.activity == "decision:credit"
    assert await survey.decision(C, "go/r1/6") is None
    assert await survey.decision(order(6), "go/r1/6") is None


# --- On Postgres: what many rows change -------------------------------------------------------------------------------


async def test_many_are_counted_by_some_of_the_shards(postgres: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "EXACT_MAX", 50)
    monkeypatch.setattr(sampling, "SEEN_MIN", 100)
    done = run(status=RunStatus.COMPLETED, ended_us=5)
    await postgres.commit(*(postgres.write(order(n), runs=[done] if n % 2 else []) for n in range(400)))
    await postgres.commit(postgres.write(C))
    found = await postgres.store.survey().tally(["Order", "Account"])
    entities, runs = found["Order"].entities, found["Order"].runs["completed"]
    assert not entities.is_exact
    assert 280 <= entities.value <= 520
    assert 100 <= runs.value <= 300
    assert found["Account"].entities == Tally(1)
    monkeypatch.setattr(sampling, "SEEN_MIN", 1_000)
    assert (await postgres.store.survey().tally(["Order"]))["Order"].entities == Tally(400), "all shards: exact"


@pytest.mark.parametrize("examine_max", [10, 40, 10_000])
async def test_pages_that_end_early_miss_nothing(
    postgres: World, monkeypatch: pytest.MonkeyPatch, examine_max: int
) -> None:
    monkeypatch.setattr(listing, "ROUND_ROWS", 16)
    monkeypatch.setattr(listing, "EXAMINE_MAX", examine_max)
    wanted = [order(n) for n in range(0, 300, 37)]
    waits = run(waiting="decision:legal")
    rows = {order(n): reminder(order(n), "r", 1_000_000 * (n % 50), kind=ReminderKind.REMINDER) for n in range(300)}
    await postgres.commit(
        *(
            postgres.write(entity, runs=[waits] if entity in wanted else [], reminders_set=[row])
            for entity, row in rows.items()
        )
    )
    assert await everything(postgres, 4, waiting="legal") == [entity.key for entity in wanted]
    assert await everything(postgres, 4, status="running", prefix="o-00") == [
        entity.key for entity in wanted if entity.key < "o-01"
    ]
    found: list[str] = []
    after: DueCursor | None = None
    for _ in range(300):
        page = await postgres.store.survey().due(kind="reminder", type="Order", after=after, limit=7)
        found += [row.entity.key for row in page.rows]
        after = page.next
        if after is None:
            break
    expected = sorted(rows.values(), key=lambda row: (row.due_us, row.entity, row.name))
    assert found == [row.entity.key for row in expected]


async def test_what_needs_a_person_is_found_by_an_index(postgres: World) -> None:
    await a_troubled_namespace(postgres)
    plans = {
        "ix_runs_stopped": "runs where status = 'parked'",
        "ix_runs_failed": "runs where status = 'failed' and ended_at > now() - interval '1 day' order by ended_at",
        "ix_runs_paused": "runs where paused <> '' and ended_at is null order by started_at",
        "ix_attempts_wedged": "attempts where status = 'retrying' and attempt >= 5 order by first_at",
        "ix_attempts_decisions": "attempts where status = 'outside' and left(activity, 9) = 'decision:'"
        " and activity = 'decision:legal' order by next_at",
        "ix_dead_letters_died": "dead_letters order by died_at, type, key, message_id",
        "ix_audit_time": "audit order by recorded_at desc",
    }
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("set enable_seqscan = off")
        connection.execute("set enable_sort = off")
        for index, query in plans.items():
            lines = connection.execute(f"explain select * from {postgres.namespace}.{query} limit 5".encode())
            assert any(index in line for (line,) in lines), (index, query)
