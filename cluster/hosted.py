"""What a host expects of the engine it runs, and how it gets one.

The engine is named by `module:function` in the targets, so that a test can run hosts with another one.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ..entities.engine.subjects import Subject
from ..entities.ids import EntityId
from ..entities.messages import Envelope, Reply
from ..entities.metrics import Reading
from ..entities.store.port import EntityStore
from ..entities.transactional import StepTransactions


class HostedEngine(Protocol):
    """`perdure.entities.engine.engine.Engine` as a host uses it. Every method runs on the host's event loop."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Commit what is in memory, let everything go."""
        ...

    def deliver(self, envelope: Envelope, respond: Callable[[Reply], None]) -> None:
        """`respond` is called once, at once or later, unless the host is fenced."""
        ...

    def wake(self, entities: Sequence[EntityId]) -> None:
        """These entities have mail in the store."""
        ...

    def own(
        self, epochs: Mapping[int, int], *, taken_over: Collection[int] = (), taken_us: Mapping[int, int] = {}
    ) -> None:
        """Shards gained; `taken_over`: those of them that their former owner did not release in order; `taken_us`:
        when that last happened to each (`ShardOwner.taken_us`).
        """
        ...

    async def disown(self, shards: Collection[int]) -> None:
        """Accept nothing more for these shards; when it returns they may be released."""
        ...

    def set_lease(self, monotonic_deadline: float, database_us: int, asked_at: float = 0.0) -> None:
        """How long this host may answer from memory."""
        ...

    def running_code(self, task: "asyncio.Task[Any] | None") -> tuple[object, Subject] | None:
        """What user code blocks the loop, whose current task this is. The one method for another thread."""
        ...

    def stats(self) -> dict[str, int]:
        """Counters and gauges."""
        ...

    def reading(self) -> Reading:
        """Metrics."""
        ...


Serve = Callable[[EntityId, str, bytes], Awaitable[bytes]]
"""(entity, operation, argument) → answer, for a dedicated actor of this host."""


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """What an engine is made from."""

    entities: tuple[str, ...]
    store: EntityStore
    incarnation: str
    shard_count: int
    settings: Mapping[str, Any]
    hint: Callable[[list[EntityId]], None]
    """These entities of other hosts have new mail in the store."""
    fenced: Callable[[str], None]
    """This incarnation can never commit again, for this reason."""
    steps: StepTransactions
    serve: Callable[[Serve], None]
    """From now on this answers what actors of this host ask it."""


EngineFactory = Callable[[EngineRequest], HostedEngine]


def load_factory(spec: str) -> EngineFactory:
    """The function that `module:function` names."""
    module, _, name = spec.partition(":")
    return cast("EngineFactory", getattr(importlib.import_module(module), name))
