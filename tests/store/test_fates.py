"""`Archive.fates`, `unapplied`: what became of an entity's messages, alike from every store, by primary keys."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from perdure.cluster.postgres import fates as on_postgres
from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.fates import INBOX_LOOK, LETTERS_LOOK, Fate, FateStatus, Sent, due_id
from perdure.entities.store.rows import DeadLetter, ReminderKind

from .conftest import SHARDS, World
from .rows import HOUR_US, A, B, C, envelope, history, reminder

SENDER = EntityId("Account", "a")
FROM = str(SENDER)


async def fates(world: World, *ids: str, receiver: EntityId = A) -> list[Fate]:
    return list(await world.store.archive().fates(SENDER, [Sent(receiver, one) for one in ids]))


def delayed(message_id: str) -> Any:
    return reminder(A, message_id, 7 * HOUR_US, kind=ReminderKind.MESSAGE)


async def test_each_message_is_where_it_is(world: World) -> None:
    at_us = await world.commit(
        world.write(
            A,
            version=3,
            waiting=[envelope(A, "waits", sender=FROM)],
            history=[
                history("applied", 1),
                history("refused", 2, ok=False),
                history("dead", 3, ok=False),
                history("set aside", 3),
            ],
            dead_letters=[DeadLetter(envelope(A, "dead", sender=FROM), 3, b'{"code":"x"}')],
            reminders_set=[delayed("set aside")],
        )
    )
    found = await fates(world, "refused", "waits", "gone", "set aside", "applied", "dead")
    assert [one._replace(at_us=bool(one.at_us)) for one in found] == [
        Fate(FateStatus.FAILED, 2, True),
        Fate(FateStatus.WAITING),
        Fate(FateStatus.UNKNOWN),
        Fate(FateStatus.DELAYED, 0, True),
        Fate(FateStatus.APPLIED, 1, True),
        Fate(FateStatus.DEAD_LETTER, 3, True),
    ]
    assert found[3].at_us == 7 * HOUR_US
    assert all(found[place].at_us <= at_us for place in (0, 4, 5))
    assert await fates(world, "waits", receiver=B) == [Fate(FateStatus.UNKNOWN)]
    assert await fates(world) == []


async def test_a_delayed_message_has_the_outcome_of_its_second_id(world: World) -> None:
    await world.commit(
        world.write(
            A,
            version=4,
            history=[
                history("late", 1),
                history(due_id("late"), 3, sender=""),
                history("died", 2),
                history(due_id("died"), 4, ok=False, sender=""),
            ],
            dead_letters=[DeadLetter(envelope(A, due_id("died")), 3, b"{}")],
        )
    )
    late, died = await fates(world, "late", "died")
    assert (late.status, late.version) == (FateStatus.APPLIED, 3)
    assert (died.status, died.version) == (FateStatus.DEAD_LETTER, 4)


async def test_a_message_of_somebody_else_under_the_same_id_is_not_its(world: World) -> None:
    await world.commit(
        world.write(A, history=[history("m1", sender="Account/b")], waiting=[envelope(A, "m2", sender="Account/b")])
    )
    assert await fates(world, "m1", "m2") == [Fate(FateStatus.UNKNOWN)] * 2


async def test_several_receivers_and_messages_keep_their_order(world: World) -> None:
    await world.commit(
        world.write(A, waiting=[envelope(A, f"m{n}", n, sender=FROM) for n in range(1, 4)]),
        world.write(B, history=[history("m2")]),
    )
    asked = [Sent(B, "m2"), Sent(A, "m3"), Sent(B, "m1"), Sent(A, "m1"), Sent(A, "m3")]
    found = await world.store.archive().fates(SENDER, asked)
    assert [one.status for one in found] == ["applied", "waiting", "unknown", "waiting", "waiting"]


async def test_what_waits_or_was_given_up_is_found_by_its_sender(world: World) -> None:
    await world.commit(
        world.write(
            B,
            outbox=[
                envelope(A, "m1", 1, sender=FROM),
                envelope(C, "m2", 5, sender=FROM),
                envelope(C, "m3", sender="x"),
            ],
            dead_letters=[
                DeadLetter(envelope(B, "d1", 3, sender=FROM), 3, b"{}"),
                DeadLetter(envelope(B, "d2", 4, sender="Account/ab"), 3, b"{}"),
            ],
        )
    )
    few = await world.store.archive().unapplied(SENDER, limit=10)
    assert [(one.sent, one.kind, one.name, one.position, one.fate.status) for one in few.rows] == [
        (Sent(C, "m2"), "send", "pick_up", 5, "waiting"),
        (Sent(B, "d1"), "send", "pick_up", 3, "dead_letter"),
        (Sent(A, "m1"), "send", "pick_up", 1, "waiting"),
    ]
    assert few.rows[1].fate.at_us > 0
    assert not few.is_cut
    cut = await world.store.archive().unapplied(SENDER, limit=2)
    assert ([one.sent.message_id for one in cut.rows], cut.is_cut) == (["m2", "d1"], True)


async def test_of_a_long_inbox_the_first_rows_are_looked_at(world: World) -> None:
    last = INBOX_LOOK + 1
    waiting = [envelope(A, f"m{n}", n, sender=FROM if n in (1, last) else "x") for n in range(1, last + 1)]
    await world.commit(world.write(A, waiting=waiting))
    few = await world.store.archive().unapplied(SENDER, limit=10)
    assert ([one.sent.message_id for one in few.rows], few.is_cut) == (["m1"], True)
    assert (await fates(world, f"m{last}"))[0].status is FateStatus.WAITING, "one that is known is found all the same"


async def test_of_many_dead_letters_the_newest_are_looked_at(world: World) -> None:
    oldest = DeadLetter(envelope(A, "a", 1, sender=FROM), 3, b"{}")
    later = [DeadLetter(envelope(B, f"d{n}", n, sender="x"), 3, b"{}") for n in range(2, LETTERS_LOOK + 1)]
    newest = DeadLetter(envelope(C, "z", 9, sender=FROM), 3, b"{}")
    await world.commit(world.write(A, dead_letters=[oldest]))
    await world.commit(world.write(B, dead_letters=later))
    await world.commit(world.write(C, dead_letters=[newest]))
    few = await world.store.archive().unapplied(SENDER, limit=10)
    assert ([one.sent.message_id for one in few.rows], few.is_cut) == (["z"], True)


async def test_no_plan_reads_a_whole_table(postgres: World) -> None:
    """With rows enough for the planner to have a choice, every table is reached by an index."""
    shard = shard_of("Order", "k7", SHARDS)
    known: Sequence[object] = ([shard], ["Order"], ["k7"], ["m7"])
    plans: list[str] = []
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"set search_path to {postgres.namespace}".encode())
        fill(connection)
        for query, values in (
            (on_postgres._OUTCOMES, known),
            (on_postgres._DELAYED, known),
            (on_postgres._DEAD, known),
            (on_postgres._WAITING, (*known, FROM)),
            (on_postgres._INBOXES, (SHARDS, FROM)),
            (on_postgres._LETTERS, (FROM,)),
        ):
            plans.append(generic_plan(connection, query.replace("{s}", postgres.namespace), values))
    assert [plan for plan in plans if "Seq Scan" in plan or "Index" not in plan] == []


def fill(connection: psycopg.Connection[Any]) -> None:
    rows = "generate_series(1, 20000) n"
    address = f"(n % {SHARDS})::int4, 'Order', 'k' || (n % 500), 'm' || n"
    message = "kind, name, args, sender, reply_to"
    columns = "shard, type, key, message_id"
    for table, more, values in (
        (
            "history",
            "version, kind, name, sender, fingerprint, args, ok, outcome, recorded_at",
            f"n, 'send', 'x', '{FROM}', '', '{{}}', true, 'null', now()",
        ),
        ("inbox", f"{message}, position", f"'send', 'x', '{{}}', '{FROM}', '', n"),
        (
            "dead_letters",
            f"{message}, position, attempts, error, died_at",
            f"'send', 'x', '{{}}', '{FROM}', '', n, 1, '{{}}', now() - n * interval '1 s'",
        ),
        (
            "reminders",
            "kind, generation, due_at, every_us, catch_up_all, handler, args",
            "'message', 1, now(), 0, false, '', '{}'",
        ),
    ):
        named = columns.replace("message_id", "name") if table == "reminders" else columns
        connection.execute(f"insert into {table} ({named}, {more}) select {address}, {values} from {rows}".encode())
    connection.execute("analyze history, inbox, dead_letters, reminders")


def generic_plan(connection: psycopg.Connection[Any], query: str, values: Sequence[object]) -> str:
    """What a session does that has asked often: it no longer knows how many are asked for."""
    connection.execute("set plan_cache_mode = force_generic_plan")
    connection.execute(f"prepare asked as {query}".encode())
    texts = ", ".join(sql.Literal(value).as_string(connection) for value in values)
    rows = connection.execute(f"explain execute asked({texts})".encode()).fetchall()
    connection.execute("deallocate asked")
    return "\n".join(line for (line,) in rows)
