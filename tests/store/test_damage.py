"""I32, F34: a row that is not as it was written is noticed; it holds up its own entity and nobody else (P9).

On both stores where they can be damaged alike; the rest with real UPDATE statements on Postgres.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres import checksums, migrations
from perdure.cluster.postgres.damage import accept, find_damage
from perdure.cluster.postgres.guard import check_server
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities import (
    DamagedRow,
    Entity,
    EntityId,
    EntityParked,
    Mailbox,
    RunEnded,
    RunParked,
    StartRefused,
    condition,
    handler,
    query,
    remind,
    workflow,
)
from perdure.entities.engine.settings import EngineSettings
from perdure.entities.export import export_entity
from perdure.entities.maintenance import dead_letters, replay_dead_letter
from perdure.entities.messages import decode_error
from perdure.entities.store.memory import MemoryStore, StoredEntity
from perdure.entities.store.rows import DeadLetter, DuePosition, RunStatus
from perdure.entities.testing import LocalCluster
from tests.engine.waiting import becomes, eventually

from .conftest import SHARDS, World
from .rows import A, B, C, attempt, entry, envelope, item, reminder, run

STATE = b'{"n": 1, "name": "x"}'


def memory_of(world: World) -> MemoryStore | None:
    """The memory store below, perhaps, an encrypted one; None on Postgres."""
    store = getattr(world.store, "inner", world.store)
    return store if isinstance(store, MemoryStore) else None


async def damage(world: World, table: str, change: str, *values: Any) -> None:
    """One UPDATE, as somebody's hand or a broken disk would make it."""
    with psycopg.connect(world.dsn) as connection:
        hit = connection.execute(f'update "{world.namespace}".{table} set {change}'.encode(), values or None).rowcount
    assert hit == 1, (table, change)


# --- the state, on both stores ----------------------------------------------------------------------------------------


def _change(stored: Any, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(stored, name, value)


STATE_DAMAGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "bit flip": (lambda e: setattr(e, "state", b'{"n": 3, "name": "x"}'), """state = '{"n": 3, "name": "x"}'"""),
    "truncated": (lambda e: setattr(e, "state", b"{}"), "state = '{}'"),
    "no object": (lambda e: setattr(e, "state", b"null"), "state = 'null'"),
    "future schema": (lambda e: setattr(e, "schema_version", 99), "schema_version = 99"),
    "older version": (lambda e: setattr(e, "version", 1), "version = 1"),
    "newer version": (lambda e: setattr(e, "version", 1 << 20), "version = 1048576"),
    "newer version, other state": (
        lambda e: _change(e, version=7, state=b'{"n": 3}'),
        """version = 7, state = '{"n": 3}'""",
    ),
    "send clock": (lambda e: setattr(e, "clock", 0), "clock = 0"),
}


async def test_damage_to_a_state_is_noticed_and_harms_nobody_else(world: World) -> None:
    hurt = [EntityId("Order", name) for name in STATE_DAMAGES]
    everybody = [*hurt, A]
    await world.commit(*(world.write(one, state=STATE, clock=7) for one in everybody))
    await world.commit(*(world.write(one, 1, state=STATE, clock=8) for one in everybody))
    intact = await world.store.load(everybody)
    assert [one.damage for one in intact] == [""] * len(everybody)
    before: list[StoredEntity] = []
    memory = memory_of(world)
    for entity, (in_memory, in_sql) in zip(hurt, STATE_DAMAGES.values(), strict=True):
        if memory is not None:
            before.append(replace(memory._entities[entity]))
            in_memory(memory._entities[entity])
        else:
            await damage(world, "entities", f"{in_sql} where key = %s", entity.key)
    kept = world.everything()
    *damaged, neighbour = await world.store.load(everybody)
    for loaded in damaged:
        assert "the row of its state" in loaded.damage, loaded
        assert loaded.state is None, "nobody can run on it by mistake"
    assert neighbour == intact[-1]
    assert world.everything() == kept, "nothing is written over"
    if memory is not None:
        memory._entities |= dict(zip(hurt, before, strict=True))
        assert await world.store.load(everybody) == intact


async def test_a_state_of_another_entity_is_damaged_even_with_its_whole_row(world: World) -> None:
    await world.commit(world.write(A, state=STATE), world.write(C, state=b'{"n": 2}'))
    if (memory := memory_of(world)) is not None:
        memory._entities[A] = replace(memory._entities[C])
    else:
        await damage(
            world,
            "entities t",
            "version = o.version, state = o.state, schema_version = o.schema_version, clock = o.clock,"
            f' checksum = o.checksum from "{world.namespace}".entities o'
            " where (t.type, t.key) = ('Order', 'order-1') and o.type = 'Account'",
        )
    [hurt, other] = await world.store.load([A, C])
    assert hurt.damage
    assert not other.damage


