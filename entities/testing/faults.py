"""A memory store whose commits can be held, failed, or be where the host dies; and a hand that kills the host then.

Holds no promise of its own: it is how tests make P1–P4 and P7 hard to keep.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum

from ..engine.journal import decode_entry
from ..ids import EntityId
from ..messages import Envelope
from ..store.memory import MemoryStore, wall_clock_us
from ..store.port import HostFenced, NotStorable, StoreUnavailable, WriteConflict
from ..store.rows import Batch, DuePosition, HistoryRow, Loaded, ReminderRow, RunRow
from .local import LocalCluster


class Fault(Enum):
    """What happens to a commit."""

    NONE = "none"
    BEFORE = "unavailable before"
    """Nothing was written."""
    AFTER = "unavailable after"
    """Written, but the answer was lost."""
    CONFLICT = "conflict"
    FENCED = "fenced"
    NOT_STORABLE = "not storable"
    NOT_STORABLE_NOTES = "notes not storable"
    CRASH_BEFORE = "crash before"
    """The host dies; nothing was written."""
    CRASH_AFTER = "crash after"
    """Written; the host dies before it learns of it."""


async def _at_once() -> None:
    """Do not linger."""


class FaultyStore(MemoryStore):
    """Commits go wrong as told: `faults` are used up one per group commit that holds writes; `pick` decides otherwise,
    and about commits of transactions.
    """

    def __init__(self, *, shards: int = 16, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(shards=shards, now_us=now_us)
        self.commits: list[Batch] = []
        """Every commit that was tried."""
        self.asked: set[str] = set()
        """Idempotency keys of operations that a committed resume has asked for."""
        self.settled: set[str] = set()
        """Idempotency keys of operations whose outcome is committed."""
        self.faults: deque[Fault] = deque()
        self.pick: Callable[[int, Batch], Fault] = lambda _number, _batch: Fault.NONE
        self.read_faults = 0
        """How many of the next reads fail."""
        self.read_pause_s = 0.0
        """The answers of `due` and `due_of` are this old when they arrive."""
        self.written: Callable[[Batch], Awaitable[None]] | None = None
        """Awaited after each commit that was written, before the host learns of it."""
        self.linger: Callable[[], Awaitable[None]] = _at_once
        """Awaited by a commit that is going to fail: what must wait for commits has time to show that it does not."""
        self.crash: Callable[[str], None] = lambda _incarnation: None
        """Called with the incarnation that has to die."""
        self.waiting = asyncio.Event()
        """A commit is being held."""
        self._open = asyncio.Event()
        self._open.set()

    async def commit(self, batch: Batch) -> int:
        number = len(self.commits)
        self.commits.append(batch)
        if not self._open.is_set():
            self.waiting.set()
            await self._open.wait()
        fault = self.faults.popleft() if self.faults and batch.writes else self.pick(number, batch)
        return await self._write_unless(fault, batch, self._write)

    async def transact(self, batch: Batch) -> int:
        number = len(self.commits)
        self.commits.append(batch)
        return await self._write_unless(self.pick(number, batch), batch, super().transact)

    async def _write_unless(self, fault: Fault, batch: Batch, write: Callable[[Batch], Awaitable[int]]) -> int:
        if fault is Fault.NONE:
            return await write(batch)
        entities = [entity_write.entity for entity_write in batch.writes]
        await self.linger()
        match fault:
            case Fault.BEFORE:
                raise StoreUnavailable("injected", maybe_applied=False)
            case Fault.AFTER:
                await write(batch)
                await self.linger()
                raise StoreUnavailable("injected", maybe_applied=True)
            case Fault.CONFLICT:
                raise WriteConflict("injected", entities=entities)
            case Fault.FENCED:
                raise HostFenced("injected")
            case Fault.NOT_STORABLE:
                raise NotStorable("injected", entities=entities)
            case Fault.NOT_STORABLE_NOTES:
                raise NotStorable("injected", entities=[entity for entity, _, _ in batch.attempts])
            case Fault.CRASH_BEFORE | Fault.CRASH_AFTER:
                if fault is Fault.CRASH_AFTER:
                    await write(batch)
                    await self.linger()
                self.crash(batch.incarnation)
                await asyncio.Event().wait()
                raise AssertionError("a dead host goes on")

    async def _write(self, batch: Batch) -> int:
        written_us = await super().commit(batch)
        for write in batch.writes:
            for row in write.journal:
                address = f"{write.entity}/{row.workflow}/{row.run_id}"
                entry = decode_entry(row.entry)
                self.asked.update(f"{address}/{operation.number}" for operation in entry.operations)
                self.settled.update(f"{address}/{event.operation}" for event in entry.events)
        if self.written is not None:
            await self.written(batch)
        return written_us

    def hold_commits(self) -> None:
        """Commits wait from now on."""
        self.waiting.clear()
        self._open.clear()

    def let_commits_go(self) -> None:
        """Commits go on."""
        self._open.set()

    def _fail_read(self) -> None:
        if self.read_faults:
            self.read_faults -= 1
            raise StoreUnavailable("injected", maybe_applied=False)

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        self._fail_read()
        return await super().load(entities, inbox_max=inbox_max)

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        self._fail_read()
        return await super().inbox(entities, per_entity_max=per_entity_max)

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        self._fail_read()
        return await super().outcomes(keys)

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        self._fail_read()
        answer = await super().due(shards, until_us=until_us, limit=limit, after=after)
        if self.read_pause_s:
            await asyncio.sleep(self.read_pause_s)
        return answer

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        self._fail_read()
        answer = await super().due_of(entities, until_us=until_us, limit=limit)
        if self.read_pause_s:
            await asyncio.sleep(self.read_pause_s)
        return answer

    # --- looking inside ---

    def history(self, entity: str) -> list[HistoryRow]:
        """Outcomes of an entity in order of version."""
        stored = self._entities.get(EntityId.parse(entity))
        return sorted((row for _, row in stored.history.values()), key=lambda row: row.version) if stored else []

    def version(self, entity: str) -> int:
        stored = self._entities.get(EntityId.parse(entity))
        return stored.version if stored else 0

    def state(self, entity: str) -> bytes:
        return self._entities[EntityId.parse(entity)].state or b""

    def waiting_messages(self) -> list[Envelope]:
        """Every inbox row there is."""
        return [envelope for stored in self._entities.values() for envelope in stored.inbox.values()]

    def reminder_rows(self) -> list[ReminderRow]:
        return [row for stored in self._entities.values() for row in stored.reminders.values()]

    def attempt_rows(self) -> list[str]:
        return [operation for stored in self._entities.values() for operation in stored.attempts]

    def journal_length(self, entity: str) -> int:
        return len(self._entities[EntityId.parse(entity)].journal)

    def runs(self) -> list[tuple[EntityId, RunRow]]:
        """The latest run of every workflow, by entity."""
        return [(entity, row) for entity, stored in sorted(self._entities.items()) for row in stored.runs.values()]

    def states(self) -> dict[str, bytes]:
        """State of every entity that has any, as JSON."""
        return {str(entity): stored.state for entity, stored in sorted(self._entities.items()) if stored.state}

    def set_state(self, entity: str, state: bytes) -> None:
        stored = self._entities[EntityId.parse(entity)]
        stored.state, stored.checksum = state, None  # as another program's own state, not as damage


class Crasher:
    """Kills hosts of a cluster, at once, where its store says so; another host then takes over."""

    def __init__(self, cluster: LocalCluster, store: FaultyStore) -> None:
        self.crashes = 0
        self._cluster = cluster
        self._tasks: list[asyncio.Task[None]] = []
        store.crash = self.crash

    def crash(self, incarnation: str) -> None:
        """This host dies now."""
        names = [engine.incarnation for engine in self._cluster.engines]
        if incarnation in names:
            self.crashes += 1
            engine = self._cluster.kill(names.index(incarnation))
            self._tasks.append(asyncio.create_task(self._cluster.recover(engine)))

    async def settle(self) -> None:
        """Wait until the last crash is over."""
        await asyncio.gather(*self._tasks)
