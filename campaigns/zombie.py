"""zombie: a host is stopped (SIGSTOP) for longer than its lease, loses its shards, and is continued (SIGCONT).

While it is stopped, writes and queries are put into its mailbox directly, past the router: it finds them at the very
moment in which it wakes up and knows of nothing. None of its writes may commit, none of its answers may show a state
that is not the newest, and its process must end.

In every second round its connections with Postgres are frozen as well before it wakes up (the backends are stopped),
as if its machine had been cut off: it cannot learn that it was fenced, has only its own lease to judge by, and what it
sends to Postgres arrives after it is dead.

Every outcome says which process made it, so history shows whether the zombie wrote anything after it was fenced.
"""

import asyncio
import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psutil

from perdure.cluster.ray_runtime import Handle, submit
from perdure.cluster.wire import Offer, decode_answer, encode
from perdure.entities.ids import new_message_id
from perdure.entities.messages import Envelope, Kind, Status
from perdure.entities.shard import shard_of

from .audit import audit_chains, audit_leftovers
from .entities import Witness
from .harness import HostSeen, Options, Scene, open_scene
from .load import Came, Tally
from .processes import find, is_alive, strike, unix_peers
from .verdict import Verdict, distribution

ROUNDS = 6
KEYS = 16
WRITERS = 16
CALL_S = 30.0
RETIRE_S = 60.0
STATUSES_WITHOUT_ANSWER = {Status.NOT_OWNER, Status.BUSY, Status.ERROR}


async def run(options: Options) -> Verdict:
    """The campaign."""
    verdict = Verdict("zombie", options.seed)
    rounds = options.rounds or ROUNDS
    async with open_scene(verdict, options, entities=["campaigns.entities:Witness"]) as scene:
        results = [await _Round(scene, number).run() for number in range(1, rounds + 1)]
        direct = sum(len(one.direct) for one in results)
        verdict.none_of(
            "none of its writes commits (asked directly on waking)",
            [line for one in results for line in one.direct_writes],
            f"{direct} messages put into its mailbox, answers {_counts(results)}",
        )
        verdict.none_of(
            "none of its writes commits (history by process)",
            [line for one in results for line in one.zombie_rows],
            f"{sum(one.successor_rows for one in results)} outcomes after the fence, all by other processes",
        )
        verdict.none_of("it serves no stale query", [line for one in results for line in one.stale], "as above")
        verdict.none_of(
            "it retires", [line for one in results for line in one.not_retired], f"{rounds} processes ended"
        )
        verdict.none_of(
            "no acknowledged write is lost or doubled",
            [line for one in results for line in one.wrong],
            "; ".join(str(one.tally) for one in results),
        )
        await audit_chains(verdict, scene)
        await audit_leftovers(verdict, scene)
        stopped = [line for one in results for line in one.proofs]
        verdict.holds("faults: stopped for longer than the lease", len(stopped) == rounds, stopped)
        verdict.figure("answers to what was put into its mailbox", _counts(results))
        verdict.figure("SIGSTOP → fenced", distribution([one.fenced_s for one in results]))
        verdict.figure("SIGSTOP → first commit by its successor", distribution([one.resumed_s for one in results]))
        verdict.figure("SIGCONT → process gone", distribution([one.retired_s for one in results]))
    return verdict


