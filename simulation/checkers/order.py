"""C. Version-order linearizability: replayed in the order of versions, a plain model gives every recorded result.

The system supplies the order (history rows, versions of replies), which makes this linear; set-full (A) and the search
on a sample (D) guard against an order that lies. Checked per entity (P1, P8, I11, I25):

* every recorded turn has the model's result, and so has what its client was told;
* an acknowledged operation has a turn, a refused one has none that succeeded;
* real time: what ended before something else began has the smaller version;
* a query shows exactly the state of the version that it names, which is not older than anything that ended before the
  query began (read your writes), nor newer than anything that began after it ended.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from perdure.entities.ids import EntityId
from simulation.contract import Audit, Consumed, Violation
from simulation.record import Came, Op

NAME = "C version order"
S = TypeVar("S")


Written = tuple[float, EntityId, int]
"""(when by the driver's clock, entity, version)"""


def seen_at_once(written: Sequence[Written], reads: Sequence[Op]) -> list[Violation]:
    """Judge queries against commits that are visible from the moment of their writing, as transactions are (P8)."""
    by_entity: dict[EntityId, list[tuple[float, int]]] = {}
    for at, entity, version in written:
        by_entity.setdefault(entity, []).append((at, version))
    return [
        Violation(NAME, "P8, I11", f"version {version} was committed at {at:.3f} s, read was {op.versions[-1]}: {op}")
        for op in reads
        if op.is_ok and op.versions
        for at, version in by_entity.get(op.entity, ())
        if at < op.t_invoke and version > op.versions[-1]
    ]


@dataclass(frozen=True)
class Model(Generic[S]):
    """What an entity is, in a few lines."""

    initial: S
    apply: Callable[[S, str, Mapping[str, Any]], tuple[S, Any]]
    """(state, handler, arguments) → (next state, result)."""
    read: Callable[[S, str], Any]
    """(state, query) → result."""


def version_order(ops: Sequence[Op], audit: Audit, model: Model[S], *, queries: Sequence[str] = ()) -> list[Violation]:
    """Judge these operations, entity by entity. `queries`: names of operations that only read."""
    entities = sorted({op.entity for op in ops})
    problems: list[Violation] = []
    for entity in entities:
        mine = [op for op in ops if op.entity == entity]
        turns = sorted((past for past in audit.history if past.entity == entity), key=lambda past: past.row.version)
        texts = _judge(entity, mine, turns, model, frozenset(queries))
        problems += [Violation(NAME, "P1, P8, I11", text) for text in texts]
    return problems


def _judge(
    entity: EntityId, ops: list[Op], turns: list[Consumed], model: Model[S], queries: frozenset[str]
) -> Iterator[str]:
    by_message = {message: op for op in ops if op.name not in queries for message in op.message_ids}
    states: dict[int, S] = {0: model.initial}
    state = model.initial
    placed: dict[int, int] = {}
    """Version by operation."""
    for past in turns:
        row = past.row
        op = by_message.get(row.message_id)
        if row.ok:
            state, result = model.apply(state, row.name, json.loads(row.args))
            recorded = json.loads(row.outcome)
            if recorded != result:
                yield f"{entity}: version {row.version} ({row.name}) recorded {recorded!r}, the model says {result!r}"
            if op is not None and op.is_ok and op.result != result:
                yield f"{entity}: the client was told {op.result!r}, the model says {result!r}: {op}"
            if op is not None and op.outcome is Came.FAIL:
                yield f"{entity}: version {row.version} applied what was refused: {op}"
        states[row.version] = state
        if op is not None:
            placed[op.id] = row.version
    for op in ops:
        if op.name not in queries and op.is_ok and op.id not in placed:
            yield f"{entity}: acknowledged, but no turn has it: {op}"
    writes = sorted(((placed[op.id], op) for op in ops if op.id in placed), key=lambda item: item[0])
    yield from _real_time(entity, writes)
    reads = sorted(
        ((op.versions[-1], op) for op in ops if op.name in queries and op.is_ok and op.versions),
        key=lambda item: item[0],
    )
    for version, op in reads:
        if version not in states:
            yield f"{entity}: the answer names version {version}, which was never committed: {op}"
        elif (expected := model.read(states[version], op.name)) != op.result:
            yield f"{entity}: version {version} is {expected!r}: {op}"
    yield from _reads_in_time(entity, reads, writes)


def _end(op: Op) -> float:
    """From when on it has certainly taken effect, if it ever does. Without an answer it may do so at any later time."""
    return math.inf if op.outcome is Came.UNKNOWN else op.t_return


def _real_time(entity: EntityId, writes: list[tuple[int, Op]]) -> Iterator[str]:
    latest: Op | None = None
    for version, op in writes:
        if latest is not None and _end(op) < latest.t_invoke:
            yield f"{entity}: version {version} came after one that began when it had ended: {op}, after {latest}"
        if latest is None or op.t_invoke > latest.t_invoke:
            latest = op


def _reads_in_time(entity: EntityId, reads: list[tuple[int, Op]], writes: list[tuple[int, Op]]) -> Iterator[str]:
    for version, read in reads:
        for made, write in writes:
            if made > version and _end(write) < read.t_invoke:
                yield f"{entity}: read version {version} after version {made} was acknowledged: {read}, after {write}"
            if made <= version and write.t_invoke > read.t_return:
                yield f"{entity}: read version {version} before version {made} was sent: {read}, before {write}"
    newest: tuple[int, Op] | None = None
    for version, read in sorted(reads, key=lambda item: item[1].t_invoke):
        for earlier, before in reads:
            if earlier > version and before.t_return < read.t_invoke and (newest is None or newest != (earlier, read)):
                newest = earlier, read
                yield f"{entity}: read version {version} after a read of version {earlier}: {read}, after {before}"
                break
