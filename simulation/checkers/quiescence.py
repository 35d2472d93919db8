"""K. Quiescence: once faults are over, nothing waits any more that could go on (I14, I26, P9).

Says what waits, with all that the store knows about it: that is the stuck dump.
"""

from collections.abc import Collection

from perdure.entities.ids import EntityId
from simulation.contract import Audit, Violation
from simulation.record import Op

NAME = "K quiescence"
SHOWN_MAX = 5


def quiescent(
    audit: Audit, *, slack_us: int = 0, letters_allowed: Collection[EntityId] = (), is_over: bool = False
) -> list[Violation]:
    """`slack_us`: what became due so shortly before may still wait. `is_over`: no run may be alive either."""
    waiting = [
        *(f"{envelope.entity}: message {envelope.id} ({envelope.kind} {envelope.name}) of {envelope.sender}"
          for envelope in audit.inbox),
        *(f"{row.entity}: {row.kind} {row.name} was due at {row.due_us}, now is {audit.at_us}"
          for row in audit.reminders if row.due_us + slack_us < audit.at_us),
        *(f"{entity}.{run.workflow} run {run.run_id} is {run.status}, waits for {run.waiting or 'nothing'}"
          for entity, run in audit.runs if run.in_flight or (is_over and not run.status.is_terminal)),
        *(f"{entity}: attempt {attempt.attempt} of {attempt.activity} ({attempt.operation}) is {attempt.status}"
          for entity, attempt in audit.attempts),
        *(f"{letter.letter.envelope.entity}: dead letter {letter.letter.envelope.id} "
          f"({letter.letter.envelope.name}): {letter.letter.error.decode()[:300]}"
          for letter in audit.dead_letters if letter.letter.envelope.entity not in letters_allowed),
        *(f"{entity} is parked: {reason}" for entity, reason in audit.parked.items()),
    ]  # fmt: skip
    if not waiting:
        return []
    texts = waiting[:SHOWN_MAX]
    if len(waiting) > SHOWN_MAX:
        texts.append(f"and {len(waiting) - SHOWN_MAX} more")
    dumped = _dump(audit, EntityId.parse(waiting[0].split(":")[0].split(" ")[0].split(".")[0]))
    return [Violation(NAME, "I14", text) for text in texts] + [Violation(NAME, "I14", dumped)]


def served(ops: Collection[Op]) -> list[Violation]:
    """Operations made after the last fault must all be acknowledged."""
    return [Violation(NAME, "I14", f"after healing: {op} {op.message}") for op in ops if not op.is_ok]


def _dump(audit: Audit, entity: EntityId) -> str:
    """What the store holds of one entity."""
    turns = [f"{past.row.version} {past.row.kind} {past.row.name}" for past in audit.of(entity)[-20:]]
    runs = [f"{run.workflow} {run.status} {run.waiting}" for other, run in audit.runs if other == entity]
    inbox = [f"{e.id} {e.kind} {e.name}" for e in audit.inbox if e.entity == entity][:10]
    return (
        f"{entity} at version {audit.versions.get(entity, 0)}; last turns {turns}; runs {runs}; inbox {inbox}; "
        f"state {audit.states.get(entity, b'')[:300]!r}"
    )
