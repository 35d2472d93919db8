"""Going on from an ended run's journal: a new run whose beginning is another's, up to a chosen operation.

The new run takes over the journal up to and including the resume in which the operation was asked for. Its coroutine is
rebuilt from that as after a crash, executing nothing: what the old run did until then is done, and what it sent is
sent. What it waited for at that point is asked for again under the new run's id: activities are executed under new
idempotency keys, calls are made again, timers keep their due times (one that has passed fires at once). Mailbox items
that the old run received later are not put back. Chance is repeated from the old run's (`ids.seed_of`).

The state: by default it is what it was at that point, and that is refused if anything but the old run has changed it
since, because then nobody can say what it should be. With `keep_state` it stays as it is; the new run's next resume
sees it, as if handlers had changed it meanwhile.

The journal of an ended run is not in memory: it is read first, while other turns go on, then the message is tried
again.
"""

from collections.abc import Coroutine
from typing import Any

from ...errors import Conflict, NoSuchOperation, PerdureError, RunParked
from ...ids import rerun_of
from ...messages import Status, encode_json
from ...operate import Act
from ...store.rows import STATE_NOT_KEPT, JournalRow, RunRow, RunStatus
from ..deliveries import Delivery
from ..journal import Entry, decode_entry
from ..replaying import rebuild_run
from ..run import Run
from .listing import Listing
from .record import NULL


class Reruns(Listing):
    """New runs from old journals."""

    __slots__ = ()

    def _rerun_from(self, delivery: Delivery, act: Act, row: RunRow) -> None:
        if not row.status.is_terminal:
            raise Conflict(
                f"{self.id}.{row.workflow} is {row.status}: only an ended run can be run again from an operation; "
                "terminate it first, or complete, fail or retry the operation that it waits for"
            )
        if delivery.journal is None or any(entry.run_id != row.run_id for entry in delivery.journal):
            self._read_journal(delivery, row)
            return
        entries = [decode_entry(entry.entry) for entry in delivery.journal]
        kept = _entries_until(f"{self.id}.{row.workflow}", entries, act.operation)
        state = None if act.keep_state else self._state_after(row, delivery.journal, kept)
        new = row._replace(
            run_id=rerun_of(row.run_id),
            status=RunStatus.RUNNING,
            started_us=self.engine.now_us(),
            ended_us=0,
            outcome=NULL,
            reply_to=(),
        )
        before = self.snapshot
        run = self._replayed(new, delivery.journal[:kept])
        run.seen = self.definition.dump(self.entity)
        if run.ended:
            run.close()
            self.definition.replace_fields(self.entity, before)
            raise Conflict(
                f"{self.id}.{row.workflow} ended in the very resume in which it asked for operation {act.operation!r}: "
                "there is nothing to go on from; choose an earlier one"
            )
        self.definition.replace_fields(self.entity, before if state is None else state)
        self._take_over(delivery, run, delivery.journal[:kept], state)

    def _read_journal(self, delivery: Delivery, row: RunRow) -> None:
        async def read() -> None:
            delivery.journal = await self.engine.store.journal(self.id, row.workflow, row.run_id)

        self._after(delivery, read())

    def _after(self, delivery: Delivery, work: Coroutine[Any, Any, None]) -> None:
        """Try a message again when the store has answered; other turns go on meanwhile."""

        async def wait() -> None:
            try:
                await work
            except PerdureError as error:
                self.by_id.pop(delivery.envelope.id, None)
                delivery.reply(Status.ERROR, encode_json(error.body()), 0)
                return
            if not self.engine.owns(self.id):
                delivery.reply(Status.NOT_OWNER, NULL, 0)
            elif self.is_dead:
                self.engine.arrivals.accept(self.id, delivery)
            else:
                self.push_front(delivery)

        self.engine.background(wait())

    def _state_after(self, row: RunRow, journal: list[JournalRow], kept: int) -> bytes:
        """The state at the end of the last kept resume. Raises Conflict if others have changed it since."""
        whole = self._replayed(row, journal)
        final = self.definition.dump(self.entity)
        whole.close()
        self.definition.replace_fields(self.entity, self.snapshot)
        self.last_executor = None
        if any(decode_entry(entry.entry).state for entry in journal[kept:]) or not self.definition.is_same(
            final, self.snapshot
        ):
            raise Conflict(
                f"{self.id}.{row.workflow}: other turns have changed the state since that operation was asked for, so "
                "it cannot be put back; repeat with keep_state to go on from the state as it is"
            )
        part = self._replayed(row, journal[:kept])
        state = self.definition.dump(self.entity)
        part.close()
        self.definition.replace_fields(self.entity, self.snapshot)
        return state

    def _replayed(self, row: RunRow, journal: list[JournalRow]) -> Run:
        """Rebuild a run, on the entity's own fields. Raises RunParked if the code does not fit."""
        self.last_executor = None
        self.serial += 1  # other runs' aliases of the fields are cut
        run, problem = rebuild_run(self.definition, self.entity, row, journal)
        if problem is not None:
            run.close()
            self.definition.replace_fields(self.entity, self.snapshot)
            raise RunParked(f"{self.id}.{row.workflow}: the code does not fit the old journal: {problem}") from None
        return run

    def _take_over(self, delivery: Delivery, run: Run, journal: list[JournalRow], state: bytes | None) -> None:
        # Children that it awaited have ended with the old run; they are started again, and end with this one.
        row = run.row._replace(children=tuple(run.children[number] for number in run.pending if number in run.children))
        self.serial += 1
        if state is not None:
            self.snapshot = state
        write = self._consume(delivery, ok=True, body=encode_json(row.run_id), by_run=True)
        self.runs[row.workflow] = run
        run.last_turn = -1
        for entry in journal:
            # Of no version of the entity: nothing that this entry tells has happened again, and no past state is its.
            write.journal.append(entry._replace(run_id=row.run_id, version=0, state=STATE_NOT_KEPT))
        self._set_row(write, row)
        for operation in list(run.pending.values()):
            self._schedule(write, run, operation)
        self._update_in_flight(write, run)
        if run.receivers():
            self._resume(run, [], None, is_same_turn=True)  # what it waits for may be there already
        self._changed()


def _entries_until(what: str, entries: list[Entry], operation: int | str | None) -> int:
    """How many entries to keep: up to the one in which the operation was asked for."""
    for index in reversed(range(len(entries))):
        for asked in entries[index].operations:
            if operation in (asked.number, asked.name):
                return index + 1
    raise NoSuchOperation(
        f"{what}: its journal has no operation {operation!r}" + ("" if entries else "; it has been pruned")
    )
