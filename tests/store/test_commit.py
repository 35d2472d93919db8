"""What a group commit promises, of every store."""

import json
from typing import Any

import pytest

from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.port import HostFenced, WriteConflict
from perdure.entities.store.rows import AttemptStatus, DeadLetter, ReminderKey

from .conftest import SHARDS, World, host, meaning
from .rows import HOUR_US, A, B, C, attempt, entry, envelope, fired, full_envelope, history, item, reminder, run


async def test_everything_of_a_turn_is_there_after_its_commit(world: World) -> None:
    before = await world.store.clock_us()
    row = reminder(B)
    committed_at = await world.commit(
        world.write(
            B,
            state=b'{"a": [1, null, "\\u00fc"]}',
            schema_version=3,
            clock=99,
            history=[history()],
            reminders_set=[row],
            waiting=[full_envelope(B)],
            runs=[run()],
            journal=[entry(0), entry(1)],
            items_put=[item(1), item(2)],
            attempts_set=[attempt()],
        )
    )
    assert before <= committed_at <= await world.store.clock_us()
    (loaded,) = await world.store.load([B])
    assert loaded.entity == B
    assert (loaded.version, loaded.schema_version, loaded.clock) == (1, 3, 99)
    assert meaning(loaded.state) == {"a": [1, None, "ü"]}
    assert [r._replace(args=b"") for r in loaded.runs] == [run(args=b"")]
    assert [(e.number, meaning(e.entry)) for e in loaded.journal] == [(0, {"n": 0}), (1, {"n": 1})]
    assert [(i.mailbox, i.position, i.message_id, meaning(i.item)) for i in loaded.items] == [
        ("decision", 1, "m1", {"yes": True}),
        ("decision", 2, "m2", {"yes": True}),
    ]
    blank: dict[str, Any] = {"error": b"", "details": b""}
    assert [a._replace(**blank) for a in loaded.attempts] == [attempt()._replace(**blank)]
    assert type(loaded.attempts[0].status) is AttemptStatus
    assert meaning(loaded.attempts[0].details) == {"done": 5}
    (waiting,) = loaded.inbox
    assert meaning(waiting.args) == {"x": [1, 2]}
    assert {f: getattr(waiting, f) for f in waiting.__struct_fields__ if f != "args"} == {
        f: getattr(full_envelope(B), f) for f in waiting.__struct_fields__ if f != "args"
    }
    found = await world.store.outcomes([(B, "m1"), (B, "other"), (A, "m1")])
    assert [(k, r._replace(args=b"")) for k, r in found.items()] == [((B, "m1"), history()._replace(args=b""))]
    _, (due,) = await world.store.due(range(SHARDS), until_us=row.due_us, limit=10)
    assert due._replace(args=b"") == row._replace(args=b"")
    assert type(due.kind) is type(row.kind)


async def test_stale_epoch_cannot_commit(world: World) -> None:
    epochs = {shard: epoch - 1 for shard, epoch in world.epochs.items()}
    before = world.everything()
    with pytest.raises(HostFenced):
        await world.commit(world.write(A), epochs=epochs)
    assert world.everything() == before


async def test_shard_of_another_host_cannot_be_written(world: World) -> None:
    await world.store.register(host("h2"), lease_s=60)
    with pytest.raises(HostFenced):
        await world.commit(world.write(A), incarnation="h2")


async def test_released_and_taken_shard_cannot_be_written_by_its_former_owner(world: World) -> None:
    shard = shard_of(*A, SHARDS)
    await world.store.register(host("h2"), lease_s=60)
    await world.store.release("h1", [shard])
    with pytest.raises(HostFenced):
        await world.commit(world.write(A))
    assert await world.store.claim("h2", [shard]) == {shard: world.epochs[shard] + 1}
    with pytest.raises(HostFenced):
        await world.commit(world.write(A))
    await world.commit(world.write(A), incarnation="h2", epochs={shard: world.epochs[shard] + 1})


async def test_epochs_of_untouched_shards_do_not_matter(world: World) -> None:
    shard = shard_of(*A, SHARDS)
    await world.store.release("h1", [other for other in range(SHARDS) if other != shard])
    await world.commit(world.write(A))


