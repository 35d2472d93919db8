"""Is the code repeatable? Rebuild each run from its journal, as a crash at this moment would, and compare (P7).

What activation does (`engine.replaying`), done beside the living entity after each of its resumes; nothing of it is
kept. `check_replay` asks the same of recorded runs and changed code.
"""

from ..definition import EntityDefinition
from ..engine.limits import without_note
from ..engine.replaying import rebuild_run
from ..engine.run import Run
from ..store.rows import JournalRow, Loaded, RunRow, RunStatus


class NotRepeatable(AssertionError):
    """Workflow code did something else when it was run again from its journal."""


def check_resumes(definition: EntityDefinition, loaded: Loaded) -> None:
    """Rebuild every run of the entity as stored. Raises NotRepeatable, naming the operation and the line."""
    for row in loaded.runs:
        journal = [j for j in loaded.journal if (j.workflow, j.run_id) == (row.workflow, row.run_id)]
        if row.status in (RunStatus.RUNNING, RunStatus.COMPLETED) and journal:
            _check_run(definition, loaded, row, journal)


def _check_run(definition: EntityDefinition, loaded: Loaded, row: RunRow, journal: list[JournalRow]) -> None:
    entity = definition.new(loaded.entity.key)
    run, misfit = rebuild_run(definition, entity, row, journal)
    problem = str(misfit) if misfit is not None else _outcome_differs(run, row)
    if not problem and journal[-1].version == loaded.version and loaded.state is not None:
        state = definition.dump(entity)
        if not definition.is_same(state, loaded.state):
            problem = f"the state was {_brief(loaded.state)} live, and is {_brief(state)} in replay"
    place = run.place()
    run.close()
    if problem:
        at = f" (the replayed code waits at {place})" if place else ""
        raise NotRepeatable(
            f"{loaded.entity}.{row.workflow} is not repeatable: {problem}{at}. Between awaits a workflow may depend "
            "only on its arguments, its entity's state and the results of what it awaited; take time and chance from "
            "perdure.entities.now(), random() and uuid4(), and read anything else in an @activity"
        )


def _outcome_differs(run: Run, row: RunRow) -> str:
    if row.status is not RunStatus.COMPLETED:
        # What is said beside it, for people, depends on the operator and on the settings of the host.
        if run.waiting_for() != without_note(row.waiting.removeprefix(f"paused ({row.paused}); ")):
            return f"live it waits for {row.waiting or 'nothing'}; in replay for {run.waiting_for() or 'nothing'}"
        return ""
    if not run.ended:
        return f"it returned {_brief(row.outcome)} live, but its replay goes on"
    outcome, error = run.outcome()
    if outcome != row.outcome:
        return f"it returned {_brief(row.outcome)} live, and {_brief(outcome) if outcome else repr(error)} in replay"
    return ""


def _brief(data: bytes) -> str:
    return data.decode()[:300]
