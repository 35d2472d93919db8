"""years: fifty subscriptions of ten years, while hosts die, restart, and run three releases and a wrong one.

A day is ten milliseconds. Each subscription is one run of `examples/subscription`, alive from the first release to the
third, which changes the state as well; half of them begin a new journal every two years, the others never do. Outside
are the books of the billing service: each period was billed, none twice and none early (P6, P7).

In the middle a wrong release is rolled out (`examples/subscription/wrong.py`). `perdure replay` says so before. Every
run with an older journal is parked with the recorded and the expected operation named; nothing of it is executed,
queries and handlers answer; the right release resumes all of them, and nobody has to do anything else (P9).
"""

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from examples.subscription.activities import BOOKS
from examples.subscription.entities import Plan
from examples.subscription.second import BILLS_A_YEAR
from examples.subscription.third import Subscription
from perdure.cluster.connect import up
from perdure.entities import OutcomeUnknown, RunParked, Unavailable

from .audit import audit_leftovers
from .billing import Books
from .harness import HEAL_S, NAMESPACE, Options, Scene, check_faults, open_scene
from .load import limited
from .processes import ROOT
from .verdict import Verdict, distribution

BILLS = 120
RESTARTS = 50
SUBSCRIPTIONS = 50
NEWCOMERS = 5
"""Subscribe under each later release."""
HOSTS = 3
DAY_S = 0.01
PERIOD_S = 30 * DAY_S
SECOND_AT, WRONG_AT = 40, 80
"""Releases at so many bills of those who have had the fewest."""
WRONG_S = 1.5
CALL_S = 10.0
AT_ONCE = 50
FIRST, SECOND, WRONG, THIRD = (f"examples.subscription.{name}" for name in ("entities", "second", "wrong", "third"))
MISFIT = 5
"""What `perdure replay` exits with."""
T = TypeVar("T")


@dataclass
class Years:
    """The campaign under way."""

    scene: Scene
    books: Books
    bills: int
    restarts: int
    """How many there should be."""
    restarted: dict[str, int] = field(default_factory=dict[str, int])
    """Processes that ended and were replaced, by what ended them."""
    customers: dict[str, Plan] = field(default_factory=dict[str, Plan])
    left: set[str] = field(default_factory=set[str])
    """Customers who have cancelled."""

    @property
    def old(self) -> list[str]:
        """Customers of the first hour who are still there."""
        return [key for key in self.customers if key.startswith("first-") and key not in self.left]

    @property
    def is_enough(self) -> bool:
        """Whether as many processes were replaced as should be."""
        return sum(self.restarted.values()) >= self.restarts

    async def subscribe(self, keys: Iterable[str], plans: Sequence[Plan]) -> None:
        """New customers, who take the plans in turn."""
        chosen = dict(zip(keys, itertools.cycle(plans), strict=False))
        await asyncio.gather(*(Subscription.ref(key).run.start(plan) for key, plan in chosen.items()))
        self.customers |= chosen

    async def pass_until(self, bills: int) -> None:
        """Until each old customer has had so many bills; hosts are killed in step with the years."""
        while (fewest := self.books.billed(self.old)[0]) < bills or (bills == self.bills and not self.is_enough):
            if sum(self.restarted.values()) < self.restarts * fewest / self.bills:
                await self.kill(is_all=fewest >= self.bills or self.scene.rng.random() < 0.5)
            else:
                await asyncio.sleep(PERIOD_S)

    async def kill(self, *, is_all: bool) -> None:
        """SIGKILL, and whole again."""
        fault = await (self.scene.kill_all_hosts() if is_all else self.scene.kill_one_host())
        await self.scene.heal_hosts(fault)
        self._count("SIGKILL", len(fault.pids))

    async def deploy(self, module: str) -> None:
        """Roll a release out: hosts are drained and replaced, one by one."""
        before = {host.pid for host in await self.scene.until_whole()}
        await up(
            dsn=self.scene.dsn,
            namespace=NAMESPACE,
            entities=[f"{module}:Subscription"],
            hosts=self.scene.host_count,
            settings=self.scene.settings,
        )
        after = {host.pid for host in await self.scene.until_whole()}
        assert not before & after, f"{before & after} still run the release before {module}"
        self._count("drained", len(before))
        self.scene.prove("deploy", f"{sorted(before)}", f"{module} {sorted(after)}")
        billed = self.books.billed(self.old)
        print(f"  {module} runs; bills {billed[0]} to {billed[-1]}; {self.restarted}", flush=True)

    def _count(self, how: str, processes: int) -> None:
        self.restarted[how] = self.restarted.get(how, 0) + processes