async def test_a_damaged_journal_entry_is_named_with_its_run_only(world: World) -> None:
    await world.commit(world.write(A, runs=[run()], journal=[entry(0), entry(1)]), world.write(B, runs=[run()]))
    if (memory := memory_of(world)) is not None:
        at, row = memory._entities[A].journal["run", "r1", 1]
        memory._entities[A].journal["run", "r1", 1] = at, row._replace(entry=b'{"n":9}')
    else:
        await damage(world, "journal", """entry = '{"n": 9}' where number = 1""")
    hurt, neighbour = await world.store.load([A, B])
    if hurt.problem:  # encrypted: what cannot be decrypted parks the whole entity
        assert (hurt.state, neighbour.problem) == (None, "")
        return
    assert hurt.damaged_runs == {"run": "entry 1 of its journal is damaged: its checksum does not fit"}
    assert (hurt.damage, hurt.state is not None) == ("", True), "the entity itself is well"
    assert (neighbour.damage, neighbour.damaged_runs) == ("", {})


# --- the rest, on Postgres --------------------------------------------------------------------------------------------

MAIL_DAMAGES = [
    """args = '{"amount": 11}'""",
    "kind = 'nonsense'",
    "kind = 'query'",
    "name = 'drop_all'",
    "extra = '[1]', checksum = null",
    "(shard, type, key) = (select shard, type, key from {s}.inbox where message_id = 'theirs')",
]


async def test_a_damaged_message_goes_to_the_dead_letters_as_it_is(postgres: World) -> None:
    world = postgres
    mail = [envelope(A, f"m{n}", n, args=b'{"amount": 10}', sender="c") for n in range(len(MAIL_DAMAGES))]
    await world.commit(world.write(C, outbox=[*mail, envelope(B, "theirs", 2), envelope(A, "mine", 99)]))
    for number, change in enumerate(MAIL_DAMAGES):
        where = f" where message_id = 'm{number}'"
        await damage(world, "inbox", change.replace("{s}", f'"{world.namespace}"') + where)
    assert [e.id for e in await world.store.inbox([A])] == ["mine"]
    loaded = await world.store.load([A, B])
    assert [[e.id for e in one.inbox] for one in loaded] == [["mine"], ["theirs"]]
    letters = await world.store.archive().letters(limit=10)
    assert {letter.letter.envelope.id for letter in letters} == {one.id for one in mail}
    assert all(b'"damaged_row"' in letter.letter.error for letter in letters)
    assert {str(letter.letter.envelope.kind) for letter in letters} == {"nonsense", "query", "send"}, "as it is"
    for letter in letters:
        envelope_ = letter.letter.envelope
        assert await world.store.archive().letter(envelope_.entity, envelope_.id) == letter


REMINDER_DAMAGES = [
    "generation = 99",
    "kind = 'nonsense'",
    """args = '{"k": 1}'""",
    "handler = 'other'",
    "due_at = to_timestamp(0)",
    "every_us = 5",
]


async def test_a_damaged_reminder_does_not_fire_and_does_not_hold_up_others(postgres: World) -> None:
    world = postgres
    hurt = [reminder(A, f"r{n}") for n in range(len(REMINDER_DAMAGES))]
    theirs = reminder(B, "third")
    await world.commit(
        world.write(A, reminders_set=[*hurt, reminder(A, "second")]), world.write(B, reminders_set=[theirs])
    )
    for number, change in enumerate(REMINDER_DAMAGES):
        await damage(world, "reminders", f"{change} where name = 'r{number}'")
    _, due = await world.store.due(range(SHARDS), until_us=10**15, limit=1)
    assert [row.name for row in due] == ["second"], "the limit counts what can fire"
    _, due = await world.store.due(range(SHARDS), until_us=10**15, limit=10)
    assert {row.name for row in due} == {"second", "third"}
    _, rest = await world.store.due(range(SHARDS), until_us=10**15, limit=10, after=DuePosition.of(due[0]))
    assert rest == due[1:]
    assert {row.name for row in await world.store.due_of([A], until_us=10**15, limit=10)} == {"second"}
    with psycopg.connect(world.dsn) as connection:
        [(reason,)] = connection.execute(f'select reason from "{world.namespace}".parked'.encode()).fetchall()
        [(left,)] = connection.execute(f'select count(*) from "{world.namespace}".reminders'.encode()).fetchall()
    assert "Order/order-1: its reminder 'r" in reason
    assert left == len(hurt) + 2, "the rows stay"


