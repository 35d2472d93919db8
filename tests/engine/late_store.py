"""A store that loses the answer to a commit, which takes effect late."""

from collections.abc import Mapping, Sequence

from perdure.entities.ids import EntityId
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.port import HostFenced, StoreUnavailable
from perdure.entities.store.rows import Batch, Loaded


class LateStore(MemoryStore):
    """When told to, the answer to a commit is lost, and the commit takes effect after the entity was read again."""

    def __init__(self, *, shards: int = 16) -> None:
        super().__init__(shards=shards)
        self.loses_answer = False
        self.lost_settlements = 0
        self.applied_late: list[bool] = []
        self._on_its_way: Batch | None = None

    async def commit(self, batch: Batch) -> int:
        if self.loses_answer and batch.writes:
            self.loses_answer, self._on_its_way = False, batch
            raise StoreUnavailable("the connection broke", maybe_applied=True)
        return await super().commit(batch)

    async def settle(self, incarnation: str, epochs: Mapping[int, int]) -> dict[int, int]:
        raised = await super().settle(incarnation, epochs)
        if self.lost_settlements:
            self.lost_settlements -= 1
            raise StoreUnavailable("the connection broke again", maybe_applied=True)
        return raised

    async def load(self, entities: Sequence[EntityId], *, inbox_max: int = 1_000) -> list[Loaded]:
        found = await super().load(entities, inbox_max=inbox_max)
        if self._on_its_way is not None:
            batch, self._on_its_way = self._on_its_way, None
            try:
                await super().commit(batch)
            except HostFenced:
                self.applied_late.append(False)
            else:
                self.applied_late.append(True)
        return found
