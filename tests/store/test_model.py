"""Random sequences of commits do the same in memory and on Postgres."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from perdure.cluster.embedded import EmbeddedPostgres
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.postgres.store import PostgresStore
from perdure.entities.errors import PerdureError
from perdure.entities.ids import EntityId
from perdure.entities.shard import shard_of
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.port import WriteConflict
from perdure.entities.store.rows import Batch, EntityWrite, RunStatus

from .conftest import SHARDS, host
from .rows import HOUR_US, attempt, entry, envelope, fired, history, item, reminder, run

_examples = itertools.count()


class Chooser:
    """Builds batches out of small worlds, so that names collide often."""

    def __init__(self, seed: int, entities: Sequence[EntityId], now_us: int) -> None:
        self.random = random.Random(seed)
        self.entities = entities
        self.now_us = now_us
        self.versions: dict[EntityId, int] = {}

    def some(self, values: Sequence[Any], chance: float = 0.3) -> list[Any]:
        return [value for value in values if self.random.random() < chance]

    def chosen(self, chance: float) -> list[EntityId]:
        return self.some(self.entities, chance)

    def batch(self, epochs: dict[int, int]) -> Batch:
        writes = [self.write(entity) for entity in self.chosen(0.6)]
        notes = [(e, shard_of(*e, SHARDS), attempt("o1", 5)) for e in self.chosen(0.2)]
        arrivals = [(shard_of(*e, SHARDS), envelope(e, "m1", 3)) for e in self.chosen(0.2)]
        if self.random.random() < 0.05:
            epochs = dict.fromkeys(epochs, 7)
        return Batch(incarnation="h1", epochs=epochs, writes=writes, attempts=notes, arrivals=arrivals)

    def write(self, entity: EntityId) -> EntityWrite:
        pick = self.random
        expected = self.versions.get(entity, 0) + (pick.random() < 0.05)
        reminders = [
            reminder(entity, name, due, generation=generation)
            for name in ("r1", "r2")
            for generation in (1, 2)
            for due in (self.now_us - HOUR_US, self.now_us + HOUR_US)
        ]
        runs = [run("w", "1"), run("w", "2"), run("v", "3", status=RunStatus.PARKED)]
        return EntityWrite(
            entity=entity,
            shard=shard_of(*entity, SHARDS),
            expected_version=expected,
            version=expected + 1,
            state=b'{"n":%d}' % pick.randrange(9),
            clock=pick.randrange(9),
            history=[history(f"h{n}") for n in self.some(range(20), 0.06)],
            consumed=self.some([(1, "m1"), (1, "m2"), (3, "m1")]),
            waiting=self.some([envelope(entity, "m1", 1), envelope(entity, "m2", 1)]),
            outbox=self.some([envelope(other, "m2", 2) for other in self.entities]),
            reminders_gone=[fired(row, is_fired=pick.random() < 0.7) for row in self.some(reminders, 0.03)],
            reminders_cancelled=self.some(["r1", "r2"], 0.1),
            reminders_set=self.some(reminders, 0.15),
            runs=self.some([*runs, run("w", "1", status=RunStatus.FAILED, ended_us=5)], 0.2),
            journal=[
                entry(n, *which) for n in self.some(range(6), 0.05) for which in self.some([("w", "1"), ("v", "3")])
            ],
            items_put=[item(p) for p in self.some(range(6), 0.05)],
            items_taken=[("decision", p) for p in self.some(range(6), 0.03)],
            attempts_set=self.some([attempt("o1", 1), attempt("o2", 2), attempt("o1", 3)]),
            attempts_gone=self.some(["o1", "o2"], 0.2),
        )


async def outcome_of(store: MemoryStore | PostgresStore, batch: Batch) -> object:
    try:
        await store.commit(batch)
    except WriteConflict as conflict:
        return WriteConflict, sorted(conflict.entities)
    except PerdureError as error:
        return type(error)
    return "committed"


async def seen(store: MemoryStore | PostgresStore, entities: Sequence[EntityId], now_us: int) -> object:
    """All that can be read, without the JSON (its spacing may differ; test_commit.py compares its meaning)."""
    shards = range(SHARDS)
    loaded = await store.load(entities)
    for one in loaded:
        one.state = one.state and one.state.replace(b" ", b"")
        one.runs = [row._replace(args=b"") for row in one.runs]
        one.journal = [row._replace(entry=b"") for row in one.journal]
        one.items = [row._replace(item=b"") for row in one.items]
        one.attempts = [row._replace(error=b"", details=b"") for row in one.attempts]
    outcomes = await store.outcomes([(entity, f"h{n}") for entity in entities for n in range(20)])
    _, due = await store.due(shards, until_us=now_us + 2 * HOUR_US, limit=1_000_000)
    return (
        loaded,
        await store.inbox(entities),
        {key: row._replace(args=b"") for key, row in outcomes.items()},
        [row._replace(args=b"") for row in due if row.entity in entities],
        [entity for entity in await store.with_mail(shards, limit=1_000_000) if entity in entities],
        [entity for entity in await store.in_flight(shards, after=None, limit=1_000_000) if entity in entities],
    )


async def compare(dsn: str, namespace: str, seed: int, steps: int) -> None:
    number = next(_examples)  # entities of its own instead of a namespace of its own
    entities = [EntityId("T", f"{number}-{name}") for name in ("a", "b", "Ü")]
    memory = MemoryStore(shards=SHARDS)
    await memory.register(host("h1"), lease_s=60)
    epochs = await memory.claim("h1", range(SHARDS))
    async with PostgresStore(SessionSettings(dsn=dsn, incarnation="h1"), namespace=namespace) as postgres:
        if number == 0:
            await postgres.register(host("h1"), lease_s=600)
            assert await postgres.claim("h1", range(SHARDS)) == epochs
        now_us = await postgres.clock_us()
        chooser = Chooser(seed, entities, now_us)
        for _ in range(steps):
            batch = chooser.batch(epochs)
            expected = await outcome_of(memory, batch)
            note(f"{expected}: {batch}")
            assert await outcome_of(postgres, batch) == expected
            chooser.versions = {one.entity: one.version for one in await memory.load(entities)}
        assert await seen(postgres, entities, now_us) == await seen(memory, entities, now_us)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 12))
def test_memory_and_postgres_agree(server: EmbeddedPostgres, namespace: str, seed: int, steps: int) -> None:
    asyncio.run(compare(server.dsn, namespace, seed, steps))