OTHER_DAMAGES = [
    ("mailbox_items", """item = '{"yes": false}'""", "mailbox 'decision' is damaged"),
    ("runs", "status = 'gone'", "a row of its runs or attempts is damaged: 'gone'"),
    ("runs", """reply_to = '{"a": 1}'""", "a row of its runs or attempts is damaged"),
    ("runs", "children = '[1]'", "a row of its runs or attempts is damaged"),
    ("attempts", "status = 'gone'", "a row of its runs or attempts is damaged: 'gone'"),
]


async def test_other_damaged_rows_park_the_entity(postgres: World) -> None:
    world = postgres
    hurt = [EntityId("Order", f"o{n}") for n in range(len(OTHER_DAMAGES))]
    full: dict[str, Any] = {"runs": [run()], "items_put": [item()], "attempts_set": [attempt()]}
    await world.commit(*(world.write(one, **full) for one in [*hurt, B]))
    for entity, (table, change, _) in zip(hurt, OTHER_DAMAGES, strict=True):
        await damage(world, table, f"{change} where key = %s", entity.key)
    *damaged, neighbour = await world.store.load([*hurt, B])
    assert not neighbour.damage
    for loaded, (table, _, reason) in zip(damaged, OTHER_DAMAGES, strict=True):
        assert reason in loaded.damage
        if table == "runs":
            with pytest.raises(DamagedRow, match=str(loaded.entity)):
                await world.store.run(loaded.entity, "run")
            with pytest.raises(DamagedRow, match=str(loaded.entity)):
                await world.store.archive().everything(loaded.entity)


async def test_a_replayed_letter_is_checked_like_other_mail(postgres: World) -> None:
    world = postgres
    letter = DeadLetter(envelope(A, "m1", args=b'{"amount": 10}'), 5, b'{"code": "handler_failed"}')
    await world.commit(world.write(A, dead_letters=[letter]))
    await world.commit(world.write(A, 1, letters_replayed=[("m1", "again", 99)]))
    assert [one.id for one in await world.store.inbox([A])] == ["again"]
    assert await find_damage(world.dsn, world.namespace) == []
    await damage(world, "inbox", """args = '{"amount": 11}'""")
    assert await world.store.inbox([A]) == []
    [kept] = await world.store.archive().letters(limit=9)
    assert kept.letter.envelope.id == "again"


async def test_rows_without_checksums_are_not_checked(postgres: World) -> None:
    """Those from before checksums, and those that somebody has accepted; until the next turn."""
    world = postgres
    await world.commit(world.write(A, state=STATE, reminders_set=[reminder(A)]))
    await damage(world, "entities", """version = 2, state = '{"n": 2}', checksum = null""")
    await damage(world, "reminders", """generation = 2, args = '{}', handler = 'else', checksum = null""")
    [loaded] = await world.store.load([A])
    assert (loaded.damage, loaded.version, loaded.state) == ("", 2, b'{"n": 2}')
    _, due = await world.store.due(range(SHARDS), until_us=10**15, limit=10)
    assert [row.handler for row in due] == ["else"]
    await world.commit(world.write(A, 2, state=STATE))
    await damage(world, "entities", """state = '{"n": 2}'""")
    [loaded] = await world.store.load([A])
    assert loaded.damage, "our next turn has written a checksum again"


async def test_damage_is_found_and_accepted_by_an_operator(postgres: World) -> None:
    world = postgres
    await world.commit(
        world.write(A, state=STATE, runs=[run()], journal=[entry()], reminders_set=[reminder(A)], items_put=[item()]),
        world.write(B, outbox=[envelope(C, "m1", args=b'{"a": 1}')]),
    )
    assert await find_damage(world.dsn, world.namespace) == []
    await damage(world, "entities", """state = '{"n": 4}' where key = 'order-1'""")
    for table, change in (
        ("journal", "entry = '[]'"),
        ("inbox", "args = '[]'"),
        ("mailbox_items", "item = '[]'"),
        ("reminders", "args = '[]'"),
    ):
        await damage(world, table, change)
    found = await find_damage(world.dsn, world.namespace)
    assert [(one.table, str(one.entity)) for one in found] == [
        ("entities", "Order/order-1"),
        ("journal", "Order/order-1"),
        ("inbox", "Account/c"),
        ("mailbox_items", "Order/order-1"),
        ("reminders", "Order/order-1"),
    ]
    assert await accept(world.dsn, world.namespace, A) == 4
    [loaded] = await world.store.load([A])
    assert (loaded.damage, loaded.damaged_runs, loaded.state) == ("", {}, b'{"n": 4}')
    assert [one.table for one in await find_damage(world.dsn, world.namespace)] == ["inbox"]


