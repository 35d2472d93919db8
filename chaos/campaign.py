"""Load, faults one after another as the seed draws them, rest, and the checks."""

import asyncio
import contextlib
import math
import time
import traceback

import psycopg

from campaigns.harness import Options
from campaigns.verdict import Verdict

from .checks import CUT, check_all, is_money_right
from .faults import FAULTS, Fault, Injury, draw, usable
from .faults.misbehaviour import ask
from .load import SAFES
from .ops import read_ops
from .table import tabulate
from .world import World, open_world

PAUSE_S = (0.2, 1.0)
"""Between a recovery and the next fault."""
WARM_S = 3.0
LOOK_EVERY_S = 0.5
SLACK_S = 10.0
"""So much longer than asked for it may take: a fault that would take longer is not begun."""


async def run(
    options: Options, *, minutes: float, rate: float, kinds: list[str], reminders: int, disk: str = ""
) -> Verdict:
    """The campaign: faults for so many minutes (0: each kind once), each kind that fits once before any comes twice."""
    verdict = Verdict("chaos", options.seed)
    disk_mb = round(1_500 + 250 * minutes)
    async with open_world(verdict, options, rate=rate, disk_mb=disk_mb, why_no_disk=disk) as world:
        world.reminders = reminders
        chosen = usable(kinds or list(FAULTS), world.skipped)
        for kind, why in world.skipped.items():
            print(f"  SKIPPED {kind}: {why}", flush=True)
        looking = await begin(world)
        injuries = await _inflict(world, verdict, chosen, options.seed, minutes * 60)
        await finish(world, verdict, injuries, looking)
    return verdict


async def begin(world: World) -> "asyncio.Task[list[str]]":
    """Safes opened, clients at work, somebody looking at the money."""
    await _open_safes(world)
    await world.start_load()
    looking = asyncio.create_task(_look(world))
    await asyncio.sleep(WARM_S)
    return looking


async def finish(world: World, verdict: Verdict, injuries: list[Injury], looking: "asyncio.Task[list[str]]") -> None:
    """No more load; everything comes to rest; then look at what is there."""
    await asyncio.sleep(WARM_S)
    await world.stop_load()
    looking.cancel()
    wrong = (await asyncio.gather(looking, return_exceptions=True))[0]
    verdict.none_of("money conserved at every cut", wrong if isinstance(wrong, list) else [repr(wrong)])
    ops, said = await asyncio.to_thread(read_ops, world.op_files)
    await check_all(verdict, world, ops, said)
    tabulate(verdict, injuries, ops, world.skipped)


async def _inflict(world: World, verdict: Verdict, faults: list[Fault], seed: int, seconds: float) -> list[Injury]:
    injuries: list[Injury] = []
    began = time.monotonic()
    for fault in draw(seed, faults) if seconds else faults:
        left_s = began + seconds - time.monotonic() if seconds else math.inf
        if left_s <= 0 or (injuries and all(other.seconds > left_s + SLACK_S for other in faults)):
            break
        if fault.seconds > left_s + SLACK_S and injuries:
            continue
        await asyncio.sleep(world.rng.uniform(*PAUSE_S))
        injury = Injury(fault.kind)
        injuries.append(injury)
        try:
            await fault.inflict(world, injury)
        except Exception as error:
            traceback.print_exc()
            verdict.none_of(f"fault {fault.kind} heals", [repr(error)])
            break
        finally:
            injury.healed_at = time.time()
            took = injury.healed_at - injury.at
            evidence = "; ".join(injury.evidence)
            print(f"  {time.monotonic() - began:6.1f} s  {fault.kind} ({took:.1f} s): {evidence}", flush=True)
    return injuries


async def _open_safes(world: World) -> None:
    await asyncio.gather(*(ask(world, "POST", f"Safe/s{number}/open", {}) for number in range(SAFES)))


async def _look(world: World) -> list[str]:
    """Cuts through all safes until it is cancelled; those that are wrong."""
    wrong: list[str] = []
    try:
        while True:
            with contextlib.suppress(psycopg.Error):  # Postgres is down for longer than anybody waits
                [row] = await world.sql(CUT)
                if not is_money_right(row, at_rest=False):
                    wrong.append(str(row))
            await asyncio.sleep(LOOK_EVERY_S)
    except asyncio.CancelledError:
        return wrong
