"""Measure the whole path on this machine: client → Ray → host → group commit in Postgres with fsync → reply.

Starts an embedded Postgres (or uses `--dsn`), a local Ray and the hosts, runs every workload several times in turn, and
prints the median with the spread over the repetitions, beside the goal and the ratio to the ceiling.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

from .harness import FULL, QUICK, Size
from .peers import measure_peers, peers_table
from .report import report, table
from .scene import open_scene
from .suite import WORKLOADS, choose, run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--dsn", help="use this Postgres instead of an embedded one")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--seconds", type=float, help="measured time of what runs for a time (default 5)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="workloads whose name holds this; may be given several times: " + ", ".join(w.name for w in WORKLOADS),
    )
    parser.add_argument("--large", action="store_true", help="also what takes a quarter of an hour")
    parser.add_argument("--quick", action="store_true", help="everything once and tiny: does it work at all?")
    parser.add_argument("--peers", action="store_true", help="others beside us (pip install 'perdure[bench-peers]')")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    arguments = parser.parse_args()
    try:
        choose(arguments.only, large=arguments.large)
    except ValueError as error:
        parser.error(str(error))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(arguments))
    print(table(found))
    if found["peers"]:
        print(f"\n{peers_table(found)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if found["failures"]:
        sys.exit("failed: " + "; ".join(found["failures"]))


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    size: Size = QUICK if arguments.quick else FULL
    if arguments.seconds:
        size = dataclasses.replace(size, seconds=arguments.seconds)
    repeat = 1 if arguments.quick else arguments.repeat
    chosen = choose(arguments.only, large=arguments.large)
    async with open_scene(arguments.dsn, hosts=arguments.hosts) as scene:
        results, failures = await run(scene, chosen, size, repeat)
        peers = await measure_peers(scene, size, repeat, failures) if arguments.peers else {}
    return report(results, hosts=arguments.hosts, seconds=size.seconds, repeat=repeat, peers=peers, failures=failures)


if __name__ == "__main__":
    main()
