"""What a campaign must have seen at least once: a fault that never strikes proves nothing."""

from collections import Counter

from .faults import EVENTS

MUST = (
    *(f"event: {event}" for event in EVENTS),
    "a handler ended its host",
    "call failed, executed",
    "call failed, not executed",
    "conflict: commit",
    "dead letters",
    "declared dead while alive",
    "executed, not told: commit",
    "fenced: commit",
    "fenced: directory",
    "hint lost",
    "host fenced",
    "refused, not told",
    "pruned",
    "reminder or timer fired after a takeover",
    "resumed",
    "siege",
    "unknown commit found committed",
)


def missing(seen: "Counter[str]") -> list[str]:
    """What of it was never seen."""
    return [name for name in MUST if not seen[name]]
