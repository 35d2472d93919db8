"""The rows of the table: what each is called, its goal, and the ceiling that it is compared with.

The ceiling of a row is what the bare parts of its path allow, as measured in the same run (bench/ceilings): for rates
the slowest part, for latencies the sum of the parts. A ratio of 100 % would mean that Perdure costs nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .workloads.killed import SLEEP_S

Values = Mapping[str, float]
Ceiling = Callable[[Values], float]

STEP_TURNS = 7
"""Commits of a workflow of five steps: its start, its first resume, and one for each step."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    unit: str
    goal: float | None = None
    is_rate: bool = False
    """More is better."""
    ceiling: Ceiling | None = None
    is_large: bool = False
    """Only with --large."""

    def is_met(self, value: float) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        if self.goal is None:
            return None
        return value >= self.goal if self.is_rate else value <= self.goal

    def ratio(self, value: float, values: Values) -> float | None:
        """How near it is to its ceiling, of which 1 is the most; None: there is none, or it was not measured."""
        if self.ceiling is None:
            return None
        try:
            ceiling = self.ceiling(values)
        except KeyError:
            return None
        low, high = (value, ceiling) if self.is_rate else (ceiling, value)
        return low / high if high > 0 else None


def _slowest(*names: str) -> Ceiling:
    return lambda values: min(values[name] for name in names)


def _sum(*names: str) -> Ceiling:
    return lambda values: sum(values[name] for name in names)


def _workflow(values: Values) -> float:
    return values["ceiling_commit"] / STEP_TURNS


def _workflow_alone(values: Values) -> float:
    return values["ceiling_ray_alone"] * 2 + values["ceiling_commit_alone"] * STEP_TURNS


def _signal(values: Values) -> float:
    return values["ceiling_commit"] / 2  # the signal is kept by one turn and received by the next


_CALL = _slowest("ceiling_commit", "ceiling_ray")
_CALL_ALONE = _sum("ceiling_commit_alone", "ceiling_ray_alone")

ROWS = [
    Row(
        name="call",
        title="entity call, 256 callers over 1,000 keys, client",
        unit="/s",
        goal=12_000,
        is_rate=True,
        ceiling=_CALL,
    ),
    Row(name="call_p99", title="- its p99", unit="ms"),
    Row(
        name="http",
        title="entity call, 256 callers over 1,000 keys, HTTP",
        unit="/s",
        goal=3_000,
        is_rate=True,
        ceiling=_slowest("ceiling_commit", "ceiling_ray", "ceiling_http"),
    ),
    Row(name="call_alone", title="entity call, one caller, p50, client", unit="ms", goal=2.5, ceiling=_CALL_ALONE),
    Row(
        name="http_alone",
        title="entity call, one caller, p50, HTTP",
        unit="ms",
        goal=4.0,
        ceiling=_sum("ceiling_commit_alone", "ceiling_ray_alone", "ceiling_http_alone"),
    ),
    Row(name="hot", title="one hot key, 64 callers", unit="/s", goal=12_000, is_rate=True, ceiling=_CALL),
    Row(
        name="steps",
        title="workflow of five no-op steps, 64 at a time",
        unit="/s",
        goal=2_000,
        is_rate=True,
        ceiling=_workflow,
    ),
    Row(name="steps_alone", title="the same, one at a time, p50", unit="ms", goal=8.0, ceiling=_workflow_alone),
    Row(
        name="signals",
        title="signal → completion of 1,000 waiting workflows, 64 senders",
        unit="/s",
        goal=5_000,
        is_rate=True,
        ceiling=_signal,
    ),
    Row(
        name="timers",
        title="10,000 timers due within 5 s: lateness, p99",
        unit="ms",
        goal=20.0,
        ceiling=_sum("ceiling_commit_alone"),
    ),
    Row(name="timers_p50", title="- their p50", unit="ms"),
    Row(
        name="timers_large",
        title="1,000,000 timers pending, 1,000 due in each second: lateness, p99",
        unit="s",
        goal=2.0,
        is_large=True,
    ),
    Row(
        name="killed",
        title="500 workflows mid-run, hosts killed: until all are done (2 s of it is sleep)",
        unit="s",
        goal=3.0,
        ceiling=lambda _: SLEEP_S,
    ),
    Row(name="killed_twice", title="- steps executed twice, of 2,500", unit=""),
    Row(name="memory_sleeping", title="host memory per sleeping workflow, after passivation", unit="bytes", goal=0.0),
    Row(name="memory_active", title="host memory per activated idle entity", unit="bytes", goal=3_000.0),
    Row(name="cold", title="cold activations (rehydrate and answer)", unit="/s", goal=5_000.0, is_rate=True),
    Row(name="old_first", title="one entity, 20,000 messages: p50 of the first 1,000", unit="ms", ceiling=_CALL_ALONE),
    Row(name="old_last", title="- p50 of the last 1,000", unit="ms", ceiling=_CALL_ALONE),
    Row(name="old_ratio", title="- the last against the first", unit="times", goal=1.05, ceiling=lambda _: 1.0),
    Row(name="old_restart", title="- its first answer after a restart, once the host is up", unit="ms", goal=100.0),
    Row(name="stored", title="bytes on disk per message", unit="bytes"),
    Row(name="wal", title="write-ahead log per turn", unit="bytes"),
    Row(name="turns_per_commit", title="turns in one group commit, of 256 callers", unit=""),
    Row(name="turns_per_ray_call", title="- in one Ray call", unit=""),
    Row(name="cpu_client", title="CPU per 1,000 turns of 256 callers: client", unit="s"),
    Row(name="cpu_gateway", title="- gateway (HTTP)", unit="s"),
    Row(name="cpu_hosts", title="- hosts", unit="s"),
    Row(name="cpu_postgres", title="- Postgres", unit="s"),
    Row(name="hot_cpu_hosts", title="- hosts, per 1,000 turns of the hot key", unit="s"),
    Row(name="steps_cpu_hosts", title="- hosts, per 1,000 workflows of five steps", unit="s"),
    Row(name="ceiling_commit", title="ceiling: bare array commits of 200 turns, two sessions", unit="/s", is_rate=True),
    Row(name="ceiling_commit_alone", title="ceiling: one turn, committed alone, p50", unit="ms"),
    Row(name="ceiling_ray", title="ceiling: bare Ray exchange, small frames, 1,000 in a call", unit="/s", is_rate=True),
    Row(name="ceiling_ray_alone", title="ceiling: one Ray call alone, p50", unit="ms"),
    Row(name="ceiling_http", title="ceiling: bare FastAPI echo, 256 connections", unit="/s", is_rate=True),
    Row(name="ceiling_http_alone", title="ceiling: one HTTP request alone, p50", unit="ms"),
]
BY_NAME = {row.name: row for row in ROWS}
