"""What clients did and what they were told: one row per operation, noted outside the system.

Three outcomes, as the errors promise them (entities/errors.py): `OK`; `FAIL`, which says that nothing was applied; and
`UNKNOWN`, which may be either (no answer in time, or the client itself is gone). A row is `UNKNOWN` from the moment it
is noted, so an operation whose client dies in the middle is counted rightly.

Each operation goes through a tap of its own, which sees the ids of its messages and the versions of its replies: with
them checkers join what clients saw with what the store recorded.
"""

import json
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from perdure.entities import OutcomeUnknown, PerdureError
from perdure.entities.client import Caller, use
from perdure.entities.ids import EntityId
from perdure.entities.messages import Envelope, Reply


class Came(StrEnum):
    """How an operation ended for its client."""

    OK = "ok"
    FAIL = "fail"
    """A definite error: nothing was applied."""
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Op:
    """One operation of one client."""

    id: int
    client: str
    entity: EntityId
    name: str
    argument: Any
    t_invoke: float
    t_return: float = math.inf
    outcome: Came = Came.UNKNOWN
    result: Any = None
    error: str = ""
    """Code of the error, if there was one."""
    message: str = ""
    """Its text."""
    message_ids: list[str] = field(default_factory=list[str])
    """Of everything that this operation sent, in order."""
    versions: list[int] = field(default_factory=list[int])
    """Of the entity, as the replies to it say."""

    @property
    def is_ok(self) -> bool:
        """Whether it was acknowledged."""
        return self.outcome is Came.OK

    def __str__(self) -> str:
        end = self.result if self.is_ok else self.error
        times = f"{self.t_invoke:.3f} to {self.t_return:.3f} s"
        return (
            f"#{self.id} {self.client} {self.entity}.{self.name}({self.argument!r}) {self.outcome}: {end!r} ({times})"
        )


class _Tap:
    """A client's way in for one operation."""

    def __init__(self, caller: Caller, op: Op) -> None:
        self.session = caller.session
        self.default_timeout_s = caller.default_timeout_s
        self._caller = caller
        self._op = op

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        if envelope.id not in self._op.message_ids:
            self._op.message_ids.append(envelope.id)
        reply = await self._caller.request(envelope, timeout_s=timeout_s)
        self._op.versions.append(reply.version)
        return reply


class Clocked(Protocol):
    """Whatever has the time."""

    def time(self) -> float:
        """Seconds, never going back."""
        ...


class Record:
    """All operations, in the order in which they began."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    async def call(  # noqa: PLR0917 - the columns of a row, in their order
        self,
        world: Clocked,
        caller: Caller,
        target: object,
        name: str,
        argument: object,
        do: Callable[[], Awaitable[Any]],
    ) -> Op:
        """Do it as this client, and note it. Never raises for what the framework answers; bugs of others come out."""
        entity: EntityId = target.entity_id  # type: ignore[attr-defined]
        op = Op(len(self.ops), caller.session, entity, name, argument, world.time())
        self.ops.append(op)
        try:
            with use(_Tap(caller, op)):
                op.result = await do()
            op.outcome = Came.OK
        except (OutcomeUnknown, TimeoutError) as error:
            op.error, op.message = getattr(error, "code", "timeout"), str(error)
        except PerdureError as error:
            op.outcome, op.error, op.message = Came.FAIL, error.code, str(error)
        op.t_return = world.time()
        return op

    def of(self, *names: str) -> Iterator[Op]:
        """Operations of these names."""
        return (op for op in self.ops if op.name in names)

    def count(self, came: Came) -> int:
        """How many ended so."""
        return sum(op.outcome is came for op in self.ops)

    def save(self, path: Path) -> None:
        """One JSON object a line."""
        path.write_text("".join(json.dumps(asdict(op), default=str) + "\n" for op in self.ops), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.ops)
