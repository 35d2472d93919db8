"""long-lives: an entity costs the same after a million calls, and a workflow after fifty thousand signals (P10).

Latency is compared with that of a newborn twin, call by call in turn, so that the machine's mood concerns both; the
first thousand are printed beside the last. Cold activations likewise: both leave memory, both are called.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from .audit import audit_leftovers
from .entities import Counter, Stream
from .harness import Options, Scene, open_scene
from .load import limited
from .verdict import Verdict

CALLS = 1_000_000
SIGNALS = 50_000
SAMPLE = 1_000
PER_JOURNAL = 100
AT_ONCE = 256
IDLE_S = 1.0
COLD_ROUNDS = 15
"""For a campaign of full length; the short one makes do with fewer."""
SLOWER_MAX = 1.25
"""How much slower the median of the old one may be than its newborn twin's."""
NOISE_MAX = 5.0
"""The same for few samples, which a busy machine disturbs; reading a thousand old messages would show even so."""
Call = Callable[[], Awaitable[object]]


async def run(options: Options) -> Verdict:
    """The campaign; `--rounds N` does N thousand calls and a twentieth of it in signals."""
    verdict = Verdict("long-lives", options.seed)
    calls = options.rounds * 1_000 if options.rounds else CALLS
    signals = options.rounds * 50 if options.rounds else SIGNALS
    colds = COLD_ROUNDS if calls >= 100_000 else 3
    entities = ["campaigns.entities:Counter", "campaigns.entities:Stream"]
    async with open_scene(verdict, options, entities=entities, hosts=1, engine={"idle_s": IDLE_S}) as scene:
        await _calls(verdict, scene, calls, colds)
        await _signals(verdict, scene, signals, colds)
        await audit_leftovers(verdict, scene)
    return verdict


async def _calls(verdict: Verdict, scene: Scene, count: int, colds: int) -> None:
    sample = min(SAMPLE, count // 4)
    old, young = Counter.ref("old").add, Counter.ref("young").add
    first = [await _timed(old) for _ in range(sample)]
    began = time.monotonic()
    await limited((old() for _ in range(count - 2 * sample)), AT_ONCE)
    verdict.figure("calls per second in between", round((count - 2 * sample) / (time.monotonic() - began)))
    last, twin = await _in_turn(old, young, sample)
    value = await Counter.ref("old").get()
    verdict.holds("every call counted once", value == count, f"{value} of {count}")
    _compare(verdict, f"a call after {count} calls", first, last, twin)
    cold, cold_twin = await _cold(scene, old, young, colds)
    _compare(verdict, f"cold activation after {count} calls", [], cold, cold_twin)


async def _signals(verdict: Verdict, scene: Scene, count: int, colds: int) -> None:
    sample = min(SAMPLE, count // 4)
    old, young = Stream.ref("old"), Stream.ref("young")
    await old.run.start(PER_JOURNAL, count)
    await young.run.start(PER_JOURNAL, count)
    numbers, twins = iter(range(1, count + 1)), iter(range(1, count + 1))

    def signal() -> Awaitable[None]:
        return old.numbers.send(next(numbers))

    def twin_signal() -> Awaitable[None]:
        return young.numbers.send(next(twins))

    first = [await _timed(signal) for _ in range(sample)]
    began = time.monotonic()
    await limited((signal() for _ in range(count - 2 * sample - colds)), AT_ONCE)
    verdict.figure("signals per second in between", round((count - 2 * sample) / (time.monotonic() - began)))
    last, twin = await _in_turn(signal, twin_signal, sample)
    _compare(verdict, f"a signal after {count} signals", first, last, twin)
    for _ in range((count - colds - sample) % PER_JOURNAL):
        await twin_signal()  # as far into its journal as the old one: a cold run replays that
    cold, cold_twin = await _cold(scene, signal, twin_signal, colds)
    _compare(verdict, f"cold activation after {count} signals", [], cold, cold_twin)
    received = await old.run.result(timeout=60)
    verdict.holds("every signal handled once, in order", received == count, f"{received} of {count}")
    [row] = await scene.sql(
        "select count(*) as n from journal join runs using (type, key, workflow, run_id) where key = 'old'"
    )
    verdict.holds("its run's journal stayed short", row["n"] <= 2 * PER_JOURNAL, f"{row['n']} entries")


async def _timed(call: Call) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def _in_turn(one: Call, other: Call, count: int) -> tuple[list[float], list[float]]:
    ones: list[float] = []
    others: list[float] = []
    for _ in range(count):
        ones.append(await _timed(one))
        others.append(await _timed(other))
    return ones, others


async def _cold(scene: Scene, one: Call, other: Call, rounds: int) -> tuple[list[float], list[float]]:
    ones: list[float] = []
    others: list[float] = []
    for number in range(rounds):
        await scene.until("all have left memory", lambda: _is_empty(scene))
        pair = [(one, ones), (other, others)]
        for call, times in pair if number % 2 else reversed(pair):
            times.append(await _timed(call))
    return ones, others


async def _is_empty(scene: Scene) -> bool:
    active = [(await scene.stats(host))["activations"] for host in await scene.hosts()]
    await asyncio.sleep(0.2)
    return bool(active) and sum(active) == 0


def _compare(verdict: Verdict, what: str, first: Sequence[float], last: Sequence[float], twin: Sequence[float]) -> None:
    ratio = statistics.median(last) / statistics.median(twin)
    parts = [("first", first), ("last", last), ("newborn twin", twin)]
    shown = ", ".join(f"{name} {statistics.median(times) * 1e3:.2f} ms" for name, times in parts if times)
    limit = SLOWER_MAX if len(last) >= COLD_ROUNDS else NOISE_MAX
    verdict.holds(f"{what}: as fast as a newborn's", ratio <= limit, f"median {shown}; old/new {ratio:.2f}")
