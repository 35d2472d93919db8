"""L. Vacuity: a run in which nothing worked, or nothing went wrong that was to go wrong, proves nothing."""

from collections.abc import Mapping

from simulation.contract import Violation
from simulation.record import Came, Record

NAME = "L vacuity"


def vacuity(
    record: Record,
    *,
    least_ok: float = 0.1,
    least_ops: int = 1,
    evidence: Mapping[str, int] | None = None,
    planned: Mapping[str, int] | None = None,
) -> list[Violation]:
    """`least_ok`: share of operations that must be acknowledged. `evidence` of faults must reach what was `planned`."""
    texts: list[str] = []
    ok = record.count(Came.OK)
    if len(record) < least_ops:
        texts.append(f"{len(record)} operations were made, at least {least_ops} should have been")
    elif ok < least_ok * len(record):
        texts.append(f"{ok} of {len(record)} operations were acknowledged, less than {least_ok:.0%}")
    for fault, count in (planned or {}).items():
        if (seen := (evidence or {}).get(fault, 0)) < count:
            texts.append(f"fault {fault!r} shows {seen} times, {count} were planned")
    return [Violation(NAME, "none", text) for text in texts]
