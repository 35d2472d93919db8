"""How long a run's journal may get, and what it is told before (promises P9 and P10).

Rebuilding a run costs time in proportion to its journal, on the loop of its host: a run warns early, in the log and in
what it says it waits for, and fails with a definite error long before it could hold up other entities.
"""

import logging
from typing import TYPE_CHECKING

from ..errors import JournalTooLong
from ..ids import seed_of

if TYPE_CHECKING:
    from .run import Run
    from .settings import EngineSettings

log = logging.getLogger("perdure.workflow")

_NOTE = "long journal, "
_ADVICE = "let it `await self.{workflow}.continue_as_new(...)` from time to time"


def check_journal(run: "Run", settings: "EngineSettings") -> None:
    """Raise JournalTooLong if this run may not go on."""
    if run.entries >= settings.journal_max_entries or run.journal_bytes >= settings.journal_max_bytes:
        raise JournalTooLong(
            f"{run.entity}.{run.row.workflow}: its journal has {run.entries} entries and {run.journal_bytes} bytes; "
            f"the limits are {settings.journal_max_entries} and {settings.journal_max_bytes}. The run was ended, its "
            f"state is kept; {_ADVICE.format(workflow=run.row.workflow)}",
            error_type="JournalTooLong",
        )


def journal_note(run: "Run", settings: "EngineSettings") -> str:
    """What a run with a long journal says of itself, beside what it waits for. Logged when it first does."""
    note = f"{_NOTE}{_ADVICE.format(workflow=run.row.workflow)}"
    if not run.is_warned:
        run.is_warned = True
        log.warning(
            "%s.%s: its journal has %d entries and %d bytes (it fails at %d or %d); %s",
            run.entity, run.row.workflow, run.entries, run.journal_bytes,
            settings.journal_max_entries, settings.journal_max_bytes, _ADVICE.format(workflow=run.row.workflow),
        )  # fmt: skip
    waits = run.waiting_for()
    return f"{waits} ({note})" if waits else note


def without_note(waiting: str) -> str:
    """What a run waits for, as it says itself, without what `journal_note` has added."""
    return waiting.partition(_NOTE)[0].removesuffix(" (")


def next_run_id(run_id: str) -> str:
    """The id of the run that continues this one: the first one's with a count, so that they are seen to be one."""
    first, _, count = seed_of(run_id).partition(".")
    return f"{first}.{int(count or 0) + 1}"
