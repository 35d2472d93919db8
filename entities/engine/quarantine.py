"""Which suspects may run now (promise P9). Pure: points in, decisions out.

* Nothing is held against a suspect yet: it may run at once, beside others of its kind, one point richer.
* Something is: it runs *alone*, with nothing else suspect under way, those with the fewest points first. So an innocent
  that only shared a crash with the killer is cleared by itself, and each further crash is the work of one suspect.
* `POINTS_MAX` would be reached: it is refused for good.

A point is added durably before the suspect runs. A host that dies of it cannot take the point back; a host that goes
on does. Whatever a host died of has therefore at least one point more on the next, and five crashes are the bound.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

POINTS_MAX = 5
"""So many points refuse a message, or park a run, for good."""
PATIENCE_S = 1.0
"""A suspect that has neither ended nor ended its host by then is waiting for something: others need not."""
POINTS_OF_BLOCKING = 3
"""A watchdog that has seen with its own eyes who blocks the host is better evidence than a death."""
LOSSES_MIN = 2
"""A call whose host was lost so often is a suspect; once is no more than bad luck."""


class Held(Protocol):
    """A suspect that waits."""

    @property
    def points(self) -> int:
        """What is held against it."""
        ...

    def is_ready(self) -> bool:
        """Whether it would run if it was released."""
        ...


H = TypeVar("H", bound=Held)


def known_points(stored: int, losses: int) -> int:
    """Points of a message: those stored, one for each time that it ran as a suspect and its host died, and one for
    being a suspect by the losses that its sender has counted.

    Further losses count for nothing by themselves: a host also dies of others while a call waits there, and what waits
    behind a killer is lost with it again and again.
    """
    return max(stored, int(losses >= LOSSES_MIN))


def is_refused(points: int) -> bool:
    """Whether one more point would be the last."""
    return points + 1 >= POINTS_MAX


def choose(held: Iterable[H], under_way: Iterable[Held]) -> list[H]:
    """Who runs next, beside those under way."""
    waiting, running = list(held), list(under_way)
    if any(one.points for one in running):
        return []
    fresh = [one for one in waiting if one.points == 0]
    if fresh or running:
        return fresh
    ready = [one for one in waiting if one.is_ready()]
    return [min(ready, key=lambda one: one.points)] if ready else []
