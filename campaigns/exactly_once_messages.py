"""exactly-once-messages: sources send numbered messages to relays, relays pass them on to sinks, clients send to
sinks as well, and hosts are killed meanwhile. Every message is applied once, and those of one sender in the order sent.
"""

import asyncio
import time
from collections import defaultdict

from perdure.entities import PerdureError

from .audit import audit_chains, audit_leftovers
from .entities import Relay, Sink, Source
from .harness import Options, Scene, check_faults, open_scene
from .load import Came, Tally
from .verdict import Verdict, distribution

SOURCES = 16
RELAYS = 8
CLIENT_STREAMS = 8
SECONDS = 40.0
KILL_EVERY_S = 4.0
EMIT = 3
CALL_S = 20.0
ARRIVED_S = 60.0
PIPELINED = 5

_ORDER = """
select key, args->>'source' as source, (args->>'number')::int as number from history
where type = %s and name = 'take' order by key, version
"""


async def run(options: Options) -> Verdict:
    """The campaign."""
    verdict = Verdict("exactly-once-messages", options.seed)
    seconds = options.seconds or SECONDS
    async with open_scene(verdict, options, entities=["campaigns.entities"]) as scene:
        until = time.monotonic() + seconds
        tally = Tally()
        sent: dict[str, int] = {}
        unordered: dict[str, int] = defaultdict(int)
        killing = asyncio.create_task(_kill_now_and_then(scene, until))
        await asyncio.gather(
            *(_drive(f"source-{number}", until, sent, tally) for number in range(SOURCES)),
            *(_stream(f"client-{number}", until, sent, tally, unordered) for number in range(CLIENT_STREAMS)),
        )
        kills = await killing
        await scene.until_whole()
        began = time.monotonic()
        lost = await _until_arrived(sent)
        verdict.figure("last message arrived after, s", round(time.monotonic() - began, 2))
        verdict.none_of("every message arrived", lost, f"{_expected(sent)} messages to {RELAYS} relays and their sinks")
        wrong = await _wrong_orders(unordered)
        verdict.none_of("each once, in the order sent (as receivers saw it)", wrong, "relays and sinks")
        for type_name in ("Relay", "Sink"):
            rows = await scene.sql(_ORDER, type_name)
            streams: dict[tuple[str, str], list[int]] = defaultdict(list)
            for row in rows:
                streams[row["key"], row["source"]].append(row["number"])
            bad = [
                stream
                for stream, numbers in streams.items()
                if (sorted(numbers) if stream[1] in unordered else numbers) != list(range(1, len(numbers) + 1))
            ]
            verdict.none_of(f"history of {type_name}: 1, 2, 3, …", bad, f"{len(rows)} messages, {len(streams)} streams")
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
        check_faults(verdict, scene, {"host": kills})
        verdict.holds("enough was killed", kills >= seconds / KILL_EVERY_S / 2, f"{kills} hosts in {seconds:g} s")
        verdict.holds("enough was served", tally.ok_rate > 0.5, f"{tally}")
        verdict.figure("messages per second", round(_expected(sent) / seconds))
        verdict.figure("streams with an unknown outcome among pipelined messages", len(unordered))
        verdict.figure("per source", distribution([float(count) for count in sent.values()], "messages"))
    return verdict


async def _drive(key: str, until: float, sent: dict[str, int], tally: Tally) -> None:
    """Have one source send, a few messages per turn; an unknown turn is repeated under its key until it is known."""
    sent[key] = 0
    turn = 0
    while time.monotonic() < until:
        turn += 1
        came, total = Came.UNKNOWN, None
        while came is not Came.OK:
            emit = Source.ref(key).emit.options(idempotency_key=f"{key}-{turn}", timeout=CALL_S)
            came, total = await tally.call(emit(EMIT, RELAYS))
        sent[key] += EMIT
        assert total == sent[key], f"{key}: turn {turn} answered {total} instead of {sent[key]}"
        await asyncio.sleep(0.02)


async def _stream(name: str, until: float, sent: dict[str, int], tally: Tally, unordered: dict[str, int]) -> None:
    """A client's own stream to one sink: some messages at once, in order; then what is unknown again."""
    sent[name] = 0
    sink = Sink.ref(f"sink-{name}")
    while time.monotonic() < until:
        numbers = [sent[name] + number + 1 for number in range(PIPELINED)]
        sent[name] += PIPELINED

        async def send(number: int) -> None:
            came = Came.UNKNOWN
            while came is not Came.OK:
                take = sink.take.options(idempotency_key=f"{name}-{number}", timeout=CALL_S)
                came, _ = await tally.call(take.send(name, number))
                if came is not Came.OK:
                    unordered[name] += 1

        # Tasks begin in the order in which they are made.
        await asyncio.gather(*(asyncio.create_task(send(number)) for number in numbers))
        await asyncio.sleep(0.01)


def _expected(sent: dict[str, int]) -> int:
    sources = sum(count for name, count in sent.items() if name.startswith("source-"))
    return sources * RELAYS * 2 + sum(count for name, count in sent.items() if name.startswith("client-"))


async def _until_arrived(sent: dict[str, int]) -> list[str]:
    """What has not arrived when patience ends."""
    deadline = time.monotonic() + ARRIVED_S
    while True:
        try:
            missing = await _missing(sent)
        except PerdureError as error:
            missing = [repr(error)]
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(0.1)


async def _missing(sent: dict[str, int]) -> list[str]:
    missing: list[str] = []
    for number in range(RELAYS):
        relay = f"relay-{number}"
        here = (await Relay.ref(relay).intake()).last
        there = (await Sink.ref(f"sink-of-{relay}").intake()).last
        for name, count in sent.items():
            if name.startswith("source-"):
                pair = here.get(name, 0), there.get(f"{relay}<{name}", 0)
                missing += [f"{relay}: of {name} {pair} arrived instead of {count}"] if pair != (count, count) else []
    for name, count in sent.items():
        if name.startswith("client-"):
            arrived = (await Sink.ref(f"sink-{name}").intake()).last.get(name, 0)
            missing += [f"{name}: {arrived} instead of {count}"] if arrived != count else []
    return missing


async def _wrong_orders(unordered: dict[str, int]) -> list[str]:
    wrong: list[str] = []
    for number in range(RELAYS):
        wrong += (await Relay.ref(f"relay-{number}").intake()).wrong
        wrong += (await Sink.ref(f"sink-of-relay-{number}").intake()).wrong
    for number in range(CLIENT_STREAMS):
        if f"client-{number}" not in unordered:
            wrong += (await Sink.ref(f"sink-client-{number}").intake()).wrong
    return wrong


async def _kill_now_and_then(scene: Scene, until: float) -> int:
    """A host by chance every few seconds, once in a while all; returns how many times."""
    kills = 0
    while time.monotonic() + KILL_EVERY_S < until:
        await asyncio.sleep(scene.rng.uniform(0.25, 1.0) * KILL_EVERY_S)
        await scene.until("a host lives", scene.hosts)
        fault = await scene.kill_one_host()
        kills += 1
        await scene.until("a host lives", scene.hosts)
        scene.prove("host", fault.pids, [host.pid for host in await scene.hosts()])
    return kills
