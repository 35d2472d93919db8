"""Who waits on this host for the result of a run: answered when its end is durable, or sent on when it moves away."""

from collections.abc import Callable

from ..ids import EntityId
from ..messages import Status
from ..store.rows import RunRow
from .deliveries import Delivery

WAIT_S = 3_600.0
"""How long a question without a time limit of its own is kept."""


class Results:
    """Questions (RESULT messages) by run. Owned by the engine; everything on the host's loop."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._waiting: dict[tuple[EntityId, str], list[tuple[float, Delivery]]] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    def is_awaited(self, entity: EntityId, workflow: str) -> bool:
        """Whether anybody waits for this workflow's run."""
        return (entity, workflow) in self._waiting

    def wait(self, entity: EntityId, workflow: str, delivery: Delivery) -> None:
        """Answer this RESULT when the run has ended."""
        wait_s = delivery.envelope.timeout_us / 1e6 or WAIT_S
        self._waiting.setdefault((entity, workflow), []).append((self._monotonic() + wait_s, delivery))

    def ended(self, entity: EntityId, row: RunRow, tell: Callable[[Delivery], None]) -> None:
        """A run's end is durable."""
        for _, delivery in self._waiting.pop((entity, row.workflow), ()):
            tell(delivery)

    def send_on(self, is_gone: Callable[[EntityId], bool]) -> None:
        """These entities have left this host: whoever waits has to ask their new one."""
        for key in [key for key in self._waiting if is_gone(key[0])]:
            for _, delivery in self._waiting.pop(key):
                delivery.reply(Status.NOT_OWNER, b"null", 0)

    def sweep(self) -> None:
        """Forget those whose callers have stopped waiting."""
        now = self._monotonic()
        for key, waiting in list(self._waiting.items()):
            alive = [(until, delivery) for until, delivery in waiting if until > now]
            if alive:
                self._waiting[key] = alive
            else:
                del self._waiting[key]

    def clear(self) -> None:
        """Forget all of them (the host is gone)."""
        self._waiting.clear()
