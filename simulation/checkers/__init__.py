"""Checkers A to L: pure functions over what clients saw (`Record`) and what the store holds (`Audit`).

Each is named by its letter in docs/testing.md; each can fail, and tests/simulation/test_checkers.py shows how.
"""

from .bijection import bijection, calls
from .chain import chain
from .conserve import conserved, never_below, within
from .fidelity import fidelity
from .keys import one_effect
from .occurrences import CancelCommand, Firing, SetCommand, occurrences
from .order import Model, Written, seen_at_once, version_order
from .quiescence import quiescent, served
from .sagas import Part, all_or_compensated
from .search import linearizable
from .set_full import SetReport, set_full, set_report
from .steps import journalled_once, results_agree, witness_join
from .streams import complete, in_order
from .vacuity import vacuity

__all__ = [
    "CancelCommand",
    "Firing",
    "Model",
    "Part",
    "SetCommand",
    "SetReport",
    "Written",
    "all_or_compensated",
    "bijection",
    "calls",
    "chain",
    "complete",
    "conserved",
    "fidelity",
    "in_order",
    "journalled_once",
    "linearizable",
    "never_below",
    "occurrences",
    "one_effect",
    "quiescent",
    "results_agree",
    "seen_at_once",
    "served",
    "set_full",
    "set_report",
    "vacuity",
    "version_order",
    "within",
    "witness_join",
]
