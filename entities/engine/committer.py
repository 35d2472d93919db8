"""Group commit: everything that became dirty while the previous commit was in flight goes into the next one.

Promises P1–P4 rest here. One commit at a time, so that consecutive writes of one entity reach the store in order.
What can happen to a commit:

* it succeeds: every activation in it lets its outputs go;
* `WriteConflict`: nothing was written. The entities named are dropped and reloaded; the others are dirty again;
* `NotStorable`: the same, and the messages whose turns made such values are answered with that error, for good;
* `StoreUnavailable`: it may or may not have been written, or may yet be. First that is settled (`settling`); then all
  activations in it are dropped; their messages run again on what the store then holds, after looking up which have an
  outcome. Commits are tried again with back-off;
* `HostFenced`: this host may never commit again. The engine stops.

Order per sender (P5) rests here as well: no message is stored, and thereby accepted, before what its sender sent
earlier is durable. Else a crash would leave the later one alone in the inbox, and the earlier one would be sent again
after it. So arrivals are written in the order in which they came here, also after a conflict, and not before the turns
that their entity has made already.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ids import EntityId
from ..store.port import HostFenced, NotStorable, StoreUnavailable, WriteConflict
from ..store.rows import AttemptRow, Batch
from .deliveries import Delivery
from .settling import BACKOFF_S

if TYPE_CHECKING:
    from .engine import Engine
    from .turns.record import Record

log = logging.getLogger("perdure.engine")

TIMES_KEPT = 1_000
"""Commits whose times the figures for people come from."""


class Committer:
    """The one writer of a host. Owned by its engine."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._dirty: dict[EntityId, Record] = {}
        self._arrivals: deque[tuple[Record, Delivery]] = deque()
        self._attempts: dict[tuple[EntityId, str], tuple[int, AttemptRow]] = {}
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.written = 0
        self._times_us: deque[int] = deque(maxlen=TIMES_KEPT)

    def start(self) -> None:
        """Begin committing."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="perdure committer")

    async def stop(self) -> None:
        """Stop where it is: an unfinished commit is abandoned (its outcome is unknown, as after a crash)."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def dirty(self, activation: "Record") -> None:
        """The activation has something to write."""
        self._dirty[activation.id] = activation
        self._wanted.set()
        self._idle.clear()

    def persist(self, activation: "Record", delivery: Delivery) -> None:
        """Write this accepted one-way message into the inbox."""
        if not delivery.is_stored and not delivery.is_storing:
            delivery.is_storing = True
            self._arrivals.append((activation, delivery))
            self._wanted.set()
            self._idle.clear()

    def note_attempt(self, entity: EntityId, shard: int, row: AttemptRow) -> None:
        """Write down that an activity is being retried, or is alive; the last note counts."""
        self._attempts[entity, row.operation] = (shard, row)
        self._wanted.set()
        self._idle.clear()

    def stats(self) -> dict[str, int]:
        """Counters, and times of the last commits in µs (0 before the first)."""
        commits, times = self._engine.figures.commits, sorted(self._times_us) or [0]
        return {
            "commits": commits["ok"],
            "writes": self.written,
            "commit_failures": commits["unknown"] + commits["unexpected"],
            "commit_us_p50": times[len(times) // 2],
            "commit_us_p99": times[len(times) * 99 // 100],
        }

    async def drained(self) -> None:
        """Wait until nothing is dirty."""
        await self._idle.wait()

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if await self._commit_once():
                failures = 0
            else:
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
                self._wanted.set()
            if not (self._dirty or self._arrivals or self._attempts):
                self._idle.set()
            else:
                self._wanted.set()

    async def _commit_once(self) -> bool:
        """One group commit. False if the store is not available."""
        engine = self._engine
        await engine.settling.free()
        batch, activations, arrivals = self._collect()
        if not (batch.writes or batch.arrivals or batch.attempts):
            return True
        sent = engine.monotonic()
        try:
            database_us = await engine.settling.carry(engine.store.commit(batch))
        except WriteConflict as conflict:
            engine.figures.commits["conflict"] += 1
            log.warning("group commit conflicts: %s", conflict)
            self._note_again(batch)
            self._conflicted(conflict.entities, activations, arrivals)
            return True
        except NotStorable as problem:
            engine.figures.commits["refused"] += 1
            log.warning("group commit refused for good: %s", problem)
            for activation in activations:
                if activation.id in problem.entities:
                    activation.condemn(problem)
            self._note_again(batch, without=problem.entities)
            self._conflicted(problem.entities, activations, arrivals)
            return True
        except HostFenced as fenced:
            engine.figures.commits["fenced"] += 1
            engine.fenced(str(fenced))
            return True
        except StoreUnavailable as problem:
            engine.figures.commits["unknown"] += 1
            log.warning("group commit failed: %s", problem)
            if problem.details.get("maybe_applied", True):
                await engine.settling.settle(batch.epochs)
            self._note_again(batch)
            self._lost(activations, arrivals)
            return False
        except Exception:
            log.exception("group commit failed unexpectedly; %d entities start again", len(activations))
            engine.figures.commits["unexpected"] += 1
            await engine.settling.settle(batch.epochs)
            self._lost(activations, arrivals)
            return False
        received = engine.monotonic()
        engine.clock.observe(database_us, sent=sent, received=received)
        self._times_us.append(round((received - sent) * 1e6))
        engine.figures.commits["ok"] += 1
        engine.figures.commit_seconds.observe(received - sent)
        self._succeeded(batch, activations, arrivals)
        return True

    def _succeeded(
        self,
        batch: Batch,
        activations: "list[Record]",
        arrivals: "list[tuple[Record, Delivery]]",
    ) -> None:
        engine = self._engine
        self.written += len(batch.writes)
        engine.figures.commit_entities.observe(len(batch.writes))
        for activation, write in zip(activations, batch.writes, strict=True):
            engine.figures.committed(activation.definition, write)
            if not activation.is_dead:
                activation.committed()
                if activation.write is not None:
                    self._dirty[activation.id] = activation
                engine.after_commit(activation)
        for activation, delivery in arrivals:
            delivery.is_stored, delivery.is_storing = True, False
            delivery.acknowledge(activation.durable)

    def _collect(self) -> tuple[Batch, "list[Record]", "list[tuple[Record, Delivery]]"]:
        engine = self._engine
        batch = Batch(incarnation=engine.incarnation, epochs={}, writes=[])
        activations: list[Record] = []
        arrivals: list[tuple[Record, Delivery]] = []
        limit = engine.settings.commit_entities_max
        while self._dirty and len(activations) < limit:
            activation = self._dirty.pop(next(iter(self._dirty)))
            if activation.is_dead or activation.write is None:
                continue
            activations.append(activation)
            batch.writes.append(activation.take())
            batch.epochs[activation.shard] = engine.epochs_held[activation.shard]
        later: list[tuple[Record, Delivery]] = []
        while self._arrivals and len(arrivals) < limit:
            activation, delivery = self._arrivals.popleft()
            if activation.is_dead or delivery.is_done or activation.by_id.get(delivery.envelope.id) is not delivery:
                continue  # consumed meanwhile, or about to be delivered again elsewhere
            if activation.write is not None:
                later.append((activation, delivery))  # behind turns that this batch has no room for
                continue
            arrivals.append((activation, delivery))
            batch.arrivals.append((activation.shard, delivery.envelope))
            batch.epochs[activation.shard] = engine.epochs_held[activation.shard]
        self._arrivals.extendleft(reversed(later))
        notes, self._attempts = self._attempts, {}
        for (entity, _), (shard, row) in notes.items():
            # A note that waited out a failed commit may have been overtaken by the outcome: it would stay for ever.
            if shard in engine.epochs_held and engine.attempts.is_under_way(entity, row.operation):
                batch.attempts.append((entity, shard, row))
                batch.epochs[shard] = engine.epochs_held[shard]
        return batch, activations, arrivals

    def _note_again(self, batch: Batch, *, without: Sequence[EntityId] = ()) -> None:
        """The notes of a batch that failed, unless there are newer ones, or it failed because of them."""
        for entity, shard, row in batch.attempts:
            if entity not in without:
                self._attempts.setdefault((entity, row.operation), (shard, row))

    def _conflicted(
        self, entities: Sequence[EntityId], activations: "list[Record]", arrivals: "list[tuple[Record, Delivery]]"
    ) -> None:
        named = set(entities)
        guilty = [a for a in activations if a.id in named] or activations
        for activation in guilty:
            self._engine.drop(activation)
        for activation in activations:
            if not activation.is_dead:
                activation.undo_take()
                self._dirty[activation.id] = activation
        self._arrivals.extendleft(reversed(arrivals))
        self._wanted.set()

    def _lost(self, activations: "list[Record]", arrivals: "list[tuple[Record, Delivery]]") -> None:
        for activation in dict.fromkeys([*activations, *(a for a, _ in arrivals)]):  # each once, in a repeatable order
            self._engine.drop(activation)
