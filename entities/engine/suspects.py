"""Promise P9: what ends the process that runs it does so a bounded number of times.

Suspects
--------
* A call (or other message not yet accepted) whose host was lost with it `LOSSES_MIN` times; its sender's link counts.
* What is found in a shard *taken over* from a host that did not release it: messages stored before, reminders that
  were due, and runs that have not gone on since: their replay, and whatever resumes them. The directory knows when
  that was, so that whoever gets the shard next, in order, before all of it was tried, suspects the same.

Without crashes there are none, and then nothing here costs anything: no store call, no task, one look at an empty dict
per stored message or event.

Protocol (decisions: quarantine.py)
-----------------------------------
* Discovered: held. A message stays in its mailbox, so that the order of its sender's messages is kept (P5).
* What is held against it is read; a point is added; only once that is durable it runs. Ways in that concern the same
  run (its replay, a timer that was due, an answer to it) share one point: a host dies of it once at most.
* It ran and this process lives: what is held against a message is deleted, a run that was only replayed gets its last
  point back, and so does what leaves with its shard. A host that dies first leaves the point to its successor.
* Refused: a message is answered or dead-lettered, an occurrence of a reminder dead-lettered (the recurring goes on), a
  run parked. A parked run stays so on every activation while its row stands; `resume` by an operator deletes that
  (`pardon`), and it is tried as often as the first time.

Failures: while the store is not available suspects wait. A change of points whose outcome is unknown is sent again
under its id, so that it counts once although the first may still be on its way, and what is held against its suspects
is read again: a lost answer must not count as a death.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import HostKilled
from ..ids import EntityId, new_message_id
from ..messages import Envelope, Kind, OperationAddress
from ..store.port import StoreUnavailable
from ..store.rows import Loaded, ReminderRow, RunRow, RunStatus, Suspicion, suspect_id
from .cases import Case, EventCase, LoadCase, MessageCase, Problems
from .deliveries import ActivityDone, Begin, CheckConditions, Delivery, Fire, Item
from .journal import decode_entry
from .quarantine import LOSSES_MIN, PATIENCE_S, POINTS_MAX, choose, is_refused
from .subjects import Subject, run_subject

if TYPE_CHECKING:
    from .engine import Engine
    from .run import Run
    from .turns.record import Record

log = logging.getLogger("perdure.suspects")

CLOCK_DOUBT_US = 20_000
"""The engine's clock is a lower bound of the database's: so much may lie between them."""
TAKEN_FOR_US = 24 * 3_600_000_000
"""What was not tried for so long is no suspect to later owners. If it ends one, it is again."""
LOOK_S = 0.002
"""How often to look whether a suspect under way has survived; only while one is."""
RETRY_S = 0.2
LET_GO_S = 1.0
BATCH_MAX = 1_000

Key = tuple[EntityId, str]
"""Of what is held against a suspect."""


@dataclass(slots=True)
class Stake:
    """What is held against a suspect that runs here, and would be left behind if this process died."""

    points: int
    """In the store."""
    rest: int
    """Of them, if nothing comes of it."""
    cases: set[Case]
    """By whom it is shared; when all have ended it is taken back to `rest`."""


class Suspects:
    """Owned by the engine; everything on the host's loop."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.taken: dict[int, int] = {}
        """Shards that were taken over from a host that had not released them → when (database µs)."""
        self.condemned: dict[tuple[EntityId, str], HostKilled] = {}
        """Runs to be parked by the activation under way."""
        self.passed: set[EntityId] = set()
        """Entities that may be activated now."""
        self._pardoned: set[tuple[EntityId, str]] = set()
        """Parked runs whose resumption is about to be recorded."""
        self._new: list[Case] = []
        self._held: list[Case] = []
        self._running: list[Case] = []
        self._at_stake: dict[Key, Stake] = {}
        self._unsure: dict[Key, Suspicion] = {}
        """Changes whose outcome is unknown."""
        self._fires: set[tuple[EntityId, ReminderRow]] = set()
        """Occurrences that are held."""
        self._task: asyncio.Task[None] | None = None

    # --- shards ---

    def gained(self, taken_us: Mapping[int, int]) -> None:
        """When a former owner of these last died, or was declared dead, without releasing them (0: never)."""
        if self._engine.only is None:
            oldest = self._engine.now_us() - TAKEN_FOR_US
            self.taken |= {shard: us + CLOCK_DOUBT_US for shard, us in taken_us.items() if us > max(0, oldest)}

    def released(self, shards: Collection[int]) -> None:
        """These are leaving this host."""
        for shard in shards:
            self.taken.pop(shard, None)
        if self.passed or self.condemned or self._pardoned:
            shard_of, left = self._engine.shard_of, set(shards)
            self.passed = {entity for entity in self.passed if shard_of(entity) not in left}
            self.condemned = {key: error for key, error in self.condemned.items() if shard_of(key[0]) not in left}
            self._pardoned = {key for key in self._pardoned if shard_of(key[0]) not in left}

    async def let_go(self, shards: Collection[int]) -> None:
        """Wait until nothing of ours is held against entities of these shards, which have left memory: who has them
        next counts deaths, and this is none. Not for long: a point too many does no harm yet.
        """
        leaving, shard_of = set(shards), self._engine.shard_of
        with suppress(TimeoutError):
            async with asyncio.timeout(LET_GO_S):
                while any(shard_of(entity) in leaving for entity, _ in self._at_stake):  # noqa: ASYNC110 - the service looks as often
                    await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """The engine ends: everything is left to the next owner, with the points that it has."""
        if self._task is not None:
            self._task.cancel()

    def taken_us(self, entity: EntityId) -> int:
        """When the entity's shard was taken over; 0 if it was not."""
        return self.taken.get(self._engine.shard_of(entity), 0) if self.taken else 0

    # --- ways in; each says whether it has taken charge ---

    def is_old(self, envelope: Envelope) -> bool:
        """Whether a stored message was there when the shard was taken over.

        Its position is by its sender's clock: what lies in the future does not tell when it came, so it counts as old.
        """
        taken_us = self.taken_us(envelope.entity)
        return envelope.position <= taken_us or (taken_us > 0 and envelope.position > self._engine.now_us())

    def holds(self, activation: "Record", delivery: Delivery) -> bool:
        """Hold a message that has to wait for its outcome to be looked up anyway."""
        envelope = delivery.envelope
        if delivery.is_cleared or self._engine.only is not None or envelope.kind is Kind.RESULT:  # runs no user code
            return False
        if envelope.losses < LOSSES_MIN and not (delivery.is_stored and self.is_old(envelope)):
            return False
        self._hold(MessageCase(activation, delivery))
        return True

    def holds_event(self, entity: EntityId, item: Item) -> bool:
        """Hold an event that may be what the former owner died of."""
        if not self._is_old_event(entity, item, self.taken_us(entity)):
            return False
        if isinstance(item, Fire):
            if (entity, item.row) in self._fires:
                return True  # handed out a second time
            self._fires.add((entity, item.row))
            self._engine.wheel.set_aside(item.row)
        self._hold(EventCase(self._engine, entity, item))
        return True

    def _is_old_event(self, entity: EntityId, item: Item, taken_us: int) -> bool:
        match item:
            case Fire():
                return item.row.due_us <= taken_us
            case ActivityDone():
                activation = self._engine.active.get(entity)
                run = activation.runs.get(OperationAddress.parse(item.call.operation).workflow) if activation else None
                return run is not None and run.now <= taken_us
            case CheckConditions() | Begin():
                return item.run.now <= taken_us
            case Delivery():
                return False

    def outcomes_of(self, entity: EntityId) -> set[str]:
        """Addresses of activities whose outcome is held: they must not be executed again meanwhile (P7)."""
        items = [case.item for case in (*self._new, *self._held) if isinstance(case, EventCase)]
        return {i.call.operation for i in items if isinstance(i, ActivityDone) and i.call.entity == entity}

    def holds_load(self, loaded: Loaded) -> bool:
        """Hold the activation of an entity whose runs would be replayed; it is loaded again when they may."""
        if loaded.entity in self.passed:
            self.passed.discard(loaded.entity)
            return False
        taken_us = self.taken_us(loaded.entity)
        suspects = [row for row in loaded.runs if _is_condemned(row) or (taken_us and _is_older(row, loaded, taken_us))]
        if not suspects or self._engine.only is not None:
            return False
        # An event that is on its way to a run has its point already.
        known = {subject for case in self._running for subject in case.subjects}
        subjects = {run_subject(loaded.entity, row.workflow, row.run_id) for row in suspects} - known
        if subjects:
            self._hold(LoadCase(self._engine, sorted(subjects)))
        return bool(subjects)

    def is_lost(self, entity: EntityId, run: "Run", next_us: int) -> bool:
        """Whether an attempt that was to begin at `next_us` (0: with the run's last resume) was lost with its host."""
        return max(run.now, next_us) <= self.taken_us(entity)

    # --- verdicts ---

    def park(self, subject: Subject, problem: HostKilled) -> None:
        """Park the run that this is, if it is one."""
        activation = self._engine.active.get(subject.entity)
        if activation is None:
            self._engine.arrivals.activate(subject.entity)  # found and parked on the way in
            return
        for run in list(activation.runs.values()):
            if suspect_id(run.row.workflow, run.row.run_id) == subject.id:
                activation.park_run(run, problem)

    def is_held_against(self, entity: EntityId, row: RunRow) -> bool:
        """Whether a parked run would be parked again at once; not for the turn that follows its pardon."""
        if not _is_condemned(row):
            return False
        pardoned = (entity, suspect_id(row.workflow, row.run_id)) in self._pardoned
        self._pardoned.discard((entity, suspect_id(row.workflow, row.run_id)))
        return not pardoned

    async def pardon(self, entity: EntityId, row: RunRow) -> None:
        """An operator lets a parked run go on: what is held against it is deleted. Raises StoreUnavailable."""
        key = entity, suspect_id(row.workflow, row.run_id)
        await self._engine.store.acquit([key])
        self._pardoned.add(key)

    # --- the service ---

    def _hold(self, case: Case) -> None:
        if self._engine.is_stopped:
            return
        self._new.append(case)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="perdure suspects")

    async def _serve(self) -> None:
        while self._new or self._held or self._running or self._at_stake:
            try:
                await self._read_again()
                await self._clear()
                await self._examine()
                if not await self._release() and not self._new:
                    await asyncio.sleep(LOOK_S)
            except StoreUnavailable as problem:
                log.warning("suspects: %s", problem)
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("suspects failed")
                await asyncio.sleep(RETRY_S)

    async def _examine(self) -> None:
        """Read what is held against those newly found."""
        cases = self._new[:BATCH_MAX]
        if not cases:
            return
        known = await self._engine.store.suspicions([(s.entity, s.id) for case in cases for s in case.subjects])
        refused = [(case, problems) for case in cases if (problems := self._judge(case, known))]
        # The row of what is refused shows all points: it is what people find, and what keeps a run parked.
        missing = {
            (case.entity, key): POINTS_MAX - (known[case.entity, key].points if (case.entity, key) in known else 0)
            for case, problems in refused
            for key in problems
        }
        if refused:
            await self._engine.store.suspect([Suspicion(*key, points) for key, points in missing.items() if points > 0])
        del self._new[: len(cases)]
        self._held += [case for case in cases if case.evidence]
        for case, problems in refused:
            for error in problems.values():
                log.error("%s", error.message)
            if case.evidence:  # an entity of which other runs may go on
                self.condemned.update(((case.entity, key), error) for key, error in problems.items())
            elif not self._is_dropped(case):
                case.go(problems)

    def _judge(self, case: Case, known: Mapping[tuple[EntityId, str], Suspicion]) -> Problems:
        """Note in the case what is held against it; returns what is refused."""
        problems: Problems = {}
        case.points, case.evidence = 0, {}
        for subject in case.subjects:
            key = subject.entity, subject.id
            row = known.get(key)
            case.stored[key] = row.points if row is not None else 0
            points = case.know(self._at_stake[key].rest if key in self._at_stake else case.stored[key])
            if is_refused(points):
                problems[subject.id] = _refusal(subject, row.reason if row is not None else "")
            else:
                case.points = max(case.points, points)
                case.evidence[key] = points + 1
        return problems

    def _is_dropped(self, case: Case) -> bool:
        """Whether nobody waits for it any more; from now on it is not held."""
        if isinstance(case, EventCase) and isinstance(case.item, Fire):
            self._fires.discard((case.entity, case.item.row))
        return case.is_gone()

    async def _release(self) -> bool:
        """Let those run that may. True if there were any."""
        gone = {case for case in self._held if case.is_gone()}
        self._held = [case for case in self._held if case not in gone or not self._is_dropped(case)]
        held: set[object] = {case.item for case in self._held if isinstance(case, MessageCase | LoadCase)}
        oldest = self._engine.monotonic() - PATIENCE_S
        under_way = [case for case in self._running if case.since > oldest and not case.is_stuck(held)]
        chosen = choose(self._held, under_way)[:BATCH_MAX]
        if not chosen:
            return False
        wanted: dict[Key, Stake] = {}
        for case in chosen:
            for key, points in case.evidence.items():
                stake = wanted.setdefault(key, self._at_stake.get(key) or Stake(case.stored[key], 0, set()))
                stake.rest = max(stake.rest, points - 1)
        await self._hold_against({key: max(stake.points, stake.rest + 1) for key, stake in wanted.items()}, wanted)
        self._at_stake.update(wanted)
        released = set(chosen)
        self._held = [case for case in self._held if case not in released]
        for case in chosen:
            if not self._is_dropped(case):
                if case.points:
                    log.info("%s runs alone: %d points", case.subjects[0], case.points + 1)
                self._running.append(case)
                for key in case.evidence:
                    self._at_stake[key].cases.add(case)
                case.since = self._engine.monotonic()
                case.go({})
        return True

    async def _clear(self) -> None:
        """Take note of those that have survived."""
        over = {case for case in self._running if case.is_over()}
        for case in over:
            for key in case.evidence.keys() & self._at_stake.keys():
                self._at_stake[key].cases.discard(case)
        cleared = {key for case in over if case.is_cleared() for key in case.evidence}
        ended = {key: stake for key, stake in self._at_stake.items() if not stake.cases and key not in cleared}
        if cleared:
            await self._engine.store.acquit(sorted(cleared))
        await self._hold_against({key: stake.rest for key, stake in ended.items()}, ended)
        for key in cleared | ended.keys():
            self._at_stake.pop(key, None)  # also of those that still run: the point is gone, the next one adds its own
        self._running = [case for case in self._running if case not in over]

    async def _hold_against(self, points: Mapping[Key, int], stakes: Mapping[Key, Stake]) -> None:
        """Make it so many. Raises StoreUnavailable; then nobody knows how many there are."""
        changes = {key: count - stakes[key].points for key, count in points.items() if count != stakes[key].points}
        if changes:
            self._unsure |= {key: Suspicion(*key, change, change=new_message_id()) for key, change in changes.items()}
            await self._engine.store.suspect([self._unsure[key] for key in sorted(changes)])
            for key, change in changes.items():
                del self._unsure[key]
                stakes[key].points += change

    async def _read_again(self) -> None:
        """What is held against those of whom it is not known."""
        if not self._unsure:
            return
        await self._engine.store.suspect([self._unsure[key] for key in sorted(self._unsure)])
        known = await self._engine.store.suspicions(sorted(self._unsure))
        for key in self._unsure:
            points = known[key].points if key in known else 0
            if key in self._at_stake:
                self._at_stake[key].points = points
            for case in self._held:
                if key in case.stored:
                    case.stored[key] = points
        self._unsure.clear()


def _is_older(row: RunRow, loaded: Loaded, taken_us: int) -> bool:
    """Whether an unfinished run has not gone on since then."""
    if row.status is not RunStatus.RUNNING:
        return False
    journal = [entry for entry in loaded.journal if (entry.workflow, entry.run_id) == (row.workflow, row.run_id)]
    return not journal or decode_entry(journal[-1].entry).now_us <= taken_us


def _is_condemned(row: RunRow) -> bool:
    """Whether it was parked because it ends its hosts, rather than for a mismatch."""
    return row.status is RunStatus.PARKED and HostKilled.code.encode() in row.outcome


def _refusal(subject: Subject, reason: str) -> HostKilled:
    seen = reason or "each of them died while it ran"
    return HostKilled(
        f"{subject} is refused for good, because it ended the hosts that ran it ({seen}); nothing was changed. Other "
        "messages go on. Move blocking or crashing work into a `def` activity, then send it again",
        reason=seen,
    )
