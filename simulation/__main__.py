"""`python -m simulation --seeds N`: many seeds, on several processes, with a verdict.

Prints the rate, what was seen, and each failure with how to repeat it. Fails if a seed fails, if a run is not
repeatable (`--twice`), or if something that a campaign must have seen was never seen (then the generator is broken).
"""

import argparse
import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .catalogue import pick, workloads
from .evidence import missing
from .run import Outcome, run_seed

CORPUS = Path(__file__).with_name("corpus.txt")
CHUNK = 10
REPORT_S = 30.0
GUARANTEED = 2_000
"""So many seeds of all workloads must have seen everything."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="the first one; by default a new one each time")
    parser.add_argument("--workload", action="append", default=[], help="W1, W2, …; by default all in turn")
    parser.add_argument("--size", type=int, default=1, help="of each workload")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--twice", action="store_true", help="run each again under another PYTHONHASHSEED and compare")
    parser.add_argument("--keep", action="store_true", help="note failing seeds in simulation/corpus.txt")
    parser.add_argument("--corpus", action="store_true", help="first of all those of simulation/corpus.txt")
    parser.add_argument("--log", action="store_true", help="print everything that happened (one seed)")
    parser.add_argument("--digests", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


Task = tuple[list[tuple[int, str]], int, bool]
"""Seeds with their workloads, the size, and whether everything is to be logged."""


def _run_chunk(task: Task) -> list[Outcome]:
    pairs, size, log = task
    logging.disable(logging.CRITICAL)  # what is killed on purpose complains when it is let go of
    warnings.simplefilter("ignore", RuntimeWarning)
    gc.freeze()
    known = workloads()
    outcomes = [run_seed(seed, known[name], size=size, keep_log=log) for seed, name in pairs]
    gc.collect()
    return outcomes


def _outcomes(tasks: list[Task], jobs: int) -> Iterator[list[Outcome]]:
    if jobs == 1:
        yield from map(_run_chunk, tasks)
        return
    # Forked from here, where everything is imported; each lives for a few chunks, and memory goes with it.
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=20) as pool:
        yield from pool.imap_unordered(_run_chunk, tasks)


def corpus() -> list[tuple[int, str]]:
    """Seeds that once failed, with their workloads."""
    if not CORPUS.exists():
        return []
    lines = [line.split() for line in CORPUS.read_text(encoding="utf-8").splitlines() if line[:1] == "W"]
    return [(int(line[1]), line[0]) for line in lines]


def _pairs(arguments: argparse.Namespace) -> list[tuple[int, str]]:
    fresh = [(seed, pick(seed, arguments.workload)) for seed in range(arguments.seed, arguments.seed + arguments.seeds)]
    return [*(corpus() if arguments.corpus else []), *fresh]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    arguments = _arguments(argv)
    if arguments.seed is None:
        arguments.seed = time.time_ns() // 1_000_000 % 1_000_000_000
    known = workloads()
    unknown = [name for name in arguments.workload if name not in known]
    if unknown:
        print(f"no such workload: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    pairs = _pairs(arguments)
    if arguments.digests:
        for outcomes in _outcomes(_tasks(arguments, pairs), arguments.jobs):
            for outcome in outcomes:
                print(outcome.seed, outcome.workload.split()[0], outcome.digest, flush=True)
        return 0
    print(f"seeds {pairs[0][0]} to {pairs[-1][0]}, workloads {', '.join(arguments.workload or known)}", flush=True)
    tally = Tally()
    for outcomes in _outcomes(_tasks(arguments, pairs), arguments.jobs):
        for outcome in outcomes:
            tally.add(outcome)
            if arguments.log:
                print("".join(outcome.log))
            if not outcome.is_clean:
                _tell(outcome)
        tally.report()
    return _verdict(arguments, pairs, tally)


def _tasks(arguments: argparse.Namespace, pairs: list[tuple[int, str]]) -> list[Task]:
    return [(pairs[at : at + CHUNK], arguments.size, arguments.log) for at in range(0, len(pairs), CHUNK)]


class Tally:
    """What all seeds so far come to."""

    def __init__(self) -> None:
        self.began = self.told = time.monotonic()
        self.seen: Counter[str] = Counter()
        self.failed: list[Outcome] = []
        self.digests: dict[tuple[int, str], str] = {}

    @property
    def rate(self) -> float:
        """Seeds a minute."""
        return self.seen["seeds"] / (time.monotonic() - self.began) * 60

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.seen.update(outcome.seen)
        self.seen.update({"seeds": 1, "steps": outcome.steps, "virtual seconds": round(outcome.virtual_s)})
        self.digests[outcome.seed, outcome.workload.split()[0]] = outcome.digest
        if not outcome.is_clean:
            self.failed.append(outcome)

    def report(self) -> None:
        """A line now and then."""
        if time.monotonic() - self.told > REPORT_S:
            self.told = time.monotonic()
            print(f"… {self.seen['seeds']} seeds, {len(self.failed)} failed, {self.rate:.0f} a minute", flush=True)


def _tell(outcome: Outcome) -> None:
    print(f"\nFAILED seed {outcome.seed}, {outcome.workload}  ({outcome.plan})")
    for violation in outcome.violations[:5]:
        print(f"  {violation}")
    print(f"  repeat: {_command(outcome)} --log", flush=True)


def _command(outcome: Outcome) -> str:
    return f"python -m simulation --seeds 1 --seed {outcome.seed} --workload {outcome.workload.split()[0]}"


def _verdict(arguments: argparse.Namespace, pairs: list[tuple[int, str]], tally: Tally) -> int:
    seen, failed = tally.seen, tally.failed
    print(f"\n{len(pairs)} seeds, {tally.rate:.0f} a minute. Seen:")
    for name, count in sorted(seen.items()):
        print(f"  {count:>10}  {name}")
    absent = missing(seen) if len(pairs) >= GUARANTEED and not arguments.workload else []
    for name in absent:
        print(f"NEVER SEEN: {name}. The generator is broken, or cannot reach it any more.")
    unlike = _compare(arguments, tally.digests) if arguments.twice else []
    for seed, name in unlike:
        print(f"NOT REPEATABLE: seed {seed}, {name}")
    if arguments.twice:
        print(f"{len(pairs) - len(unlike)} of {len(pairs)} seeds came out the same in another process")
    if arguments.keep and failed:
        with CORPUS.open("a", encoding="utf-8") as kept:
            kept.writelines(
                f"{it.workload.split()[0]} {it.seed} # {it.violations[0].checker}: {it.violations[0].text[:80]!r}\n"
                for it in failed
            )
    is_good = not (failed or absent or unlike)
    print(f"\n{'OK' if is_good else 'FAILED'}: {len(failed)} of {len(pairs)} seeds failed")
    return 0 if is_good else 1


def _compare(arguments: argparse.Namespace, digests: dict[tuple[int, str], str]) -> list[tuple[int, str]]:
    """Seeds whose digest is another one in a process with another PYTHONHASHSEED."""
    command = [sys.executable, "-m", "simulation", "--digests"]
    command += ["--seeds", str(arguments.seeds), "--seed", str(arguments.seed)]
    command += ["--jobs", str(arguments.jobs), "--size", str(arguments.size)]
    command += [part for name in arguments.workload for part in ("--workload", name)]
    hash_seed = "4242" if os.environ.get("PYTHONHASHSEED") != "4242" else "17"
    said = subprocess.run(
        command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, stdout=subprocess.PIPE, check=True, text=True
    )
    lines = [line.split() for line in said.stdout.splitlines()]
    again = {(int(seed), name): digest for seed, name, digest in lines}
    return [pair for pair, digest in digests.items() if pair in again and again[pair] != digest]


if __name__ == "__main__":
    sys.exit(main())
