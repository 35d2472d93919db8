"""Measure the whole path: client → Ray → host → group commit in Postgres → reply, on this machine.

Starts an embedded Postgres (or uses `--dsn`), a local Ray and the hosts, runs every workload several times in turn, and
prints the median with the spread over the repeats.
"""

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from perdure.cluster.connect import connect, down, up
from perdure.cluster.embedded import open_postgres
from perdure.cluster.postgres.migrations import upgrade

from .workloads import WORKLOADS, Figures, Workload, run

NAMESPACE = "bench"
ENTITIES = ["bench.entities:Counter", "bench.entities:Steps"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--dsn", help="use this Postgres instead of an embedded one")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=_data_root())))
        directory.chmod(0o755)  # as root, Postgres runs under another account
        dsn = stack.enter_context(open_postgres(arguments.dsn, directory))
        upgrade(dsn, NAMESPACE)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(dsn, arguments))


def _data_root() -> str:
    """A real disk: /tmp may be memory, and then a commit costs nothing."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else tempfile.gettempdir()


async def _measure(dsn: str, arguments: argparse.Namespace) -> None:
    await up(dsn=dsn, entities=ENTITIES, hosts=arguments.hosts, namespace=NAMESPACE)
    chosen = [workload for workload in WORKLOADS if arguments.only in workload.name]
    results: dict[tuple[str, int], list[Figures]] = defaultdict(list)
    async with await connect(dsn=dsn, namespace=NAMESPACE):
        for _ in range(arguments.repeats):
            for workload in chosen:
                figures = await run(workload, seconds=arguments.seconds, warm_up=1.0)
                results[workload.name, workload.callers].append(figures)
    await down(dsn=dsn, namespace=NAMESPACE)
    report = _report(chosen, results, arguments)
    print(_table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def _report(
    chosen: list[Workload], results: dict[tuple[str, int], list[Figures]], arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "hosts": arguments.hosts,
        "seconds": arguments.seconds,
        "workloads": [
            {
                "name": workload.name,
                "callers": workload.callers,
                "per_second": round(median(f.rate for f in runs), 1),
                "per_second_runs": [round(f.rate, 1) for f in runs],
                "p50_ms": round(median(f.p50_ms for f in runs), 2),
                "p99_ms": round(median(f.p99_ms for f in runs), 2),
            }
            for workload in chosen
            for runs in [results[workload.name, workload.callers]]
        ],
    }


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['date']} · {report['machine']} · {report['hosts']} hosts",
        "",
        "| workload | callers | per second (runs) | p50 | p99 |",
        "|---|---|---|---|---|",
    ]
    for row in report["workloads"]:
        low, high = min(row["per_second_runs"]), max(row["per_second_runs"])
        lines.append(
            f"| {row['name']} | {row['callers']} | **{row['per_second']:,.0f}** ({low:,.0f} to {high:,.0f}) "
            f"| {row['p50_ms']:.1f} ms | {row['p99_ms']:.1f} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
