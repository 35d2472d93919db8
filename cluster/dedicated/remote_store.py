"""The store as a dedicated actor sees it: every operation is asked of the host that owns the entity's shard."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from ...entities.ids import EntityId
from ...entities.messages import Envelope
from ...entities.store.port import StoreUnavailable
from ...entities.store.rows import Batch, DuePosition, HistoryRow, JournalRow, Loaded, ReminderRow, RunRow, Suspicion
from . import wire

Ask = Callable[[str, bytes], Awaitable[bytes]]
"""One call to the host: operation, argument → answer. Raises StoreUnavailable if the host does not answer."""


class RemoteStore:
    """`EntityStore` for one entity. What concerns whole shards is the host's business and finds nothing here."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def _get(self, operation: str, argument: bytes = b"") -> bytes:
        return wire.read_answer(await self._ask(operation, argument))

    async def commit(self, batch: Batch) -> int:
        """See the port."""
        return wire.NUMBER.decode(await self._get("commit", wire.encode(batch)))

    async def transact(self, batch: Batch) -> int:
        """Not asked: dedicated entities take no part in transactions."""
        raise StoreUnavailable("a dedicated actor commits no transactions", maybe_applied=False)

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        """The host settles its commits itself; epochs are its business. Wait until it has."""
        del incarnation
        await self._get("settle")
        return dict(epochs)

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        """See the port."""
        del inbox_max
        return [wire.LOADED.decode(await self._get("load")) for _ in entities]

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        """See the port."""
        del per_entity_max
        return wire.ENVELOPES.decode(await self._get("inbox")) if entities else []

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        """See the port."""
        ids = [message_id for _, message_id in keys]
        entity = keys[0][0]
        rows = wire.OUTCOMES.decode(await self._get("outcomes", wire.encode(ids)))
        return {(entity, row.message_id): row for row in rows}

    async def park(self, entity: EntityId, reason: str) -> None:
        """See the port."""
        await self._get("park", wire.encode(reason))

    async def clock_us(self) -> int:
        """See the port."""
        return wire.NUMBER.decode(await self._get("clock"))

    async def run(self, entity: EntityId, workflow: str) -> RunRow | None:
        """Not asked by an engine that hosts one entity."""
        raise StoreUnavailable("a dedicated actor reads its runs with its entity")

    async def journal(self, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        """See the port."""
        return wire.JOURNAL.decode(await self._get("journal", wire.encode([workflow, run_id])))

    async def with_mail(self, shards: Collection[int], *, limit: int, after: EntityId | None = None) -> list[EntityId]:
        """The host looks for mail."""
        return []

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        """The host fires reminders."""
        return await self.clock_us(), []

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        """As above."""
        return []

    async def in_flight(self, shards: Collection[int], *, after: EntityId | None, limit: int) -> list[EntityId]:
        """The host rehydrates."""
        return []

    async def suspect(self, evidence: Sequence[Suspicion]) -> None:
        """Not asked: an engine that hosts one entity in a process of its own counts nothing."""
        raise StoreUnavailable("a dedicated actor counts no crashes")

    async def suspicions(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], Suspicion]:
        """As above."""
        return {}

    async def acquit(self, keys: Sequence[tuple[EntityId, str]]) -> None:
        """As above."""

    async def prune(self, *, older_than_us: int, limit: int) -> int:
        """The host prunes."""
        return 0
