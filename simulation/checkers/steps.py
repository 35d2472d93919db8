"""G. Witness join: an attempt begins after the commit that asks for its step, and before that of its outcome, which is
for ever (P3, P7, I5).

The witness's own order decides: the store tells it of a commit at the moment of writing, activities when they begin.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from perdure.entities.engine.journal import EventKind, OperationKind, decode_entry
from simulation.contract import Audit, Violation
from simulation.witness import Entry, Seen

NAME = "G witness"


def witness_join(log: Sequence[Entry], *, is_told: bool = False) -> list[Violation]:
    """Judge what the witness saw alone. `is_told`: it was told of all commits."""
    asked: set[str] = set()
    settled: dict[str, Entry] = {}
    returned: dict[str, set[str]] = defaultdict(set)
    started: set[str] = set()
    problems: list[str] = []
    for entry in log:
        match entry.what:
            case Seen.START:
                started.add(entry.step)
                if is_told and entry.step not in asked:
                    problems.append(f"{entry.step}: attempt {entry.attempt} began before a commit had asked for it")
                if entry.step in settled:
                    problems.append(
                        f"{entry.step}: attempt {entry.attempt} began (entry {entry.order}) although its outcome was "
                        f"committed (entry {settled[entry.step].order})"
                    )
            case Seen.ASKED:
                asked.add(entry.step)
            case Seen.RESULT:
                returned[entry.step].add(json.dumps(entry.value))
            case Seen.SETTLED:
                if entry.step in settled:
                    problems.append(f"{entry.step}: two outcomes were committed, {settled[entry.step]} and {entry}")
                settled[entry.step] = entry
                if entry.step in started and entry.value.startswith('"') and entry.value not in returned[entry.step]:
                    problems.append(f"{entry.step}: committed {entry.value}, which no attempt returned")
    return [Violation(NAME, "P3, P7, I5", text) for text in problems]


def journalled_once(audit: Audit) -> list[Violation]:
    """Judge the journals alone: an operation is asked for once and has at most one outcome."""
    asked: dict[tuple[str, str, str, int], int] = defaultdict(int)
    ended: dict[tuple[str, str, str, int], int] = defaultdict(int)
    for resumed in audit.journal:
        entry = decode_entry(resumed.row.entry)
        run = str(resumed.entity), resumed.row.workflow, resumed.row.run_id
        for operation in entry.operations:
            if operation.kind is not OperationKind.PATCH:
                asked[*run, operation.number] += 1
        for event in entry.events:
            if event.kind in (EventKind.VALUE, EventKind.ERROR, EventKind.FIRED):
                ended[*run, event.operation] += 1
    texts = [f"{_address(key)} was asked for {count} times" for key, count in asked.items() if count > 1]
    texts += [f"{_address(key)} has {count} outcomes" for key, count in ended.items() if count > 1]
    if audit.is_complete:
        texts += [f"{_address(key)} has an outcome, but nobody asked for it" for key in ended if key not in asked]
    return [Violation(NAME, "P7, I5", text) for text in texts]


def results_agree(shown: Mapping[str, Iterable[str]], log: Sequence[Entry]) -> list[Violation]:
    """`shown`: by what a run showed (state, result), the values it had; each must be one that was committed."""
    committed = {entry.value for entry in log if entry.what is Seen.SETTLED}
    return [
        Violation(NAME, "P7, P2", f"{where} has {value!r}, which is no committed result")
        for where, values in shown.items()
        for value in values
        if json.dumps(value) not in committed
    ]


def _address(key: tuple[str, str, str, int]) -> str:
    return "/".join(map(str, key))
