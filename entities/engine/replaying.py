"""Rebuilding one run from its journal, executing nothing: for activations, and for checking new code against old runs.

Upholds P7: the journal alone decides. States in it were written under their own schema version and are upgraded on
the way (see `change`). Whatever does not fit raises one of `MISFITS`; nothing has happened then.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from ..errors import PerdureError
from ..ids import EntityId
from ..store.rows import JournalRow, RunRow
from .journal import ReplayMismatch, decode_entry
from .loop import SpinningWorkflow
from .run import Run

if TYPE_CHECKING:
    from ..definition import EntityDefinition
    from ..entity import Entity

MISFITS = (ReplayMismatch, PerdureError, SpinningWorkflow, msgspec.DecodeError)
"""What a journal that the current code does not fit ends in."""


def rebuild_run(
    definition: "EntityDefinition", entity: "Entity", row: RunRow, journal: Iterable[JournalRow]
) -> tuple[Run, Exception | None]:
    """The run as it was after its last resume, on `entity`, whose fields are then what the run left them as.

    With a problem (one of MISFITS) the run is good for nothing but to be closed.
    """
    run = Run(definition, entity, EntityId(definition.name, entity.key), row)
    rows = list(journal)
    run.journal_bytes = sum(len(one.entry) for one in rows)

    def replace_fields(state: bytes | None, version: int) -> None:
        if state is None:
            definition.replace_fields(entity, definition.dump(entity))
        else:
            definition.replace_fields(entity, state, version=version)

    definition.replace_fields(entity, definition.default_state)
    try:
        run.replay([decode_entry(one.entry) for one in rows], replace_fields)
    except MISFITS as problem:
        return run, problem
    return run, None