@pytest.mark.parametrize("how", ["fenced", "retired", "unknown"])
async def test_host_that_is_gone_cannot_commit(world: World, how: str) -> None:
    await world.commit(world.write(A))
    incarnation = "h1"
    match how:
        case "fenced":
            assert await world.store.fence("h1", is_dead=True)
        case "retired":
            await world.store.retire("h1")
        case _:
            incarnation = "nobody"
    before = world.everything()
    with pytest.raises(HostFenced):
        await world.commit(world.write(A, 1), incarnation=incarnation)
    assert world.everything() == before


async def test_draining_host_can_commit(world: World) -> None:
    await world.store.set_draining("h1")
    await world.commit(world.write(A))


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_version_mismatch_writes_nothing_at_all(world: World, expected: int) -> None:
    await world.commit(world.write(A), world.write(C))
    await world.commit(
        world.write(
            A, 1, items_put=[item()], attempts_set=[attempt()], reminders_set=[reminder(A)], waiting=[envelope(A)]
        )
    )
    before = world.everything()
    loser = world.write(
        A, expected, history=[history("x")], consumed=[(1, "m1")], outbox=[envelope(B)], waiting=[envelope(A, "w", 5)],
        reminders_cancelled=["rating"], reminders_set=[reminder(A, "n")], runs=[run()], journal=[entry()],
        items_put=[item(9)], items_taken=[("decision", 1)], attempts_gone=["run/r1/1"], attempts_set=[attempt("o")],
        dead_letters=[DeadLetter(envelope(A, "d"), 3, b"{}")],
    )  # fmt: skip
    with pytest.raises(WriteConflict) as conflict:
        await world.commit(
            world.write(C, 1), loser, world.write(B), attempts=[(B, shard_of(*B, SHARDS), attempt())],
            arrivals=[(shard_of(*B, SHARDS), envelope(B, "arr"))],
        )  # fmt: skip
    assert conflict.value.entities == (A,)
    assert world.everything() == before


async def test_conflict_names_exactly_the_entities_that_differ(world: World) -> None:
    entities = [EntityId("Order", f"o{number}") for number in range(40)]
    await world.commit(*(world.write(entity) for entity in entities))
    stale = {entities[3], entities[17], entities[39]}
    with pytest.raises(WriteConflict) as conflict:
        await world.commit(*(world.write(entity, 2 if entity in stale else 1) for entity in entities))
    assert set(conflict.value.entities) == stale


async def test_message_cannot_have_two_outcomes(world: World) -> None:
    await world.commit(world.write(A, history=[history("m1")]))
    before = world.everything()
    with pytest.raises(WriteConflict) as conflict:
        await world.commit(world.write(B), world.write(A, 1, history=[history("m2"), history("m1", 2)], version=3))
    assert conflict.value.entities == (A,)
    assert world.everything() == before
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 1, history=[history("m3"), history("m3")], version=3))
    await world.commit(world.write(B, history=[history("m1")]))  # another entity may have a message of that id


async def test_several_turns_in_one_commit(world: World) -> None:
    await world.commit(world.write(A, version=3, history=[history(f"m{n}", n) for n in (1, 2, 3)], state=b'{"n":3}'))
    assert (await world.store.load([A]))[0].version == 3
    assert len(await world.store.outcomes([(A, f"m{n}") for n in range(1, 4)])) == 3


async def test_due_reminder_fires_once(world: World) -> None:
    row = reminder(A, due_us=await world.store.clock_us() - 5)
    await world.commit(world.write(A, reminders_set=[row]))
    await world.commit(world.write(A, 1, reminders_gone=[fired(row)]))
    with pytest.raises(WriteConflict) as conflict:
        await world.commit(world.write(B), world.write(A, 2, reminders_gone=[fired(row)]))
    assert conflict.value.entities == (A,)


async def test_reminder_that_is_not_due_refuses_to_fire(world: World) -> None:
    row = reminder(A, due_us=await world.store.clock_us() + HOUR_US)
    await world.commit(world.write(A, reminders_set=[row]))
    before = world.everything()
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 1, reminders_gone=[fired(row)]))
    assert world.everything() == before
    await world.commit(world.write(A, 1, reminders_gone=[fired(row, is_fired=False)]))  # withdrawn is another matter
    assert (await world.store.due(range(SHARDS), until_us=row.due_us, limit=1))[1] == []


