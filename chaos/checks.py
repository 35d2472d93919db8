"""What must hold at the end: clients' own records against what Postgres and the witness say. Ends with a verdict table.

Everything is quiet by now: no client runs, no message waits, no reminder of the load is left, no run is under way.
"""

import contextlib
import json
import math
from collections import Counter, defaultdict

from campaigns.audit import audit_chains
from campaigns.harness import NotHealed
from campaigns.orders import check_witness
from campaigns.safes import EACH
from campaigns.verdict import Verdict
from perdure.entities.ids import EntityId
from simulation import record
from simulation.checkers.set_full import set_report

from .load import GIVE_UP_S, RELAYS, SAFES
from .ops import FAILED, OK, UNKNOWN, Op
from .world import World

_CAME = {OK: record.Came.OK, FAILED: record.Came.FAIL, UNKNOWN: record.Came.UNKNOWN}
CLOCK_S = 0.005
"""Slack for reading clocks."""
_VILLAIN = "type <> 'Villain'"
_WAITING = f"""
select (select count(*) from inbox where {_VILLAIN}) as inbox,
    (select count(*) from reminders) as reminders,
    (select count(*) from runs where status = 'running') as runs
"""
_RINGS = """
select key, args->>'uid' as uid, name, version, extract(epoch from recorded_at)::float8 as at, ok
from history where type = 'Alarm' and name in ('set', 'cancel', 'ring')
"""
_NUMBERS = """
select type, key, args->>'source' as source, (args->>'number')::int as number from history
where type in ('Relay', 'Sink') and name = 'take' and ok order by type, key, version
"""
CUT = f"""
select sum((state->>'vault')::int) as vaults, sum((state->>'till')::int) as tills, count(*) as safes,
    min(least((state->>'vault')::int, (state->>'till')::int)) as lowest
from entities where type = 'Safe' and key in ({", ".join(f"'s{number}'" for number in range(SAFES))})
"""


async def check_all(verdict: Verdict, world: World, ops: list[Op], said: list[str]) -> None:
    """Every check."""
    await _until_quiet(verdict, world)
    verdict.none_of("clients and faults found nothing wrong", [*said, *world.violations], f"{len(ops)} operations")
    await _check_adds(verdict, world, ops)
    await _check_numbers(verdict, world, ops)
    await _check_money(verdict, world)
    await _check_errands(verdict, world, ops)
    await _check_alarms(verdict, world, ops)
    await _check_crowds(verdict, world)
    await check_witness(verdict, world, world.witness_file)
    await check_rest(verdict, world)


async def check_rest(verdict: Verdict, world: World) -> None:
    """Versions without gaps, and nothing left over."""
    await audit_chains(verdict, world)
    await _check_leftovers(verdict, world)


async def _until_quiet(verdict: Verdict, world: World) -> None:
    seen: dict[str, int] = {}

    async def is_quiet() -> bool:
        [row] = await world.sql(_WAITING)
        seen.update(row)
        return not any(row.values())

    with contextlib.suppress(NotHealed):
        await world.until("nothing waits any more", is_quiet, GIVE_UP_S)
    verdict.holds("everything comes to rest (no lost wake-up)", not any(seen.values()), seen)


async def _check_adds(verdict: Verdict, world: World, ops: list[Op]) -> None:
    """Set-full: acknowledged ⊆ applied, refused ∩ applied = ∅, nothing twice, nothing that nobody sent."""
    rows = await world.sql("select key, state->'uids' as uids from entities where type = 'Ledger'")
    final = {EntityId("Ledger", row["key"]): row["uids"] for row in rows}
    adds = (as_recorded(number, op) for number, op in enumerate(ops) if op.kind == "add")
    report = set_report(adds, final)
    verdict.none_of("none lost", report.lost, str(report))
    verdict.none_of("none duplicated", report.duplicated, f"{report.final} in {len(final)} ledgers")
    verdict.none_of("no phantom", report.phantom, f"{report.final} in {len(final)} ledgers")
    verdict.none_of("no refused one applied", report.resurrected, f"{report.failed} refused")


def as_recorded(number: int, op: Op) -> record.Op:
    """As the checkers of the simulation know it."""
    return record.Op(
        number, op.via, EntityId(op.type, op.key), op.kind, op.uid, op.began, op.ended or math.inf, _CAME[op.came]
    )


async def _check_numbers(verdict: Verdict, world: World, ops: list[Op]) -> None:
    """Numbered messages of clients and of entities: 1, 2, 3, … at every receiver, and as many as were acknowledged."""
    streams: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row in await world.sql(_NUMBERS):
        streams[row["type"], row["key"], row["source"]].append(row["number"])
    wrong = [f"{stream}: {_first_wrong(numbers)}" for stream, numbers in streams.items() if _first_wrong(numbers)]
    verdict.none_of("in the order sent, each once", wrong, f"{len(streams)} streams")
    acked = {(op.key, op.extra["source"]): op.extra["number"] for op in ops if op.kind == "number" and op.came == OK}
    missing = [
        f"{key} of {source}: {number} acknowledged, {len(streams['Sink', key, source])} came"
        for (key, source), number in acked.items()
        if len(streams["Sink", key, source]) < number
    ]
    emitted: Counter[str] = Counter()
    for op in ops:
        if op.kind == "emit" and op.came == OK:
            emitted[op.key] += op.extra["count"]
    for source, count in emitted.items():
        for relay in (f"relay-{number}" for number in range(RELAYS)):
            reached = len(streams["Relay", relay, source])
            passed_on = len(streams["Sink", f"sink-of-{relay}", f"{relay}<{source}"])
            if reached < count or passed_on != reached:
                missing.append(f"{source}: {count} acknowledged, {reached} at {relay}, {passed_on} behind it")
    verdict.none_of(
        "every acknowledged message arrived", missing, f"{len(acked)} streams of clients, {len(emitted)} of entities"
    )


