"""The witness: what the outside world saw of activities and handlers; never rolled back, in no store.

Activities find it as `witness()`, the one of the present run: a workload installs a fresh one when it is made. Entries
come from any thread of this process. For several processes somebody would have to carry them; the log's shape is plain.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from perdure.entities.engine.journal import EventKind, OperationKind, decode_entry
from perdure.entities.store.rows import Batch

from .contract import Watches


class Seen(StrEnum):
    """What was noted about a step."""

    START = "start"
    """An attempt began."""
    RESULT = "result"
    """An attempt returned this."""
    ASKED = "asked"
    """The turn that asks for the step was committed."""
    SETTLED = "settled"
    """The step's outcome was committed."""


@dataclass(frozen=True)
class Entry:
    """One line of the log; `order` is the order of arrival."""

    order: int
    what: Seen
    step: str
    """The idempotency key: `Type/key/workflow/run/number`."""
    attempt: int = 0
    value: str = ""


@dataclass
class Witness:
    """One log, in order of arrival."""

    log: list[Entry] = field(default_factory=list[Entry])
    tries: Counter[str] = field(default_factory=Counter[str])
    """How often something was tried: what is flaky fails by it."""
    is_told: bool = False
    """It is told of every commit (`watch`)."""
    end_host: Callable[[], None] | None = None
    """Ends the process that calls it; None where that is not supported."""
    kill: Callable[[], None] = lambda: None
    """Asks for the death of a host, from any thread."""
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def note(self, what: Seen, step: str, *, attempt: int = 0, value: str = "") -> None:
        """Write it down."""
        self.log.append(Entry(next(self._numbers), what, step, attempt, value))

    def attempt(self, step: str, attempt: int) -> str:
        """An attempt begins; returns a value that no other attempt has."""
        self.note(Seen.START, step, attempt=attempt)
        return f"{step}!{len(self.log)}"

    def result(self, step: str, attempt: int, value: str) -> str:
        """The attempt returns this."""
        self.note(Seen.RESULT, step, attempt=attempt, value=value)
        return value

    def watch(self, batch: Batch) -> None:
        """A commit was written just now (see contract.Watches): note what it asks for, and the outcomes in it."""
        for write in batch.writes:
            for row in write.journal:
                run, entry = f"{write.entity}/{row.workflow}/{row.run_id}", decode_entry(row.entry)
                for operation in entry.operations:
                    if operation.kind is OperationKind.ACTIVITY:
                        self.note(Seen.ASKED, f"{run}/{operation.number}")
                for event in entry.events:
                    if event.operation >= 0 and event.kind in (EventKind.VALUE, EventKind.ERROR):
                        self.note(Seen.SETTLED, f"{run}/{event.operation}", value=bytes(event.value).decode())

    def listen(self, world: object) -> None:
        """Be told of every commit, where the driver can tell."""
        if isinstance(world, Watches):
            world.watch(self.watch)
            self.is_told = True


_present = [Witness()]


def witness() -> Witness:
    """That of the present run."""
    return _present[0]


def new_witness() -> Witness:
    """Begin a new log; the present run's from now on."""
    _present[0] = Witness()
    return _present[0]
