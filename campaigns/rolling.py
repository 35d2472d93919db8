"""rolling: hosts, then gateways, are replaced by those of a new release under 500 calls/s, and no call fails.

Two gateways (`perdure serve`, with its defaults) stand behind a balancer that probes and never repeats a request
(`balancer.py`); a driver of its own process makes calls at a fixed rate, whatever becomes of them (`driver.py`). Under
this load `perdure up` rolls the new release out, then each gateway gets SIGTERM and its successor takes its port. A
failed call is any that was not answered with success. In the end each meter shows its calls, each counted once.
"""

import asyncio
import contextlib
import signal
import time
from collections import Counter as Count
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.usage import cpu_s, postgres_pids

from .audit import audit_chains, audit_leftovers
from .balancer import Turn
from .driver import METERS, Call, Driven
from .harness import NAMESPACE, NotHealed, Options, Scene, check_faults, open_scene, ray_address
from .load import limited
from .processes import free_port
from .releases.second import RELEASE, Meter
from .verdict import Verdict, quantile

RATE = 500.0
QUIET_S = 12.0
"""Load without any change, before and after."""
HOSTS = 2
GATEWAYS = 2
COMMAND = "tests.dev.main"
"""`perdure` of this checkout."""
FIRST, SECOND = "campaigns.releases.first", "campaigns.releases.second"
END_S = 60.0
READS_AT_ONCE = 50


@dataclass
class Rollout:
    """The campaign under way."""

    scene: Scene
    ports: list[int]
    phases: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    """(what, from, to): what was done, in Unix time; what lies between them belongs to the one before."""
    wrong: list[str] = field(default_factory=list[str])

    async def during(self, what: str, doing: Any) -> Any:
        """Await it, and note when it was."""
        began = time.time()
        done = await doing
        self.phases.append((what, began, time.time()))
        print(f"  {what}: {time.time() - began:.1f} s", flush=True)
        return done

    async def start_gateway(self, number: int, module: str) -> int:
        """Returns its pid once it is ready."""
        name, port = f"gateway-{number}", self.ports[number]
        program = self.scene.start_program(
            name,
            *(COMMAND, "serve", module, "--port", str(port), "--address", ray_address()),
            PERDURE_DSN=self.scene.dsn,
            PERDURE_NAMESPACE=NAMESPACE,
        )
        await self.scene.until_answers(name, f"http://127.0.0.1:{port}/readyz")
        return program.pid

    async def replace_gateway(self, number: int) -> None:
        """SIGTERM, its end in order, its successor on the same port."""
        before = self.scene.programs[f"gateway-{number}"]
        before.terminate()
        status = await asyncio.to_thread(before.wait, END_S)
        if status != 0:
            self.wrong.append(f"gateway {number} ended with status {status}")
        after = await self.start_gateway(number, SECOND)
        self.scene.prove("gateway", before.pid, after)

    async def replace_hosts(self, release: str) -> None:
        """`perdure up` with the new code."""
        before = {host.pid for host in await self.scene.until_whole()}
        program = self.scene.start_program(
            f"up-{release}",
            *(COMMAND, "up", SECOND, "--hosts", str(self.scene.host_count)),
            *("--release", release, "--address", ray_address()),
            PERDURE_DSN=self.scene.dsn,
            PERDURE_NAMESPACE=NAMESPACE,
        )
        status = await asyncio.to_thread(program.wait)
        if status != 0:
            log = (self.scene.directory / f"up-{release}.log").read_text(errors="replace")
            raise NotHealed(f"up ended with status {status}: {log[-2000:]}")
        after = {host.pid for host in await self.scene.until_whole()}
        if before & after:
            self.wrong.append(f"{before & after} still run what was before {release}")
        self.scene.prove("hosts", sorted(before), sorted(after))

    async def releases(self) -> list[str]:
        """What each gateway, and a host behind it, answers to the member that only the second release has."""
        async with httpx.AsyncClient(timeout=30) as http:
            answers = [await http.get(f"http://127.0.0.1:{port}/entities/Meter/m-0/release") for port in self.ports]
        return [answer.json() if answer.is_success else str(answer.status_code) for answer in answers]


async def run(options: Options) -> Verdict:
    """The campaign; `--rounds N`: so many times hosts, then gateways; `--seconds S`: of quiet, before and after."""
    verdict = Verdict("rolling", options.seed)
    rounds, rate, quiet_s = options.rounds or 1, options.rate or RATE, options.seconds or QUIET_S
    async with open_scene(verdict, options, entities=[f"{FIRST}:Meter"], hosts=HOSTS) as scene:
        rollout = Rollout(scene, _free_ports(GATEWAYS))
        for number in range(GATEWAYS):
            await rollout.start_gateway(number, FIRST)
        first = await rollout.releases()
        file = scene.directory / "calls.json"
        driver = scene.start_program("driver", "campaigns.driver", str(rate), str(file), *map(str, rollout.ports))
        await scene.until("calls are made", lambda: _is_driving(scene))
        used = _used(rollout)
        began = time.monotonic()
        await rollout.during("before", asyncio.sleep(quiet_s))
        wall_s = time.monotonic() - began
        cores = {what: round((now - used[what]) / wall_s, 2) for what, now in _used(rollout).items()}
        verdict.figure("cores used before, by", cores)
        half: list[str] = []
        for number in range(rounds):
            await rollout.during("hosts", rollout.replace_hosts(f"{number + 1}"))
            half = half or await rollout.releases()
            for gateway in range(GATEWAYS):
                await rollout.during("gateways", rollout.replace_gateway(gateway))
        await rollout.during("after", asyncio.sleep(quiet_s))
        driver.send_signal(signal.SIGTERM)
        verdict.holds("the driver ended in order", await asyncio.to_thread(driver.wait, END_S) == 0)
        driven = Driven.read(file)
        _check_calls(verdict, rollout, driven, rate)
        await _check_meters(verdict, driven.calls)
        _check_releases(verdict, rollout, driven.calls, [first, half, await rollout.releases()])
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
        check_faults(verdict, scene, {"hosts": rounds, "gateway": rounds * GATEWAYS})
    return verdict


