"""L. Vacuity: a run in which nothing worked proves nothing. (That faults struck: `evidence`, over a campaign.)"""

from simulation.contract import Violation
from simulation.record import Came, Record

NAME = "L vacuity"
OUTAGE_S = 5.0
"""So long everybody may be gone by chance: the longest lease. What fell into less proves nothing either way."""


def vacuity(record: Record, *, least_ok: float = 0.1, least_ops: int = 1) -> list[Violation]:
    """`least_ok`: share of operations that must be acknowledged."""
    ok = record.count(Came.OK)
    text = ""
    if len(record) < least_ops:
        text = f"{len(record)} operations were made, at least {least_ops} should have been"
    elif ok < least_ok * len(record) and _failed_for_s(record) > OUTAGE_S:
        text = f"{ok} of {len(record)} operations were acknowledged, less than {least_ok:.0%}"
    return [Violation(NAME, "none", text)] if text else []


def _failed_for_s(record: Record) -> float:
    """From the first operation that was not acknowledged to the end of the last one."""
    failed = [op for op in record.ops if not op.is_ok]
    return max(op.t_return for op in failed) - min(op.t_invoke for op in failed)
