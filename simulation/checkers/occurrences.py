"""H. Occurrence ledger: every due occurrence of a reminder fires once, never early, never after its cancel (P6, I4).

The ledger is made of history rows only: commands (set, replace, cancel) in the order of versions, firings by their
message ids, which name the generation and the due time, and both times by the database's clock. A command's outcome
must tell the due time, a firing's how many missed occurrences it stands for; the caller says how to read them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.entities.ids import EntityId
from simulation.contract import Audit, Consumed, Violation

NAME = "H occurrences"


class SetCommand(NamedTuple):
    """A reminder was set, at this entity version."""

    name: str
    due_us: int
    every_us: int = 0
    """0: once."""
    is_all: bool = False
    """Every missed occurrence fires."""


class CancelCommand(NamedTuple):
    """A reminder was cancelled."""

    name: str


class Firing(NamedTuple):
    """An occurrence has fired; `missed`: how many others it stands for."""

    name: str
    generation: int
    due_us: int
    missed: int = 0


Event = SetCommand | CancelCommand | Firing
Read = Callable[[Consumed], Sequence[Event]]
"""What a history row means for reminders, in the order in which it did it."""


@dataclass
class _Armed:
    command: SetCommand
    generation: int
    next_us: int
    fired: int = 0
    lateness_us: list[int] = field(default_factory=list[int])


def occurrences(audit: Audit, read: Read, *, slack_us: int = 0) -> list[Violation]:
    """Judge all entities. `slack_us`: what became due so shortly before the audit may not have fired yet."""
    by_entity: dict[EntityId, list[Consumed]] = defaultdict(list)
    for past in audit.history:
        by_entity[past.entity].append(past)
    return [
        Violation(NAME, "P6, I4", f"{entity}: {text}")
        for entity, turns in by_entity.items()
        for text in _judge(entity, turns, audit, read, slack_us)
    ]


def _judge(entity: EntityId, turns: list[Consumed], audit: Audit, read: Read, slack_us: int) -> Iterator[str]:
    armed: dict[str, _Armed] = {}
    gone: dict[tuple[str, int], str] = {}
    for past in sorted(turns, key=lambda past: past.row.version):
        for event in read(past):
            match event:
                case SetCommand():
                    _end(armed, gone, event.name, f"was replaced at version {past.row.version}")
                    armed[event.name] = _Armed(event, past.row.version, event.due_us)
                case CancelCommand():
                    _end(armed, gone, event.name, f"was cancelled at version {past.row.version}")
                case Firing():
                    yield from _fire(armed, gone, event, past)
    stored = {row.name: row for row in audit.reminders if row.entity == entity}
    for name, one in armed.items():
        row = stored.get(name)
        if row is None or (row.generation, row.due_us) != (one.generation, one.next_us):
            found = f"generation {row.generation}, due {row.due_us}" if row else "nothing"
            yield f"{name} should be armed for {one.next_us} (generation {one.generation}), the store has {found}"
        elif one.next_us + slack_us < audit.at_us:
            yield f"{name}, due {one.next_us}, has not fired by {audit.at_us}"
    for name, row in stored.items():
        if name not in armed and row.kind == "reminder":
            yield f"{name}, due {row.due_us}, is armed, but {gone.get((name, row.generation), 'nobody set it')}"


def _end(armed: dict[str, _Armed], gone: dict[tuple[str, int], str], name: str, why: str) -> None:
    was = armed.pop(name, None)
    if was is not None:
        gone[name, was.generation] = why


def _fire(armed: dict[str, _Armed], gone: dict[tuple[str, int], str], event: Firing, past: Consumed) -> Iterator[str]:
    what = f"{event.name} of generation {event.generation}, due {event.due_us}, fired at version {past.row.version}"
    if past.at_us < event.due_us:
        yield f"{what} {event.due_us - past.at_us} µs early"
    one = armed.get(event.name)
    if one is None or one.generation != event.generation:
        yield f"{what}, but {gone.get((event.name, event.generation), 'was never set')}"
        return
    if event.due_us != one.next_us:
        yield f"{what}, but {one.next_us} was next"
    one.fired += 1
    if not one.command.every_us:
        armed.pop(event.name)
        gone[event.name, event.generation] = f"had fired at version {past.row.version}"
        return
    if one.command.is_all and event.missed:
        yield f"{what} for {event.missed} others, although each was to fire"
    one.next_us = event.due_us + one.command.every_us * (1 + event.missed)
