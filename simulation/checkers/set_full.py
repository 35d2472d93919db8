"""A. Set-full: every acknowledged element is there once, and nothing that was refused or never sent (P1, I1, I8, I21).

Elements are unique over the whole run: one operation adds one element to one entity.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perdure.entities.ids import EntityId
from simulation.contract import Violation
from simulation.record import Came, Op

NAME = "A set-full"


@dataclass
class SetReport:
    """What became of the elements of one or more sets."""

    attempted: int = 0
    ok: int = 0
    failed: int = 0
    unknown: int = 0
    final: int = 0
    recovered: int = 0
    """Of unknown outcome, and there."""
    lost: list[str] = field(default_factory=list[str])
    phantom: list[str] = field(default_factory=list[str])
    resurrected: list[str] = field(default_factory=list[str])
    duplicated: list[str] = field(default_factory=list[str])

    def violations(self, promise: str) -> list[Violation]:
        """What must be empty."""
        return [
            Violation(NAME, promise, f"{kind}: {text}")
            for kind in ("lost", "phantom", "resurrected", "duplicated")
            for text in getattr(self, kind)
        ]

    def __str__(self) -> str:
        return (
            f"{self.attempted} attempted, {self.ok} ok, {self.failed} failed, {self.unknown} unknown, {self.final} "
            f"final, {self.recovered} recovered, {len(self.lost)} lost, {len(self.phantom)} phantom, "
            f"{len(self.resurrected)} resurrected, {len(self.duplicated)} duplicated"
        )


def set_report(ops: Iterable[Op], final: Mapping[EntityId, Sequence[str]]) -> SetReport:
    """`ops`: additions; their argument is the element. `final`: what each entity holds in the end."""
    report = SetReport()
    tried: dict[tuple[EntityId, str], list[Op]] = {}
    for op in ops:
        tried.setdefault((op.entity, str(op.argument)), []).append(op)
        report.attempted += 1
        report.ok += op.outcome is Came.OK
        report.failed += op.outcome is Came.FAIL
        report.unknown += op.outcome is Came.UNKNOWN
    there = Counter((entity, element) for entity, elements in final.items() for element in elements)
    report.final = sum(there.values())
    for (entity, element), count in there.items():
        if count > 1:
            report.duplicated.append(f"{entity} holds {element!r} {count} times")
        if (entity, element) not in tried:
            report.phantom.append(f"{entity} holds {element!r}, which nobody added")
    for key, attempts in tried.items():
        # The same element may be tried again under its idempotency key: the best answer counts.
        came = {op.outcome for op in attempts}
        if Came.OK in came:
            if not there[key]:
                report.lost.append(f"{key[0]} lacks {key[1]!r}: {attempts[-1]}")
        elif Came.UNKNOWN in came:
            report.recovered += bool(there[key])
        elif there[key]:
            report.resurrected.append(f"{key[0]} holds {key[1]!r}, but: {attempts[-1]}")
    return report


def set_full(
    ops: Iterable[Op], final: Mapping[EntityId, Sequence[str]], *, promise: str = "P1, I1, I8, I21"
) -> list[Violation]:
    """The violations of `set_report`."""
    return set_report(ops, final).violations(promise)
