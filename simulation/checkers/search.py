"""D. A search for a linearization (Wing and Gong, with memory): knows nothing of versions, so they cannot deceive it.

Exponential in what overlaps, hence for a sample: few clients, at most a few hundred operations, few unknown outcomes
(an unknown operation overlaps everything that comes after it).
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Any

from perdure.entities.ids import EntityId
from simulation.contract import Violation
from simulation.record import Came, Op

NAME = "D search"
UNKNOWN_MAX = 8
STEPS_MAX = 200_000

Step = Callable[[Any, Op], tuple[Any, Any]]
"""(state, operation) → (next state, result)."""


def linearizable(ops: Sequence[Op], initial: Hashable, step: Step) -> list[Violation]:
    """Judge each entity's operations by search. Those with too many unknown outcomes are left out."""
    problems: list[Violation] = []
    for entity in sorted({op.entity for op in ops}):
        mine = [op for op in ops if op.entity == entity and op.outcome is not Came.FAIL]
        if sum(op.outcome is Came.UNKNOWN for op in mine) > UNKNOWN_MAX:
            continue
        stuck = _search(mine, initial, step)
        if stuck is not None:
            problems.append(Violation(NAME, "P8, I11", _text(entity, mine, stuck)))
    return problems


def _text(entity: EntityId, ops: list[Op], stuck: Op) -> str:
    return f"{entity}: no order of its {len(ops)} operations explains what clients were told; not later than {stuck}"


def _search(ops: list[Op], initial: Hashable, step: Step) -> Op | None:
    """None if there is an order; else the operation at which the best try ended."""
    ops = sorted(ops, key=lambda op: op.t_invoke)
    needed = sum(1 << index for index, op in enumerate(ops) if op.is_ok)
    seen: set[tuple[int, Hashable]] = set()
    stack: list[tuple[int, Hashable]] = [(0, initial)]
    best, best_done = ops[0] if ops else None, -1
    steps = 0
    while stack:
        done, state = stack.pop()
        if done & needed == needed:
            return None
        if (done, state) in seen:
            continue
        seen.add((done, state))
        steps += 1
        if steps > STEPS_MAX:
            return None  # undecided: no proof of anything
        horizon = min((op.t_return for index, op in enumerate(ops) if op.is_ok and not done >> index & 1), default=inf)
        for index, op in enumerate(ops):
            if done >> index & 1:
                continue
            if op.t_invoke > horizon:
                break
            following, result = step(state, op)
            if not op.is_ok or result == op.result:
                stack.append((done | 1 << index, following))
            elif (done & needed).bit_count() > best_done:
                best, best_done = op, (done & needed).bit_count()
    return best
