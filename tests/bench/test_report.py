"""What the benchmarks make of their figures."""

import asyncio
import math
from typing import cast

import pytest

from bench.harness import QUICK, Figures, Size, closed_loops, percentile
from bench.profile import own_time, with_callees
from bench.report import number, report, table
from bench.rows import BY_NAME, ROWS
from bench.scaling import SWEEPS
from bench.scaling import table as scaling_table
from bench.scene import Scene
from bench.soak import Sample, drift
from bench.suite import WORKLOADS, Workload, choose, run

CEILINGS = {
    "ceiling_commit": [60_000.0, 70_000.0, 80_000.0],
    "ceiling_commit_alone": [1.0],
    "ceiling_ray": [300_000.0],
    "ceiling_ray_alone": [0.5],
    "ceiling_http": [3_500.0],
    "ceiling_http_alone": [0.5],
}


def test_names_of_rows_are_unique() -> None:
    assert len(BY_NAME) == len(ROWS)


def test_the_median_counts_and_the_spread_is_shown() -> None:
    found = report({"call": [10_000.0, 14_000.0, 13_000.0]}, hosts=2)
    [row] = found["rows"]
    assert row["median"] == 13_000
    assert row["is_met"] is True
    assert "| ≥ 12,000/s | **13,000/s** (10,000 to 14,000) |" in table(found)


def test_a_missed_goal_is_marked() -> None:
    assert "**2.60 ms** ✗" in table(report({"call_alone": [2.6]}))
    assert "✗" not in table(report({"call_alone": [2.5]}))


def test_rates_are_compared_with_the_slowest_part_and_latencies_with_the_sum() -> None:
    found = report({**CEILINGS, "http": [1_750.0], "http_alone": [4.0], "call": [7_000.0]})
    ratios = {row["name"]: row["ratio_to_ceiling"] for row in found["rows"]}
    assert math.isclose(ratios["http"], 0.5), "a half of the bare HTTP exchange"
    assert math.isclose(ratios["http_alone"], 0.5), "2 ms would have been possible"
    assert math.isclose(ratios["call"], 0.1), "a tenth of the median of the bare commit"


def test_without_the_ceiling_there_is_no_ratio() -> None:
    [row] = report({"call": [7_000.0]})["rows"]
    assert row["ratio_to_ceiling"] is None


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.123, "0.12"), (12.34, "12.3"), (12_345.6, "12,346")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_percentile_of_nothing_is_refused() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 3.0
    assert percentile([1.0], 99) == 1.0
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


def test_workloads_are_chosen_by_name_or_by_a_part_of_it() -> None:
    assert [workload.name for workload in choose(["http"], large=False)] == ["http"]
    assert [workload.name for workload in choose(["ceiling"], large=False)] == [
        "ceiling-commit",
        "ceiling-ray",
        "ceiling-http",
    ]
    assert choose([], large=True) == WORKLOADS
    assert "timers-large" not in [workload.name for workload in choose([], large=False)]
    with pytest.raises(ValueError, match="no workload 'nothing'"):
        choose(["nothing"], large=False)


STACKS = """main (a.py:1);work (a.py:5);inner (b.py:7) 3
main (a.py:1);work (a.py:6) 1
Error: a line that is no stack
"""


def test_samples_count_for_the_function_that_ran_and_for_its_callers() -> None:
    assert own_time(STACKS) == {"inner (b.py)": 3, "work (a.py)": 1}
    assert with_callees(STACKS) == {"main (a.py)": 4, "work (a.py)": 4, "inner (b.py)": 3}


def _sample(minute: float, calls_per_s: float) -> Sample:
    return Sample(
        minute=minute,
        calls_per_s=calls_per_s,
        p50_ms=20,
        p99_ms=40,
        workflows_per_s=0,
        stored_mb=100,
        bytes_per_turn=400,
        wal_bytes_per_turn=600,
        dead_rows=0,
        autovacuums=0,
        hosts_mb=300,
    )


def test_drift_is_the_last_third_against_the_first() -> None:
    found = drift([_sample(minute, rate) for minute, rate in enumerate([100, 100, 90, 80, 50, 50])])
    assert found["calls_per_s"] == 0.5
    assert found["p50_ms"] == 1.0
    assert "workflows_per_s" not in found, "nothing divided by nothing"


def test_scaling_shows_every_point() -> None:
    point = {"per_second": [1.0, 3.0, 2.0], "p50_ms": [1.0], "p99_ms": [2.0]}
    found = report({}, curves={name: {1: point, 2: point} for name in SWEEPS})
    lines = scaling_table(found).splitlines()
    assert lines.count("| 2 | **2.00** (1.00 to 3.00) | 1.00 ms | 2.00 ms |") == len(SWEEPS)


async def test_a_slow_operation_is_measured_although_the_time_is_over() -> None:
    loops = await closed_loops(lambda _caller, _n: asyncio.sleep(0.05), callers=2, seconds=0.001, warm_up_s=0)
    assert 1 <= len(loops.latencies) <= 2
    assert loops.seconds >= 0.05
    assert loops.rate == len(loops.latencies) / loops.seconds


async def test_what_began_in_the_warm_up_does_not_count() -> None:
    begun: list[int] = []

    async def operation(_caller: int, n: int) -> None:
        begun.append(n)
        await asyncio.sleep(0.02)

    loops = await closed_loops(operation, callers=1, seconds=0.1, warm_up_s=0.1)
    assert 1 <= len(loops.latencies) < len(begun)


async def test_a_workload_that_fails_does_not_take_the_figures_of_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def works(_scene: Scene, _size: Size) -> Figures:
        return {"call": 1.0}

    async def fails(_scene: Scene, _size: Size) -> Figures:
        raise TimeoutError("the hosts have not come back")

    chosen = [Workload("works", works), Workload("fails", fails), Workload("works", works)]
    results, failures = await run(cast("Scene", None), chosen, QUICK, repeat=2)
    assert results == {"call": [1.0] * 4}
    assert failures == ["fails: TimeoutError('the hosts have not come back')"] * 2
    assert "Traceback" in capsys.readouterr().err
