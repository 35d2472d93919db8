"""The network between simulated machines, and the way of each process to the database: delays, cuts, lost answers.

All draws of delays and fates are made here; how likely they are is the plan's (faults.py).
"""

import random
from collections.abc import Sequence
from enum import Enum

from perdure.entities.ids import EntityId

from .choices import chance, spread
from .loop import Node, SimLoop


class Fate(Enum):
    """What becomes of one operation of the database."""

    ANSWERED = "answered"
    REFUSED = "refused before it was sent"
    LOST = "sent, never executed, and nobody knows"
    UNANSWERED = "executed, but the answer is lost"
    LATE = "executed after its process was told that the outcome is unknown"


class Troubles:
    """How likely what is, at present."""

    def __init__(self) -> None:
        self.net_s = (0.0001, 0.001)
        self.store_s = (0.0002, 0.001)
        self.slow = 0.0
        """Of operations and calls: a hundred times slower."""
        self.refused = 0.0
        self.lost = 0.0
        self.unanswered = 0.0
        self.late = 0.0
        self.conflicting = 0.0
        """A commit is refused because of one of its entities, as if another had written it and been undone."""
        self.held = 0.0
        """What was read comes back late, when it may have long been otherwise."""
        self.call_lost = 0.0
        """A call of an actor fails and was not executed."""
        self.call_unanswered = 0.0
        """A call of an actor fails, but was executed."""
        self.hints_lost = 0.0


def _named(node: Node) -> str:
    """Its name without the number of its process."""
    return node.name.partition("#")[0]


class Net:
    """Who can reach whom, and how long it takes."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self.troubles = Troubles()
        self.is_store_up = True
        self._loop = loop
        self._rng = rng
        self._cut: set[tuple[str, str]] = set()
        self._parted: set[tuple[str, str]] = set()
        self._storeless: set[str] = set()

    # --- cuts ---

    def cut(self, one: str, other: str) -> None:
        """Nothing goes from the one machine to the other, nor back."""
        self._cut |= {(one, other), (other, one)}

    def part(self, one: str, other: str) -> None:
        """These two processes do not reach each other, though their machines do; nor do those that replace them."""
        self._parted |= {(one, other), (other, one)}

    def unite(self, one: str, other: str) -> None:
        """They do again."""
        self._parted -= {(one, other), (other, one)}

    def cut_store(self, node: Node) -> None:
        """This process cannot reach the database."""
        self._storeless.add(node.name)

    def restore_store(self, node: Node) -> None:
        """It can again."""
        self._storeless.discard(node.name)

    def mend(self, one: str, other: str) -> None:
        """They reach each other again."""
        self._cut -= {(one, other), (other, one)}

    def heal(self) -> None:
        """Everything reaches everything, without troubles."""
        self._cut.clear()
        self._parted.clear()
        self._storeless.clear()
        self.is_store_up = True
        speeds = self.troubles.net_s, self.troubles.store_s
        self.troubles = Troubles()
        self.troubles.net_s, self.troubles.store_s = speeds

    def connects(self, one: Node, other: Node) -> bool:
        """Whether calls between them get through."""
        if (one.machine, other.machine) in self._cut:
            return False
        return not self._parted or (_named(one), _named(other)) not in self._parted

    def reaches_store(self, node: Node) -> bool:
        """Whether this process reaches the database."""
        return self.is_store_up and node.name not in self._storeless

    # --- draws ---

    def fate_of_query(self, node: Node) -> Fate:
        """Of an operation that is about to be sent."""
        rng, troubles = self._rng, self.troubles
        if not self.reaches_store(node) or chance(rng, troubles.refused):
            return Fate.REFUSED
        if chance(rng, troubles.lost):
            return Fate.LOST
        if chance(rng, troubles.unanswered):
            return Fate.UNANSWERED
        return Fate.LATE if chance(rng, troubles.late) else Fate.ANSWERED

    def fate_on_the_way(self) -> Fate:
        """Of an operation that was under way when the connection broke."""
        return self._rng.choice((Fate.LOST, Fate.UNANSWERED, Fate.LATE))

    def delay(self) -> float:
        """Of a call between processes, one way."""
        return self._delay(self.troubles.net_s)

    def store_delay(self) -> float:
        """Of an operation of the database, one way."""
        return self._delay(self.troubles.store_s)

    def _delay(self, between: tuple[float, float]) -> float:
        low, high = between
        delay = low + (high - low) * self._rng.random()
        return delay * spread(self._rng, 10.0, 300.0) if chance(self._rng, self.troubles.slow) else delay

    def held(self) -> float:
        """How much longer the answer to a read takes than others."""
        return spread(self._rng, 0.1, 8.0) if chance(self._rng, self.troubles.held) else 0.0

    def patience(self) -> float:
        """How long it takes a process to find out that a connection is broken."""
        return spread(self._rng, 0.005, 2.0)

    def lateness(self) -> float:
        """How long a packet may be on its way."""
        return spread(self._rng, 0.01, 5.0)

    def conflict(self, entities: Sequence[EntityId]) -> list[EntityId]:
        """Those of a commit that somebody else holds at this moment: mostly none, else one."""
        return [self._rng.choice(entities)] if entities and chance(self._rng, self.troubles.conflicting) else []

    def is_call_lost(self) -> bool:
        return chance(self._rng, self.troubles.call_lost)

    def is_call_unanswered(self) -> bool:
        return chance(self._rng, self.troubles.call_unanswered)

    def is_hint_lost(self) -> bool:
        return chance(self._rng, self.troubles.hints_lost)

    def between(self, low: float, high: float) -> float:
        """Any other duration that the network's chance decides."""
        return spread(self._rng, low, high)