def _free_ports(number: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < number:
        ports.add(free_port())
    return sorted(ports)


async def _is_driving(scene: Scene) -> bool:
    log = scene.directory / "driver.log"
    if scene.programs["driver"].poll() is not None:
        raise NotHealed(f"the driver has ended: {log.read_text(errors='replace')[-2000:]}")
    return "driving" in log.read_text(errors="replace")


def _used(rollout: Rollout) -> dict[str, float]:
    """CPU seconds so far, by what used them."""
    scene = rollout.scene
    postmaster = scene.postgres.postmaster_pid
    programs = {name: program.pid for name, program in scene.programs.items()}
    return {
        "driver": cpu_s([programs["driver"]]),
        "gateways": cpu_s(pid for name, pid in programs.items() if name.startswith("gateway")),
        "postgres": cpu_s(postgres_pids(postmaster)) if postmaster is not None else 0.0,
    }


def _check_calls(verdict: Verdict, rollout: Rollout, driven: Driven, rate: float) -> None:
    """Not one has failed; and how long they took, by what was done meanwhile."""
    calls = driven.calls
    failed = [call for call in calls if call.failure]
    kinds = Count(call.failure[:160] for call in failed)
    verdict.none_of(
        "no call failed",
        [f"{count} times: {kind}" for kind, count in kinds.most_common()],
        f"{len(failed)} of {len(calls)} calls failed",
    )
    verdict.none_of("gateways and hosts ended in order", rollout.wrong, "status 0, new processes")
    by_phase: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_phase[_phase(rollout, call.due)].append(call)
    for phase in ("before", "hosts", "gateways", "after"):
        its = by_phase[phase]
        seconds = sum(to - since for what, since, to in rollout.phases if what == phase)
        took = [call.took_s for call in its]
        points = " ".join(f"{name} {value * 1e3:.0f} ms" for name, value in _points(took))
        made = f"{len(its)} calls, {sum(bool(call.failure) for call in its)} failed"
        verdict.holds(f"calls were made: {phase}", bool(its), made)
        verdict.figure(f"latency {phase} ({seconds:.0f} s)", f"n={len(its)} {points}")
    seconds = driven.ended - driven.began
    verdict.figure("calls made per second", f"{len(calls) / seconds:.1f} of {rate:g}, for {seconds:.0f} s")
    late = quantile([call.late_s for call in calls], 0.99)
    verdict.figure("calls made later than due", f"p99 {late * 1e3:.0f} ms, by the driver itself")
    verdict.figure("most calls under way", driven.under_way_max)
    verdict.figure("gateways in and out, s", [_shown(turn, rollout) for turn in driven.turns])


def _phase(rollout: Rollout, at: float) -> str:
    with contextlib.suppress(StopIteration):
        return next(what for what, since, _ in reversed(rollout.phases) if at >= since)
    return "before"


def _points(values: list[float]) -> list[tuple[str, float]]:
    return [("p50", quantile(values, 0.5)), ("p99", quantile(values, 0.99)), ("max", max(values, default=0.0))]


def _shown(turn: Turn, rollout: Rollout) -> str:
    way = "in" if turn.is_in else "out"
    return f"{turn.at - rollout.phases[0][1]:.1f} {rollout.ports.index(turn.port)} {way}"


async def _check_meters(verdict: Verdict, calls: list[Call]) -> None:
    """Each shows its calls, and told each of them another number."""
    answered: dict[int, list[int]] = defaultdict(list)
    failed = Count(call.meter for call in calls if call.failure)
    for call in calls:
        if not call.failure:
            answered[call.meter].append(call.total)
    wrong: list[str] = []

    async def read(meter: int) -> None:
        value, told = await Meter.ref(f"m-{meter}").read(), sorted(answered[meter])
        if value != len(told) or told != list(range(1, value + 1)):
            wrong.append(f"m-{meter}: shows {value}, {len(told)} were answered, {failed[meter]} failed")

    await limited((read(meter) for meter in range(METERS)), READS_AT_ONCE)
    verdict.none_of("each call counted exactly once", wrong, f"{sum(map(len, answered.values()))} in {METERS} meters")


def _check_releases(verdict: Verdict, rollout: Rollout, calls: list[Call], seen: list[list[str]]) -> None:
    """From what was answered: the new code serves, and it alone."""
    first, half, last = seen
    verdict.holds("before: no gateway knows the new member", first == ["404"] * GATEWAYS, first)
    verdict.holds("hosts replaced: the gateways are still the old ones", half == ["404"] * GATEWAYS, half)
    verdict.holds("in the end every gateway does", last == [RELEASE] * GATEWAYS, last)
    rolled = next(to for what, _, to in rollout.phases if what == "hosts")
    old = [call for call in calls if not call.failure and call.due > rolled and call.release != RELEASE]
    releases = Count(call.release for call in calls if not call.failure)
    verdict.none_of("once `up` has returned every host is new", old[:5], f"answers by release: {dict(releases)}")
    verdict.holds("the old code had served before", releases["first"] > 0, releases["first"])
