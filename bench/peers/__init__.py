"""Others beside us: what installs from PyPI and keeps its state in Postgres, in the same run, on the same server.

Each runs in a process of its own, after our workloads and while our hosts are idle.
"""

import asyncio
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from statistics import median
from typing import Any

from bench.harness import Size
from bench.report import number, quantity
from bench.rows import ROWS
from bench.scene import Scene

PEERS = {"dbos": "bench.peers.dbos_app"}
"""Distribution on PyPI → program."""


async def measure_peers(
    scene: Scene, size: Size, repeat: int, failures: list[str]
) -> dict[str, dict[str, list[float]]]:
    """Figures by peer and row, of those that are installed; whoever fails is added to the failures."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, program in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: pip install 'perdure[bench-peers]'")
            continue
        print(f"  {name} …", flush=True)
        result = scene.directory / f"{name}.json"
        sizes = [str(value) for value in (size.seconds, size.warm_up_s, size.share, repeat)]
        process = scene.start_program(name, program, *sizes, str(result), PERDURE_DSN=scene.dsn)
        if await asyncio.to_thread(process.wait) or not result.exists():
            log = (scene.directory / f"{name}.log").read_text(errors="replace")
            print(log[-2_000:])
            failures.append(name)
            continue
        scene.stop_program(name)
        found[f"{name} {importlib.metadata.version(name)}"] = json.loads(result.read_text())
    return found


def peers_table(found: Mapping[str, Any]) -> str:
    """Side by side with ours, as Markdown."""
    ours = {row["name"]: row["median"] for row in found["rows"]}
    names = list(found["peers"])
    lines = [f"| workload | Perdure | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for row in ROWS:
        theirs = [found["peers"][name].get(row.name) for name in names]
        if not any(theirs):
            continue
        cells = [quantity(ours[row.name], row.unit) if row.name in ours else ""]
        for runs in theirs:
            spread = f" ({number(min(runs))} to {number(max(runs))})" if runs and len(runs) > 1 else ""
            cells.append(quantity(median(runs), row.unit) + spread if runs else "")
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)
