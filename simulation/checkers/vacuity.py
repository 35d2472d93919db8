"""L. Vacuity: a run in which nothing worked proves nothing. (That faults struck: `evidence`, over a campaign.)"""

from simulation.contract import Violation
from simulation.record import Came, Record

NAME = "L vacuity"


def vacuity(record: Record, *, least_ok: float = 0.1, least_ops: int = 1) -> list[Violation]:
    """`least_ok`: share of operations that must be acknowledged."""
    ok = record.count(Came.OK)
    text = ""
    if len(record) < least_ops:
        text = f"{len(record)} operations were made, at least {least_ops} should have been"
    elif ok < least_ok * len(record):
        text = f"{ok} of {len(record)} operations were acknowledged, less than {least_ok:.0%}"
    return [Violation(NAME, "none", text)] if text else []
