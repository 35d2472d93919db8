"""Activation: rebuilding unfinished runs from their journals, executing nothing.

The run that had the entity's last turn is replayed last, so that its local aliases of the state are live ones, as they
were before. A run whose code does not fit its journal is *parked*: nothing of it is executed, handlers and queries of
the entity go on, and the next activation tries again. A parked run counts as in flight, so whoever gains its shard
(a restarted host, hence every deploy) tries it once, at the bounded rate of rehydration: a fixed deploy resumes it.
"""

import logging
from collections.abc import Sequence

from ...errors import DamagedRow, HostKilled, PerdureError, RunParked
from ...messages import encode_json
from ...metrics import RUNS_PARKED
from ...store.rows import (
    JournalRow,
    Loaded,
    RunRow,
    RunStatus,
    suspect_id,
)
from .. import lost_attempts
from ..deliveries import (
    Begin,
    CheckConditions,
)
from ..journal import OperationKind, ReplayMismatch
from ..replaying import rebuild_run
from ..run import Run
from ..subjects import run_subject
from .record import NULL
from .staging import Staging

log = logging.getLogger("perdure.engine")


class Rebuild(Staging):
    """Runs come back to memory."""

    __slots__ = ()

    def _rebuild_runs(self, loaded: Loaded) -> None:
        """Replay the journals of unfinished runs. The run that had the last turn comes last: its aliases stay live."""
        live = [row for row in loaded.runs if not row.status.is_terminal]
        journals = {
            row.workflow: [j for j in loaded.journal if (j.workflow, j.run_id) == (row.workflow, row.run_id)]
            for row in live
        }
        live.sort(key=lambda row: journals[row.workflow][-1].version if journals[row.workflow] else 0)
        last_version = 0
        for row in live:
            damage = loaded.damaged_runs.get(row.workflow) or gap_in(journals[row.workflow])
            if damage:
                self._park_row(row, DamagedRow(damage))
                continue
            run = self._replay(row, journals[row.workflow])
            if run is not None and journals[row.workflow]:
                last_version = journals[row.workflow][-1].version
                self.last_executor = run
        if self.last_executor is None:
            return
        if last_version != self.version:
            self.definition.replace_fields(self.entity, self.snapshot)
            self.last_executor = None
        else:
            rebuilt = self.definition.dump(self.entity)
            if not self.definition.is_same(rebuilt, self.snapshot):
                run = self.last_executor
                self.last_executor = None
                self._park(run, ReplayMismatch(self.snapshot.decode()[:500], rebuilt.decode()[:500], run.entries))
                self.definition.replace_fields(self.entity, self.snapshot)  # after its `finally` blocks

    def _replay(self, row: RunRow, journal: list[JournalRow]) -> Run | None:
        if row.workflow not in self.definition.workflows:
            self._park_row(row, f"the class has no workflow `{row.workflow}` any more")
            return None
        suspects = self.engine.suspects
        if suspects.condemned:
            verdict = suspects.condemned.pop((self.id, suspect_id(row.workflow, row.run_id)), None)
            if verdict is not None:
                self._park_row(row, verdict)
                return None
        if row.status is RunStatus.PARKED:
            # The code may be fixed by now: try; if it still does not fit, the run stays parked.
            row = row._replace(status=RunStatus.RUNNING, outcome=NULL)
        self.engine.running = run_subject(self.id, row.workflow, row.run_id)
        try:
            run, problem = rebuild_run(self.definition, self.entity, row, journal)
        finally:
            self.engine.running = None
        if problem is not None:
            self._park(run, problem)
            self.definition.replace_fields(self.entity, self.snapshot)
            return None
        if run.has_begun:
            run.seen = self.definition.dump(self.entity)
        else:  # it continued as new, and its host died before it began
            self.definition.replace_fields(self.entity, self.snapshot)
        if not journal or journal[-1].version != self.version:
            run.last_turn = -1
        else:
            run.last_turn = self.serial
        if self.rows[row.workflow].status is RunStatus.PARKED:
            self.rows[row.workflow] = row
            self._writing().runs.append(row)
            # Timers that were due meanwhile have been left in the store.
            self._output(None, lambda: self.engine.reread_reminders(self.id))
        self.runs[row.workflow] = run
        return run

    def start_pending(self) -> None:
        """After activation: start again the activities whose outcome is not known."""
        known = self.outcomes_waiting()
        suspects = self.engine.suspects
        for run in self.runs.values():
            item = None if run.row.paused else self._start_again(run, known)
            if item is None:
                # Whoever marked it (a transaction; the end of its being parked) could not know that it only waits.
                self._note_true_conditions(run, are_true=False)
            elif not (suspects.taken and suspects.holds_event(self.id, item)):
                self.push_front(item)

    def _start_again(self, run: Run, known: set[str]) -> Begin | CheckConditions | None:
        for operation in run.pending.values():
            if operation.kind is OperationKind.ACTIVITY and run.address(operation.number) not in known:
                lost_attempts.begin(self, run, operation)
        if not run.has_begun:
            return Begin(run)
        return CheckConditions(run) if self.is_holding(run.row) or run.true_conditions() else None

    def park_run(self, run: Run, verdict: PerdureError) -> None:
        """Stop a live run for good, or until an operator lets it go on."""
        self._enter(None)
        run.close()
        self._park_row(run.row, verdict)
        # `finally` blocks of a closed coroutine may have touched the fields.
        self.definition.replace_fields(self.entity, self.snapshot)

    def _park(self, run: Run, problem: Exception) -> None:
        run.close()
        self._park_row(run.row, problem)

    def _park_row(self, row: RunRow, reason: Exception | str) -> None:
        log.error("%s.%s is parked: %s", self.id, row.workflow, reason)
        if isinstance(reason, HostKilled):
            error = RunParked(
                f"{self.id}.{row.workflow} is parked: its code ended the hosts that ran it ({reason.details['reason']}"
                "). Handlers and queries go on; an operator has to resume it",
                why=HostKilled.code,
            )
        elif isinstance(reason, DamagedRow):
            error = RunParked(
                f"{self.id}.{row.workflow} is parked: {reason}. Handlers and queries go on. Restore the row, or "
                f"accept it as it is with `perdure db accept {self.id}`; then resume the run",
                why=DamagedRow.code,
            )
        else:
            error = RunParked(
                f"{self.id}.{row.workflow} is parked: {reason}. Handlers and queries go on; deploy code that fits its "
                "journal",
            )
        body = error.body()
        self.runs.pop(row.workflow, None)
        before = self.rows.get(row.workflow)
        self.rows[row.workflow] = row = row._replace(
            status=RunStatus.PARKED, outcome=encode_json(body), in_flight=True, waiting=""
        )
        if before is None or before.status is not RunStatus.PARKED or before.outcome != row.outcome:
            self._writing().runs.append(row)
            self._output(None, lambda: self.engine.figures.count(RUNS_PARKED, self.id.type, row.workflow))


def gap_in(journal: Sequence[JournalRow]) -> str:
    """What is wrong with the numbers of a journal; empty if nothing is."""
    for number, row in enumerate(journal):
        if row.number != number:
            return f"entry {number} of its journal is missing"
    return ""
