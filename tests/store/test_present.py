"""`Archive.present`: what is going on at one entity, alike from every store, and never more than was asked for."""

from perdure.entities.store.rows import DeadLetter, RunStatus

from .conftest import World, meaning
from .rows import A, B, attempt, entry, envelope, item, reminder, run


async def test_an_unknown_entity_is_none(world: World) -> None:
    assert await world.store.archive().present(A, limit=10, journal_max=10) is None


async def test_all_that_waits_is_there_and_other_entities_are_not(world: World) -> None:
    write = world.write(
        A,
        runs=[run()],
        journal=[entry(0), entry(1)],
        items_put=[item(1)],
        attempts_set=[attempt()],
        waiting=[envelope(A)],
        reminders_set=[reminder(A, "later", 2_000_000), reminder(A, "sooner", 1_000_000)],
        dead_letters=[DeadLetter(envelope(A, "dead"), 3, b'{"code":"x"}')],
    )
    other = world.write(B, runs=[run(run_id="other")], journal=[entry(0, run_id="other")])
    await world.commit(write, other)
    found = await world.store.archive().present(A, limit=10, journal_max=10)
    assert found is not None
    loaded = found.loaded
    assert (loaded.entity, loaded.version, meaning(loaded.state)) == (A, 1, {"n": 1})
    assert [row._replace(args=b"") for row in loaded.runs] == [run(args=b"")]
    entries = [(row.run_id, row.number, meaning(row.entry)) for row in loaded.journal]
    assert entries == [("r1", 0, {"n": 0}), ("r1", 1, {"n": 1})]
    assert [row.mailbox for row in loaded.items] == ["decision"]
    assert [row.operation for row in loaded.attempts] == ["run/r1/1"]
    assert [waiting.id for waiting in loaded.inbox] == ["m1"]
    assert [row.name for row in found.reminders] == ["sooner", "later"]
    assert [letter.letter.envelope.id for letter in found.letters] == ["dead"]
    assert found.updated_us > 0


async def test_only_the_newest_entries_of_live_runs_and_the_first_rows_are_read(world: World) -> None:
    ended = run("old", "r0", status=RunStatus.COMPLETED, ended_us=5)
    await world.commit(
        world.write(
            A,
            runs=[run(), ended],
            journal=[*(entry(number) for number in range(5)), entry(0, "old", "r0")],
            items_put=[item(number) for number in range(1, 6)],
            waiting=[envelope(A, f"m{number}", number) for number in range(1, 6)],
            reminders_set=[reminder(A, f"r{number}", 1_000_000 + number) for number in range(5)],
            dead_letters=[DeadLetter(envelope(A, f"d{number}"), 3, b"{}") for number in range(5)],
        )
    )
    found = await world.store.archive().present(A, limit=2, journal_max=3)
    assert found is not None
    assert [(row.workflow, row.number) for row in found.loaded.journal] == [("run", 2), ("run", 3), ("run", 4)]
    assert [row.workflow for row in found.loaded.runs] == ["old", "run"]
    assert [row.position for row in found.loaded.items] == [1, 2]
    assert [waiting.id for waiting in found.loaded.inbox] == ["m1", "m2"]
    assert [row.name for row in found.reminders] == ["r0", "r1"]
    assert len(found.letters) == 2


async def test_messages_alone_are_something(world: World) -> None:
    await world.commit(world.write(B, outbox=[envelope(A)]))
    found = await world.store.archive().present(A, limit=10, journal_max=10)
    assert found is not None
    assert (found.loaded.version, [waiting.id for waiting in found.loaded.inbox]) == (0, ["m1"])
