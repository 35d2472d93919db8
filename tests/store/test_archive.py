"""What the archive promises, of every store: histories, past states, dead letters, searching."""

import json
import random

import msgspec
import pytest

from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.archive import STATE_IS_KEPT, KeptState, Letter, LetterCursor, Narrow, ScanCursor
from perdure.entities.store.rows import STATE_NOT_KEPT, STATE_UNCHANGED, DeadLetter, HistoryRow, JournalRow

from .conftest import SHARDS, World, meaning
from .rows import A, B, C, attempt, entry, envelope, full_envelope, history, item, reminder, run

STATE = b'{"n": 7, "text": "\xc3\xbc"}'


async def turns(world: World, entity: EntityId, *states: bytes, first: int = 1) -> None:
    """One commit per state, each with one history row that carries it."""
    for version, state in enumerate(states, first):
        row = history(f"m{version}", version, state=state)
        await world.commit(world.write(entity, version - 1, history=[row]))


# --- Timeline ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_entity_has_no_history(world: World) -> None:
    archive = world.store.archive()
    timeline = await archive.timeline(A, after=0, limit=10)
    assert (timeline.version, timeline.records, timeline.next) == (0, [], None)
    assert await archive.snapshot(A) is None
    assert await archive.state_at(A, 1) == KeptState(None, 0)
    assert await archive.everything(A) is None


async def test_history_comes_in_order_of_versions_with_times_and_marks(world: World) -> None:
    before = await world.store.clock_us()
    await turns(world, A, STATE, STATE_UNCHANGED, STATE_NOT_KEPT)
    await world.commit(
        world.write(A, 3, runs=[run()], journal=[entry(0)._replace(version=4, state=STATE)], attempts_set=[attempt()])
    )
    after = await world.store.clock_us()
    timeline = await world.store.archive().timeline(A, after=0, limit=10)
    assert timeline.version == 4
    assert [record.row.version for record in timeline.records] == [1, 2, 3, 4]
    marks = [STATE_IS_KEPT, STATE_UNCHANGED, STATE_NOT_KEPT, STATE_IS_KEPT]
    assert [record.row.state for record in timeline.records] == marks
    assert all(before <= record.at_us <= after for record in timeline.records)
    first = timeline.records[0].row
    assert isinstance(first, HistoryRow)
    assert meaning(first.args) == {"a": 1}
    assert first._replace(args=b"", state=b"") == history(args=b"", state=b"")
    assert isinstance(timeline.records[3].row, JournalRow)
    assert [row.number for row in timeline.operations] == [0]
    assert [row.run_id for row in timeline.runs] == ["r1"]
    assert [row.operation for row in timeline.attempts] == ["run/r1/1"]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_hold_whole_versions_and_miss_nothing(world: World, limit: int, newest_first: bool) -> None:
    expected: list[tuple[int, str]] = []
    for version in range(1, 9):
        has_message, has_resume = version % 3 != 0, version % 2 == 0 or version % 3 == 0
        await world.commit(
            world.write(
                A,
                version - 1,
                history=[history(f"m{version}", version)] if has_message else [],
                journal=[entry(version)._replace(version=version)] if has_resume else [],
            )
        )
        expected += [(version, "HistoryRow")] * has_message + [(version, "JournalRow")] * has_resume
    found: list[tuple[int, str]] = []
    after: int | None = 0
    pages = 0
    while after is not None:
        timeline = await world.store.archive().timeline(A, after=after, limit=limit, newest_first=newest_first)
        rows = [(record.row.version, type(record.row).__name__) for record in timeline.records]
        assert not {version for version, _ in rows} & {version for version, _ in found}, "a version in two pages"
        found += rows
        after = timeline.next
        pages += 1
        assert pages < 20
    assert sorted(found) == sorted(expected)
    assert [v for v, _ in found] == sorted((v for v, _ in found), reverse=newest_first)


async def test_history_can_be_asked_for_some_kinds_of_messages_only(world: World) -> None:
    rows = [history("m1", 1, kind="call"), history("m2", 2, kind="maintain"), history("m3", 3, kind="send")]
    await world.commit(world.write(A, version=3, history=rows, journal=[entry()]))
    timeline = await world.store.archive().timeline(A, after=0, limit=10, kinds=["maintain", "send"])
    assert [record.row.version for record in timeline.records] == [2, 3]


# --- Past states ------------------------------------------------------------------------------------------------------


