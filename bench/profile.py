"""Where the time goes: `python -m bench.profile calls`.

Runs a workload under py-spy (install `perdure[bench]`), one recorder for each of hosts, gateway and client, and prints
the functions with the most time of their own, as a share of the samples in which Python was running. Then what Postgres
says: the dearest statements (pg_stat_statements, if the server has it), and with `--explain` the plans of one group
commit with the buffers and the write-ahead log that they used.
"""

import argparse
import asyncio
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from perdure.cluster.postgres.migrations import upgrade
from perdure.cluster.stores import StoreAddress

from .ceilings.commit import KEYS, batch_maker, open_session
from .ceilings.commit import NAMESPACE as CEILING
from .harness import FULL, Cost, Figures, Meter, Size
from .report import number
from .scene import Scene, open_scene
from .suite import choose
from .usage import cpu_s

RATE = 100
"""Samples per second and process; more slow down what they look at."""
TOP = 25
EXPLAINED = 100
"""Turns in the commit that is explained."""


def _spy() -> str:
    """The program. Raises FileNotFoundError."""
    found = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if found is None:
        raise FileNotFoundError("py-spy is not installed: pip install 'perdure[bench]'")
    return found


@asynccontextmanager
async def _recorded(pids: list[int], directory: Path) -> AsyncGenerator[list[Path]]:
    """While this runs, stacks are written into these files, one for each process."""
    files = [directory / f"stacks-{pid}" for pid in pids]
    options = ["--format", "raw", "--rate", str(RATE), "--gil", "--nonblocking", "--duration", "600"]
    recorders = [
        await asyncio.create_subprocess_exec(
            *(_spy(), "record", *options, "--pid", str(pid), "--output", str(file)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        for pid, file in zip(pids, files, strict=True)
    ]
    try:
        await asyncio.sleep(0.5)  # they attach
        yield files
    finally:
        for recorder in recorders:
            if recorder.returncode is None:
                recorder.send_signal(2)  # as Ctrl-C: they write what they have
        for recorder in recorders:
            _, said = await recorder.communicate()
            if recorder.returncode not in (0, 1, -2):
                print(said.decode(errors="replace"), file=sys.stderr)


def own_time(stacks: str) -> Counter[str]:
    """Samples by the function in which they were, from lines of `frame;frame;frame count`."""
    found: Counter[str] = Counter()
    for stack, samples in _parsed(stacks):
        found[_function(stack[-1])] += samples
    return found


def with_callees(stacks: str) -> Counter[str]:
    """Samples by the functions that were on the stack."""
    found: Counter[str] = Counter()
    for stack, samples in _parsed(stacks):
        for function in {_function(frame) for frame in stack}:
            found[function] += samples
    return found


def _parsed(stacks: str) -> Iterator[tuple[list[str], int]]:
    """Each stack from the outermost frame on, and its samples. What else the recorder writes is left out."""
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        if stack and samples.isdigit():
            yield stack.split(";"), int(samples)


def _function(frame: str) -> str:
    """`name (file:line)` without the line."""
    name, _, place = frame.partition(" (")
    return f"{name} ({place.rpartition(':')[0] or place})"


def _show(side: str, stacks: str, used_s: float, top: int) -> None:
    own, total = own_time(stacks), with_callees(stacks)
    samples = own.total()
    print(f"\n{side}: {number(used_s)} s of CPU, {samples} samples\n\n| own | with callees | function |\n|---|---|---|")
    for function, count in own.most_common(top):
        print(f"| {count / samples:.1%} | {total[function] / samples:.1%} | `{function}` |")
    print("\n| with callees | function |\n|---|---|")
    for function, count in total.most_common(top):
        print(f"| {count / samples:.1%} | `{function}` |")


async def _profile(scene: Scene, measure: Callable[[Scene, Size], Awaitable[Figures]], size: Size, top: int) -> None:
    await measure(scene, size)  # warm; and it starts the gateway, if it needs one
    if await _has_statistics(scene):
        await scene.sql("select pg_stat_statements_reset()")
    sides = {side: pids for side, pids in (await scene.sides()).items() if side != "postgres"}
    meter = Meter(scene)
    pids = [pid for pids in sides.values() for pid in pids]
    await meter.start()
    used = {pid: cpu_s([pid]) for pid in pids}
    async with _recorded(pids, scene.directory) as files:
        figures = await measure(scene, size)
    used = {pid: cpu_s([pid]) - before for pid, before in used.items()}
    _show_cost(await meter.stop(), figures)
    for side, members in sides.items():
        of_side = [file for pid, file in zip(pids, files, strict=True) if pid in members and file.exists()]
        if of_side:
            stacks = "\n".join(file.read_text() for file in of_side)
            _show(side, stacks, sum(used[pid] for pid in members), top)


def _show_cost(cost: Cost, figures: Figures) -> None:
    print("\nunder the profiler: " + " · ".join(f"{name} {number(value)}" for name, value in figures.items()))
    print(f"{cost.turns} turns; CPU seconds per 1,000 of them: ", end="")
    print(" · ".join(f"{side} {cost.cpu_per_1000(side):.3f}" for side in cost.cpu_s))


async def _has_statistics(scene: Scene) -> bool:
    return bool(await scene.sql("select from pg_extension where extname = 'pg_stat_statements'"))


async def _show_statements(scene: Scene) -> None:
    if not await _has_statistics(scene):
        print("\nPostgres: this server has no pg_stat_statements")
        return
    rows = await scene.sql(
        "select total_exec_time, calls, rows, shared_blks_hit, shared_blks_dirtied, wal_bytes,"
        " regexp_replace(left(query, 110), '\\s+', ' ', 'g') from pg_stat_statements order by total_exec_time"
        " desc limit 12"
    )
    print("\nPostgres\n\n| ms in all | calls | ms each | rows | blocks hit | dirtied | WAL bytes | statement |")
    print("|---|---|---|---|---|---|---|---|")
    for total, calls, returned, hit, dirtied, wal, query in rows:
        cells = (total, calls, total / calls, returned, hit, dirtied, float(wal))
        print(f"| {' | '.join(number(float(cell)) for cell in cells)} | `{query}` |")


async def _explain(scene: Scene) -> None:
    await asyncio.to_thread(upgrade, scene.dsn, CEILING)
    store = StoreAddress(dsn=scene.dsn, namespace=CEILING).open()
    try:
        maker = await batch_maker(store)
    finally:
        await store.close()
    session = await open_session(scene.dsn)
    try:
        for _ in range(2 * KEYS // EXPLAINED):  # they exist, and the statements are prepared
            await session.transact(maker.batch("explained", EXPLAINED))
        statements = maker.batch("explained", EXPLAINED)
        plans = await session.transact(
            [(f"explain (analyze, buffers, wal) {statement}", values) for statement, values in statements]
        )
    finally:
        await session.close()
    for (statement, _), plan in zip(statements, plans, strict=True):
        print(f"\n{' '.join(statement.split())[:110]}\n")
        print("\n".join(f"    {text}" for (text,) in plan))


async def _run(arguments: argparse.Namespace) -> None:
    _spy()
    [workload] = choose([arguments.workload], large=False)[:1]
    async with open_scene(arguments.dsn, has_statistics=True) as scene:
        await _profile(scene, workload.measure, FULL, arguments.top)
        await _show_statements(scene)
        if arguments.explain:
            await _explain(scene)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("workload", help="as --only of `python -m bench`")
    parser.add_argument("--dsn", help="use this Postgres instead of an embedded one")
    parser.add_argument("--top", type=int, default=TOP, help="functions shown of each process")
    parser.add_argument("--explain", action="store_true", help="also the plans of a group commit")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(arguments))


if __name__ == "__main__":
    main()
