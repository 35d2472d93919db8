"""One seed: build, safety phase, heal, liveness phase, checks, digest.

* Safety: the workload runs while the nemesis strikes. Whatever happens, no promise may be broken.
* Heal: all faults end, what is broken is replaced.
* Liveness: the workload comes to its end, and the cluster gets all of its work done, within a budget of virtual time
  and of steps (I14). An overrun is a failure, with what still waits.
* Checks: the workload's own, over the record of its clients and the audit of the database.
"""

import gc
import random
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .choices import Choices
from .contract import Violation, Workload
from .faults import Plan, draw_plan
from .loop import Overrun
from .record import Came
from .world import World, run_world

STEPS_MAX = 400_000
"""Callbacks of one seed at size 1; a usual one takes about 4,000."""
SAFETY_S = 900.0
LIVENESS_S = 300.0
"""Virtual seconds; the nemesis has long stopped by then."""
QUIET_S = 120.0
"""Virtual seconds until a healed cluster has nothing left to do."""


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    workload: str
    digest: str = ""
    violations: list[Violation] = field(default_factory=list[Violation])
    seen: "Counter[str]" = field(default_factory=Counter)
    steps: int = 0
    virtual_s: float = 0.0
    plan: str = ""
    log: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        """No promise was broken."""
        return not self.violations


def run_seed(
    seed: int,
    workload: type[Workload],
    *,
    size: int = 1,
    plan: Plan | None = None,
    keep_log: bool = False,
) -> Outcome:
    """Run one seed to its end. `plan` replaces the one that the seed draws. Never raises for what the system does."""
    choices = Choices(seed)
    plan = plan or draw_plan(choices.of("plan"))
    work = workload(random.Random(f"{seed}/{workload.__name__}"), size)
    world = World(seed, plan, work.entities)
    world.loop.log = [] if keep_log else None
    world.loop.steps_max = STEPS_MAX * size
    outcome = Outcome(seed, work.name, plan=str(plan), seen=world.seen)
    gc_was_on = gc.isenabled()
    gc.disable()  # when it comes is not repeatable, and it runs code: `finally` blocks of what it finds
    try:
        run_world(world, _phases(world, work))
    except Overrun as overrun:
        waiting = "\n".join(world.waiting()[:20]) or "nothing in the store"
        outcome.violations.append(Violation("budget", "I14", f"{overrun}. Still waiting: {waiting}"))
    except Exception:
        outcome.violations.append(Violation("workload", "none", traceback.format_exc(limit=-6)))
    else:
        outcome.violations += _judge(world, work)
    finally:
        if gc_was_on:
            gc.enable()
    outcome.violations += [Violation("unhandled", "none", error) for error in world.loop.errors[:5]]
    outcome.digest, outcome.steps, outcome.virtual_s = world.loop.digest(), world.loop.steps, world.loop.now
    outcome.log = world.loop.log or []
    for came in Came:
        world.seen[f"ops {came}"] += world.record.count(came)
    world.loop.close()
    return outcome


async def _phases(world: World, work: Workload) -> None:
    loop = world.loop
    loop.now_max = SAFETY_S
    await world.start(work.entities)
    await world.safety(work.drive)
    loop.now_max = loop.now + LIVENESS_S
    await world.heal()
    await work.settle(world)
    loop.trace("settled")
    waiting = await world.quiet(QUIET_S)
    if waiting:
        raise Overrun(f"{QUIET_S:g} s after healing there was work left")


def _judge(world: World, work: Workload) -> Sequence[Violation]:
    audit = world.database.audit()
    world.seen["entities"] += len(audit.states)
    return work.check(world.record, audit)