async def test_the_state_at_a_version_is_what_its_turn_left(world: World) -> None:
    one, two = b'{"n":1}', b'{"n":2}'
    await turns(world, A, one, STATE_UNCHANGED, STATE_UNCHANGED, two, STATE_NOT_KEPT, STATE_UNCHANGED, one)
    archive = world.store.archive()
    states = [(await archive.state_at(A, version)).state for version in range(9)]
    assert [meaning(state) for state in states] == [
        None,
        {"n": 1},
        {"n": 1},
        {"n": 1},
        {"n": 2},
        None,
        None,
        {"n": 7},  # the present state is always known
        None,
    ]


async def test_a_resume_in_the_same_turn_has_the_last_word(world: World) -> None:
    await world.commit(
        world.write(
            A, history=[history(state=b'{"n":1}')], journal=[entry()._replace(version=1, state=b'{"n":2}')], version=1
        )
    )
    await turns(world, A, STATE_UNCHANGED, STATE_UNCHANGED, first=2)
    for version in (1, 2):
        assert meaning((await world.store.archive().state_at(A, version)).state) == {"n": 2}


async def test_nothing_is_concluded_across_a_gap(world: World) -> None:
    """Between a resume long ago and the messages of today others may have been pruned."""
    await world.commit(world.write(A, journal=[entry()._replace(version=1, state=b'{"n":1}')], runs=[run()]))
    await world.commit(world.write(A, 1, version=2))
    await turns(world, A, STATE_UNCHANGED, STATE_UNCHANGED, first=3)
    archive = world.store.archive()
    assert meaning((await archive.state_at(A, 1)).state) == {"n": 1}
    assert [(await archive.state_at(A, version)).state for version in (2, 3)] == [None, None]


async def test_rows_of_an_older_release_claim_nothing(world: World) -> None:
    row = HistoryRow("m1", 1, "call", "x", "", b"", b"{}", True, b"null")
    await world.commit(world.write(A, history=[row]))
    await turns(world, A, STATE_UNCHANGED, STATE_UNCHANGED, first=2)
    assert (await world.store.archive().state_at(A, 2)).state is None


async def test_retained_states_go_with_the_retention(world: World) -> None:
    await turns(world, A, b'{"n":1}', b'{"n":2}', b'{"n":3}')
    archive = world.store.archive()
    assert (await archive.state_at(A, 2)).state is not None
    while await world.store.prune(older_than_us=0, limit=100):
        pass
    assert [(await archive.state_at(A, version)).state is None for version in (1, 2, 3)] == [True, True, False]
    assert (await archive.timeline(A, after=0, limit=10)).records == []


# --- Everything -------------------------------------------------------------------------------------------------------


async def test_everything_of_one_entity_comes_from_all_tables(world: World) -> None:
    letter = DeadLetter(full_envelope(A, "dead"), 5, b'{"code":"x","message":"y"}')
    write = world.write(
        A,
        clock=9,
        schema_version=3,
        history=[history(state=STATE)],
        waiting=[envelope(A, "w1", 3)],
        reminders_set=[reminder(A)],
        runs=[run()],
        journal=[entry(0), entry(1)],
        items_put=[item()],
        attempts_set=[attempt()],
        dead_letters=[letter],
    )
    await world.commit(write, world.write(B, history=[history()]))
    found = await world.store.archive().everything(A)
    assert found is not None
    assert (found.loaded.version, found.loaded.schema_version, found.loaded.clock) == (1, 3, 9)
    assert [meaning(row.state) for _, row in found.history] == [meaning(STATE)]
    assert [row.number for _, row in found.journal] == [0, 1]
    assert [e.id for e in found.loaded.inbox] == ["w1"]
    assert [r.name for r in found.reminders] == ["rating"]
    assert [r.run_id for r in found.loaded.runs] == ["r1"]
    assert [i.message_id for i in found.loaded.items] == ["m1"]
    assert [a.operation for a in found.loaded.attempts] == ["run/r1/1"]
    assert [stored.letter.envelope.id for stored in found.letters] == ["dead"]


# --- Dead letters -----------------------------------------------------------------------------------------------------


def dead(entity: EntityId, message_id: str) -> DeadLetter:
    return DeadLetter(full_envelope(entity, message_id), 5, b'{"code":"x","message":"y"}')


