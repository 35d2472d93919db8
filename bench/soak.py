"""The same load for a long time: does anything drift? `python -m bench.soak --minutes 20`.

256 callers over 1,000 keys beside 16 workflows of five steps. Each minute: throughput, latency, size of the tables,
dead rows, autovacuum runs, write-ahead log, memory of the hosts. At the end: the last third against the first.
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from .entities import Steps
from .harness import percentile
from .report import number, report
from .scene import NAMESPACE, Scene, open_scene
from .usage import memory_bytes
from .workloads.calls import CALLERS, KEYS, calls_over

WORKFLOWS = 16


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One interval."""

    minute: float
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    workflows_per_s: float
    stored_mb: float
    bytes_per_turn: float
    """Growth of the tables and indexes in this interval, for each turn."""
    wal_bytes_per_turn: float
    dead_rows: int
    autovacuums: int
    """Since the beginning."""
    hosts_mb: float


class Load:
    """Callers in closed loops until they are told to end; what they do is taken interval by interval."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._latencies: list[float] = []
        self._runs = 0
        self._is_over = False

    async def run(self) -> None:
        """All callers."""
        async with asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(self._call(caller))
            for _ in range(WORKFLOWS):
                group.create_task(self._workflow())

    async def _call(self, caller: int) -> None:
        call = calls_over(KEYS)
        for n in count():
            if self._is_over:
                return
            began = time.perf_counter()
            await call(caller, n)
            self._latencies.append(time.perf_counter() - began)

    async def _workflow(self) -> None:
        while not self._is_over:
            steps = Steps.ref(f"soak-{next(self._scene.keys)}")
            await steps.run.start()
            await steps.run.result()
            self._runs += 1

    def take(self) -> tuple[list[float], int]:
        """Latencies of calls in order, and the number of workflows, since the last time."""
        latencies, runs = self._latencies, self._runs
        self._latencies, self._runs = [], 0
        return sorted(latencies), runs

    def end(self) -> None:
        """Each caller finishes what it is doing."""
        self._is_over = True


async def measure(scene: Scene, *, minutes: float, every_s: float) -> list[Sample]:
    """Run the load and look at it."""
    load, samples = Load(scene), list[Sample]()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        began = before = time.monotonic()
        counted = await _counters(scene)
        load.take()
        while time.monotonic() - began < minutes * 60:
            await asyncio.sleep(every_s)
            latencies, runs = load.take()
            now, counters = time.monotonic(), await _counters(scene)
            turns = max(1, counters["turns"] - counted["turns"])
            sample = Sample(
                minute=(now - began) / 60,
                calls_per_s=len(latencies) / (now - before),
                p50_ms=percentile(latencies, 50) * 1e3,
                p99_ms=percentile(latencies, 99) * 1e3,
                workflows_per_s=runs / (now - before),
                stored_mb=counters["stored"] / 1e6,
                bytes_per_turn=(counters["stored"] - counted["stored"]) / turns,
                wal_bytes_per_turn=(counters["wal"] - counted["wal"]) / turns,
                dead_rows=counters["dead"],
                autovacuums=counters["autovacuums"],
                hosts_mb=memory_bytes(await scene.host_pids()) / 1e6,
            )
            samples.append(sample)
            print(line(sample), flush=True)
            before, counted = now, counters
        load.end()
    return samples


async def _counters(scene: Scene) -> dict[str, int]:
    [(dead, autovacuums)] = await scene.sql(
        "select sum(n_dead_tup)::int8, sum(autovacuum_count)::int8 from pg_stat_user_tables where schemaname = %s",
        NAMESPACE,
    )
    return {
        "dead": dead,
        "autovacuums": autovacuums,
        "turns": (await scene.stats())["turns"],
        "wal": await scene.wal_bytes(),
        "stored": await scene.stored_bytes(),
    }


HEADER = (
    "| minute | calls/s | p50 ms | p99 ms | workflows/s | stored MB | bytes/turn | WAL/turn | dead rows | autovacuums "
    "| hosts MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def line(sample: Sample) -> str:
    """A row of the table."""
    return f"| {' | '.join(number(value) for value in asdict(sample).values())} |"


DRIFTING = ("calls_per_s", "p50_ms", "p99_ms", "workflows_per_s", "bytes_per_turn", "wal_bytes_per_turn", "hosts_mb")


def drift(samples: list[Sample]) -> dict[str, float]:
    """Median of the last third divided by that of the first one."""
    third = max(1, len(samples) // 3)
    found: dict[str, float] = {}
    for name in DRIFTING:
        first = median(getattr(sample, name) for sample in samples[:third])
        last = median(getattr(sample, name) for sample in samples[-third:])
        if first:
            found[name] = last / first
    return found


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    async with open_scene(arguments.dsn) as scene:
        samples = await measure(scene, minutes=arguments.minutes, every_s=arguments.every)
    return report({}, samples=[asdict(sample) for sample in samples], drift=drift(samples))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--dsn", help="use this Postgres instead of an embedded one")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    print(HEADER, flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_run(arguments))
    print("\nlast third ÷ first third: " + " · ".join(f"{name} {ratio:.2f}" for name, ratio in found["drift"].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
