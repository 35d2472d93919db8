"""Hosts killed with workflows under way: how long until all of them are done, and which steps were executed twice."""

import asyncio
import time
from collections import Counter
from pathlib import Path

from bench.entities import STEPS, Interrupted
from bench.harness import Figures, Size, each
from bench.scene import Scene

WORKFLOWS = 500
SLEEP_S = 2.0
AT_ONCE = 64


async def measure(scene: Scene, size: Size) -> Figures:
    """SIGKILL for every host when all workflows have been started; from then to the last result."""
    number, base = size.of(WORKFLOWS), next(scene.keys)
    path = scene.directory / f"steps-{base}"

    def run(one: int) -> Interrupted:
        return Interrupted.ref(f"interrupted-{base}-{one}")

    async def start(one: int) -> None:
        await run(one).run.start(str(path), SLEEP_S)

    async def finish(one: int) -> None:
        await run(one).run.result()

    await scene.until_whole()
    pids = await scene.host_pids()
    await each(start, number, at_once=AT_ONCE)
    killed = time.perf_counter()
    await scene.kill_hosts()
    async with asyncio.timeout(120):
        await each(finish, number, at_once=number)
    done_s = time.perf_counter() - killed
    await scene.until_whole(without=pids)
    return {"killed": done_s, "killed_twice": _twice(path, number)}


def _twice(path: Path, number: int) -> float:
    """Executions of steps beyond the first. A step that is missing would be a broken promise, not a slow one."""
    executions = Counter(path.read_text().splitlines())
    assert len(executions) == number * STEPS, f"{len(executions)} steps of {number * STEPS} were executed"
    return float(executions.total() - len(executions))
