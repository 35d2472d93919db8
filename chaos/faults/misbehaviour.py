"""What no machine but people do: poisonous messages, floods, stepped clocks, deployments, a long downtime."""

import asyncio
import itertools
import json
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil

from campaigns.processes import find, strike, until_gone
from chaos import clock
from chaos.world import World
from perdure.entities import HostKilled
from perdure.entities.shard import shard_of

from .injury import SHARDS, Injury

LETTER_S = 60.0
HOUR_S = 3_600.0
STEPS_S = (HOUR_S, -HOUR_S, 10 * 365 * 24 * HOUR_S, -30.0)
STEPPED_S = 2.5
PER_TURN = 500
PER_CROWD = 1_000
AT_ONCE = 16
DOWN_S = 12.0
"""How long Postgres is away around the moment when they come due."""
FLOOD = 9_000
FLOODERS = 2
_serial = itertools.count(1)


async def ask(world: World, method: str, path: str, body: Any = None, *, is_send: bool = False) -> Any:
    """Through a gateway, until it answers."""
    headers = {"Prefer": "respond-async"} if is_send else {}
    headers["Idempotency-Key"] = f"chaos-{next(_serial)}-{time.time_ns()}"
    deadline = time.monotonic() + LETTER_S
    async with httpx.AsyncClient(timeout=20) as http:
        while True:
            url = f"http://127.0.0.1:{world.rng.choice(world.ports)}/entities/{path}"
            try:
                answer = await http.request(method, url, json=body, headers=headers)
                if answer.is_success:
                    return answer.json() if answer.content else None
                problem = answer.text
                if HostKilled.code in problem:
                    return HostKilled.code
            except httpx.TransportError as error:
                problem = repr(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"{path}: {problem}")
            await asyncio.sleep(0.2)


async def _dead_letter(world: World, key: str, timeout_s: float = LETTER_S) -> str:
    """Wait until that message is given up; returns why, and clears it away."""

    async def find_letter() -> str:
        rows = await world.sql("delete from dead_letters where type = 'Villain' and key = %s returning *", key)
        return str(rows[0]["error"]["code"]) if rows else ""

    reason: str = await world.until(f"the poison {key} is given up", find_letter, timeout_s)
    return reason


async def _poison(world: World, injury: Injury, name: str, args: dict[str, Any]) -> None:
    key = f"{name}-{next(_serial)}"
    before = {host.pid for host in await world.until_whole()}
    injury.shards = frozenset([shard_of("Villain", key, SHARDS)])
    injury.at = time.time()
    answer = await ask(world, "POST", f"Villain/{key}/{name}", args, is_send=True)
    # It is answered rather than dead-lettered if it was refused before it could be accepted.
    reason = answer if answer == HostKilled.code else await _dead_letter(world, key)
    answer = await ask(world, "POST", f"Villain/{key}/greet", {})
    injury.recovery_s = time.time() - injury.at
    after = {host.pid for host in await world.until_whole()}
    injury.shows(f"given up ({reason}), {len(before - after)} hosts died, then it answers {answer!r}")


async def poison_raises(world: World, injury: Injury) -> None:
    """A message whose handler always raises."""
    await _poison(world, injury, "refuse", {})


async def poison_hangs(world: World, injury: Injury) -> None:
    """A message whose handler never returns."""
    await _poison(world, injury, "hang", {})


async def poison_kills(world: World, injury: Injury) -> None:
    """A message whose handler ends its process."""
    await _poison(world, injury, "crash", {})


async def poison_blocks(world: World, injury: Injury) -> None:
    """A message whose handler blocks its host's event loop for longer than anybody waits."""
    await _poison(world, injury, "block", {"seconds": 60.0})


async def flood(world: World, injury: Injury) -> None:
    """More calls to one entity than may wait for it, from two clients at once: one alone holds back."""
    key = f"flooded-{next(_serial)}"
    injury.at = time.time()
    names = [f"flood-{key}-{number}" for number in range(FLOODERS)]
    programs = [world.start_program(name, "chaos.flood", key, str(FLOOD), **world.joining) for name in names]
    statuses = await asyncio.gather(*(asyncio.to_thread(program.wait, LETTER_S * 4) for program in programs))
    logs = [(world.directory / f"{name}.log").read_text(errors="replace").splitlines() for name in names]
    if any(statuses) or not all(logs):
        return
    reports: list[dict[str, Any]] = [json.loads(lines[-1]) for lines in logs]
    came = {name: sum(report[name] for report in reports) for name in ("ok", "unknown", "refused")}
    value = await ask(world, "GET", f"Flooded/{key}/value_now")
    if not came["ok"] <= value <= came["ok"] + came["unknown"]:
        world.violations.append(f"flood of {key}: {came}, and then its value is {value}")
    injury.shows(f"{FLOODERS} x {FLOOD} calls: {came}, value {value}")
    injury.recovery_s = max(report["last_s"] for report in reports)