class _Round:
    """One host stopped and continued."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.scene = scene
        self.number = number
        self.tally = Tally()
        self.acked: set[str] = set()
        self.unknown: set[str] = set()
        self.direct: list[str] = []
        self.direct_uids: set[str] = set()
        self.direct_writes: list[str] = []
        self.zombie_rows: list[str] = []
        self.successor_rows = 0
        self.stale: list[str] = []
        self.not_retired: list[str] = []
        self.wrong: list[str] = []
        self.proofs: list[str] = []
        self.fenced_s = self.resumed_s = self.retired_s = 0.0
        self._serial = itertools.count()
        self._is_over = False

    async def run(self) -> "_Round":
        scene = self.scene
        await scene.until_whole()
        victim = scene.rng.choice(await scene.hosts())
        process = find(victim.pid)
        assert process is not None
        keys = await self._keys_of(victim)
        handle = await scene.actor(victim.actor)
        writing = asyncio.gather(*(self._write(keys) for _ in range(WRITERS)))
        await asyncio.sleep(scene.rng.uniform(0.5, 1.5))
        stopped_at = strike([process], signal.SIGSTOP)
        while (status := process.status()) != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.001)
        sleeping = [self._ask(handle, keys) for _ in range(4)]

        fenced_at = await scene.until("the stopped host is fenced", lambda: self._fenced_at(victim))
        await scene.until("its shards have owners", lambda: self._are_owned(victim))
        await scene.until("its successors commit", lambda: self._has_successor_written(keys, victim, fenced_at))
        self.fenced_s = fenced_at - stopped_at
        lease_s = scene.settings.lease_s
        self.proofs.append(f"pid {victim.pid} {status} for {time.time() - stopped_at:.1f} s (lease {lease_s:g} s)")

        frozen = await self._freeze(victim) if self.number % 2 == 0 else []
        continued_at = strike([process], signal.SIGCONT)
        awake = [self._ask(handle, keys) for _ in range(4)]
        await self._until_retired(process, continued_at)
        strike(frozen, signal.SIGCONT)
        await asyncio.sleep(1)
        self._is_over = True
        await writing
        for envelopes, call in [*sleeping, *awake]:
            await self._look_at(envelopes, call)
        await self._check(keys, victim, fenced_at, stopped_at)
        return self

    async def _keys_of(self, host: HostSeen) -> list[str]:
        [row] = await self.scene.sql("select count(*) from shards")
        mine = set(host.shards)
        assert mine, f"{host} owns nothing"
        names = (f"r{self.number}-{number}" for number in itertools.count())
        return list(itertools.islice((n for n in names if shard_of("Witness", n, row["count"]) in mine), KEYS))

    async def _write(self, keys: Sequence[str]) -> None:
        """One of the ordinary clients, through the router, all the time."""
        while not self._is_over:
            uid = f"u{self.number}-{next(self._serial)}"
            key = self.scene.rng.choice(keys)
            came, _ = await self.tally.call(Witness.ref(key).add.options(timeout=CALL_S)(uid))
            if came is Came.OK:
                self.acked.add(uid)
            elif came is Came.UNKNOWN:
                self.unknown.add(uid)
            await asyncio.sleep(0.02)

    # --- past the router ---

    def _ask(self, handle: Handle, keys: Sequence[str]) -> tuple[list[Envelope], "asyncio.Future[bytes]"]:
        """A link of its own to the victim, with a write and a query for every key."""
        envelopes: list[Envelope] = []
        for key in keys:
            uid = f"direct{self.number}-{next(self._serial)}"
            self.direct_uids.add(uid)
            arguments = json.dumps({"uid": uid}).encode()
            for kind, name, args in ((Kind.CALL, "add", arguments), (Kind.QUERY, "seen", b"{}")):
                envelopes.append(
                    Envelope(new_message_id(), "Witness", key, kind, name, args, "campaign", time.time_ns() // 1_000)
                )
        offer = Offer(new_message_id(), 0, 0, envelopes)
        return envelopes, submit(handle, "exchange", encode(offer))

    async def _look_at(self, envelopes: list[Envelope], call: "asyncio.Future[bytes]") -> None:
        """What the zombie answered: nothing, or that it is not the owner."""
        try:
            async with asyncio.timeout(20):
                answer = decode_answer(await call)
        except Exception as error:
            self.direct += [type(error).__name__] * len(envelopes)
            return
        self.direct += ["none"] * (len(envelopes) - len(answer.replies))
        for number, reply in zip(answer.numbers, answer.replies, strict=True):
            self.direct.append(reply.status.value)
            if reply.status not in STATUSES_WITHOUT_ANSWER:
                found = self.direct_writes if envelopes[number].kind is Kind.CALL else self.stale
                found.append(f"round {self.number}: {envelopes[number].name} of {envelopes[number].key}: {reply}")

    async def _freeze(self, host: HostSeen) -> list[psutil.Process]:
        """Stop the Postgres backends that serve this host."""
        peers = await unix_peers(host.pid)
        backends = [process for process in peers if process.name() == "postgres"]
        assert backends, "the host has no connection to Postgres"
        strike(backends, signal.SIGSTOP)
        self.proofs[-1] += f", {len(backends)} backends frozen"
        return backends

    # --- waiting ---

    async def _fenced_at(self, host: HostSeen) -> float:
        query = (
            "select extract(epoch from gone_at)::float8 as at from hosts where incarnation = %s and status = 'fenced'"
        )
        rows = await self.scene.sql(query, host.incarnation)
        return float(rows[0]["at"]) if rows else 0.0

    async def _are_owned(self, host: HostSeen) -> bool:
        rows = await self.scene.sql(
            "select 1 from shards where shard = any(%s) and owner in ('', %s)", list(host.shards), host.incarnation
        )
        return not rows

    async def _has_successor_written(self, keys: Sequence[str], host: HostSeen, fenced_at: float) -> bool:
        rows = await self._rows_after(keys, fenced_at)
        return len({row["key"] for row in rows if row["pid"] != host.pid}) >= len(keys) // 2

    async def _rows_after(self, keys: Sequence[str], at: float) -> list[dict[str, Any]]:
        return await self.scene.sql(
            """select key, args->>'uid' as uid, (outcome #>> '{}')::int as pid,
            extract(epoch from recorded_at)::float8 as at
            from history where type = 'Witness' and ok and key = any(%s) and recorded_at > to_timestamp(%s)""",
            list(keys),
            at,
        )

    async def _until_retired(self, process: psutil.Process, continued_at: float) -> None:
        while is_alive(process):
            if time.time() - continued_at > RETIRE_S:
                self.not_retired.append(f"round {self.number}: {process} lives {RETIRE_S:g} s after SIGCONT")
                strike([process])
                return
            await asyncio.sleep(0.01)
        self.retired_s = time.time() - continued_at

    # --- checking ---

    async def _check(self, keys: Sequence[str], victim: HostSeen, fenced_at: float, stopped_at: float) -> None:
        rows = await self._rows_after(keys, fenced_at)
        self.successor_rows = len(rows)
        self.resumed_s = min(row["at"] for row in rows) - stopped_at
        self.zombie_rows = [f"round {self.number}: {row}" for row in rows if row["pid"] == victim.pid]
        final: list[str] = []
        for key in keys:
            seen = await Witness.ref(key).seen()
            final += seen.uids
        direct = self.direct_uids.intersection(final)
        self.direct_writes += [f"round {self.number}: {uid} is in the state" for uid in direct]
        self.wrong += [f"lost: {uid}" for uid in self.acked.difference(final)]
        self.wrong += [f"doubled: {uid}" for uid in set(final) if final.count(uid) > 1]
        self.wrong += [f"phantom: {uid}" for uid in set(final) - self.acked - self.unknown - self.direct_uids]


def _counts(rounds: Sequence[_Round]) -> dict[str, int]:
    return dict(Counter(answer for one in rounds for answer in one.direct))
