# pyright: reportMissingImports=false
"""DBOS, set up for asyncio as it documents: `python -m bench.peers.dbos_app SECONDS WARM_UP SHARE REPEAT FILE`.

The database comes from PERDURE_DSN; it gets a schema of its own. What it has no word for it does with its nearest:
an entity call is a workflow of one step (there is no state and no order of messages in it, so it is less than ours).
"""

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import uvloop
from dbos import DBOS, DBOSConfig, SetWorkflowID

from bench.harness import Figures, Size, closed_loops, each, percentile

STEPS = 5
SCHEMA = "dbos_bench"
POOL = 20


@DBOS.step()
async def no_op(step: int) -> int:
    return step


@DBOS.workflow()
async def one_step(amount: int) -> int:
    done: int = await no_op(amount)  # without DBOS installed, its type is not known
    return done


@DBOS.workflow()
async def five_steps() -> int:
    for step in range(STEPS):
        await no_op(step)
    return STEPS


@DBOS.workflow()
async def patient() -> Any:
    return await DBOS.recv_async(timeout_seconds=600)


@DBOS.workflow()
async def alarm(due_s: float) -> float:
    await DBOS.sleep_async(due_s - time.time())
    return time.time() - due_s


async def _calls(size: Size) -> Figures:
    async def call(_caller: int, _n: int) -> None:
        await one_step(1)

    many = await closed_loops(call, callers=256, seconds=size.seconds, warm_up_s=size.warm_up_s)
    alone = await closed_loops(call, callers=1, seconds=size.seconds, warm_up_s=size.warm_up_s)
    return {"call": many.rate, "call_alone": alone.percentile_ms(50)}


async def _steps(size: Size) -> Figures:
    async def run(_caller: int, _n: int) -> None:
        await five_steps()

    many = await closed_loops(run, callers=64, seconds=size.seconds, warm_up_s=size.warm_up_s)
    alone = await closed_loops(run, callers=1, seconds=size.seconds, warm_up_s=size.warm_up_s)
    return {"steps": many.rate, "steps_alone": alone.percentile_ms(50)}


async def _signals(size: Size) -> Figures:
    number, base = size.of(1_000), time.time_ns()
    waiting: dict[int, Any] = {}

    async def start(one: int) -> None:
        with SetWorkflowID(f"patient-{base}-{one}"):
            waiting[one] = await DBOS.start_workflow_async(patient)

    async def complete(one: int) -> None:
        await DBOS.send_async(f"patient-{base}-{one}", one)
        assert await waiting[one].get_result() == one

    await each(start, number, at_once=64)
    return {"signals": number / await each(complete, number, at_once=64)}


async def _timers(size: Size) -> Figures:
    number = size.of(2_000)  # a fifth of ours: it needs many seconds to start them
    first_s = time.time() + max(2.0, number / 50)
    spread_s = 5.0
    alarms: list[Any] = []

    async def start(one: int) -> None:
        alarms.append(await DBOS.start_workflow_async(alarm, first_s + spread_s * one / number))

    await each(start, number, at_once=128)
    late = sorted([await handle.get_result() for handle in alarms])
    return {"timers": percentile(late, 99) * 1e3, "timers_p50": percentile(late, 50) * 1e3}


async def _measure(size: Size, repeat: int) -> dict[str, list[float]]:
    results: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeat):
        for workload in (_calls, _steps, _signals, _timers):
            for name, value in (await workload(size)).items():
                results[name].append(value)
    return dict(results)


def main() -> None:
    seconds, warm_up_s, share, repeat, file = sys.argv[1:]
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": os.environ["PERDURE_DSN"].replace("postgresql://", "postgresql+psycopg://"),
        "dbos_system_schema": SCHEMA,
        "sys_db_pool_size": POOL,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            size = Size(seconds=float(seconds), warm_up_s=float(warm_up_s), share=float(share))
            found = runner.run(_measure(size, int(repeat)))
    finally:
        DBOS.destroy()
    Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