@pytest.mark.parametrize("other", [{"generation": 2}, {"due_us": 1_000_002}, {"name": "else"}])
async def test_replaced_reminder_cannot_fire(world: World, other: dict[str, object]) -> None:
    row = reminder(A)
    await world.commit(world.write(A, reminders_set=[row._replace(**other)]))  # type: ignore[arg-type]
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 1, reminders_gone=[fired(row)]))


async def test_cancelled_reminder_cannot_fire(world: World) -> None:
    row = reminder(A)
    await world.commit(world.write(A, reminders_set=[row, reminder(A, "stays")]))
    await world.commit(world.write(A, 1, reminders_cancelled=["rating", "never was"]))
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 2, reminders_gone=[fired(row)]))
    _, left = await world.store.due(range(SHARDS), until_us=2_000_000, limit=10)
    assert [r.name for r in left] == ["stays"]


async def test_recurring_reminder_is_rearmed_in_the_commit_that_fires_it(world: World) -> None:
    row = reminder(A)
    await world.commit(world.write(A, reminders_set=[row]))
    rearmed = row._replace(generation=2, due_us=1_000_061)
    await world.commit(
        world.write(A, 1, reminders_gone=[fired(row)], reminders_set=[row._replace(generation=7), rearmed])
    )
    _, (left,) = await world.store.due(range(SHARDS), until_us=2_000_000, limit=10)
    assert (left.generation, left.due_us) == (2, 1_000_061)


async def test_same_reminder_cannot_be_used_twice_in_one_commit(world: World) -> None:
    row = reminder(A)
    await world.commit(world.write(A, reminders_set=[row]))
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 1, reminders_gone=[fired(row), ReminderKey(*fired(row))]))


async def test_mailbox_item_is_taken_once(world: World) -> None:
    await world.commit(world.write(A, items_put=[item(1), item(2), item(1, "other")]))
    await world.commit(world.write(A, 1, items_taken=[("decision", 1)]))
    before = world.everything()
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 2, items_taken=[("decision", 2), ("decision", 1)]))
    assert world.everything() == before
    (loaded,) = await world.store.load([A])
    assert [(i.mailbox, i.position) for i in loaded.items] == [("decision", 2), ("other", 1)]


async def test_what_a_commit_takes_away_it_can_put_again(world: World) -> None:
    await world.commit(world.write(A, items_put=[item()], attempts_set=[attempt()], waiting=[envelope(A)]))
    await world.commit(
        world.write(
            A,
            1,
            items_taken=[("decision", 1)],
            items_put=[item()],
            attempts_gone=["run/r1/1"],
            attempts_set=[attempt(number=7)],
            consumed=[(1, "m1")],
            waiting=[envelope(A)],
        )
    )
    (loaded,) = await world.store.load([A])
    assert (len(loaded.items), loaded.attempts[0].attempt, len(loaded.inbox)) == (1, 7, 1)


async def test_journal_entry_cannot_be_written_twice(world: World) -> None:
    await world.commit(world.write(A, runs=[run()], journal=[entry(0)]))
    with pytest.raises(WriteConflict):
        await world.commit(world.write(A, 1, journal=[entry(1), entry(0)]))
    await world.commit(world.write(A, 1, journal=[entry(1)]))


async def test_existing_messages_are_left_alone(world: World) -> None:
    shard = shard_of(*B, SHARDS)
    await world.commit(world.write(A, outbox=[envelope(B, args=b'{"first":1}'), envelope(B, args=b'{"second":1}')]))
    await world.commit(world.write(B, waiting=[envelope(B, args=b'{"third":1}')]))
    await world.commit(arrivals=[(shard, envelope(B, args=b'{"fourth":1}')), (shard, envelope(B, "new", 2))])
    waiting = await world.store.inbox([B])
    assert [(e.id, meaning(e.args)) for e in waiting] == [("m1", {"first": 1}), ("new", {})]


