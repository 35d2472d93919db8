"""What a campaign found: checks that hold or do not, figures, and faults that really happened."""

import json
import math
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

SHOWN_MAX = 8


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statement that must hold."""

    name: str
    is_ok: bool
    detail: str


@dataclass
class Verdict:
    """Collected during a campaign, printed at its end."""

    campaign: str
    seed: int
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def is_ok(self) -> bool:
        """Whether something was checked and everything held."""
        return bool(self.checks) and all(check.is_ok for check in self.checks)

    def holds(self, name: str, is_ok: bool, detail: object = "") -> None:
        """Note a check."""
        self.checks.append(Check(name=name, is_ok=bool(is_ok), detail=str(detail)))

    def none_of(self, name: str, violations: Sequence[object], checked: object = "") -> None:
        """Note a check that holds if there are no violations; `checked`: how much was looked at."""
        self.holds(name, not violations, f"{len(violations)} violations; {checked}" if violations else checked)
        self.violations += [f"{name}: {violation}" for violation in violations]

    def figure(self, name: str, value: Any) -> None:
        """Note a measured value."""
        self.figures[name] = value

    def render(self) -> str:
        """The table for people."""
        width = max([len(check.name) for check in self.checks] + [len(name) for name in self.figures] + [20])
        outcome = "PASSED" if self.is_ok else "VIOLATED"
        took = f"{time.monotonic() - self.started:.0f} s; {machine()}"
        lines = ["", f"campaign {self.campaign}, seed {self.seed}: {outcome} ({took})", ""]
        lines += [f"  {'ok  ' if c.is_ok else 'FAIL'}  {c.name:<{width}}  {c.detail}" for c in self.checks]
        lines += ["", *(f"        {name:<{width}}  {_shown(value)}" for name, value in self.figures.items())]
        if self.violations:
            lines += ["", "  violations:", *(f"    {line}" for line in self.violations[: SHOWN_MAX * 5])]
        return "\n".join([*lines, ""])

    def to_json(self) -> str:
        """Everything, for programs."""
        return json.dumps(
            {
                "campaign": self.campaign,
                "seed": self.seed,
                "is_ok": self.is_ok,
                "machine": machine(),
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "checks": [vars(check) for check in self.checks],
                "figures": self.figures,
                "violations": self.violations,
            },
            indent=2,
            default=str,
        )


def _shown(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def machine() -> str:
    """What it ran on."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def distribution(values: Sequence[float], unit: str = "s") -> str:
    """Median and tail, for people."""
    if not values:
        return "nothing was measured"
    points = {"p50": quantile(values, 0.5), "p90": quantile(values, 0.9), "max": max(values), "min": min(values)}
    return f"n={len(values)} " + " ".join(f"{name} {value:.2f} {unit}" for name, value in points.items())
