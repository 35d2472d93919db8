"""F. Snapshot fidelity: a stored state loads, dumps to the same again, and is what its last turn left (P2, I12, I13).

The second part is a check of atomicity: the last history or journal row with a state must name the snapshot's.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.entities import Entity, EntityParked
from perdure.entities.definition import BUILT_IN, EntityDefinition
from perdure.entities.ids import EntityId
from perdure.entities.store.rows import STATE_NOT_KEPT, STATE_UNCHANGED, HistoryRow, JournalRow
from simulation.contract import Audit, Violation

NAME = "F fidelity"
_definitions: dict[type[Entity], EntityDefinition] = {}


def fidelity(audit: Audit, entities: Iterable[type[Entity]]) -> list[Violation]:
    """Judge every stored state of these classes."""
    known = {cls.entity_type(): _definition(cls) for cls in (*entities, *BUILT_IN)}
    problems = [
        Violation(NAME, "I12", text)
        for entity, state in audit.states.items()
        if entity.type in known
        for text in _reload(known[entity.type], entity, state, audit.schema_versions.get(entity, 1))
    ]
    return problems + [Violation(NAME, "P2, I13", text) for text in _last_turns(audit)]


def _definition(cls: type[Entity]) -> EntityDefinition:
    if cls not in _definitions:
        _definitions[cls] = EntityDefinition(cls)
    return _definitions[cls]


def _reload(definition: EntityDefinition, entity: EntityId, state: bytes, schema_version: int) -> list[str]:
    try:
        first = definition.dump(definition.load(entity.key, state, version=schema_version))
        second = definition.dump(definition.load(entity.key, first))
    except EntityParked as problem:
        return [f"{entity} does not load: {problem.message}"]
    if first != second:
        return [f"{entity}: its dump is not stable: {first[:200]!r}, then {second[:200]!r}"]
    if schema_version == definition.version and json.loads(first) != json.loads(state):
        return [f"{entity}: stored as {state[:200]!r}, loads as {first[:200]!r}"]
    return []


def _last_turns(audit: Audit) -> Iterable[str]:
    rows: dict[EntityId, list[tuple[int, int, HistoryRow | JournalRow]]] = {}
    for past in audit.history:
        rows.setdefault(past.entity, []).append((past.row.version, 0, past.row))
    for resumed in audit.journal:
        rows.setdefault(resumed.entity, []).append((resumed.row.version, 1, resumed.row))
    for entity, found in rows.items():
        is_upgraded = audit.schema_versions.get(entity, 1) > 1
        left = _state_left(found, audit.versions.get(entity, 0), is_upgraded=is_upgraded)
        if left is not None and json.loads(left) != (stored := _json(audit.states, entity)):
            yield f"{entity}: its last turn left {left[:200]!r}, the snapshot is {json.dumps(stored)[:200]}"


def _state_left(
    rows: list[tuple[int, int, HistoryRow | JournalRow]], version: int, *, is_upgraded: bool
) -> bytes | None:
    """What the rows say of the state at this version, if they say it."""
    expected = version
    for made, _, row in sorted(rows, key=lambda item: item[:2], reverse=True):
        if made not in (expected, expected - 1):
            return None
        expected = made
        if row.state != STATE_UNCHANGED:
            return None if row.state == STATE_NOT_KEPT else row.state
        if is_upgraded:
            return None  # what it found may be the upgrade of what an earlier row has
    return None


def _json(states: Mapping[EntityId, bytes], entity: EntityId) -> Any:
    return json.loads(states.get(entity, b"null"))