async def test_dead_letters_are_listed_oldest_first_by_entity_type_and_time(world: World) -> None:
    await world.commit(world.write(A, dead_letters=[dead(A, "a1"), dead(A, "a2")]))
    between = await world.store.clock_us() + 1
    while await world.store.clock_us() <= between:
        pass
    await world.commit(world.write(B, dead_letters=[dead(B, "b1")]), world.write(C, dead_letters=[dead(C, "c1")]))
    archive = world.store.archive()

    def ids(letters: list[Letter]) -> list[str]:
        return [letter.letter.envelope.id for letter in letters]

    assert sorted(ids(await archive.letters(limit=10))) == ["a1", "a2", "b1", "c1"]
    assert ids(await archive.letters(type="Order", limit=10))[-1] == "b1"
    assert ids(await archive.letters(type=A.type, key=A.key, limit=10)) == ["a1", "a2"]
    assert ids(await archive.letters(type="Order", since_us=between, limit=10)) == ["b1"]
    seen: list[str] = []
    after: LetterCursor | None = None
    for _ in range(4):
        (letter,) = await archive.letters(after=after, limit=1)
        message = letter.letter.envelope
        after = LetterCursor(letter.died_us, message.type, message.key, message.id)
        seen.append(message.id)
    assert sorted(seen) == ["a1", "a2", "b1", "c1"]
    assert await archive.letters(after=after, limit=1) == []
    one = await archive.letter(A, "a2")
    assert one is not None
    assert [meaning(one.letter.error), meaning(one.letter.envelope.args)] == [
        {"code": "x", "message": "y"},
        {"x": [1, 2]},
    ]
    alike = msgspec.structs.replace(one.letter.envelope, args=b"")
    assert (alike, one.letter.attempts) == (msgspec.structs.replace(full_envelope(A, "a2"), args=b""), 5)
    assert await archive.letter(B, "a2") is None


async def test_a_replayed_letter_moves_into_the_inbox_once(world: World) -> None:
    await world.commit(world.write(A, dead_letters=[dead(A, "a1"), dead(A, "a2")]))
    replay = ("a1", "a1~again", 99)
    await world.commit(world.write(A, 1, letters_replayed=[replay], letters_discarded=["nothing"]))
    (again,) = await world.store.inbox([A])
    assert (again.id, again.position) == ("a1~again", 99)
    assert (again.name, meaning(again.args), again.sender, again.chain) == (
        "decision", {"x": [1, 2]}, "client-7", ("A/b#run", "C/d#go"),
    )  # fmt: skip
    assert [stored.letter.envelope.id for stored in await world.store.archive().letters(limit=9)] == ["a2"]
    # Once consumed, asking again sends nothing: the letter is gone.
    await world.commit(world.write(A, 2, consumed=[(99, "a1~again")], letters_replayed=[replay]))
    assert await world.store.inbox([A]) == []
    await world.commit(world.write(A, 3, letters_discarded=["a2"]))
    assert await world.store.archive().letters(limit=9) == []


async def test_a_replay_belongs_to_the_commit_that_asks_for_it(world: World) -> None:
    await world.commit(world.write(A, dead_letters=[dead(A, "a1")]))
    before = world.everything()
    with pytest.raises(Exception, match="not as expected"):
        await world.commit(world.write(A, 7, letters_replayed=[("a1", "again", 1)]))
    assert world.everything() == before


# --- Searching --------------------------------------------------------------------------------------------------------

NARROWS = {
    "status_is": Narrow("status", "text_in", ("Paid",)),
    "status_in": Narrow("status", "text_in", ("Paid", "New")),
    "status_from": Narrow("status", "text_from", ("P",)),
    "status_to": Narrow("status", "text_to", ("O",)),
    "none": Narrow("status", "is_null"),
    "some": Narrow("status", "not_null"),
    "or_missing": Narrow("status", "text_in", ("Paid",), or_missing=True),
    "from": Narrow("total", "number_from", ("20",)),
    "to": Narrow("total", "number_to", ("20.0",)),
}


def fulfils(state: dict[str, object], narrow: Narrow) -> bool:
    value = state.get(narrow.field)
    match narrow.test:
        case "text_in":
            return value in narrow.values or (narrow.or_missing and value is None)
        case "text_from":
            return isinstance(value, str) and value >= narrow.values[0]
        case "text_to":
            return isinstance(value, str) and value <= narrow.values[0]
        case "is_null":
            return value is None
        case "not_null":
            return value is not None
        case "number_from":
            return isinstance(value, int | float) and value >= float(narrow.values[0])
        case "number_to":
            return isinstance(value, int | float) and value <= float(narrow.values[0])


