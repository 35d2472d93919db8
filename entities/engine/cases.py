"""A suspect from its discovery to its end, one class per way in: a message, an event, an entity being loaded."""

from typing import TYPE_CHECKING

from ..errors import HostKilled
from ..ids import EntityId
from ..messages import Kind
from ..store.rows import ReminderKind
from .deliveries import Begin, CheckConditions, Delivery, Fire, Item
from .left import PARKED_RUN_RETRY_S
from .quarantine import known_points
from .subjects import Subject, subject_of

if TYPE_CHECKING:
    from .engine import Engine
    from .turns.record import Record

Problems = dict[str, HostKilled]
"""By suspect id: what is refused for good."""


class Case:
    """Something that may end its host. Held until `go`, under way until `is_over`."""

    losses = 0

    def __init__(self, engine: "Engine", subjects: list[Subject]) -> None:
        self.engine = engine
        self.subjects = subjects
        self.points = 0
        self.since = 0.0
        """When it was let go (monotonic)."""
        self.stored: dict[tuple[EntityId, str], int] = {}
        """Points in the store, by suspect, as last read."""
        self.evidence: dict[tuple[EntityId, str], int] = {}
        """How many there must be in the store before it runs."""

    @property
    def entity(self) -> EntityId:
        """Whose."""
        return self.subjects[0].entity

    def know(self, stored: int) -> int:
        """What is held against it, given the points in the store."""
        return known_points(stored, self.losses)

    def is_gone(self) -> bool:
        """Whether nobody waits for it here any more."""
        return not self.engine.owns(self.entity)

    def is_ready(self) -> bool:
        """Whether it would run at once."""
        return True

    def go(self, problems: Problems) -> None:
        """Let it run, or refuse it."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether its code has run, and this process still lives."""
        raise NotImplementedError

    def is_cleared(self) -> bool:
        """Once it is over: whether everything held against it is void; else only the last point is."""
        return True

    def is_stuck(self, held: "set[object]") -> bool:
        """Whether it waits behind something that is held."""
        raise NotImplementedError


def _is_behind(engine: "Engine", entity: EntityId, held: "set[object]") -> bool:
    if entity in engine.arrivals.loading:
        return entity in held
    activation = engine.active.get(entity)
    return activation is not None and bool(activation.mailbox) and activation.mailbox[0] in held


class MessageCase(Case):
    """A message in the mailbox of an activation; it waits there as one whose outcome is being looked up."""

    def __init__(self, activation: "Record", delivery: Delivery) -> None:
        super().__init__(activation.engine, [subject_of(activation.id, delivery)])
        self._activation = activation
        self.item = delivery
        self.losses = delivery.envelope.losses
        self._attempts = delivery.attempts

    def is_gone(self) -> bool:
        delivery = self.item
        return self._activation.is_dead or self._activation.by_id.get(delivery.envelope.id) is not delivery

    def is_ready(self) -> bool:
        activation = self._activation
        return activation.busy is None and bool(activation.mailbox) and activation.mailbox[0] is self.item

    def go(self, problems: Problems) -> None:
        problem = problems.get(self.subjects[0].id)
        if problem is not None and self.item.envelope.kind is Kind.REPLY:
            self.engine.suspects.park(self.subjects[0], problem)  # it is the run that kills; parked, it keeps the reply
        elif problem is not None:
            self.item.problem = problem
        self.item.is_cleared = True
        self.engine.readers.look_up(self._activation, self.item)

    def _has_run(self) -> bool:
        delivery = self.item
        is_answered = delivery.respond is None and self._activation.by_id.get(delivery.envelope.id) is not delivery
        if delivery.envelope.kind is Kind.QUERY and delivery.envelope.reply_to:
            is_answered = False
        return delivery.is_done or delivery.attempts > self._attempts or is_answered

    def is_over(self) -> bool:
        return self._activation.is_dead or self._has_run()

    def is_cleared(self) -> bool:
        return self._has_run()

    def is_stuck(self, held: "set[object]") -> bool:
        is_behind_a_retry = any(self.item in waiting for waiting in self._activation.blocked.values())
        is_late = self.item.envelope.id in self._activation.late
        return is_behind_a_retry or is_late or _is_behind(self.engine, self.entity, held)


class EventCase(Case):
    """A reminder or timer that was due, an activity's outcome, a condition that was true."""

    def __init__(self, engine: "Engine", entity: EntityId, item: Item) -> None:
        super().__init__(engine, [subject_of(entity, item)])
        self.item = item

    def go(self, problems: Problems) -> None:
        problem = problems.get(self.subjects[0].id)
        if problem is None:
            self.engine.arrivals.hand_over(self.entity, self.item)
        elif isinstance(self.item, Fire) and self.item.row.kind is not ReminderKind.TIMER:
            self.item.problem = problem
            self.engine.arrivals.hand_over(self.entity, self.item)
        else:
            self.engine.suspects.park(self.subjects[0], problem)
            if isinstance(self.item, Fire):
                self.engine.leave_alone(self.item.row, PARKED_RUN_RETRY_S)

    def is_gone(self) -> bool:
        if isinstance(self.item, CheckConditions | Begin):
            activation = self.engine.active.get(self.entity)
            return activation is None or self.item.run not in activation.runs.values()
        return super().is_gone()

    def is_over(self) -> bool:
        if self.entity in self.engine.arrivals.loading:
            return False
        activation = self.engine.active.get(self.entity)
        if activation is None:
            return True
        is_running = isinstance(self.item, Fire) and activation.busy is not None
        return not is_running and self.item not in activation.mailbox

    def is_stuck(self, held: "set[object]") -> bool:
        return _is_behind(self.engine, self.entity, held)


class LoadCase(Case):
    """An entity whose unfinished runs have to be replayed."""

    def __init__(self, engine: "Engine", subjects: list[Subject]) -> None:
        super().__init__(engine, subjects)
        self.item = self.entity

    def is_gone(self) -> bool:
        return self.entity not in self.engine.arrivals.loading

    def go(self, problems: Problems) -> None:
        for subject in self.subjects:
            if subject.id in problems:
                self.engine.suspects.condemned[subject.entity, subject.id] = problems[subject.id]
        self.engine.suspects.passed.add(self.entity)
        self.engine.readers.load(self.entity)

    def is_over(self) -> bool:
        return self.entity not in self.engine.arrivals.loading

    def is_cleared(self) -> bool:
        return False  # that it can be replayed does not mean that it can go on

    def is_stuck(self, held: "set[object]") -> bool:
        return False
