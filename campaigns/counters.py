"""counters: many callers add to a thousand counters while a host is killed every five seconds.

Afterwards each counter holds its acknowledged increments, plus at most those whose outcome is unknown.
"""

import asyncio
import time
from collections import Counter as Count

from .audit import audit_chains, audit_leftovers
from .entities import Counter
from .harness import Options, Scene, check_faults, open_scene
from .load import Came, Tally, limited
from .verdict import Verdict

CALLERS = 200
COUNTERS = 1_000
SECONDS = 60.0
KILL_EVERY_S = 5.0
CALL_S = 20.0
READS_AT_ONCE = 50


async def run(options: Options, *, counters: int = COUNTERS, callers: int = CALLERS) -> Verdict:
    """The campaign."""
    verdict = Verdict("counters", options.seed)
    seconds = options.seconds or SECONDS
    async with open_scene(verdict, options, entities=["campaigns.entities:Counter"]) as scene:
        tally, acked, unknown = Tally(), Count[int](), Count[int]()
        until = time.monotonic() + seconds
        answers: list[float] = []

        async def caller() -> None:
            while time.monotonic() < until:
                number = scene.rng.randrange(counters)
                began = time.monotonic()
                came, _ = await tally.call(Counter.ref(f"c{number}").add.options(timeout=CALL_S)())
                if came is Came.OK:
                    acked[number] += 1
                    answers.append(time.monotonic() - began)
                elif came is Came.UNKNOWN:
                    unknown[number] += 1
                else:
                    await asyncio.sleep(0.1)

        killing = asyncio.create_task(_kill_now_and_then(scene, until))
        await asyncio.gather(*(caller() for _ in range(callers)))
        kills = await killing
        await scene.until_whole()
        wrong: list[str] = []

        async def read(number: int) -> None:
            value = await Counter.ref(f"c{number}").get()
            if not acked[number] <= value <= acked[number] + unknown[number]:
                wrong.append(f"c{number}: {value}, acknowledged {acked[number]}, unknown {unknown[number]}")

        await limited((read(number) for number in range(counters)), READS_AT_ONCE)
        verdict.none_of("final values = acknowledged (+ unknown)", wrong, f"{counters} counters; {tally}")
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
        check_faults(verdict, scene, {"host": kills})
        verdict.holds("enough was killed", kills >= int(seconds / KILL_EVERY_S) - 1, f"{kills} hosts in {seconds:g} s")
        verdict.holds("enough was served", tally.ok_rate > 0.5, f"ok-rate {tally.ok_rate:.4%}")
        verdict.figure("acknowledged per second", round(tally.count[Came.OK] / seconds))
        verdict.figure("slowest answer, s", round(max(answers, default=0), 2))
        verdict.figure("outcomes", str(tally))
    return verdict


async def _kill_now_and_then(scene: Scene, until: float) -> int:
    """A host every few seconds; returns how many."""
    kills = 0
    while time.monotonic() + KILL_EVERY_S < until:
        await asyncio.sleep(KILL_EVERY_S)
        fault = await scene.kill_one_host()
        kills += 1
        scene.prove("host", fault.pids, "gone")
    return kills
