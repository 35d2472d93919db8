"""The bare array commit: the statements of a group commit, prepared, their arrays made beforehand, from one process.

Nothing else of Perdure is in it, so it is what Postgres on this machine could take. Two sessions, as of two hosts.
"""

import asyncio
import time
from collections.abc import Sequence

import psycopg

from bench.harness import Figures, Size, percentile
from bench.scene import Scene
from perdure.cluster.postgres import statements as sql
from perdure.cluster.postgres.arrays import int4s, int8s
from perdure.cluster.postgres.commit import Rows
from perdure.cluster.postgres.exchange import Session, Statement
from perdure.cluster.postgres.migrations import upgrade
from perdure.cluster.postgres.names import quoted
from perdure.cluster.postgres.sessions import SessionSettings
from perdure.cluster.stores import Store, StoreAddress
from perdure.entities.ids import EntityId, fingerprint, new_message_id
from perdure.entities.shard import shard_of
from perdure.entities.store.rows import EntityWrite, HistoryRow, HostRow

NAMESPACE = "bench_ceiling"
INCARNATION = "ceiling"
BATCH = 200
TURNS = 80_000
ALONE = 500
KEYS = 500
"""Of each session."""


async def measure(scene: Scene, size: Size) -> Figures:
    """Batches of 200 turns from two sessions; then turns one by one."""
    await asyncio.to_thread(upgrade, scene.dsn, NAMESPACE)
    store = StoreAddress(dsn=scene.dsn, namespace=NAMESPACE).open()
    try:
        maker = await batch_maker(store)
    finally:
        await store.close()
    sessions = [await open_session(scene.dsn) for _ in range(2)]
    try:
        each = max(2, size.of(TURNS) // BATCH // len(sessions))
        work: list[list[list[Statement]]] = []
        for number, session in enumerate(sessions):
            prefix = f"ceiling-{next(scene.keys)}-{number}"
            for _ in range(-(-KEYS // BATCH)):
                await session.transact(maker.batch(prefix, BATCH))
            work.append([maker.batch(prefix, BATCH) for _ in range(each)])
        began = time.perf_counter()
        await asyncio.gather(*(_run(session, batches) for session, batches in zip(sessions, work, strict=True)))
        rate = each * len(sessions) * BATCH / (time.perf_counter() - began)
        alone = await _alone(sessions[0], [maker.batch("alone", 1) for _ in range(size.of(ALONE))])
    finally:
        for session in sessions:
            await session.close()
    return {"ceiling_commit": rate, "ceiling_commit_alone": alone}


async def _run(session: Session, batches: list[list[Statement]]) -> None:
    for batch in batches:
        await session.transact(batch)


async def _alone(session: Session, batches: list[list[Statement]]) -> float:
    latencies: list[float] = []
    for batch in batches:
        began = time.perf_counter()
        await session.transact(batch)
        latencies.append(time.perf_counter() - began)
    return percentile(sorted(latencies), 50) * 1e3


async def open_session(dsn: str) -> Session:
    """A session as a host's committer has it."""
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None, options=SessionSettings(dsn=dsn).options
    )
    return Session(connection)


async def batch_maker(store: Store) -> "BatchMaker":
    """Of a namespace that no host uses: this process owns all of its shards."""
    hosts = {host.incarnation for host in await store.hosts()}
    if INCARNATION not in hosts:
        await store.register(HostRow(INCARNATION, "", "", 0, "active", 0), lease_s=3_600)
        await store.claim(INCARNATION, range(await store.shard_count()))
    return BatchMaker({owner.shard: owner.epoch for owner in await store.owners()})


class BatchMaker:
    """Makes the statements of group commits: each of its entities in turn makes one more turn."""

    def __init__(self, epochs: dict[int, int]) -> None:
        self._epochs = epochs
        self._versions: dict[EntityId, int] = {}
        self._next: dict[str, int] = {}
        self._schema = quoted(NAMESPACE)

    def batch(self, prefix: str, turns: int) -> list[Statement]:
        """One group commit of so many entities of that prefix."""
        at = self._next.get(prefix, 0)
        self._next[prefix] = at + turns
        keys = [f"{prefix}-{number % KEYS}" for number in range(at, at + turns)]
        return self._statements([self._write(EntityId("Counter", key)) for key in keys])

    def _write(self, entity: EntityId) -> EntityWrite:
        before = self._versions.get(entity, 0)
        self._versions[entity] = before + 1
        state = b'{"value":%d}' % before
        write = EntityWrite(
            entity=entity,
            shard=shard_of(*entity, len(self._epochs)),
            expected_version=before,
            version=before + 1,
            state=state,
        )
        args = b'{"amount":1}'
        client = "client-01890a5d-ac96-774b-bcce-b302099a8057"
        mark = fingerprint(b"add", args)
        write.history.append(
            HistoryRow(new_message_id(), before + 1, "call", "add", client, mark, args, True, b"%d" % before, state)
        )
        return write

    def _statements(self, writes: Sequence[EntityWrite]) -> list[Statement]:
        rows = Rows(len(self._epochs))
        for write in writes:
            rows.add_write(write)
        shards = list({write.shard for write in writes})
        return [
            (sql.CHECK_HOST.replace("{s}", self._schema), (INCARNATION,)),
            (
                sql.CHECK_SHARDS.replace("{s}", self._schema),
                (int4s(shards), int8s([self._epochs[shard] for shard in shards]), INCARNATION),
            ),
            *rows.statements(self._schema),
            (sql.CLOCK, ()),
        ]
