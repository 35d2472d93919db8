"""Crash at every point: a scenario is played once undisturbed, then once per moment at which things can go wrong.

Points: before and after each commit, before and after each attempt of an activity. The host dies there (everything that
is not committed is lost) and another takes over. A commit that is going to fail is slow: whatever can happen before it
has happened, so that what leaks out before its commit is seen. On request also: the store fails before or after it has
written a commit, so that the host does not know which. However it went, the end must be the same: the scenario's
result, the state of every entity, and the effects on the outside world, each once per idempotency key. Proves P1, P2,
P3 and P7 for the application's own code.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from .world import PerdureTest, Point


@dataclass(frozen=True)
class CrashReport:
    """What was tried."""

    commits: int
    attempts: int
    points: int
    """What went wrong, one at a time, with the same end each time."""


@dataclass(frozen=True)
class _End:
    result: object
    states: dict[str, Any]
    effects: Counter[str]
    commits: int
    attempts: int
    faults: int


async def crash_everywhere(
    make: Callable[[], PerdureTest],
    scenario: Callable[[PerdureTest], Awaitable[object]],
    *,
    store_failures: bool = False,
    slack: timedelta = timedelta(minutes=5),
) -> CrashReport:
    """Play `scenario` in worlds that `make` makes (a new one with new fakes each time), crashing at every point.

    slack: moments in states and results may differ by as much, because what a crash interrupts is done again.
    Prints the number of points. Raises AssertionError naming the point whose end is another one.
    """
    calm = await _play(make, scenario, None)
    points = [Point("commit", number, when) for number in range(calm.commits) for when in ("before", "after")]
    points += [Point("attempt", number, when) for number in range(calm.attempts) for when in ("before", "after")]
    if store_failures:
        points += [replace(point, what="store failure") for point in points if point.kind == "commit"]
    for point in points:
        try:
            end = await _play(make, scenario, point)
        except Exception as error:
            raise AssertionError(f"{point}: {error!r}") from error
        _compare(point, calm, end, slack)
    print(  # noqa: T201 - how much was tried is part of the result
        f"crashed at {len(points)} points ({calm.commits} commits, {calm.attempts} attempts): same end each time"
    )
    return CrashReport(commits=calm.commits, attempts=calm.attempts, points=len(points))


async def _play(
    make: Callable[[], PerdureTest], scenario: Callable[[PerdureTest], Awaitable[object]], point: Point | None
) -> _End:
    world = make()
    world.fault_at = point
    async with world:
        result = await scenario(world)
        await world.settled()
        return _End(result, world.states(), world.effects(), world.commits, len(world.attempts), world.faults)


def _compare(point: Point, calm: _End, end: _End, slack: timedelta) -> None:
    assert end.faults == 1, f"{point}: happened {end.faults} times; is the scenario repeatable?"
    for what, was, now in (("result", calm.result, end.result), ("states", calm.states, end.states)):
        assert _is_same(was, now, slack), f"{point}: other {what}: {now!r} instead of {was!r}"
    twice, missing = end.effects - calm.effects, calm.effects - end.effects
    assert not twice, f"{point}: effects that the undisturbed scenario did not have: {dict(twice)}"
    assert not missing, f"{point}: effects are missing: {dict(missing)}"


def _is_same(one: object, other: object, slack: timedelta) -> bool:
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_is_same(one[key], other[key], slack) for key in one)
        case list(), list():
            return len(one) == len(other) and all(_is_same(a, b, slack) for a, b in zip(one, other, strict=True))
        case datetime(), datetime():
            return abs(one - other) <= slack
        case str(), str() if one != other:
            try:
                return abs(datetime.fromisoformat(one) - datetime.fromisoformat(other)) <= slack
            except (ValueError, TypeError):
                return False
        case _:
            return one == other
