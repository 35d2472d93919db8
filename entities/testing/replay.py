"""Recorded journals of live runs against the present code, executing nothing: before a deploy, and in CI.

Upholds P7 and P9 ahead of time: a change that would park runs is found before it is deployed. The same rebuilding that
a host does on activation (`engine.replaying`), without a host: no turn, no write, no activity.

```python
def test_live_runs_fit_this_code() -> None:
    check_replay([Order, Customer], "recorded.json")     # written by `perdure replay MODULE --export recorded.json`
```
"""

from collections.abc import AsyncIterator, Iterable
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from ..definition import Registry
from ..entity import Entity
from ..ids import EntityId
from ..replays import Verdict, replay_runs
from ..store.port import EntityStore, LiveRuns
from ..store.rows import JournalRow, Loaded, RunRow, RunStatus

FORMAT = 1
PAGE = 100


class Misfit(NamedTuple):
    """A run that the present code would park (or, with an empty workflow, an entity that it could not load)."""

    entity: EntityId
    workflow: str
    run_id: str
    reason: str
    """Names the recorded and the expected operation, where they differ."""

    def __str__(self) -> str:
        return f"{self.entity}{'.' + self.workflow if self.workflow else ''}: {self.reason}"


class Report(NamedTuple):
    """What a check has found."""

    runs: int
    """Live runs that were replayed."""
    entries: int
    misfits: list[Misfit]

    def __str__(self) -> str:
        words = f"{self.runs} live runs, {self.entries} journal entries: "
        if not self.misfits:
            return words + "all fit"
        lines = "".join(f"\n  {misfit}" for misfit in self.misfits)
        return f"{words}{len(self.misfits)} do not fit this code{lines}"


def replay(registry: Registry, recorded: Iterable[Loaded]) -> Report:
    """Replay every live run of these entities. Changes nothing and executes no activity, call or message."""
    runs = entries = 0
    misfits: list[Misfit] = []
    for loaded in recorded:
        runs += sum(not row.status.is_terminal for row in loaded.runs)
        entries += len(loaded.journal)
        misfits += [
            Misfit(one.entity, one.workflow, one.run_id, one.reason)
            for one in replay_runs(registry, loaded, only_live=True)
            if one.verdict is not Verdict.FITS
        ]
    return Report(runs, entries, misfits)


def check_replay(
    entities: Iterable[type[Entity]], recorded: "str | PathLike[str] | Iterable[Loaded]", *, at_least: int = 1
) -> Report:
    """For tests: raise AssertionError naming every recorded run that the present code of these classes does not fit.

    recorded: the path of an export, or loaded entities. at_least: fewer runs than this prove nothing and fail too.
    """
    if isinstance(recorded, str | PathLike):
        recorded = decode_recording(Path(recorded).read_bytes())
    report = replay(Registry(entities), recorded)
    if report.misfits:
        raise AssertionError(str(report))
    if report.runs < at_least:
        raise AssertionError(f"only {report.runs} recorded runs; at least {at_least} are wanted")
    return report


class RecordedStore(EntityStore, LiveRuns, Protocol):
    """A store that tools can read recorded runs from."""


async def recorded_runs(store: RecordedStore, type_name: str = "", *, limit: int = 1_000) -> AsyncIterator[Loaded]:
    """Entities with live runs, at most `limit`, page by page."""
    after: EntityId | None = None
    while limit > 0:
        page = await store.with_live_runs(type_name, after=after, limit=min(limit, PAGE))
        if not page:
            return
        for loaded in await store.load(page, inbox_max=0):
            yield loaded
        limit -= len(page)
        after = page[-1]


# --- exports ----------------------------------------------------------------------------------------------------------


class _Run(msgspec.Struct, omit_defaults=True):
    workflow: str
    run_id: str
    status: str
    args: msgspec.Raw
    started_us: int
    chain: tuple[str, ...] = ()


class _Resume(msgspec.Struct):
    workflow: str
    run_id: str
    number: int
    version: int
    entry: msgspec.Raw


class _Recorded(msgspec.Struct, omit_defaults=True):
    type: str
    key: str
    version: int
    schema_version: int
    state: msgspec.Raw
    runs: list[_Run] = []
    journal: list[_Resume] = []


class _Recording(msgspec.Struct):
    format: int
    entities: list[_Recorded]


def encode_recording(recorded: Iterable[Loaded]) -> bytes:
    """Live runs with their journals as JSON. It holds states and arguments as they are: treat it like the database."""
    return msgspec.json.encode(
        _Recording(
            FORMAT,
            [
                _Recorded(
                    *loaded.entity,
                    version=loaded.version,
                    schema_version=loaded.schema_version,
                    state=msgspec.Raw(loaded.state or b"null"),
                    runs=[
                        _Run(row.workflow, row.run_id, row.status, msgspec.Raw(row.args), row.started_us, row.chain)
                        for row in loaded.runs
                        if not row.status.is_terminal
                    ],
                    journal=[
                        _Resume(row.workflow, row.run_id, row.number, row.version, msgspec.Raw(row.entry))
                        for row in loaded.journal
                    ],
                )
                for loaded in recorded
            ],
        )
    )


def decode_recording(data: bytes) -> list[Loaded]:
    """Inverse of encode_recording. Raises ValueError for anything else."""
    try:
        recording = msgspec.json.decode(data, type=_Recording)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not an export of recorded runs: {error}") from None
    if recording.format != FORMAT:
        raise ValueError(f"the export has format {recording.format}, this release reads {FORMAT}")
    return [
        Loaded(
            entity=EntityId(one.type, one.key),
            version=one.version,
            state=bytes(one.state),
            schema_version=one.schema_version,
            runs=[
                RunRow(
                    run.workflow, run.run_id, RunStatus(run.status), bytes(run.args), b"", run.started_us,
                    chain=run.chain,
                )
                for run in one.runs
            ],
            journal=[
                JournalRow(row.workflow, row.run_id, row.number, row.version, bytes(row.entry)) for row in one.journal
            ],
        )
        for one in recording.entities
    ]  # fmt: skip
