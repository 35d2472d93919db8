"""What a run waits for without costing anything: people, the outside world, its own resumption.

Promises P7 and P9 rest here. Three kinds of waiting are durable and take no part in rehydration (`_in_flight`):

* an activity that has been executed and whose result comes *from outside*. Its limits are a timer of its entity, so
  that they hold while it sleeps;
* an activity whose attempts are used up under `on_exhausted="pause"`;
* a *paused run*. What happens to it meanwhile is held in order as items of a mailbox of its own (a name that no
  mailbox of a class can have), in the same commit as the turn that brought it, and fed to it when it is resumed. So
  are answers that come for a *parked* run.
  Mailbox items stay where they are; conditions are judged by the state as it is when the run goes on.

If the commit of any of these is lost, the turn runs again; if the host dies before it, the attempt is made again, as
with every activity without a durable outcome.
"""

from collections import deque
from collections.abc import Sequence
from functools import partial

import msgspec

from ...messages import OperationAddress
from ...store.rows import AttemptRow, AttemptStatus, EntityWrite, MailboxItem, ReminderKind, ReminderRow, RunRow
from ..deliveries import NOTHING, ActivityWaits, Item
from ..journal import Event, OperationKind, Tried
from ..run import ActivityDetail, Operation, Run
from .held import Held
from .record import NULL

_WAITING = (AttemptStatus.PAUSED, AttemptStatus.OUTSIDE)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class Waits(Held):
    """Waiting without work."""

    __slots__ = ()

    # --- runs that are paused ---

    def _hold(self, run: Run, events: Sequence[Event], item: Item | None, *, is_same_turn: bool) -> None:
        """In place of a resume: keep the events until the run is resumed."""
        self._enter(None)
        write = self._writing() if is_same_turn else self._turn()
        self._put_held(write, run.row, events)
        self._output(item, None)

    def _put_held(self, write: EntityWrite, row: RunRow, events: Sequence[Event]) -> None:
        """Of a paused run; of a parked one the answers to its calls, which nobody would send again."""
        name = _held_name(row)
        held = self.items.setdefault(name, deque())
        for event in events:
            if event.operation >= 0 and event.operation in self._held_operations(row):
                continue
            position = max(self.version, held[-1].position + 1 if held else 0)
            kept = MailboxItem(name, position, str(event.kind), _encode(event))
            held.append(kept)
            write.items_put.append(kept)
            if event.operation >= 0:
                self._forget_attempts(write, str(OperationAddress(row.workflow, row.run_id, event.operation)))

    def is_holding(self, row: RunRow) -> bool:
        """Whether there are events for this run to begin with when it goes on."""
        return bool(self.items) and _held_name(row) in self.items

    def _held_operations(self, row: RunRow) -> set[int]:
        """Operations that have their outcome already, of a run that has not gone on since."""
        held = self.items.get(_held_name(row), ())
        return {event.operation for event in map(_decode, (row.item for row in held)) if event.operation >= 0}

    def _release_held(self, write: EntityWrite, row: RunRow) -> list[Event]:
        """Take what was held out of the store; returns it in order."""
        held = self.items.pop(_held_name(row), None) or ()
        for item in held:
            if item in write.items_put:
                write.items_put.remove(item)
            else:
                write.items_taken.append((item.mailbox, item.position))
        return [_decode(item.item) for item in held]

    # --- activities that wait ---

    def _forget_attempts(self, write: EntityWrite, address: str) -> None:
        """The operation has its outcome, or is not wanted: no row, no limit."""
        row = self.attempts.pop(address, None)
        if row is None:
            return
        write.attempts_gone.append(address)
        write.attempts_set = [other for other in write.attempts_set if other.operation != address]
        if row.status is AttemptStatus.OUTSIDE and row.next_us:
            self._drop_reminder(write, address)

    def _tried(self, run: Run, events: Sequence[Event]) -> dict[str, Tried]:
        """Failed attempts of the operations that these events settle: their notes go, the journal keeps the sum."""
        rows = {event.operation: self.attempts.get(run.address(event.operation)) for event in events}
        return {
            str(number): Tried(row.attempt, msgspec.Raw(row.error), row.first_us)
            for number, row in rows.items()
            if row is not None and row.error != NULL
        }

    def _set_attempt(self, write: EntityWrite, row: AttemptRow) -> None:
        self.attempts[row.operation] = row
        write.attempts_set = [other for other in write.attempts_set if other.operation != row.operation]
        write.attempts_set.append(row)

    def _set_outside(self, write: EntityWrite, detail: ActivityDetail, row: AttemptRow, *, now_us: int) -> None:
        """The operation waits for the outside from now on, within its limits."""
        options = detail.options
        limits = [
            start_us + round(limit.total_seconds() * 1e6)
            for start_us, limit in (
                (row.started_us, options.timeout),
                (row.first_us, options.total_timeout),
                (now_us, options.heartbeat_timeout),
            )
            if limit is not None
        ]
        row = row._replace(status=AttemptStatus.OUTSIDE, next_us=min(limits, default=0))
        self._set_attempt(write, row)
        if limits:
            timer = ReminderRow(self.id, row.operation, ReminderKind.TIMER, self.version, row.next_us)
            self._put_reminder(write, timer)

    def _activity_waits(self, item: ActivityWaits) -> Event | None:
        """Make it durable that it waits. Returns the event if it cannot wait but has an outcome after all."""
        row, address = item.row, OperationAddress.parse(item.call.operation)
        run = self.runs.get(address.workflow)
        if run is None or run.row.run_id != address.run_id or address.number not in run.pending:
            return None
        if item.event is not NOTHING:  # the database refused the row: see `condemn`
            return item.event
        write = self._writing()
        if row.status is AttemptStatus.OUTSIDE:
            detail: ActivityDetail = run.pending[address.number].detail
            self._set_outside(write, detail, row, now_us=self.engine.now_us())
        else:
            self._set_attempt(write, row)
        self._update_in_flight(write, run)
        self._output(item, None)
        if row.status is AttemptStatus.RETRYING:  # its run was paused, and may go on by now
            operation = run.pending[address.number]
            self._output(None, partial(self._begin_again, run, operation))
        return None

    def _begin_again(self, run: Run, operation: Operation, *, at_once: bool = False) -> None:
        """After a commit: let an activity go on, unless its outcome is waiting for its turn (P7)."""
        if run.address(operation.number) not in self.outcomes_waiting():
            self.engine.attempts.begin(self, run, operation, at_once=at_once)

    # --- what is under way ---

    def _in_flight(self, run: Run) -> bool:
        """Whether the run has work that whoever gains its shard must take up at once."""
        if run.row.paused:
            return False
        if not self.attempts:
            return run.awaits_activity()
        return any(
            op.kind is OperationKind.ACTIVITY and not self._is_waiting(run.address(op.number))
            for op in run.pending.values()
        )

    def _is_waiting(self, address: str) -> bool:
        row = self.attempts.get(address)
        return row is not None and row.status in _WAITING

    def _update_in_flight(self, write: EntityWrite, run: Run) -> None:
        row = run.row._replace(in_flight=self._in_flight(run), waiting=self._waiting_for(run))
        self.rows[row.workflow] = run.row = row
        write.runs = [r for r in write.runs if r.workflow != row.workflow]
        write.runs.append(row)

    def _waiting_for(self, run: Run) -> str:
        """For people."""
        text = run.waiting_for()
        return f"paused ({run.row.paused}); {text}" if run.row.paused else text


def _held_name(row: RunRow) -> str:
    return f"{row.workflow}/{row.run_id}"
