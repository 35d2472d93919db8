"""The simulated database: the memory store behind a network, with everything that goes wrong between the two.

The memory store does what Postgres does with each of our transactions (one suite holds both, tests/store). This module
adds what Postgres does to its clients: an operation is a *request* that travels to the database, is executed there at
one moment, and an *answer* that travels back. So a host may die while its commit is on its way, and the commit is
applied all the same; and a host that was told "unknown" may have committed already, commit a while later, or never.

A session is a view of the one database: it shares its tables, and every operation goes over its line. What is added to
the store port is covered without a change here.
"""

import inspect
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from perdure.entities.errors import PerdureError
from perdure.entities.ids import EntityId
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.memory_archive import MemoryArchive
from perdure.entities.store.memory_survey import MemorySurvey
from perdure.entities.store.port import HostFenced, StoreUnavailable, WriteConflict
from perdure.entities.store.rows import Batch, EntityWrite, JournalRow

from .audit import audit_memory
from .contract import Audit, Resumed
from .loop import Node, SimLoop, here
from .net import Fate, Net

WRITES = frozenset({"commit", "transact"})
BASE_US = 1_893_456_000_000_000
"""What the database's clock shows when a simulation begins: 2030-01-01."""


class Line(Protocol):
    """How the operations of one session reach the database."""

    async def carry(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have it executed there; returns its result or raises what it raised."""
        ...


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that awaits nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("an operation of the memory store waited for something")


class SimStore(MemoryStore):
    """A session of one process. Its tables are the database's: they share every attribute but the line."""

    __slots__ = ("line",)

    def __init__(self, tables: MemoryStore, line: Line) -> None:
        self.__dict__ = tables.__dict__
        self.line = line

    async def close(self) -> None:
        """Nothing is kept open."""

    def archive(self) -> MemoryArchive:
        """Reading, over the same line."""
        return _SimArchive(self.line)

    def survey(self) -> MemorySurvey:
        """Reading the whole namespace, over the same line."""
        return _SimSurvey(self.line)


class _SimArchive(MemoryArchive):
    def __init__(self, line: Line) -> None:
        self.line = line


class _SimSurvey(MemorySurvey):
    def __init__(self, line: Line) -> None:
        self.line = line


def _over_the_line(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def operation(self: SimStore | _SimArchive | _SimSurvey, *args: Any, **kwargs: Any) -> Any:
        return await self.line.carry(name, args, kwargs)

    operation.__name__ = name
    return operation


for _name, _ in inspect.getmembers(MemoryStore, inspect.iscoroutinefunction):
    setattr(SimStore, _name, _over_the_line(_name))
for _name, _ in inspect.getmembers(MemoryArchive, inspect.iscoroutinefunction):
    setattr(_SimArchive, _name, _over_the_line(f"archive.{_name}"))
for _name, _ in inspect.getmembers(MemorySurvey, inspect.iscoroutinefunction):
    setattr(_SimSurvey, _name, _over_the_line(f"survey.{_name}"))


class Tables(MemoryStore):
    """What pruning takes away is kept aside for the judges.

    Only journals are pruned: how long outcomes are kept is the horizon of what is promised (I10, I15), and in these
    few virtual seconds nothing is beyond it.
    """

    def __init__(self, *, shards: int, now_us: Callable[[], int]) -> None:
        super().__init__(shards=shards, now_us=now_us)
        self.pruned: dict[EntityId, dict[tuple[str, str, int], tuple[int, JournalRow]]] = {}

    async def prune(self, *, older_than_us: int, limit: int) -> int:
        """See EntityStore.prune."""
        before = {entity: (dict(row.history), dict(row.journal)) for entity, row in self._entities.items()}
        suspicions = dict(self._suspicions)
        count = await super().prune(older_than_us=older_than_us, limit=limit)
        self._suspicions.update(suspicions)
        for entity, (history, journal) in before.items():
            stored = self._entities[entity]
            stored.history = history
            gone = {key: row for key, row in journal.items() if key not in stored.journal}
            if gone:
                self.pruned.setdefault(entity, {}).update(gone)
        return min(count, limit - 1)  # what was not pruned is no reason to go on at once


def execute(tables: MemoryStore, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, at this moment."""
    place: Any = tables
    if name.startswith("archive."):
        place, name = tables.archive(), name.removeprefix("archive.")
    if name.startswith("survey."):
        place, name = tables.survey(), name.removeprefix("survey.")
    return at_once(getattr(place, name)(*args, **kwargs))


class Database:
    """The tables, their clock, and what can be told of them at any time."""

    def __init__(self, loop: SimLoop, net: Net, seen: "Counter[str]", *, shards: int) -> None:
        self.loop = loop
        self.net = net
        self.seen = seen
        self.node = Node("database", "database")
        self.stepped_us = 0
        self.late = 0
        """Requests that are still on their way although nobody waits for them."""
        self.tables = Tables(shards=shards, now_us=self.now_us)
        self.watchers: list[Callable[[Batch], None]] = []
        self._numbers = itertools.count(1)
        self._unanswered: set[str] = set()
        """Message ids in commits that were applied without their host learning of it."""
        self._set_by: dict[tuple[EntityId, str], str] = {}

    def now_us(self) -> int:
        """By its own clock, which may be set."""
        return BASE_US + round(self.loop.now * 1e6) + self.stepped_us

    def session(self, incarnation: str = "") -> SimStore:
        """For the process that runs now."""
        return SimStore(self.tables, _SimLine(self, here.get()))

    # --- one operation ---

    def apply(self, node: Node, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, told: bool) -> Any:
        """Execute it now, on behalf of that process. `told`: it will learn of the outcome."""
        try:
            result = execute(self.tables, name, args, kwargs)
        except PerdureError as error:
            if isinstance(error, HostFenced):
                self.seen["fenced: " + ("commit" if name == "commit" else "directory")] += 1
            elif isinstance(error, WriteConflict):
                self.seen["conflict: commit"] += 1
            self.loop.trace(f"{node.name} {name} refused {error.code}")
            raise
        if name in WRITES:
            self._note(args[0], told=told)
        elif name == "prune":
            self.seen["pruned"] += 1
        elif name == "outcomes":
            self.seen["unknown commit found committed"] += sum(key[1] in self._unanswered for key in result)
        elif name == "claim" and result:
            self.seen["shards claimed"] += 1
        elif name == "fence" and result:
            self.seen["host fenced"] += 1
        if not told:
            self.seen[f"executed, not told: {'commit' if name in WRITES else 'other'}"] += 1
        self.loop.trace(f"{node.name} {name}{f' {_digest_of(args[0])}' if name in WRITES else ''}")
        return result

    def _note(self, batch: Batch, *, told: bool) -> None:
        self.seen["commits"] += 1
        for write in batch.writes:
            for row in write.reminders_set:
                self._set_by[write.entity, row.name] = batch.incarnation
            for key in write.reminders_gone:
                setter = self._set_by.get((write.entity, key.name))
                if key.is_fired and setter is not None and setter != batch.incarnation:
                    self.seen["reminder or timer fired after a takeover"] += 1
            if not told:
                self._unanswered.update(row.message_id for row in write.history)
            self.seen["dead letters"] += len(write.dead_letters)
        for watcher in self.watchers:
            watcher(batch)

    # --- the end ---

    def audit(self) -> Audit:
        """All that is stored, at this moment, and the journals that were pruned."""
        found = audit_memory(self.tables)
        pruned = [Resumed(entity, *row) for entity, rows in self.tables.pruned.items() for row in rows.values()]
        if not pruned:
            return found
        return replace(found, journal=sorted([*found.journal, *pruned], key=_place))


def _place(resumed: Resumed) -> tuple[EntityId, str, str, int]:
    return resumed.entity, resumed.row.workflow, resumed.row.run_id, resumed.row.number


class _SimLine:
    """The way of one process to the database and back."""

    def __init__(self, database: Database, node: Node) -> None:
        self._db = database
        self._node = node

    async def carry(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        db, net, node = self._db, self._db.net, self._node
        if name in WRITES:
            args = (frozen(args[0]), *args[1:])
        answer = db.loop.create_future()
        fate = net.fate_of_query(node)
        if fate is Fate.REFUSED:
            db.loop.deliver(node, net.patience(), _fail, answer, f"{name}: no connection", False)
        else:
            db.loop.deliver(db.node, net.store_delay(), self._arrive, name, args, kwargs, answer, fate)
        return await answer

    def _arrive(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any, fate: Fate) -> None:
        """At the database: executed now, later, or never."""
        db, net, node = self._db, self._db.net, self._node
        if fate is Fate.ANSWERED and not net.reaches_store(node):
            fate = net.fate_on_the_way()
        if fate is Fate.ANSWERED:
            try:
                self._meet_others(name, args)
                result, error = db.apply(node, name, args, kwargs, told=True), None
            except PerdureError as refused:
                result, error = None, refused
            held = 0.0 if name in WRITES else net.held()
            if held:
                db.late += 1
                db.loop.deliver(db.node, held, self._let_go)
            db.loop.deliver(node, net.store_delay() + held, self._return, name, answer, result, error)
            return
        if fate is Fate.LATE:
            db.late += 1
            db.loop.deliver(db.node, net.lateness(), self._late, name, args, kwargs)
        elif fate is Fate.UNANSWERED:
            self._unheard(name, args, kwargs)
        db.loop.deliver(node, net.patience(), _fail, answer, f"{name}: the connection broke", name in WRITES)

    def _meet_others(self, name: str, args: tuple[Any, ...]) -> None:
        """Raises WriteConflict if a commit meets another writer of one of its entities."""
        if name != "commit":
            return
        met = self._db.net.conflict([write.entity for write in args[0].writes])
        if met:
            self._db.seen["conflict: commit"] += 1
            self._db.loop.trace(f"{self._node.name} commit refused conflict with {met[0]}")
            raise WriteConflict(f"{met[0]} is not as expected", entities=met)

    def _let_go(self) -> None:
        self._db.late -= 1

    def _late(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._db.late -= 1
        self._unheard(name, args, kwargs)

    def _unheard(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Executed, but nobody is told."""
        try:
            self._db.apply(self._node, name, args, kwargs, told=False)
        except PerdureError:
            self._db.seen["refused, not told"] += 1

    def _return(self, name: str, answer: Any, result: Any, error: PerdureError | None) -> None:
        """Back at the process, unless the connection broke meanwhile."""
        if answer.done():
            return
        if not self._db.net.reaches_store(self._node):
            _fail(answer, f"{name}: the answer was lost", name in WRITES)
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


def _fail(answer: Any, what: str, maybe_applied: bool) -> None:
    if not answer.done():
        answer.set_exception(StoreUnavailable(what, maybe_applied=maybe_applied))


def frozen(batch: Batch) -> Batch:
    """As it is now: the host goes on changing the lists of one that it believes to have failed."""
    writes = []
    for write in batch.writes:
        kept = EntityWrite.__new__(EntityWrite)
        for name, value in zip(_FIELDS, _values_of(write), strict=True):
            setattr(kept, name, value[:] if type(value) is list else value)
        writes.append(kept)
    return Batch(
        incarnation=batch.incarnation,
        epochs=dict(batch.epochs),
        writes=writes,
        attempts=list(batch.attempts),
        arrivals=list(batch.arrivals),
    )


_FIELDS = tuple(it.name for it in fields(EntityWrite))
_values_of = attrgetter(*_FIELDS)

_encode = msgspec.msgpack.Encoder(enc_hook=str).encode


def _digest_of(batch: Batch) -> str:
    """A few characters that change with everything that is written."""
    data = _encode([_values_of(write) for write in batch.writes] + [batch.attempts, batch.arrivals])
    return f"{zlib.crc32(data):08x}"
