"""The store port on Postgres: sessions, and what they run.

`commit` has sessions of its own, and so have transactions and the directory, so that neither reads nor a fence that
waits can hold back a commit or a lease renewal. Nothing is opened before it is needed; what breaks is opened again by
the next call.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Self, TypeVar

import psycopg

from ...entities.ids import EntityId
from ...entities.messages import Envelope
from ...entities.shard import shard_of
from ...entities.store.rows import (
    Batch,
    DuePosition,
    HistoryRow,
    HostRow,
    JournalRow,
    Loaded,
    ReminderRow,
    RunRow,
    ShardOwner,
    Suspicion,
)
from .archive import PostgresArchive
from .commit import Committer
from .damage import Undertaker
from .directory import DirectoryTables
from .exchange import Refused, Session, Statement
from .failures import is_repeatable, unavailable
from .janitor import Janitor
from .names import quoted
from .reads import DamagedMessage, DamagedReminder, Reader, reading
from .sessions import Pool, SessionSettings
from .statements import CLOCK
from .survey import PostgresSurvey
from .suspects import SuspectTable
from .transact import TransactionCommitter

log = logging.getLogger("perdure.store")

COMMIT_SESSIONS = 2
TRANSACTION_SESSIONS = 4
READ_SESSIONS = 3
DIRECTORY_SESSIONS = 2
ATTEMPTS_MAX = 2
"""What changes nothing when it is done twice is repeated on a fresh session if its own breaks."""

_SHARD_COUNT = "select value from {s}.meta where name = 'shard_count'"
_TARGETS = "select value from {s}.meta where name = 'targets'"
_SET_TARGETS = """
insert into {s}.meta (name, value) values ('targets', $1::text)
on conflict (name) do update set value = excluded.value"""
_PARK = """
insert into {s}.parked (shard, type, key, reason, parked_at)
values ($1::int4, $2::text, $3::text, $4::text, clock_timestamp())
on conflict (shard, type, key) do update set reason = excluded.reason, parked_at = excluded.parked_at"""
_UNPARK = "delete from {s}.parked where shard = $1::int4 and type = $2::text and key = $3::text"

T = TypeVar("T")


class PostgresStore:
    """EntityStore and Directory on Postgres. Belongs to one event loop.

    `settings.incarnation` is the host that commits through this store; empty for everybody else.
    """

    def __init__(self, settings: SessionSettings, *, namespace: str = "perdure") -> None:
        self.namespace = namespace
        self._schema = quoted(namespace)
        self._commits = Pool(settings, size=COMMIT_SESSIONS)
        self._transactions = Pool(settings, size=TRANSACTION_SESSIONS)
        self._reads = Pool(settings, size=READ_SESSIONS)
        self._directory_sessions = Pool(settings, size=DIRECTORY_SESSIONS)
        self._directory = DirectoryTables(schema=self._schema)
        self._janitor = Janitor(schema=self._schema)
        self._shard_count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all idle sessions. Calls under way finish first or fail."""
        for pool in (self._commits, self._transactions, self._reads, self._directory_sessions):
            await pool.close()

    # --- EntityStore ----

    async def commit(self, batch: Batch) -> int:
        committer = Committer(schema=self._schema, shard_count=await self.shard_count())
        async with self._commits.session() as session:
            return await committer.commit(session, batch)

    async def transact(self, batch: Batch) -> int:
        committer = TransactionCommitter(schema=self._schema, shard_count=await self.shard_count())
        async with self._transactions.session() as session:
            return await committer.commit(session, batch)

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        return await self._direct(lambda session: self._directory.settle(session, incarnation, epochs))

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        reader = await self._reader()
        loaded, damaged = await self._read(lambda session: reader.load(session, entities, inbox_max=inbox_max))
        await self._bury(damaged)
        return loaded

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        reader = await self._reader()
        found, damaged = await self._read(
            lambda session: reader.inbox(session, entities, per_entity_max=per_entity_max)
        )
        await self._bury(damaged)
        return found

    async def with_mail(self, shards: Collection[int], *, limit: int, after: EntityId | None = None) -> list[EntityId]:
        reader = await self._reader()
        return await self._read(lambda session: reader.with_mail(session, shards, limit=limit, after=after))

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        reader = await self._reader()
        return await self._read(lambda session: reader.outcomes(session, keys))

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        reader = await self._reader()
        time, rows, damaged = await self._read(
            lambda session: reader.due(session, shards, until_us=until_us, limit=limit, after=after)
        )
        if damaged:
            await self._note_damaged(damaged)
            _, rows, _ = await self._read(
                lambda session: reader.due(
                    session, shards, until_us=until_us, limit=limit, after=after, intact_only=True
                )
            )
        return time, rows

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        reader = await self._reader()
        rows, damaged = await self._read(
            lambda session: reader.due_of(session, entities, until_us=until_us, limit=limit)
        )
        await self._note_damaged(damaged)
        return rows

    async def _note_damaged(self, damaged: Sequence[DamagedReminder]) -> None:
        for entity, name, reason in damaged:
            what = f"{entity}: its reminder {name!r} is damaged and does not fire: {reason}"
            log.error("%s", what)
            await self.park(entity, what)

    async def in_flight(self, shards: Collection[int], *, after: EntityId | None, limit: int) -> list[EntityId]:
        reader = await self._reader()
        return await self._read(lambda session: reader.in_flight(session, shards, after=after, limit=limit))

    async def run(self, entity: EntityId, workflow: str) -> RunRow | None:
        reader = await self._reader()
        with reading(entity):
            return await self._read(lambda session: reader.run(session, entity, workflow))

    async def with_live_runs(self, type_name: str, *, after: EntityId | None, limit: int) -> list[EntityId]:
        reader = await self._reader()
        return await self._read(lambda session: reader.with_live_runs(session, type_name, after=after, limit=limit))

    async def journal(self, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        reader = await self._reader()
        return await self._read(lambda session: reader.journal(session, entity, workflow, run_id))

    async def park(self, entity: EntityId, reason: str) -> None:
        address = (shard_of(*entity, await self.shard_count()), *entity)
        statement = self._of(_PARK, *address, reason) if reason else self._of(_UNPARK, *address)
        await self._read(lambda session: session.transact([statement]))  # repeating it changes nothing

    async def suspect(self, evidence: Sequence[Suspicion]) -> None:
        table = await self._suspects()
        if evidence:
            await _repeat(self._reads, lambda session: table.add(session, evidence), attempts_max=1)

    async def suspicions(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], Suspicion]:
        table = await self._suspects()
        return await self._read(lambda session: table.read(session, keys)) if keys else {}

    async def acquit(self, keys: Sequence[tuple[EntityId, str]]) -> None:
        table = await self._suspects()
        if keys:
            await self._read(lambda session: table.acquit(session, keys))

    async def prune(self, *, older_than_us: int, limit: int) -> int:
        return await self._read(lambda session: self._janitor.prune(session, older_than_us=older_than_us, limit=limit))

    async def clock_us(self) -> int:
        (((time_us,),),) = await self._read(lambda session: session.transact([(CLOCK, ())]))
        return int(time_us)

    def archive(self) -> PostgresArchive:
        """The read side, for people and tools; on the sessions for reading."""
        return PostgresArchive(self._read, self._reader, schema=self._schema)

    def survey(self) -> PostgresSurvey:
        """Reading the whole namespace, for people and tools; on the sessions for reading."""
        return PostgresSurvey(self._read, self._reader, schema=self._schema)

    # --- Directory ----------------------------------------------------------------------------------------------------

    async def shard_count(self) -> int:
        if not self._shard_count:
            (((value,),),) = await self._read(lambda session: session.transact([self._of(_SHARD_COUNT)]))
            self._shard_count = int(value)
        return self._shard_count

    async def register(self, host: HostRow, *, lease_s: float) -> None:
        await self._direct(lambda session: self._directory.register(session, host, lease_s=lease_s), attempts_max=1)

    async def renew(self, incarnation: str, *, lease_s: float) -> int:
        return await self._direct(lambda session: self._directory.renew(session, incarnation, lease_s=lease_s))

    async def set_draining(self, incarnation: str) -> None:
        await self._direct(lambda session: self._directory.set_draining(session, incarnation))

    async def fence(self, incarnation: str, *, is_dead: bool, waited_out_us: int = 0) -> bool:
        return await self._direct(
            lambda session: self._directory.fence(session, incarnation, is_dead=is_dead, waited_out_us=waited_out_us)
        )

    async def claim(self, incarnation: str, shards: Collection[int]) -> dict[int, int]:
        return await self._direct(lambda session: self._directory.claim(session, incarnation, shards), attempts_max=1)

    async def release(self, incarnation: str, shards: Collection[int]) -> None:
        await self._direct(lambda session: self._directory.release(session, incarnation, shards))

    async def retire(self, incarnation: str) -> None:
        await self._direct(lambda session: self._directory.retire(session, incarnation))

    async def owners(self) -> list[ShardOwner]:
        return await self._read(self._directory.owners)

    async def hosts(self) -> list[HostRow]:
        return await self._read(self._directory.hosts)

    async def targets(self) -> bytes | None:
        (rows,) = await self._read(lambda session: session.transact([self._of(_TARGETS)]))
        return str(rows[0][0]).encode() if rows else None

    async def set_targets(self, targets: bytes) -> None:
        await self._read(lambda session: session.transact([self._of(_SET_TARGETS, targets.decode())]))

    # --- How ----------------------------------------------------------------------------------------------------------

    async def _reader(self) -> Reader:
        return Reader(schema=self._schema, shard_count=await self.shard_count())

    async def _bury(self, damaged: Sequence[DamagedMessage]) -> None:
        if damaged:
            undertaker = Undertaker(schema=self._schema, shard_count=await self.shard_count())
            for entity, _, message_id, reason in damaged:
                log.error(
                    "%s: the stored message %s is damaged and goes to the dead letters: %s", entity, message_id, reason
                )
            await self._read(lambda session: undertaker.bury(session, damaged))  # repeating it changes nothing

    async def _suspects(self) -> SuspectTable:
        return SuspectTable(schema=self._schema, shard_count=await self.shard_count())

    async def _read(self, work: Callable[[Session], Awaitable[T]]) -> T:
        return await _repeat(self._reads, work)

    async def _direct(self, work: Callable[[Session], Awaitable[T]], *, attempts_max: int = ATTEMPTS_MAX) -> T:
        return await _repeat(self._directory_sessions, work, attempts_max=attempts_max)

    def _of(self, template: str, *parameters: object) -> Statement:
        return template.replace("{s}", self._schema), parameters


async def _repeat(pool: Pool, work: Callable[[Session], Awaitable[T]], *, attempts_max: int = ATTEMPTS_MAX) -> T:
    """Run something that may be repeated at will (unless `attempts_max` is 1)."""
    for attempt in range(1, attempts_max + 1):
        async with pool.session() as session:
            try:
                return await work(session)
            except (Refused, psycopg.Error) as error:
                if attempt == attempts_max or (session.is_usable and not is_repeatable(error)):
                    raise unavailable(error) from None
    raise AssertionError("unreachable")