async def test_consumed_messages_leave_the_inbox_and_absent_ones_do_not_matter(world: World) -> None:
    await world.commit(world.write(A, waiting=[envelope(A, "x", 1), envelope(A, "y", 1), envelope(A, "x", 2)]))
    await world.commit(world.write(A, 1, consumed=[(1, "x"), (9, "nothing")]))
    assert [(e.position, e.id) for e in await world.store.inbox([A])] == [(1, "y"), (2, "x")]


async def test_outbox_reaches_shards_of_other_hosts(world: World) -> None:
    mine, theirs = shard_of(*A, SHARDS), shard_of(*C, SHARDS)
    assert mine != theirs
    await world.store.release("h1", [theirs])
    await world.commit(world.write(A, outbox=[envelope(C)]))
    assert await world.store.with_mail([theirs], limit=5) == [C]


async def test_notes_on_attempts_need_no_turn_and_are_older_than_the_turn_beside_them(world: World) -> None:
    shard = shard_of(*A, SHARDS)
    await world.commit(world.write(A), attempts=[(A, shard, attempt(number=1)), (A, shard, attempt(number=2))])
    await world.commit(attempts=[(A, shard, attempt(number=3)), (A, shard, attempt("other", 1))])
    (loaded,) = await world.store.load([A])
    assert [(a.operation, a.attempt) for a in loaded.attempts] == [("other", 1), ("run/r1/1", 3)]
    await world.commit(world.write(A, 1, attempts_gone=["run/r1/1"]), attempts=[(A, shard, attempt(number=4))])
    (loaded,) = await world.store.load([A])
    assert [a.operation for a in loaded.attempts] == ["other"]


async def test_empty_batch_only_checks_the_host(world: World) -> None:
    assert await world.commit() > 0
    with pytest.raises(HostFenced):
        await world.commit(incarnation="nobody")


async def test_shard_without_an_epoch_is_a_bug(world: World) -> None:
    with pytest.raises(KeyError):
        await world.commit(world.write(A), epochs={})


@pytest.mark.parametrize(
    "state",
    [
        b'{"text": "\\ud83d\\ude00 \\u2028 \\" \\\\ \\n \\u0001 \x7f"}',
        b'{"number": 12345678901234567890123456789, "f": 0.1, "e": 1e-7, "neg": -0.5}',
        b'{"": {"": []}, "nested": [[[[{}]]]], "null": null, "t": true}',
        b'{"same text": "' + b"x" * 300_000 + b'"}',
        '{"ключ": "значение"}'.encode(),
    ],
)  # fmt: skip
async def test_state_comes_back_with_the_same_meaning(world: World, state: bytes) -> None:
    await world.commit(world.write(A, state=state, history=[history(args=state, outcome=state)]))
    (loaded,) = await world.store.load([A])
    assert meaning(loaded.state) == meaning(state)
    outcome = (await world.store.outcomes([(A, "m1")]))[A, "m1"]
    assert meaning(outcome.outcome) == meaning(outcome.args) == meaning(state)


async def test_large_floats_come_back_as_equal_numbers(world: World) -> None:
    """jsonb writes numbers out in full: 1.5e300 returns as digits. A float field reads the same value."""
    await world.commit(world.write(A, state=b'{"x": 1.5e300, "y": 1e22, "z": 5e-324}'))
    (loaded,) = await world.store.load([A])
    state = json.loads(loaded.state or b"", parse_int=float)
    assert state == {"x": 1.5e300, "y": 1e22, "z": 5e-324}


async def test_what_a_turn_says_of_an_attempt_wins_over_the_note_beside_it(world: World) -> None:
    shard = shard_of(*A, SHARDS)
    await world.commit(world.write(A), attempts=[(A, shard, attempt(number=1))])
    await world.commit(
        world.write(A, 1, attempts_set=[attempt(number=9), attempt(number=2)]),
        attempts=[(A, shard, attempt(number=3)), (A, shard, attempt("other", 1))],
    )
    (loaded,) = await world.store.load([A])
    assert [(a.operation, a.attempt) for a in loaded.attempts] == [("other", 1), ("run/r1/1", 2)]