def _first_wrong(numbers: list[int]) -> str:
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            return f"{number} came instead of {expected}"
    return ""


async def _check_money(verdict: Verdict, world: World) -> None:
    [row] = await world.sql(CUT)
    total = SAFES * EACH
    verdict.holds("all money is there, nobody in debt", is_money_right(row, at_rest=True), f"{row} of {total} each")


def is_money_right(row: dict[str, int], *, at_rest: bool) -> bool:
    """A cut: vaults are moved atomically, what is in tills may be under way. A safe that is gone is money that is gone,
    also if the others have it all."""
    total = SAFES * EACH
    tills_are_right = row["tills"] == total if at_rest else row["tills"] <= total
    return row["safes"] == SAFES and row["vaults"] == total and tills_are_right and row["lowest"] >= 0


async def _check_errands(verdict: Verdict, world: World, ops: list[Op]) -> None:
    """Each ended as its script says, and the witness saw just the steps of that."""
    errands = {op.key: op for op in ops if op.kind == "errand"}
    rows = await world.sql("select key, status, outcome#>>'{}' as outcome from runs where type = 'Errand'")
    ends = {row["key"]: (row["status"], row["outcome"]) for row in rows}
    steps: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in world.witness_file.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        steps[event["entity"].partition("/")[2]][event["step"]].add(event["idempotency_key"])
    fetched = {op.key for op in ops if op.kind == "fetch" and op.came == OK}
    wrong: list[str] = []
    for key, op in errands.items():
        if key not in ends:
            if op.came == OK:
                wrong.append(f"{key}: acknowledged and lost")
            continue
        status, outcome = ends[key]
        may_be = (
            {"delivered"} if key in fetched else {"refunded", "delivered"} if op.extra["is_fetched"] else {"refunded"}
        )
        if status != "completed" or outcome not in may_be:
            wrong.append(f"{key}: {status} {outcome}, may be {may_be}")
        last = "deliver" if outcome == "delivered" else "refund"
        counts = {step: len(keys) for step, keys in steps[key].items()}
        if counts != {"charge": 1, last: 1}:
            wrong.append(f"{key}: {outcome}, outside {counts}")
    wrong += [f"{key}: nobody ordered it" for key in ends.keys() - errands.keys()]
    verdict.none_of("every errand ended as its script says", wrong, f"{len(errands)} errands")


async def _check_alarms(verdict: Verdict, world: World, ops: list[Op]) -> None:
    """Each fired once and not early, or was cancelled; none fired after its cancellation had committed."""
    alarms = {op.uid: op for op in ops if op.kind == "alarm"}
    rings: dict[str, list[tuple[int, float]]] = defaultdict(list)
    done: dict[tuple[str, str], int] = {}
    bad: list[str] = []
    for row in await world.sql(_RINGS):
        if row["name"] == "ring":
            rings[row["uid"]].append((row["version"], row["at"]))
            if not row["ok"]:
                bad.append(f"{row['uid']}: its handler failed")
        elif row["ok"]:
            done[row["uid"], row["name"]] = row["version"]
    early, after, twice, never, late = [], [], [], [], []
    for uid, fired in rings.items():
        if uid not in alarms or (uid, "set") not in done:
            bad.append(f"{uid}: nobody set it")
            continue
        due = alarms[uid].began + alarms[uid].extra["after_s"]
        early += [f"{uid}: {due - at:.3f} s early" for _, at in fired if at < due - CLOCK_S]
        cancelled = done.get((uid, "cancel"))
        after += [f"{uid}: at {v}, cancelled at {cancelled}" for v, _ in fired if cancelled and v > cancelled]
        if len(fired) > 1:
            twice.append(f"{uid}: {fired}")
        late.append(fired[0][1] - due)
    for uid, op in alarms.items():
        is_set = op.came == OK or (uid, "set") in done
        if is_set and uid not in rings and (uid, "cancel") not in done:
            never.append(f"{uid}: acknowledged {op.came}, never fired")
    cancelled = sum(name == "cancel" for _, name in done)
    text = f"{len(alarms)} alarms, {len(rings)} fired, {cancelled} cancelled"
    verdict.none_of("none early", early, text)
    verdict.none_of("none after its cancellation", after, text)
    verdict.none_of("none fired twice", twice, text)
    verdict.none_of("every alarm fired or was cancelled", never, text)
    verdict.none_of("no alarm that nobody set", bad, text)


async def _check_crowds(verdict: Verdict, world: World) -> None:
    rows = await world.sql(
        "select key, state->>'expected' as expected, state->>'rung' as rung from entities where type = 'Crowd'"
    )
    wrong = [row for row in rows if row["expected"] != row["rung"]]
    total = sum(int(row["expected"]) for row in rows)
    verdict.none_of("all that came due during downtime fired once", wrong, f"{total} reminders")


async def _check_leftovers(verdict: Verdict, world: World) -> None:
    left: list[object] = []
    for table in ("inbox", "dead_letters", "parked"):
        rows = await world.sql(f"select * from {table} where {_VILLAIN} limit 5")
        left += [{"table": table, **{name: str(value)[:200] for name, value in row.items()}} for row in rows]
    verdict.none_of("nothing waits or was given up", left, "inbox, dead letters and parked, but for poison")
