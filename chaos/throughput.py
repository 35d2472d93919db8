"""After `kill -9` of Postgres and a restart: how soon is throughput what it was? Nothing else is restarted.

So many callers call as fast as they are answered. Postgres and all its children are killed and started again; from the
moment at which it accepts connections the time is taken until half a second has at least nine tenths of the calls that
half seconds had before (their median).
"""

import asyncio
import contextlib
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import psutil
import psycopg

from campaigns.harness import Options
from campaigns.processes import strike, until_gone
from campaigns.verdict import Verdict, distribution

from .checks import check_rest
from .world import World, open_world

CALLERS = 64
ROUNDS = 3
BEFORE_S, AFTER_S = 6.0, 10.0
BUCKET_S, STEP_S = 0.5, 0.1
SHARE = 0.9
WITHIN_S = 5.0


async def run(options: Options, *, why_no_disk: str) -> Verdict:
    """The scenario."""
    verdict = Verdict("chaos postgres", options.seed)
    async with open_world(verdict, options, rate=1, disk_mb=4_000, why_no_disk=why_no_disk) as world:
        path = world.directory / "acks"
        path.touch()
        program = world.start_program("load-pressure", "chaos.pressure", str(CALLERS), str(path), **world.joining)
        await world.until("calls are answered", _has_grown(path))
        before = await _pids(world)
        rounds = [await _round(world, verdict, path, number) for number in range(1, (options.rounds or ROUNDS) + 1)]
        verdict.holds("nothing else was restarted", await _pids(world) == before, f"{len(before)} processes as before")
        await world.stop_load()
        acked = len(_ends(path))
        verdict.holds("the client lived", program.returncode == 0, f"{acked} calls")
        [row] = await world.sql("select sum((state->>'value')::int)::int as value from entities where type = 'Flooded'")
        verdict.holds("none lost", row["value"] >= acked, f"{acked} acknowledged, {row['value']} in the entities")
        await check_rest(verdict, world)
        verdict.figure("accepts connections → 90 % of the calls", distribution(rounds))
    return verdict


def _has_grown(path: Path) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return path.stat().st_size > 8_000

    return check


async def _pids(world: World) -> set[int]:
    hosts = {host.pid for host in await world.until_whole()}
    return hosts | {await world.supervisor_pid()} | {program.pid for program in world.programs.values()}


async def _round(world: World, verdict: Verdict, path: Path, number: int) -> float:
    await asyncio.sleep(BEFORE_S + 1)
    pid = world.postgres.postmaster_pid
    assert pid is not None
    postmaster = psutil.Process(pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    killed_at = strike(processes)
    await until_gone(processes)
    starting = asyncio.create_task(asyncio.to_thread(world.postgres.start))
    accepts_at = await _accepts(world.dsn)
    await starting
    await asyncio.sleep(AFTER_S)
    ends = _ends(path)
    usual = median(_count(ends, killed_at - BEFORE_S + step * BUCKET_S) for step in range(round(BEFORE_S / BUCKET_S)))
    took_s = _back(ends, accepts_at, usual)
    after = [_count(ends, accepts_at + step * BUCKET_S) for step in range(round(AFTER_S / BUCKET_S))]
    verdict.holds(
        f"round {number}: ≥ {SHARE:.0%} within {WITHIN_S:g} s",
        took_s <= WITHIN_S,
        f"{took_s:.1f} s after it accepted connections ({accepts_at - killed_at:.1f} s after the kill); "
        f"{usual / BUCKET_S:.0f} calls/s before, then per half second: {after}",
    )
    return took_s


async def _accepts(dsn: str) -> float:
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(dsn, connect_timeout=2):
                return time.time()
        await asyncio.sleep(0.02)


def _ends(path: Path) -> list[float]:
    data = path.read_bytes()
    return sorted(end for (end,) in struct.iter_unpack("d", data[: len(data) // 8 * 8]))


def _count(ends: list[float], since: float) -> int:
    return sum(since <= end < since + BUCKET_S for end in ends)


def _back(ends: list[float], since: float, usual: float) -> float:
    """Until the end of the first half second with enough calls."""
    for step in range(round((AFTER_S - BUCKET_S) / STEP_S)):
        begin = since + step * STEP_S
        if _count(ends, begin) >= SHARE * usual:
            return begin + BUCKET_S - since
    return AFTER_S
