"""The simulator as a whole: seeds are repeatable in any process, faults strike, and no seed breaks a promise.

Seeds run in a process of their own: what is killed on purpose leaves suspended coroutines behind, and Python talks
about each when it is let go of.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from simulation.__main__ import corpus, main
from simulation.catalogue import pick, workloads
from simulation.choices import Choices
from simulation.evidence import MUST, missing
from simulation.faults import EVENTS, LATER_RATES, MOVES, ORDERS, RATES, Plan, draw_plan

ROOT = Path(__file__).parents[2]


def simulate(*arguments: str, timeout_s: float = 240.0, **environment: str) -> str:
    """What `python -m simulation` says; fails if it does."""
    done = subprocess.run(
        [sys.executable, "-m", "simulation", "--jobs", "2", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not done.returncode, f"{done.stdout[-6_000:]}\n{done.stderr[-2_000:]}"
    return done.stdout


@pytest.mark.timeout(250)
def test_no_seed_breaks_a_promise() -> None:
    """Those that once failed, and new ones each time. A failure says which, and how to repeat it."""
    said = simulate("--corpus", "--seeds", "20", "--seed", str(time.time_ns() // 1_000_000 % 100_000_000))
    assert f"OK: 0 of {20 + len(corpus())} seeds failed" in said


@pytest.mark.timeout(250)
def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    """Byte for byte, whatever the hash seed, whatever ran before in the process."""
    said = simulate("--seeds", "4", "--seed", "500", "--twice", PYTHONHASHSEED="1")
    assert "4 of 4 seeds came out the same in another process" in said


def test_every_fault_is_drawn_and_some_seeds_have_none() -> None:
    plans = [draw_plan(Choices(seed).of("plan")) for seed in range(500)]
    assert {event for plan in plans for event in plan.events} == {*EVENTS, *MOVES, *ORDERS}
    assert {name for plan in plans for name in plan.rates} == {*RATES, *LATER_RATES}
    calm = [plan for plan in plans if not plan.events and not plan.rates]
    assert 20 < len(calm) < 100
    assert all(len(plan.events) < len(EVENTS) for plan in plans), "swarm style: never all at once"


def test_what_was_never_seen_fails_a_campaign() -> None:
    seen = Counter(MUST)
    assert not missing(seen)
    seen["fenced: commit"] = 0
    assert missing(seen) == ["fenced: commit"]


def test_all_workloads_take_their_turn() -> None:
    assert {pick(seed, []) for seed in range(100)} == set(workloads())
    assert {pick(seed, ["W3"]) for seed in range(10)} == {"W3"}


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workload", "W99"]) == 2
    assert "no such workload: W99; there are W0, W1" in capsys.readouterr().err


def test_a_plan_says_what_it_does() -> None:
    plan = Plan(events=("crash host",), rates={"late": 0.01}, engine={"timer_batch": 1})
    assert all(part in str(plan) for part in ("crash host", "late 0.0100", "timer_batch=1"))
