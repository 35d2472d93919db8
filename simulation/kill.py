"""The mutation self-test: `python -m simulation.kill [--mutant M4] [--seeds-max 2000]`.

Plants each bug of mutants.py and runs seeds of the workload that it names until a checker fails; prints mutant, checker
and how many seeds it took, and all of them as a table in the end. `--quick` takes those that few seeds kill. With
`--tests` the suite is tested instead: the tests that each mutant names must fail (M1 to M8 also on a real Postgres).
A survivor is a gap in the checks: exit code 1.
"""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from .catalogue import pick, workloads
from .killers import surviving
from .mutants import MUTANTS
from .run import run_seed

SEEDS_MAX = 2_000
QUICK = ("M12", "M13", "M17", "M18", "N5", "N6", "N7", "N9", "N13")
"""Killed by a handful of seeds each: part of the default tests."""
QUICK_MAX = 10


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant."""

    mutant: str
    workload: str
    killer: str
    """The checker or test; empty if it survived."""
    seeds: int
    took_s: float
    text: str = ""

    @property
    def is_killed(self) -> bool:
        return bool(self.killer)


def hunt(name: str, *, first: int, seeds_max: int, wanted: Sequence[str] = ()) -> Verdict:
    """Run seeds with this bug until a checker fails. Seeds that fail without it as well kill nothing, and are told."""
    began = time.monotonic()
    others: list[str] = []
    wanted = wanted or [MUTANTS[name].workload]
    for count, seed in enumerate(range(first, first + seeds_max), 1):
        with MUTANTS[name].planted():
            outcome = run_seed(seed, workloads()[pick(seed, wanted)])
        if count % 10 == 0:
            gc.collect()
        if outcome.is_clean:
            continue
        if not run_seed(seed, workloads()[pick(seed, wanted)]).is_clean:
            others.append(f"{outcome.workload} fails without the bug: seed {seed}")
            continue
        killer = outcome.violations[0]
        what = "; ".join([*others, f"{outcome.workload}, seed {seed}: {killer}"])
        return Verdict(name, outcome.workload.split()[0], killer.checker, count, time.monotonic() - began, what)
    return Verdict(name, ", ".join(wanted), "", seeds_max, time.monotonic() - began, "; ".join(others))


def try_tests(name: str) -> Verdict:
    """Run the tests that this mutant names: each must fail."""
    began = time.monotonic()
    left = surviving(name, MUTANTS[name].tests)
    killer = "" if left else ", ".join(test.rpartition("::")[2] for test in MUTANTS[name].tests)
    return Verdict(
        name, "tests", killer, 0, time.monotonic() - began, f"passes nevertheless: {', '.join(left)}" if left else ""
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulation.kill", description=__doc__)
    parser.add_argument("--mutant", action="append", default=[], help="M1, M2, …; by default all")
    parser.add_argument("--seeds-max", type=int, default=SEEDS_MAX)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--workload", action="append", default=[], help="W1, …; by default the mutant's own")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}, {QUICK_MAX} seeds each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tests", action="store_true", help="the suite's own tests instead of the simulation")
    asked = parser.parse_args(argv)
    for name in asked.mutant:
        if name not in MUTANTS:
            parser.error(f"no such mutant: {name}; there are {', '.join(MUTANTS)}")
    names = asked.mutant or (list(QUICK) if asked.quick else list(MUTANTS))
    seeds_max = QUICK_MAX if asked.quick else asked.seeds_max
    hunting = partial(hunt, first=asked.seed, seeds_max=seeds_max, wanted=asked.workload)
    logging.disable(logging.CRITICAL)  # what is killed on purpose complains when it is let go of
    warnings.simplefilter("ignore", RuntimeWarning)
    verdicts: list[Verdict] = []
    # A process for each mutant: what a bug leaves behind in memory ends with it.
    with multiprocessing.get_context("fork").Pool(min(asked.jobs, len(names)), maxtasksperchild=1) as pool:
        for verdict in pool.imap_unordered(try_tests if asked.tests else hunting, names, chunksize=1):
            verdicts.append(verdict)
            _tell(verdict)
    _table(verdicts)
    left = [verdict.mutant for verdict in verdicts if not verdict.is_killed]
    print(f"\n{'SURVIVORS: ' + ', '.join(left) if left else 'OK: all killed'} ({len(verdicts)} mutants)")
    return 1 if left else 0


def _tell(verdict: Verdict) -> None:
    mutant = MUTANTS[verdict.mutant]
    how = f"killed by {verdict.killer}" if verdict.is_killed else "SURVIVED"
    seeds = f", {verdict.seeds} seeds" if verdict.seeds else ""
    print(f"{mutant.name:4} {mutant.title:62} {how}{seeds} ({verdict.took_s:.0f} s)", flush=True)
    if verdict.text:
        print(f"     {verdict.text[:300]}", flush=True)


def _table(verdicts: list[Verdict]) -> None:
    """As in docs/reports/mutants.md."""
    print("\n| Mutant | Workload | Checker | Seeds |\n|---|---|---|---|")
    for verdict in sorted(verdicts, key=lambda verdict: list(MUTANTS).index(verdict.mutant)):
        killer = verdict.killer or "SURVIVED"
        print(f"| {verdict.mutant} {MUTANTS[verdict.mutant].title} | {verdict.workload} | {killer} | {verdict.seeds} |")


if __name__ == "__main__":
    sys.exit(main())
