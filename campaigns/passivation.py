"""passivation: ten thousand entities come into memory, idle, leave it, and answer again with their state."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from .audit import audit_chains, audit_leftovers
from .entities import Note
from .harness import Options, Scene, open_scene
from .load import limited
from .processes import rss_mb
from .verdict import Verdict

ROUNDS = 10
WARM_UP = 1_000
TOLERANCE = 0.20
IDLE_S = 12.0
IDLE_SHORT_S = 8.0
"""Of a short campaign; still longer than a busy machine needs to wake all of its entities."""
AT_ONCE = 200
STATE_CHARS = 1_000
EMPTY_S = 60.0
SETTLED_S = 6.0
"""Hosts give memory back every few seconds, not at once."""


async def run(options: Options) -> Verdict:
    """The campaign; a round is a thousand entities."""
    entities = (options.rounds or ROUNDS) * 1_000
    verdict = Verdict("passivation", options.seed)
    engine = {"idle_s": IDLE_S if entities >= ROUNDS * 1_000 else IDLE_SHORT_S}
    async with open_scene(verdict, options, entities=["campaigns.entities:Note"], hosts=1, engine=engine) as scene:
        pids = [host.pid for host in await scene.hosts()]
        verdict.figure("MB per host, fresh", _memory(pids))
        # Code that has never run and caches that have never been filled are no entity's memory.
        await _all(f"warm-{number}" for number in range(WARM_UP))
        await _until_empty(scene)
        base = _memory(pids)
        verdict.figure(f"MB per host, base (after {WARM_UP} entities came and went)", base)

        await _all(f"note-{number}" for number in range(entities))
        full = _memory(pids)
        active = await _activations(scene)
        verdict.figure(f"MB per host, {active} entities active", full)
        verdict.holds("all were in memory at once", active >= entities * 0.9, f"{active} of {entities}")
        began = time.monotonic()
        await _until_empty(scene)
        verdict.figure("all had left after, s", round(time.monotonic() - began, 1))
        after = _memory(pids)
        verdict.figure("MB per host, all asleep", after)
        _compare(verdict, "memory returns to base", base, after)
        verdict.holds("nobody is active", await _activations(scene) == 0, "0 activations")

        wrong: list[str] = []

        async def read(key: str) -> None:
            if await Note.ref(key).read() != _text(key):
                wrong.append(key)

        began = time.monotonic()
        await limited((read(f"note-{number}") for number in range(entities)), AT_ONCE)
        verdict.figure("woken per second", round(entities / (time.monotonic() - began)))
        verdict.none_of("each answers its next call with its state", wrong, f"{entities} entities")
        await _until_empty(scene)
        again = _memory(pids)
        verdict.figure("MB per host, all asleep again", again)
        _compare(verdict, "and again after the second waking", base, again)
        same = [host.pid for host in await scene.hosts()]
        verdict.holds("the hosts are the same processes", same == pids, same)
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
    return verdict


def _compare(verdict: Verdict, name: str, base: list[float], now: list[float]) -> None:
    changes = [mb / before - 1 for before, mb in zip(base, now, strict=True)]
    detail = ", ".join(f"{b:.0f} → {n:.0f} MB ({c:+.1%})" for b, n, c in zip(base, now, changes, strict=True))
    verdict.holds(f"{name} ± {TOLERANCE:.0%}", all(abs(change) <= TOLERANCE for change in changes), detail)


def _text(key: str) -> str:
    return (key + " ") * (STATE_CHARS // (len(key) + 1))


async def _all(keys: Iterable[str]) -> None:
    await limited((Note.ref(key).write(_text(key)) for key in keys), AT_ONCE)


def _memory(pids: Sequence[int]) -> list[float]:
    return [round(rss_mb(pid), 1) for pid in pids]


async def _activations(scene: Scene) -> int:
    return sum([(await scene.stats(host))["activations"] for host in await scene.hosts()])


async def _until_empty(scene: Scene) -> None:
    async def is_empty() -> bool:
        return await _activations(scene) == 0

    await scene.until("every entity has left memory", is_empty, EMPTY_S)
    await asyncio.sleep(SETTLED_S)