async def test_a_server_that_computes_other_checksums_is_refused(server: EmbeddedPostgres, postgres: World) -> None:
    world = postgres
    await world.commit(world.write(A))
    await check_server(world.dsn, world.namespace)
    await damage(world, "meta", "value = '17' where name = %s", checksums.META)
    with pytest.raises(StartRefused, match=r"another kind of server.*perdure db accept --all"):
        await check_server(world.dsn, world.namespace)
    assert await accept(world.dsn, world.namespace, None) == 1
    await check_server(world.dsn, world.namespace)


# --- hosts on damaged rows --------------------------------------------------------------------------------------------


class Safe(Entity):
    money: int = 0
    is_open: bool = False
    rung: int = 0
    heard: list[str] = []
    calls = Mailbox(str)

    @handler
    async def put(self, amount: int) -> int:
        self.money += amount
        return self.money

    @handler
    async def ring(self, times: int = 1) -> None:
        self.rung += times

    @handler
    async def ring_soon(self) -> None:
        remind(self.ring, after=timedelta(milliseconds=1), name="bell")

    @handler
    async def open(self) -> None:
        self.is_open = True

    @query
    async def content(self) -> int:
        return self.money

    @query
    async def rings(self) -> int:
        return self.rung

    @workflow
    async def guard(self) -> int:
        await condition(lambda: self.is_open)
        return self.money


def safe(key: str) -> EntityId:
    return EntityId("Safe", key)


@pytest.fixture(scope="module")
def shared(server: EmbeddedPostgres) -> str:
    """One namespace for all that follows; each test has a key of its own."""
    migrations.upgrade(server.dsn, "damaged", shard_count=SHARDS)
    return "damaged"


@pytest.fixture
async def hosted(server: EmbeddedPostgres, shared: str) -> AsyncIterator[tuple[LocalCluster, World]]:
    settings = EngineSettings(idle_s=0.05, mail_poll_s=0.05, timer_window_s=0.2)
    async with (
        PostgresStore(SessionSettings(dsn=server.dsn), namespace=shared) as store,
        LocalCluster([Safe], store=store, settings=settings) as cluster,
    ):
        yield cluster, World(store, dsn=server.dsn, namespace=shared)


async def asleep(cluster: LocalCluster) -> None:
    await eventually(lambda: not any(engine.active for engine in cluster.engines))


async def test_a_damaged_entity_parks_and_goes_on_once_restored(hosted: tuple[LocalCluster, World]) -> None:
    cluster, world = hosted
    assert await Safe.ref("restored").put(5) == 5
    assert await Safe.ref("neighbour").put(1) == 1
    await asleep(cluster)
    change = """state = jsonb_set(state, '{money}', '%s') where key = 'restored'"""
    await damage(world, "entities", change.replace("%s", "500"))
    for _ in range(2):
        with pytest.raises(
            EntityParked, match=r"Safe/restored: the row of its state \(version 1\) is damaged.*db accept Safe/restored"
        ):
            await Safe.ref("restored").put(1)
    with pytest.raises(EntityParked):
        await Safe.ref("restored").content()
    await Safe.ref("neighbour").put(1)
    with psycopg.connect(world.dsn) as connection:
        [(version, money)] = connection.execute(
            f"""select version, state->'money' from "{world.namespace}".entities where key = 'restored'""".encode()
        ).fetchall()
    assert (version, money) == (1, 500), "nothing was written over"
    await damage(world, "entities", change.replace("%s", "5"))
    assert await Safe.ref("restored").put(1) == 6
    await becomes(lambda: noted(world, "restored"), False)


async def noted(world: World, key: str) -> bool:
    [loaded] = await world.store.load([safe(key)])
    return loaded.is_noted


async def test_what_an_operator_accepts_is_the_state(hosted: tuple[LocalCluster, World]) -> None:
    cluster, world = hosted
    await Safe.ref("accepted").put(5)
    await asleep(cluster)
    await damage(world, "entities", """state = jsonb_set(state, '{money}', '7') where key = 'accepted'""")
    with pytest.raises(EntityParked):
        await Safe.ref("accepted").content()
    assert await accept(world.dsn, world.namespace, safe("accepted")) == 1
    assert await Safe.ref("accepted").put(1) == 8


