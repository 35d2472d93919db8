"""Occurrences that nobody can take, in bounded memory. Pure; part of the wheel (see there)."""

from ..ids import EntityId
from ..store.rows import ReminderRow

LEFT_MAX = 100_000
"""Occurrences that are known to be left alone."""
PARKED_RETRY_S = 60.0
"""How long an entity that could not be loaded is left alone, unless somebody calls it."""
PARKED_RUN_RETRY_S = 600.0
"""How long a timer of a parked run is left alone. Trying costs a replay; what makes the run go on does not wait."""


class LeftAlone:
    """Until when each is left alone; beyond `most` those of the entity that came first are forgotten."""

    def __init__(self, most: int = LEFT_MAX) -> None:
        self._most = most
        self._known: dict[EntityId, dict[str, tuple[int, int]]] = {}
        """(until when in database µs, hash of the row) by name."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: ReminderRow, until_us: int) -> None:
        """Leave it alone until then."""
        self.discard(row.entity, row.name)
        while self._known and self._count >= self._most:
            self.forget(next(iter(self._known)))
        self._known.setdefault(row.entity, {})[row.name] = (until_us, hash(row))
        self._count += 1

    def holds(self, row: ReminderRow, now_us: int) -> bool:
        """Whether it is still to be left alone; not if its row is another one by now."""
        until_us, known = self._known.get(row.entity, {}).get(row.name, (0, 0))
        return until_us > now_us and known == hash(row)

    def discard(self, entity: EntityId, name: str) -> None:
        """It is not left alone any more."""
        names = self._known.get(entity)
        if names is not None and names.pop(name, None) is not None:
            self._count -= 1
            if not names:
                del self._known[entity]

    def forget(self, entity: EntityId) -> None:
        """As `discard`, for all of an entity."""
        self._count -= len(self._known.pop(entity, ()))

    def entities(self) -> list[EntityId]:
        """Whose occurrences are left alone."""
        return list(self._known)
