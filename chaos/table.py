"""What was counted: operations by kind and outcome, recovery by kind of fault, and whether enough worked."""

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from campaigns.verdict import Verdict, quantile

from .faults import Injury
from .ops import FAILED, OK, UNKNOWN, Op

GRACE_S = 2.0
"""After a fault has healed, until operations must work."""
OK_RATE = 0.5
LOOKED_AT = 50_000
"""Attempts after a fault, at most."""


def tabulate(verdict: Verdict, injuries: Sequence[Injury], ops: Sequence[Op], skipped: dict[str, str]) -> None:
    """Figures and the checks about them."""
    _operations(verdict, ops)
    _ok_rate(verdict, injuries, ops)
    recoveries = measure(injuries, ops)
    for kind in sorted({injury.kind for injury in injuries}):
        mine = [injury for injury in injuries if injury.kind == kind]
        took = [recoveries[id(injury)] for injury in mine if not math.isnan(recoveries[id(injury)])]
        proven = sum(injury.is_proven for injury in mine)
        example = "; ".join(mine[-1].evidence)
        verdict.holds(f"fault: {kind}", proven == len(mine) and len(took) == len(mine),
                      f"{proven} of {len(mine)} shown; recovery p50 {quantile(took, 0.5):.2f} s, "
                      f"p99 {quantile(took, 0.99):.2f} s; e.g. {example or 'NO EVIDENCE'}")  # fmt: skip
    kinds = {injury.kind for injury in injuries}
    verdict.figure("faults", f"{len(injuries)} of {len(kinds)} kinds")
    for kind, why in skipped.items():
        verdict.figure(f"SKIPPED {kind}", why)


def _operations(verdict: Verdict, ops: Sequence[Op]) -> None:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for op in ops:
        kinds[op.kind][op.came] += 1
        kinds["all"][op.came] += 1
        if op.came != OK:
            kinds["all"][f"code {op.code}"] += 1
    for kind, counts in kinds.items():
        outcomes = ", ".join(f"{how} {counts[how]}" for how in (OK, FAILED, UNKNOWN))
        codes = ", ".join(f"{name.removeprefix('code ')} {n}" for name, n in counts.items() if name.startswith("code "))
        verdict.figure(f"operations: {kind}", f"{counts.total() if kind != 'all' else len(ops)} attempted, {outcomes}"
                       + (f" ({codes})" if codes else ""))  # fmt: skip


def _ok_rate(verdict: Verdict, injuries: Sequence[Injury], ops: Sequence[Op]) -> None:
    """Of attempts that lie outside all fault windows."""
    windows = [(injury.at, injury.healed_at + GRACE_S) for injury in injuries]
    outside = [
        came
        for op in ops
        for since, at, came, _ in op.attempts
        if op.code != "application_error" and not any(at > begin and since < end for begin, end in windows)
    ]
    rate = outside.count(OK) / len(outside) if outside else 0.0
    verdict.holds(f"ok-rate outside faults > {OK_RATE:.0%}", rate > OK_RATE, f"{rate:.2%} of {len(outside)} attempts")


def measure(injuries: Sequence[Injury], ops: Sequence[Op]) -> dict[int, float]:
    """By id: from the fault (or its end, if it lasts) to the end of the first attempt that began later and needed what
    was broken, and worked.
    """
    good = sorted(
        ((since, at, op, via) for op in ops for since, at, came, via in op.attempts if came == OK),
        key=lambda one: one[0],
    )
    begins = [one[0] for one in good]
    found: dict[int, float] = {}
    for injury in injuries:
        if injury.recovery_s:
            found[id(injury)] = injury.recovery_s
            continue
        from_s = injury.undone_at or injury.at
        first = bisect.bisect_right(begins, from_s)
        ends = [at for _, at, op, via in good[first : first + LOOKED_AT] if injury.is_needed_by(op, via)]
        found[id(injury)] = min(ends) - from_s if ends else math.nan
    return found
