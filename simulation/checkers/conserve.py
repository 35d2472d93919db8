"""E. Conservation: nothing of what is only moved appears or vanishes, not even between two entities (P1, P2, I6, I13).

At any committed moment: what the entities hold plus what waits in inboxes (and as delayed messages) is constant.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from perdure.entities.ids import EntityId
from simulation.contract import Audit, Violation

NAME = "E conservation"

Amount = Callable[[EntityId, Mapping[str, Any]], int]
"""What an entity holds, by its address and state."""
Flying = Callable[[str, Mapping[str, Any]], int]
"""What a message carries, by its handler and arguments."""


def conserved(audit: Audit, total: int, amount: Amount, flying: Flying, *, when: str = "in the end") -> list[Violation]:
    """Judge one cut; `total` is what there must be."""
    held = sum(amount(entity, json.loads(state)) for entity, state in audit.states.items())
    moving = sum(flying(envelope.name, json.loads(envelope.args)) for envelope in audit.inbox if not envelope.reply_to)
    moving += sum(flying(row.handler, json.loads(row.args)) for row in audit.reminders if row.handler)
    if held + moving == total:
        return []
    return [Violation(NAME, "P1, P2, I6", f"{when}: {held} held + {moving} on the way = {held + moving}, not {total}")]


def within(
    audit: Audit, amount: Amount, *, least: int | None = None, most: int | None = None, when: str = "in the end"
) -> list[Violation]:
    """Judge the sum of a cut that may lack what a saga has in its hands."""
    held = sum(amount(entity, json.loads(state)) for entity, state in audit.states.items())
    if (least is not None and held < least) or (most is not None and held > most):
        return [Violation(NAME, "P7, I6", f"{when}: {held} held; at least {least}, at most {most}")]
    return []


def never_below(audit: Audit, amount: Amount, least: int = 0, *, when: str = "in the end") -> list[Violation]:
    """Judge each entity alone: a rule of its own that no turn may break."""
    return [
        Violation(NAME, "P2", f"{when}: {entity} holds {held}, less than {least}")
        for entity, state in audit.states.items()
        if (held := amount(entity, json.loads(state))) < least
    ]
