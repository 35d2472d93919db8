"""The engine's tests on an encrypted store (`pytest tests/engine --encrypted`): below the faults lie sealed rows only.

What tests look at in the store (`history`, `state`, `runs`, …) is opened for them; `_entities` is what is stored.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from perdure.entities.encryption import EncryptionCodec
from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope
from perdure.entities.store.archive import Archive
from perdure.entities.store.encoded import EncodedStore
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.rows import (
    Batch,
    DeadLetter,
    DuePosition,
    HistoryRow,
    JournalRow,
    Loaded,
    ReminderRow,
    RunRow,
    Suspicion,
)
from perdure.entities.store.sealing import Sealer
from perdure.entities.testing.faults import FaultyStore

CODEC = EncryptionCodec({"k1": bytes(range(32))}, accept_plain=True)  # some tests plant rows
SEALER = Sealer(CODEC, "tests")


class EncodedMemory(MemoryStore):
    """A memory store that is encrypted from within, so that what wraps or inherits it need not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # `super()` as a store: this object without the methods below.
        self._encoded = EncodedStore(cast("Any", super()), CODEC, namespace="tests")

    async def commit(self, batch: Batch) -> int:
        return await self._encoded.commit(batch)

    async def transact(self, batch: Batch) -> int:
        return await self._encoded.transact(batch)

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        return await self._encoded.load(entities, inbox_max=inbox_max)

    async def inbox(self, entities: Sequence[EntityId], *, per_entity_max: int = 1_000) -> list[Envelope]:
        return await self._encoded.inbox(entities, per_entity_max=per_entity_max)

    async def outcomes(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], HistoryRow]:
        return await self._encoded.outcomes(keys)

    async def due(
        self, shards: Collection[int], *, until_us: int, limit: int, after: DuePosition | None = None
    ) -> tuple[int, list[ReminderRow]]:
        return await self._encoded.due(shards, until_us=until_us, limit=limit, after=after)

    async def due_of(self, entities: Collection[EntityId], *, until_us: int, limit: int) -> list[ReminderRow]:
        return await self._encoded.due_of(entities, until_us=until_us, limit=limit)

    async def run(self, entity: EntityId, workflow: str) -> RunRow | None:
        return await self._encoded.run(entity, workflow)

    async def journal(self, entity: EntityId, workflow: str, run_id: str) -> list[JournalRow]:
        return await self._encoded.journal(entity, workflow, run_id)

    async def suspect(self, evidence: Sequence[Suspicion]) -> None:
        await self._encoded.suspect(evidence)

    async def suspicions(self, keys: Sequence[tuple[EntityId, str]]) -> dict[tuple[EntityId, str], Suspicion]:
        return await self._encoded.suspicions(keys)

    def archive(self) -> Archive:  # type: ignore[override]
        return self._encoded.archive()


def encrypt_faulty_stores() -> None:
    """From now on, in this process."""
    FaultyStore.__bases__ = (EncodedMemory,)
    _opened("history", lambda result, entity: [SEALER.open_history(EntityId.parse(entity), row) for row in result])
    _opened("waiting_messages", lambda result: list(map(SEALER.open_envelope, result)))
    _opened("reminder_rows", lambda result: list(map(SEALER.open_reminder, result)))
    _opened("runs", lambda result: [(entity, SEALER.open_run(entity, row)) for entity, row in result])

    def state(store: FaultyStore, entity: str) -> bytes:
        address = EntityId.parse(entity)
        stored = store._entities[address]
        return SEALER.open_state(address, stored.version, stored.state) if stored.state else b""

    def states(store: FaultyStore) -> dict[str, bytes]:
        return {
            str(entity): state(store, str(entity)) for entity, stored in sorted(store._entities.items()) if stored.state
        }

    def set_state(store: FaultyStore, entity: str, value: bytes) -> None:
        address = EntityId.parse(entity)
        stored = store._entities[address]
        stored.state = SEALER.seal(address, "state", (str(stored.version),), value)

    def dead_letters(store: FaultyStore) -> list[DeadLetter]:
        return [SEALER.open_letter(letter) for _, letter in store._dead_letters.values()]

    FaultyStore.dead_letters = property(dead_letters)  # type: ignore[assignment,method-assign]
    for method in (state, states, set_state):
        setattr(FaultyStore, method.__name__, method)


def _opened(name: str, opened: Callable[..., Any]) -> None:
    method = getattr(FaultyStore, name)

    def both(store: FaultyStore, *args: Any) -> Any:
        return opened(method(store, *args), *args)

    setattr(FaultyStore, name, both)
