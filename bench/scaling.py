"""Throughput against the number of hosts, of keys and of callers, and the size of the state: `python -m bench.scaling`.

One thing changes at a time; the others are as in the main table (2 hosts, 1,000 keys, 256 callers, a state of 11
bytes). On one machine more hosts share the same cores: what their number shows there is what is shared besides.
"""

import argparse
import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from .entities import Padded
from .harness import FULL, QUICK, Loops, Size, closed_loops, each
from .report import number, report
from .scene import Scene, open_scene
from .workloads.calls import CALLERS, KEYS, calls_over

HOSTS = (1, 2)
KEY_COUNTS = (1, 10, 100, 1_000, 10_000, 100_000)
STATE_BYTES = (100, 1_000, 10_000, 100_000, 1_000_000)
CALLER_COUNTS = (1, 4, 16, 64, 256, 1_024, 4_096)
STATE_KEYS = 64
STATE_CALLERS = 64
"""With a large state: a thousand of the largest ones would be a gigabyte."""

Point = tuple[int, Loops]
Sweep = Callable[[Scene, Size], AsyncGenerator[Point]]


async def _calls(size: Size, *, callers: int = CALLERS, keys: int = KEYS) -> Loops:
    return await closed_loops(calls_over(keys), callers=callers, seconds=size.seconds, warm_up_s=size.warm_up_s)


async def over_hosts(scene: Scene, size: Size) -> AsyncGenerator[Point]:
    """1 and 2 hosts."""
    before = scene.cluster
    for hosts in HOSTS:
        await scene.use(dataclasses.replace(before, hosts=hosts))
        yield hosts, await _calls(size)
    await scene.use(before)


async def over_keys(_: Scene, size: Size) -> AsyncGenerator[Point]:
    """From one key to a hundred thousand; what is not in memory yet is activated on the way."""
    for keys in KEY_COUNTS:
        yield keys, await _calls(size, keys=keys)


async def over_callers(_: Scene, size: Size) -> AsyncGenerator[Point]:
    """From one to more than can be served at once: goodput should stay flat, latency grow with their number."""
    for callers in CALLER_COUNTS:
        yield callers, await _calls(size, callers=callers)


async def over_state(_: Scene, size: Size) -> AsyncGenerator[Point]:
    """From 100 bytes to a megabyte, written whole by every turn."""
    for state in STATE_BYTES:

        async def fill(one: int, state: int = state) -> None:
            await Padded.ref(f"padded-{one}").fill(state)

        async def add(caller: int, n: int) -> None:
            await Padded.ref(f"padded-{(caller + n) % STATE_KEYS}").add(1)

        await each(fill, STATE_KEYS, at_once=8)
        callers = min(STATE_CALLERS, max(4, 10_000_000 // state))
        yield state, await closed_loops(add, callers=callers, seconds=size.seconds, warm_up_s=size.warm_up_s)


SWEEPS: dict[str, Sweep] = {
    "hosts": over_hosts,
    "keys": over_keys,
    "callers": over_callers,
    "state bytes": over_state,
}


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sweeps whose name holds `--only`."""
    size: Size = QUICK if arguments.quick else FULL
    curves: dict[str, dict[int, dict[str, list[float]]]] = {}
    async with open_scene(arguments.dsn) as scene:
        for _ in range(1 if arguments.quick else arguments.repeat):
            for name in (name for name in SWEEPS if arguments.only in name):
                print(f"  {name} …", flush=True)
                async for at, loops in SWEEPS[name](scene, size):
                    point = curves.setdefault(name, {}).setdefault(at, {"per_second": [], "p50_ms": [], "p99_ms": []})
                    point["per_second"].append(loops.rate)
                    point["p50_ms"].append(loops.percentile_ms(50))
                    point["p99_ms"].append(loops.percentile_ms(99))
    return report({}, curves=curves)


def table(found: dict[str, Any]) -> str:
    """One table for each sweep."""
    lines = [f"{found['date']} · {found['machine']}"]
    for name, points in found["curves"].items():
        lines += ["", f"| {name} | per second (runs) | p50 | p99 |", "|---|---|---|---|"]
        for at, point in points.items():
            rates = point["per_second"]
            lines.append(
                f"| {at:,} | **{number(median(rates))}** ({number(min(rates))} to {number(max(rates))}) "
                f"| {number(median(point['p50_ms']))} ms | {number(median(point['p99_ms']))} ms |"
            )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--dsn", help="use this Postgres instead of an embedded one")
    parser.add_argument("--only", default="", metavar="NAME", help=f"sweeps whose name holds this: {', '.join(SWEEPS)}")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(arguments))
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
