"""P9: which suspects run, when, and which never again."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from perdure.entities.engine.quarantine import POINTS_MAX, POINTS_OF_BLOCKING, choose, is_refused, known_points


@dataclass(frozen=True)
class One:
    points: int
    ready: bool = True

    def is_ready(self) -> bool:
        return self.ready


def test_those_without_points_run_together_and_first() -> None:
    fresh = [One(0), One(0, ready=False)]
    assert choose([One(1), *fresh], []) == fresh


def test_the_others_run_alone_fewest_points_first() -> None:
    assert choose([One(3), One(2), One(1, ready=False)], []) == [One(2)]
    assert choose([One(3)], [One(0)]) == []
    assert choose([One(3), One(0)], [One(2)]) == [], "nothing suspect beside one in quarantine"
    assert choose([One(3), One(0)], [One(0)]) == [One(0)]
    assert choose([One(1, ready=False)], []) == []


def test_losses_make_a_suspect_and_never_more() -> None:
    assert [known_points(0, losses) for losses in range(5)] == [0, 0, 1, 1, 1]
    assert known_points(4, 2) == 4
    assert not is_refused(known_points(0, 1_000)), "it may have waited behind a killer all the time"


@given(st.lists(st.booleans(), max_size=10))
def test_a_killer_is_refused_after_a_bounded_number_of_deaths(is_seen_by_the_watchdog: list[bool]) -> None:
    """Each death leaves one point, or one and the watchdog's."""
    points = deaths = 0
    for is_seen in is_seen_by_the_watchdog + [False] * POINTS_MAX:
        if is_refused(points):
            break
        points += 1 + is_seen * POINTS_OF_BLOCKING
        deaths += 1
    assert is_refused(points)
    assert deaths <= POINTS_MAX - 1
    if is_seen_by_the_watchdog[:1] == [True]:
        assert deaths == 1
