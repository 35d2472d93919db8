"""Recorded journals of runs against the present code, run by run, executing nothing.

Upholds P7 ahead of time: a run is rebuilt exactly as a host does it on activation (`engine.replaying`), without a host:
no turn, no write, no activity. Code of workflows does run, as in every rebuilding; whatever it raises is part of the
answer. Runs that have ended are replayed as well while their journal is kept: their code has to do the same again.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from .definition import EntityDefinition, Registry
from .engine.journal import ReplayMismatch
from .engine.replaying import rebuild_run
from .errors import PerdureError
from .ids import EntityId
from .store.rows import JournalRow, Loaded, RunRow

TEXT_CHARS_MAX = 500


class Verdict(StrEnum):
    """What the present code makes of a recorded run."""

    FITS = "fits"
    DIFFERS = "differs"
    """It asks for something else than was recorded: a live run would be parked."""
    UNKNOWN_TYPE = "unknown_type"
    """There is no such class."""
    UNKNOWN_WORKFLOW = "unknown_workflow"
    """The class has no such workflow any more."""
    UNREADABLE = "unreadable"
    """The state or the journal cannot be read by this code."""
    INCOMPLETE = "incomplete"
    """Of the journal of an ended run not all is retained: nothing can be said."""


class Replayed(NamedTuple):
    """One run. `workflow` is empty where the entity itself is the trouble."""

    entity: EntityId
    workflow: str
    run_id: str
    status: str
    """Of the run, as recorded."""
    verdict: Verdict
    entries: int = 0
    """Journal entries that were replayed: the first that does not fit has this number."""
    reason: str = ""
    recorded: str = ""
    """What the journal has there, if it differs."""
    expected: str = ""
    """What the present code asks for there."""


def replay_runs(registry: Registry, loaded: Loaded, *, only_live: bool = False) -> Iterator[Replayed]:
    """Each recorded run of an entity. Changes nothing and executes no activity, call or message; raises nothing."""
    rows = [row for row in loaded.runs if not (only_live and row.status.is_terminal)]
    if loaded.problem:
        yield Replayed(loaded.entity, "", "", "", Verdict.UNREADABLE, reason=loaded.problem)
        return
    definition = registry.find(loaded.entity.type)
    if definition is None:
        reason = f"there is no entity class {loaded.entity.type!r}"
        yield Replayed(loaded.entity, "", "", "", Verdict.UNKNOWN_TYPE, reason=reason)
        return
    for row in rows:
        yield _replayed(definition, loaded, row)


def _replayed(definition: EntityDefinition, loaded: Loaded, row: RunRow) -> Replayed:
    plain = Replayed(loaded.entity, row.workflow, row.run_id, str(row.status), Verdict.FITS)
    if row.workflow not in definition.workflows:
        reason = f"the class has no workflow `{row.workflow}` any more"
        return plain._replace(verdict=Verdict.UNKNOWN_WORKFLOW, reason=reason)
    journal = [one for one in loaded.journal if (one.workflow, one.run_id) == (row.workflow, row.run_id)]
    if row.status.is_terminal and (not journal or [one.number for one in journal] != list(range(len(journal)))):
        reason = "of the journal of this ended run not all is retained"
        return plain._replace(verdict=Verdict.INCOMPLETE, reason=reason)
    try:
        return _compared(definition, loaded, row, journal, plain)
    except PerdureError as error:
        return plain._replace(verdict=Verdict.UNREADABLE, reason=error.message)
    except Exception as error:  # noqa: BLE001 - what was recorded comes from anywhere, and user code runs
        return plain._replace(verdict=Verdict.UNREADABLE, reason=f"{type(error).__name__}: {error}")


def _compared(
    definition: EntityDefinition, loaded: Loaded, row: RunRow, journal: list[JournalRow], plain: Replayed
) -> Replayed:
    entity = definition.load(loaded.entity.key, loaded.state, version=loaded.schema_version)
    snapshot = definition.dump(entity)
    run, problem = rebuild_run(definition, entity, row, journal)
    try:
        is_last = bool(journal) and journal[-1].version == loaded.version  # nobody has changed the state since
        if problem is None and is_last and not row.status.is_terminal:
            rebuilt = definition.dump(entity)
            if not definition.is_same(rebuilt, snapshot):
                problem = ReplayMismatch(
                    snapshot.decode()[:TEXT_CHARS_MAX], rebuilt.decode()[:TEXT_CHARS_MAX], run.entries
                )
        told = plain._replace(entries=run.entries)
        if problem is None:
            return told
        if isinstance(problem, ReplayMismatch):
            return told._replace(
                verdict=Verdict.DIFFERS, reason=str(problem), recorded=problem.recorded, expected=problem.expected
            )
        return told._replace(verdict=Verdict.UNREADABLE, reason=str(problem))
    finally:
        run.close()
