"""B. Chain audit: the versions of each entity are 1, 2, … up to the snapshot's, each made by one turn (P4, I3, I9).

A turn leaves a history row (it consumed a message), a journal row (it resumed a run), or both. Only an answer or timer
for which no run waits any more makes a version without a row: it came late. So an entity may lack as many rows as its
runs made calls and timers, and one without workflows lacks none.

Epochs and hash links are not in the rows, so they are not audited; the store's own checks of them have tests.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator

from perdure.entities.engine.journal import OperationKind, decode_entry
from perdure.entities.ids import EntityId
from simulation.contract import Audit, Consumed, Resumed, Violation

NAME = "B chain"


def chain(audit: Audit) -> list[Violation]:
    """Every violation that the rows show."""
    history: dict[EntityId, list[Consumed]] = defaultdict(list)
    journal: dict[EntityId, list[Resumed]] = defaultdict(list)
    for past in audit.history:
        history[past.entity].append(past)
    for resumed in audit.journal:
        journal[resumed.entity].append(resumed)
    problems: list[Violation] = []
    for entity in sorted({*history, *journal, *audit.versions}):
        texts = [
            *_versions(audit, entity, history[entity], journal[entity]),
            *_messages(history[entity]),
            *_journals(journal[entity], is_complete=audit.is_complete),
        ]
        problems += [Violation(NAME, "P4, I3", f"{entity}: {text}") for text in texts]
        problems += [Violation(NAME, "I9, I17", f"{entity}: {text}") for text in _lives(journal[entity])]
    return problems


def _versions(audit: Audit, entity: EntityId, history: list[Consumed], journal: list[Resumed]) -> Iterator[str]:
    top = audit.versions.get(entity, 0)
    made = {past.row.version for past in history} | {resumed.row.version for resumed in journal}
    if not top and made:
        yield f"there are turns up to version {max(made)}, but no snapshot"
        return
    if made and max(made) > top:
        yield f"a turn made version {max(made)}, the snapshot is at {top}"
    if made and min(made) < 1:
        yield f"a turn made version {min(made)}"
    if audit.is_complete:
        missing = sorted(set(range(1, top + 1)) - made)
        allowed = _unrecorded(journal)
        if len(missing) > allowed:
            yield f"nothing made the versions {missing[:10]} of {top} (at most {allowed} may be without a row)"


def _unrecorded(journal: list[Resumed]) -> int:
    """How many versions may lack a row: one for each call and each timer that was asked for."""
    kinds = (OperationKind.CALL, OperationKind.TIMER)
    return sum(op.kind in kinds for resumed in journal for op in decode_entry(resumed.row.entry).operations)


def _messages(history: list[Consumed]) -> Iterator[str]:
    by_version: dict[int, str] = {}
    ids: set[str] = set()
    for past in history:
        row = past.row
        if row.version in by_version:
            yield f"two messages made version {row.version}: {by_version[row.version]} and {row.message_id}"
        by_version[row.version] = row.message_id
        if row.message_id in ids:
            yield f"the message {row.message_id} was consumed twice"
        ids.add(row.message_id)


def _journals(journal: list[Resumed], *, is_complete: bool) -> Iterator[str]:
    runs: dict[tuple[str, str], list[Resumed]] = defaultdict(list)
    made: set[tuple[int, str]] = set()
    for resumed in journal:
        row = resumed.row
        runs[row.workflow, row.run_id].append(resumed)
        if (row.version, row.workflow) in made:
            yield f"two resumes of {row.workflow} made version {row.version}"
        made.add((row.version, row.workflow))
    for (workflow, run_id), rows in runs.items():
        rows.sort(key=lambda resumed: resumed.row.number)
        numbers = [resumed.row.number for resumed in rows]
        if is_complete and numbers != list(range(len(rows))):
            yield f"{workflow} run {run_id}: resumes {numbers[:10]}"
        versions = [resumed.row.version for resumed in rows]
        if versions != sorted(set(versions)):
            yield f"{workflow} run {run_id}: its resumes made the versions {versions[:10]}"


def _lives(journal: list[Resumed]) -> Iterator[str]:
    """One run of a workflow after the other: none lives on beside the next, or after its end."""
    spans: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for resumed in journal:
        spans[resumed.row.workflow][resumed.row.run_id].append(resumed.row.version)
    for workflow, runs in spans.items():
        ordered = sorted((min(versions), max(versions), run_id) for run_id, versions in runs.items())
        for (_, last, earlier), (first, _, later) in itertools.pairwise(ordered):
            if first <= last:
                yield f"{workflow}: run {later} began at version {first}, run {earlier} went on until {last}"