async def step_clock(world: World, injury: Injury) -> None:
    """A host's wall clock jumps, and back again."""
    victim = world.rng.choice(await world.until_whole())
    shards = set(victim.shards)
    key = next(key for key in (f"c{n}" for n in itertools.count()) if shard_of("Clock", key, SHARDS) in shards)
    seconds = world.rng.choice(STEPS_S)
    injury.touches([victim])
    injury.at = time.time()
    clock.step(world.directory, victim.pid, seconds)
    try:
        glance = await ask(world, "GET", f"Clock/{key}/look")
        await asyncio.sleep(STEPPED_S)
    finally:
        clock.step(world.directory, victim.pid, 0.0)
    seen_s = glance["wall"] - time.time()
    is_seen = glance["pid"] == victim.pid and abs(seen_s - seconds) < HOUR_S / 4 + STEPPED_S
    survived = "lives" if find(victim.pid) is not None else "DIED"
    injury.shows(f"host {victim.pid} saw {seen_s:+.0f} s, {survived}" if is_seen and abs(seen_s) > 1 else "")
    await world.until_whole()


async def drain(world: World, injury: Injury) -> None:
    """One host less, in order, and one more again."""
    before = {host.incarnation for host in await world.until_whole()}
    world.wanted_hosts -= 1
    try:
        took_s = await world.up()
        left = before - {host.incarnation for host in await world.until_whole()}
    finally:
        world.wanted_hosts += 1
    await _show_in_order(world, injury, left, f"in {took_s:.1f} s")
    await world.up()
    await world.until_whole()


async def upgrade(world: World, injury: Injury) -> None:
    """A new release replaces every host, one by one, under load."""
    before = {host.incarnation for host in await world.until_whole()}
    world.release += 1
    took_s = await world.up()
    after = {host.incarnation for host in await world.until_whole()}
    await _show_in_order(world, injury, before - after, f"release r{world.release} in {took_s:.1f} s")
    if before & after:
        world.violations.append(f"hosts of an old release go on: {before & after}")


async def _show_in_order(world: World, injury: Injury, left: set[str], what: str) -> None:
    rows = await world.sql(
        "select status, count(*)::int as hosts from hosts where incarnation = any(%s) group by 1", sorted(left)
    )
    seen = {row["status"]: row["hosts"] for row in rows}
    injury.shows(f"{len(left)} hosts left ({seen}), {what}" if left else "")


async def many_reminders(world: World, injury: Injury) -> None:
    """Very many reminders come due while Postgres is down."""
    name = f"crowd-{next(_serial)}"
    began = time.monotonic()
    await _set_reminders(world, f"{name}-try", AT_ONCE * PER_TURN, datetime.now(UTC))
    per_s = AT_ONCE * PER_TURN / (time.monotonic() - began)
    at = datetime.now(UTC) + timedelta(seconds=10 + 1.5 * world.reminders / per_s)
    await _set_reminders(world, name, world.reminders, at)
    # Setting them may be done long before: Postgres need not be away for longer than callers wait.
    await asyncio.sleep(max(0.0, at.timestamp() - time.time() - DOWN_S))
    injury.at = time.time()
    pid = world.postgres.postmaster_pid
    assert pid is not None
    postmaster = psutil.Process(pid)
    strike([postmaster], signal.SIGINT)
    await until_gone([postmaster])
    await asyncio.sleep(max(0.0, at.timestamp() - time.time()))
    await asyncio.to_thread(world.postgres.start)
    up_at = time.time()
    [row] = await world.sql("select count(*) as due from reminders where type = 'Crowd' and due_at <= now()")

    async def is_drained() -> bool:
        rows = await world.sql("select 1 from reminders where type = 'Crowd' limit 1")
        return not rows

    await world.until("all of them have fired", is_drained, 120 + world.reminders / 500)
    injury.recovery_s = time.time() - up_at
    is_much = row["due"] >= world.reminders / 2
    injury.shows(f"{row['due']} due at once, gone in {injury.recovery_s:.1f} s" if is_much else "")
    await world.until_whole()


async def _set_reminders(world: World, name: str, count: int, at: datetime) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def fill(crowd: int, first: int) -> None:
        async with slots:
            body = {"first": first, "count": PER_TURN, "at": at.isoformat()}
            await ask(world, "POST", f"Crowd/{name}-{crowd}/expect", body)

    crowds = range(max(1, count // PER_CROWD))
    await asyncio.gather(*(fill(crowd, first) for crowd in crowds for first in range(0, PER_CROWD, PER_TURN)))
