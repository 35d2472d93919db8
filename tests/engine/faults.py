"""A memory store whose commits can be held, failed, or be where the host dies."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import Enum

from perdure.entities import EntityId
from perdure.entities.engine.journal import decode_entry
from perdure.entities.messages import Envelope
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.port import HostFenced, NotStorable, StoreUnavailable, WriteConflict
from perdure.entities.store.rows import Batch, HistoryRow, Loaded, ReminderRow
from perdure.entities.testing import LocalCluster


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
    CRASH_BEFORE = "crash before"
    """The host dies; nothing was written."""
    CRASH_AFTER = "crash after"
    """Written; the host dies before it learns of it."""


class FaultyStore(MemoryStore):
    """Commits go wrong as told: `faults` are used up one per commit that holds writes; `pick` decides otherwise."""

    def __init__(self, *, shards: int = 16) -> None:
        super().__init__(shards=shards)
        self.commits: list[Batch] = []
        """Every commit that was tried."""
        self.settled: set[str] = set()
        """Idempotency keys of operations whose outcome is committed."""
        self.faults: deque[Fault] = deque()
        self.pick: Callable[[int, Batch], Fault] = lambda _number, _batch: Fault.NONE
        self.read_faults = 0
        """How many of the next reads fail."""
        self.read_pause_s = 0.0
        """The answer of `due` is this old when it arrives."""
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
        entities = [write.entity for write in batch.writes]
        match fault:
            case Fault.NONE:
                return await self._write(batch)
            case Fault.BEFORE:
                raise StoreUnavailable("injected", maybe_applied=False)
            case Fault.AFTER:
                await self._write(batch)
                raise StoreUnavailable("injected", maybe_applied=True)
            case Fault.CONFLICT:
                raise WriteConflict("injected", entities=entities)
            case Fault.FENCED:
                raise HostFenced("injected")
            case Fault.NOT_STORABLE:
                raise NotStorable("injected", entities=entities)
            case Fault.CRASH_BEFORE | Fault.CRASH_AFTER:
                if fault is Fault.CRASH_AFTER:
                    await self._write(batch)
                self.crash(batch.incarnation)
                await asyncio.Event().wait()
                raise AssertionError("a dead host goes on")

    async def _write(self, batch: Batch) -> int:
        written_us = await super().commit(batch)
        for write in batch.writes:
            for row in write.journal:
                address = f"{write.entity}/{row.workflow}/{row.run_id}"
                self.settled.update(f"{address}/{event.operation}" for event in decode_entry(row.entry).events)
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

    async def due(self, shards: Collection[int], *, until_us: int, limit: int) -> tuple[int, list[ReminderRow]]:
        self._fail_read()
        answer = await super().due(shards, until_us=until_us, limit=limit)
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

    def set_state(self, entity: str, state: bytes) -> None:
        self._entities[EntityId.parse(entity)].state = state


class Crasher:
    """Kills hosts of a cluster where its store says so."""

    def __init__(self, cluster: LocalCluster, store: FaultyStore) -> None:
        self.crashes = 0
        self._cluster = cluster
        self._tasks: list[asyncio.Task[None]] = []
        store.crash = self._crash

    def _crash(self, incarnation: str) -> None:
        if incarnation in self._names():
            self.crashes += 1
            self._tasks.append(asyncio.create_task(self._kill(incarnation)))

    def _names(self) -> list[str]:
        return [engine.incarnation for engine in self._cluster.engines]

    async def _kill(self, incarnation: str) -> None:
        names = self._names()  # only now: another crash may have come before this one
        if incarnation in names:
            await self._cluster.crash(names.index(incarnation))

    async def settle(self) -> None:
        """Wait until the last crash is over."""
        await asyncio.gather(*self._tasks)
