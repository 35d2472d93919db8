"""transfers: 64 at a time between a hundred safes, by transaction and by saga, while hosts are killed.

Postgres is asked again and again, one statement each time, hence a consistent cut: the vaults' sum never changes, the
tills' sum is never more than there was, nobody is in debt. Each caller also has two safes of its own, where it must
read its own writes (P8). In the end all money is there, and a transfer with a known outcome has that outcome.
"""

import asyncio
import time

from perdure.entities import ApplicationError, PerdureError, WorkflowFailed

from .audit import audit_chains, audit_leftovers
from .harness import Options, Scene, check_faults, open_scene
from .load import Came, Tally
from .safes import EACH, UNLUCKY, Safe, Transfer, move
from .verdict import Verdict

SAFES = 100
CALLERS = 64
SECONDS = 60.0
KILL_EVERY_S = 5.0
LOOK_EVERY_S = 0.1

_CUT = """
select sum((state->>'vault')::int) as vaults, sum((state->>'till')::int) as tills, count(*) as safes,
    min(least((state->>'vault')::int, (state->>'till')::int)) as lowest
from entities where type = 'Safe' and key like 's%'
"""
_HELD_BY_NOBODY = "select count(*) as transactions from history where kind = 'transaction' and ok"


async def run(options: Options, *, callers: int = CALLERS) -> Verdict:
    """The campaign."""
    verdict = Verdict("transfers", options.seed)
    seconds = options.seconds or SECONDS
    async with open_scene(verdict, options, entities=["campaigns.safes:Safe", "campaigns.safes:Transfer"]) as scene:
        for key in (f"s{number}" for number in range(SAFES)):
            await Safe.ref(key).open()
        load = _Load(scene, time.monotonic() + seconds)
        looking = asyncio.create_task(load.look())
        killing = asyncio.create_task(_kill_now_and_then(scene, load.until))
        await asyncio.gather(*(load.caller(number) for number in range(callers)))
        kills = await killing
        await scene.until_whole()
        load.is_over = True
        await looking
        await _finish(verdict, scene, load)
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
        check_faults(verdict, scene, {"host": kills})
        verdict.holds("enough was killed", kills >= int(seconds / KILL_EVERY_S) - 1, f"{kills} hosts in {seconds:g} s")
        verdict.holds("enough was served", load.atomic.ok_rate > 0.5, f"ok-rate {load.atomic.ok_rate:.4%}")
        verdict.figure("transfers by transaction per second", round(load.atomic.count[Came.OK] / seconds))
        verdict.figure("transfers by saga per second", round(load.sagas.count[Came.OK] / seconds))
        verdict.figure("by transaction", str(load.atomic))
        verdict.figure("by saga", str(load.sagas))
        verdict.figure("slowest transaction, s", round(max(load.took, default=0), 2))
    return verdict


class _Load:
    """What the callers do, and what was seen meanwhile."""

    def __init__(self, scene: Scene, until: float) -> None:
        self.scene = scene
        self.until = until
        self.is_over = False
        self.atomic, self.sagas = Tally(), Tally()
        self.wrong_cuts: list[str] = []
        self.wrong_reads: list[str] = []
        self.cuts = 0
        self.took: list[float] = []
        self.runs: list[Transfer] = []

    async def caller(self, number: int) -> None:
        """Transfers of all three kinds, in turn."""
        rng = self.scene.rng
        done = 0
        while time.monotonic() < self.until:
            done += 1
            first, second = (f"s{chosen}" for chosen in rng.sample(range(SAFES), 2))
            began = time.monotonic()
            came, error = await self.atomic.call(move(Safe.ref(first), Safe.ref(second), rng.randrange(1, 60)))
            self.took.append(time.monotonic() - began)
            if came is Came.REFUSED and not isinstance(error, ApplicationError):
                await asyncio.sleep(0.1)
            await self._own(number)
            if done % 4 == 1:
                transfer = Transfer.ref(f"t{number}-{done}")
                self.runs.append(transfer)
                await self.sagas.call(transfer.run.options(timeout=20)(first, second, rng.choice([5, UNLUCKY, 40])))

    async def _own(self, number: int) -> None:
        """A transfer between this caller's own safes: it must see it in both."""
        one, other = Safe.ref(f"own-{number}-a"), Safe.ref(f"own-{number}-b")
        came, vaults = await self.atomic.call(move(one, other, 1))
        if came is Came.OK:
            came, seen = await Tally().call(_both(one, other))
            if came is Came.OK and list(seen) != list(vaults):
                self.wrong_reads.append(f"caller {number}: wrote {vaults}, read {seen}")
        elif came is Came.REFUSED and isinstance(vaults, ApplicationError):
            await self.atomic.call(move(other, one, EACH))

    async def look(self) -> None:
        """Cuts, until it is over."""
        while not self.is_over:
            [row] = await self.scene.sql(_CUT)
            self.cuts += 1
            if not self._is_right(row["vaults"], row["tills"], row["lowest"]):
                self.wrong_cuts.append(str(row))
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_right(self, vaults: int, tills: int, lowest: int) -> bool:
        return vaults == SAFES * EACH and tills <= SAFES * EACH and lowest >= 0


async def _both(one: Safe, other: Safe) -> tuple[int, int]:
    return await one.in_vault(), await other.in_vault()


async def _finish(verdict: Verdict, scene: Scene, load: _Load) -> None:
    """Wait for all sagas, then count."""
    endings: list[str] = []
    for transfer in load.runs:
        try:
            await transfer.run.result(timeout=30)
        except WorkflowFailed as failed:
            if not isinstance(failed.__cause__, ApplicationError):
                endings.append(f"{transfer}: {failed}")
        except PerdureError as problem:
            endings.append(f"{transfer}: {problem!r}")
    verdict.none_of("every saga ended, done or undone", endings, f"{len(load.runs)} sagas")
    verdict.none_of("money conserved, none negative, at every cut", load.wrong_cuts, f"{load.cuts} cuts")
    verdict.none_of("callers read their own transfers", load.wrong_reads, "after every one")
    [row] = await scene.sql(_CUT)
    total = SAFES * EACH
    verdict.holds("all money is there", (row["vaults"], row["tills"]) == (total, total), row)
    [count] = await scene.sql(_HELD_BY_NOBODY)
    verdict.holds("transactions are recorded", count["transactions"] >= 2 * load.atomic.count[Came.OK], count)


async def _kill_now_and_then(scene: Scene, until: float) -> int:
    """A host every few seconds; returns how many."""
    kills = 0
    while time.monotonic() + KILL_EVERY_S < until:
        await asyncio.sleep(KILL_EVERY_S)
        fault = await scene.kill_one_host()
        kills += 1
        scene.prove("host", fault.pids, "gone")
    return kills
