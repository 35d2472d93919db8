"""The results as a table for people and as JSON for programs."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from .rows import ROWS, Row


def report(results: Mapping[str, Sequence[float]], **conditions: Any) -> dict[str, Any]:
    """Everything that was measured, under which conditions."""
    values = {name: median(runs) for name, runs in results.items()}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load": [round(load, 2) for load in os.getloadavg()],
        **conditions,
        "rows": [_row(row, results[row.name], values) for row in ROWS if row.name in results],
    }


def _row(row: Row, runs: Sequence[float], values: Mapping[str, float]) -> dict[str, Any]:
    value = values[row.name]
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "goal": row.goal,
        "median": value,
        "runs": list(runs),
        "is_met": row.is_met(value),
        "ratio_to_ceiling": row.ratio(value, values),
    }


def table(found: Mapping[str, Any]) -> str:
    """As Markdown."""
    conditions = [
        str(found[name]) + suffix
        for name, suffix in (("date", ""), ("machine", ""), ("hosts", " hosts"), ("repeat", " repetitions"))
        if name in found
    ]
    load = " · ".join(f"{load:.1f}" for load in found["load"])
    lines = [
        " · ".join([*conditions, f"load of the machine at the end {load}"]),
        "",
        "| workload | goal | median (runs) | of its ceiling |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        sign = "≥" if any(row["name"] == known.name and known.is_rate for known in ROWS) else "≤"
        goal = "" if row["goal"] is None else f"{sign} {quantity(row['goal'], row['unit'])}"
        mark = "" if row["is_met"] is not False else " ✗"
        ratio = "" if row["ratio_to_ceiling"] is None else f"{row['ratio_to_ceiling']:.0%}"
        lines.append(f"| {row['title']} | {goal} | {_spread(row)}{mark} | {ratio} |")
    return "\n".join(lines)


def _spread(row: Mapping[str, Any]) -> str:
    text = f"**{quantity(row['median'], row['unit'])}**"
    low, high = min(row["runs"]), max(row["runs"])
    return text if len(row["runs"]) == 1 else f"{text} ({number(low)} to {number(high)})"


def quantity(value: float, unit: str) -> str:
    """A number with its unit."""
    return f"{number(value)}{unit}" if unit in ("", "/s") else f"{number(value)} {unit}"


def number(value: float) -> str:
    """With three digits or so, as people write them."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