async def run(options: Options) -> Verdict:
    """The campaign; `--rounds N`: N bills instead of ten years of them, and as many restarts in proportion."""
    verdict = Verdict("years", options.seed)
    bills = options.rounds or BILLS
    with tempfile.TemporaryDirectory(prefix="perdure-books-") as directory:
        books = Path(directory) / "books.jsonl"
        entities = [f"{FIRST}:Subscription"]
        async with open_scene(
            verdict, options, entities=entities, hosts=HOSTS, environment={BOOKS: str(books)}
        ) as scene:
            years = Years(scene, Books(books), bills, RESTARTS * bills // BILLS)
            began = time.monotonic()
            await _live(verdict, years)
            verdict.figure("seconds for all years", round(time.monotonic() - began, 1))
            await _end(verdict, years)
            await _check(verdict, years)
    return verdict


async def _live(verdict: Verdict, years: Years) -> None:
    never = Plan(trial_s=14 * DAY_S, period_s=PERIOD_S, bills_per_journal=10 * years.bills)
    renewing = Plan(trial_s=never.trial_s, period_s=PERIOD_S)
    await years.subscribe((f"first-{number}" for number in range(SUBSCRIPTIONS)), [never, renewing])
    await years.pass_until(SECOND_AT * years.bills // BILLS)
    await years.deploy(SECOND)
    await years.subscribe((f"second-{number}" for number in range(NEWCOMERS)), [never])
    await years.pass_until(WRONG_AT * years.bills // BILLS)
    await years.scene.until("newcomers have a bill", lambda: _is_billed(years))
    await _wrong_release(verdict, years)
    await years.subscribe((f"third-{number}" for number in range(NEWCOMERS)), [never])
    await years.pass_until(years.bills)


async def _is_billed(years: Years) -> bool:
    return years.books.billed(years.customers)[0] > 0


async def _wrong_release(verdict: Verdict, years: Years) -> None:
    """Announced by replay, rolled out, and put right."""
    scene = years.scene
    said, status = await _replay(scene, WRONG)
    verdict.holds("replay says that the wrong release is wrong", status == MISFIT, said)
    said, status = await _replay(scene, THIRD)
    verdict.holds("and that the right one is right", status == 0, said)
    await years.deploy(WRONG)
    # Those that never continue as new; of the others some have begun a journal that fits.
    old = {key for key, plan in years.customers.items() if plan.bills_per_journal >= 10 * years.bills}

    async def parked() -> set[str]:
        rows = await scene.sql("select key from runs where status = 'parked'")
        keys = {row["key"] for row in rows}
        return keys if keys >= old else set()

    misfits: set[str] = await scene.until("every run with an old journal is parked", parked)
    since = time.time()
    await asyncio.sleep(WRONG_S)
    await years.kill(is_all=True)  # the next ones try again, once
    wrong: list[str] = []
    leaving = sorted(misfits & set(years.old))[: SUBSCRIPTIONS // 10]

    async def look(key: str) -> None:
        state = await _until_answered(Subscription.ref(key).state)
        [billed] = years.books.billed([key])
        if state.billings not in (billed - 1, billed):  # the last one's result may not have come
            wrong.append(f"{key}: its query says {state}, billed are {billed}")
        try:
            wrong.append(f"{key}: {await Subscription.ref(key).run.result(timeout=CALL_S)}")
        except RunParked as error:
            if "activity bill" not in str(error) or "activity announce" not in str(error):
                wrong.append(f"{key}: {error}")

    await limited((look(key) for key in misfits), AT_ONCE)
    for key in leaving:
        await _until_answered(Subscription.ref(key).cancel)
    years.left |= set(leaving)
    done = [line for line in years.books.between(since, time.time()) if line.customer in misfits]
    verdict.none_of(
        "wrong release: all parked, both operations named",
        wrong,
        f"{len(misfits)} of {len(years.customers)} runs; queries answer",
    )
    verdict.none_of("wrong release: nothing executed", done, f"for {time.time() - since:.1f} s")
    await years.deploy(THIRD)
    ends = [await _until_answered(Subscription.ref(key).run.result) for key in leaving]
    verdict.holds(
        "who cancelled meanwhile was heard", ends == ["Cancelled"] * len(leaving), f"{len(leaving)} customers"
    )


async def _replay(scene: Scene, module: str) -> tuple[str, int]:
    """The command, as before a deploy: its last line, and its exit status."""
    program = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("perdure"),
        *("replay", module, "--dsn", scene.dsn, "--namespace", NAMESPACE),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await program.communicate()
    lines = output.decode().strip().splitlines()
    return lines[-1] if lines else "", await program.wait()


async def _until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """What a client does that wants an answer: ask again."""
    deadline = time.monotonic() + HEAL_S
    while True:
        try:
            return await call()
        except (OutcomeUnknown, Unavailable):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def _end(verdict: Verdict, years: Years) -> None:
    """Everybody cancels, in the middle of a sleep."""
    staying = [key for key in years.customers if key not in years.left]
    took: list[float] = []
    wrong: list[str] = []

    async def leave(key: str) -> None:
        began = time.monotonic()
        await _until_answered(Subscription.ref(key).cancel)
        end = await _until_answered(Subscription.ref(key).run.options(timeout=CALL_S).result)
        took.append(time.monotonic() - began)
        if end != "Cancelled":
            wrong.append(f"{key}: {end}")

    await limited((leave(key) for key in staying), AT_ONCE)
    verdict.none_of("cancelled in the middle of a sleep", wrong, f"{len(staying)} runs ended")
    verdict.figure("cancel → ended", distribution(took))
    over = time.time()
    await asyncio.sleep(2 * PERIOD_S)
    verdict.none_of("nothing happens afterwards", years.books.between(over, time.time()))


async def _check(verdict: Verdict, years: Years) -> None:
    """In the books and in Postgres."""
    scene, books = years.scene, years.books
    rows = await scene.sql("select key, schema_version, state from entities where type = 'Subscription'")
    migrated = [row for row in rows if row["schema_version"] == 2 and "paid" in row["state"]]
    verdict.holds(
        "every state is migrated", len(migrated) == len(rows) == len(years.customers), f"{len(migrated)} states"
    )
    expected = {row["key"]: row["state"]["paid"]["bills"] for row in migrated}
    total = sum(expected.values())
    verdict.none_of("every period billed, each exactly once", books.wrong_bills(expected), f"{total} bills")
    verdict.none_of("none early", books.early_bills(expected, PERIOD_S), f"{total} bills")
    fewest = books.billed(years.old)[0]
    verdict.holds(
        "ten years of bills" if years.bills == BILLS else "enough bills", fewest >= years.bills, f"≥ {fewest} each"
    )
    verdict.none_of(
        "every run is as its first journal began", _wrong_branches(years, expected), f"{len(expected)} runs"
    )
    rows = await scene.sql(
        "select key, status, outcome from runs where status <> 'completed' or outcome <> '\"Cancelled\"'"
    )
    verdict.none_of("no run is parked or failed", rows, f"{len(expected)} runs")
    await audit_leftovers(verdict, scene)
    kinds = {kind: sum(fault.kind == kind for fault in scene.faults) for kind in ("host", "all hosts")}
    check_faults(verdict, scene, {**{kind: count for kind, count in kinds.items() if count}, "deploy": 3})
    restarts = sum(years.restarted.values())
    verdict.holds("enough restarts", restarts >= years.restarts, f"{restarts} processes: {years.restarted}")
    verdict.figure("attempts in the books", books.attempts)


def _wrong_branches(years: Years, expected: dict[str, int]) -> list[str]:
    """A patch decides once for each journal: thanks (second release) and announcements (third) for all of it, or none.

    A journal that began before a release has none of what it brought; later ones may, and once one has, all have.
    """
    wrong: list[str] = []
    for key, count in expected.items():
        per_journal = years.customers[key].bills_per_journal
        for activity, every, release in (("send_thanks", BILLS_A_YEAR, "second"), ("announce", 1, "third")):
            due = list(range(every, count + 1, every))
            done = [every * number for number in years.books.numbers(activity, key)]
            since = done[0] if done else count + 1
            if done != [bill for bill in due if bill >= since]:
                wrong.append(f"{key}: {activity} for the bills {done} of {count}")
            starts_a_journal = (since - 1) // per_journal != (since - every - 1) // per_journal
            is_old = key.startswith("first-") or (key.startswith("second-") and release == "third")
            if due and done and is_old and not starts_a_journal:
                wrong.append(f"{key}: {activity} began in the middle of a journal, at bill {since}")
            if not is_old and done != due:
                wrong.append(f"{key}: subscribed under the {release} release, {activity} only for the bills {done}")
    return wrong