async def fill(world: World, count: int = 60) -> dict[str, dict[str, object]]:
    pick = random.Random(7)
    states: dict[str, dict[str, object]] = {}
    for number in range(count):
        state: dict[str, object] = {"total": pick.choice([1, 20, 20.0, 300, -4.5])}
        status = pick.choice(["Paid", "New", "paid", "Ö", None, "missing", "x" * 5_000])
        if status != "missing":
            state["status"] = status
        states[f"o{number}"] = state
    await world.commit(
        *(world.write(EntityId("Order", key), state=json.dumps(state).encode()) for key, state in states.items()),
        *(world.write(EntityId("Other", key), state=b'{"status":"Paid","total":20}') for key in states),
    )
    return states


async def search(
    world: World, narrow: list[Narrow], *, limit: int, examine_max: int = 1_000, indexed: tuple[str, ...] = ()
) -> list[str]:
    """Keys found, page by page; checks that pages go on in order and without repetition."""
    keys: list[str] = []
    after: ScanCursor | None = None
    for _ in range(2_000):
        scanned = await world.store.archive().scan(
            "Order", narrow=narrow, schema_version=1, indexed=indexed, after=after, limit=limit, examine_max=examine_max
        )
        places = [(shard, key) for shard, key, _ in scanned.found]
        assert places == sorted(places)
        assert all(shard == shard_of("Order", key, SHARDS) for shard, key in places)
        assert after is None or all(place > tuple(after) for place in places)
        assert len(places) <= limit
        keys += [key for _, key in places]
        if scanned.next is None:
            break
        after = scanned.next
    assert len(set(keys)) == len(keys)
    return keys


@pytest.mark.parametrize("indexed", [(), ("status",)])
@pytest.mark.parametrize("limit", [1, 7, 1_000])
async def test_a_scan_finds_all_that_fulfil_the_conditions(world: World, limit: int, indexed: tuple[str, ...]) -> None:
    states = await fill(world)
    await world.store.archive().index("Order", indexed, 1)
    for name, narrow in NARROWS.items():
        found = await search(world, [narrow], limit=limit, indexed=indexed)
        wanted = {key for key, state in states.items() if fulfils(state, narrow)}
        assert wanted <= set(found), name
        if world.dsn and world.codec is None:
            assert wanted == set(found), f"{name}: Postgres narrows exactly here"
        elif world.dsn:  # without a value the field may have been stored before it was searchable
            assert all(states[key].get(narrow.field) is None for key in set(found) - wanted), name
    assert set(await search(world, [], limit=limit)) == set(states)


async def test_a_scan_stops_after_what_it_may_look_at_and_goes_on_from_there(world: World) -> None:
    states = await fill(world)
    narrow = NARROWS["status_is"]
    scanned = await world.store.archive().scan(
        "Order", narrow=[narrow], schema_version=1, indexed=(), after=None, limit=50, examine_max=10
    )
    assert scanned.next is not None
    assert 0 < scanned.examined <= 10
    found = await search(world, [narrow], limit=50, examine_max=10)
    assert {key for key, state in states.items() if fulfils(state, narrow)} <= set(found)


async def test_states_of_an_older_schema_are_always_candidates(world: World) -> None:
    old, new = EntityId("Order", "old"), EntityId("Order", "new")
    await world.commit(
        world.write(old, state=b'{"state":"Paid"}', schema_version=1),
        world.write(new, state=b'{"status":"New"}', schema_version=2),
    )
    archive = world.store.archive()
    for indexed in ((), ("status",)):
        await archive.index("Order", indexed, 2)
        scanned = await archive.scan(
            "Order",
            narrow=[NARROWS["status_is"]],
            schema_version=2,
            indexed=indexed,
            after=None,
            limit=9,
            examine_max=9,
        )
        assert "old" in [key for _, key, _ in scanned.found]


async def test_a_found_entity_comes_with_its_committed_state(world: World) -> None:
    await world.commit(world.write(A, state=b'{"status":"Paid"}', schema_version=1))
    await world.commit(world.write(A, 1, state=b'{"status":"Sent"}', schema_version=1))
    scanned = await world.store.archive().scan(
        "Order", narrow=[], schema_version=1, indexed=(), after=None, limit=9, examine_max=9
    )
    ((_, key, snapshot),) = scanned.found
    assert (key, snapshot.version, meaning(snapshot.state)) == (A.key, 2, {"status": "Sent"})
    assert snapshot == await world.store.archive().snapshot(A)
