"""Indexes for searching, on Postgres: made, used, replaced, and never in the way of a commit."""

import psycopg

from perdure.entities.ids import EntityId
from perdure.entities.store.archive import Narrow, Scanned

from .conftest import World

PAID = Narrow("status", "text_in", ("Paid",))


def indexes(world: World) -> list[str]:
    with psycopg.connect(world.dsn) as connection:
        rows = connection.execute(
            "select indexdef from pg_indexes where schemaname = %s and indexname like 'find%%' order by 1",
            (world.namespace,),
        ).fetchall()
    return [definition for (definition,) in rows]


async def scan(world: World, *, indexed: tuple[str, ...] = ("status",), schema_version: int = 1) -> Scanned:
    return await world.store.archive().scan(
        "Order",
        narrow=[PAID],
        schema_version=schema_version,
        indexed=indexed,
        after=None,
        limit=1_000,
        examine_max=10_000,
    )


async def orders(world: World, count: int = 400, paid_every: int = 100) -> None:
    await world.commit(
        *(
            world.write(
                EntityId("Order", f"o{number}"),
                state=b'{"status":"Paid"}' if number % paid_every == 0 else b'{"status":"New"}',
                schema_version=1,
            )
            for number in range(count)
        )
    )


async def test_indexes_follow_the_class(postgres: World) -> None:
    archive = postgres.store.archive()
    await archive.index("Order", ["status"], 1)
    await archive.index("Order", ["status"], 1)
    assert len(indexes(postgres)) == 1
    await archive.index("Other", ["status"], 1)
    await archive.index("Order", ["status", "city"], 3)
    assert len(indexes(postgres)) == 4, "two fields, states of old schemas, and the other type's"
    await archive.index("Order", [], 3)
    assert len(indexes(postgres)) == 1
    assert "Other" in indexes(postgres)[0]


async def test_with_an_index_only_what_it_finds_is_looked_at(postgres: World) -> None:
    await orders(postgres)
    before = await scan(postgres)
    assert (len(before.found), before.examined, before.is_indexed) == (4, 400, False)
    await postgres.store.archive().index("Order", ["status"], 1)
    after = await scan(postgres)
    assert (after.found, after.examined, after.is_indexed) == (before.found, 4, True)


async def test_an_index_serves_while_some_states_are_of_an_older_schema(postgres: World) -> None:
    await orders(postgres)
    await postgres.store.archive().index("Order", ["status"], 2)
    scanned = await scan(postgres, schema_version=2)
    assert len(scanned.found) == 400, "all are of the old schema: what they mean only the class can tell"
    assert scanned.is_indexed


async def test_the_planner_uses_the_index(postgres: World) -> None:
    await orders(postgres)
    await postgres.store.archive().index("Order", ["status"], 1)
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("set enable_seqscan = off")
        plan = connection.execute(
            f"""explain select key from {postgres.namespace}.entities
                where type = 'Order' and (shard, key) > (3, 'a')
                and (left(state->>'status', 64) collate "C" = any(array['Paid'])) order by shard, key limit 5
                """.encode()
        ).fetchall()
    assert any("find_" in line for (line,) in plan), plan


async def test_no_value_is_too_large_for_an_index(postgres: World) -> None:
    await postgres.store.archive().index("Order", ["status"], 1)
    entity = EntityId("Order", "large")
    text = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(50_000))  # nothing to compress
    await postgres.commit(postgres.write(entity, state=b'{"status":"%s"}' % text.encode()))
    assert (await postgres.store.load([entity]))[0].version == 1
