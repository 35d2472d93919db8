"""What an engine counts for people: integers in dictionaries, read when somebody asks (see `perdure.entities.metrics`).

Turns are counted by what a commit has written, so each counts once, however often it had to run again. Labels come
from the code alone: a name that the class does not have counts as `-`, whatever a caller invents.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

from .. import metrics
from ..metrics import Histogram, Level, Metric, Reading
from ..store.rows import EntityWrite, RunRow

if TYPE_CHECKING:
    from ..definition import EntityDefinition
    from .engine import Engine

RESUME = "resume"
Table = dict[tuple[str, ...], int]


class Figures:
    """Counters of one engine. Everything on its loop."""

    def __init__(self) -> None:
        self._turns: dict[str, dict[tuple[str, str, bool], int]] = {}
        self._tables: dict[str, Table] = {}
        """By the name of the metric."""
        self.commits: dict[str, int] = defaultdict(int)
        """By outcome."""
        self.commit_seconds = Histogram(metrics.COMMIT_SECONDS.bounds)
        self.commit_entities = Histogram(metrics.COMMIT_ENTITIES.bounds)
        self.lateness = Histogram(metrics.LATENESS.bounds)
        self.shards_gained = 0
        self.shards_taken_over = 0

    def committed(self, definition: "EntityDefinition", write: EntityWrite) -> None:
        """These turns are durable."""
        turns = self._turns.get(definition.name)
        if turns is None:
            turns = self._turns[definition.name] = {}
        for row in write.history:
            key = (row.kind, row.name, row.ok)
            if key in turns:
                turns[key] += 1
            else:
                key = (row.kind, _bounded(definition, row.name), row.ok)
                turns[key] = turns.get(key, 0) + 1
        for entry in write.journal:
            key = (RESUME, entry.workflow, True)
            turns[key] = turns.get(key, 0) + 1
        for letter in write.dead_letters:
            self.count(metrics.DEAD_LETTERS, definition.name, _bounded(definition, letter.envelope.name))

    def count(self, metric: Metric, *labels: str) -> None:
        """One more of what happens rarely."""
        table = self._tables.setdefault(metric.name, {})
        table[labels] = table.get(labels, 0) + 1

    def run_ended(self, type_name: str, row: RunRow) -> None:
        """A run has ended, for good and durably."""
        self.count(metrics.RUNS_ENDED, type_name, row.workflow, row.status.value)

    def reading(self, engine: "Engine") -> Reading:
        """Where everything stands."""
        stats = engine.stats()
        reading = Reading(
            spreads=[
                self.commit_seconds.spread(metrics.COMMIT_SECONDS),
                self.commit_entities.spread(metrics.COMMIT_ENTITIES),
                self.lateness.spread(metrics.LATENESS),
            ]
        )
        for type_name, turns in self._turns.items():
            for (kind, name, ok), count in turns.items():
                reading.add(metrics.TURNS, count, type_name, str(kind), name, "ok" if ok else "error")
        for name, table in self._tables.items():
            reading.levels.extend(Level(name, labels, count) for labels, count in table.items())
        reading.add_all(metrics.COMMITS, self.commits)
        _add_entities(reading, engine)
        for metric, name in (
            (metrics.ACTIVITIES, "activities"),
            (metrics.LOADING, "loading"),
            (metrics.REMINDERS, "reminders_loaded"),
            (metrics.LEFT_ALONE, "reminders_left_alone"),
            (metrics.WAITERS, "waiters"),
            (metrics.SHARDS, "shards"),
        ):
            reading.add(metric, stats[name])
        reading.add(metrics.SHARDS_GAINED, self.shards_gained)
        reading.add(metrics.SHARDS_TAKEN_OVER, self.shards_taken_over)
        return reading


def _add_entities(reading: Reading, engine: "Engine") -> None:
    active: dict[str, int] = {definition.name: 0 for definition in engine.registry}
    waiting = dict(active)
    for activation in engine.active.values():
        type_name = activation.id.type
        active[type_name] = active.get(type_name, 0) + 1
        waiting[type_name] = waiting.get(type_name, 0) + len(activation.mailbox)
    reading.add_all(metrics.ACTIVATIONS, active)
    reading.add_all(metrics.MAILBOX, waiting)


def _bounded(definition: "EntityDefinition", name: str) -> str:
    is_known = any(
        name in members
        for members in (definition.handlers, definition.queries, definition.workflows, definition.mailboxes)
    )
    return name if is_known else metrics.OTHER