async def test_a_run_with_a_damaged_journal_is_parked_and_goes_on_once_restored(
    hosted: tuple[LocalCluster, World],
) -> None:
    cluster, world = hosted
    await Safe.ref("journal").put(5)
    await Safe.ref("journal").guard.start()
    await asleep(cluster)
    await damage(world, "journal", "entry = jsonb_set(entry, '{now_us}', '1') where key = 'journal'")
    await Safe.ref("journal").open()  # handlers go on
    assert "entry 0 of its journal is damaged" in await parked_because(world, "journal")
    with pytest.raises(RunParked):
        await Safe.ref("journal").guard.cancel()
    assert await Safe.ref("journal").content() == 5
    assert await accept(world.dsn, world.namespace, safe("journal")) == 1  # what was changed does not matter to it
    with contextlib.suppress(RunEnded):  # it has been tried again, and has gone on, by itself
        await Safe.ref("journal").guard.resume()
    assert await Safe.ref("journal").guard.result(timeout=30) == 5


async def parked_because(world: World, key: str) -> str:
    row = await world.store.run(safe(key), "guard")
    assert row is not None
    assert row.status is RunStatus.PARKED
    return decode_error(row.outcome).message


async def test_a_missing_journal_entry_parks_the_run(hosted: tuple[LocalCluster, World]) -> None:
    cluster, world = hosted
    await Safe.ref("gap").guard.start()
    await asleep(cluster)
    await damage(world, "journal", "number = 3, checksum = null where key = 'gap'")
    await Safe.ref("gap").open()
    assert "entry 0 of its journal is missing" in await parked_because(world, "gap")


async def test_damaged_mail_is_a_dead_letter_that_can_be_mended_and_replayed(
    hosted: tuple[LocalCluster, World],
) -> None:
    cluster, world = hosted
    await Safe.ref("mail").put(5)
    await Safe.ref("well").put(1)
    await asleep(cluster)
    with psycopg.connect(world.dsn) as connection:
        for key, checksum in (("mail", "1"), ("well", "null")):
            connection.execute(
                f"""insert into "{world.namespace}".inbox
                (shard, type, key, position, message_id, kind, name, args, sender, reply_to, checksum)
                select shard, type, key, 1, 'm', 'send', 'put', '{{"amount": 10}}', 'x', '', {checksum}
                from "{world.namespace}".entities where key = %s""".encode(),
                (key,),
            )
    await becomes(Safe.ref("well").content, 11)
    await eventually_letters(cluster, 1)
    assert await Safe.ref("mail").content() == 5
    [letter] = (await dead_letters(archive=cluster.archive)).letters
    assert (letter.key, letter.args, letter.error["code"]) == ("mail", {"amount": 10}, "damaged_row")
    await replay_dead_letter(safe("mail"), "m", archive=cluster.archive)
    await becomes(Safe.ref("mail").content, 15)


async def eventually_letters(cluster: LocalCluster, count: int) -> None:
    async def letters() -> int:
        return len((await dead_letters(archive=cluster.archive)).letters)

    await becomes(letters, count)


async def test_a_damaged_reminder_waits_until_it_is_restored(hosted: tuple[LocalCluster, World]) -> None:
    cluster, world = hosted
    await Safe.ref("bell").put(5)
    await asleep(cluster)
    with psycopg.connect(world.dsn) as connection:
        connection.execute(
            f"""insert into "{world.namespace}".reminders
            (shard, type, key, name, kind, generation, due_at, every_us, catch_up_all, handler, args, checksum)
            select shard, type, key, 'bell', 'reminder', 1, now(), 0, false, 'ring', '{{"times": 3}}',
                (1::int8 << 32) + 5
            from "{world.namespace}".entities where key = 'bell'""".encode()
        )
    await becomes(lambda: noted(world, "bell"), True)
    assert await Safe.ref("bell").rings() == 0
    assert await accept(world.dsn, world.namespace, safe("bell")) == 1
    await becomes(Safe.ref("bell").rings, 3)


async def test_a_damaged_entity_can_still_be_exported_and_its_state_read(hosted: tuple[LocalCluster, World]) -> None:
    """For comparing it with a backup."""
    cluster, world = hosted
    await Safe.ref("export").put(5)
    await asleep(cluster)
    await damage(world, "entities", """state = '{"money": 6}' where key = 'export'""")
    assert b'"money":6' in (await export_entity(safe("export"), archive=cluster.archive)).replace(b" ", b"")
