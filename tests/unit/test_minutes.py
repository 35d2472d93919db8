"""What a host notes of itself each minute: differences of its counters, and nothing lost with a failed note."""

import pytest

from perdure.cluster.minutes import Minutes
from perdure.entities.store.memory import MemoryStore
from perdure.entities.store.memory_survey import MemorySurvey
from perdure.entities.store.port import StoreUnavailable
from perdure.entities.store.survey import Minute

MINUTE_US = 60_000_000


class Failing(MemorySurvey):
    """A survey whose database may be away."""

    is_away = False

    async def note(self, minute: Minute) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        await super().note(minute)


async def test_each_minute_holds_what_happened_in_it() -> None:
    time_us, seconds = 100 * MINUTE_US, 0.0
    survey = Failing(MemoryStore(now_us=lambda: time_us))
    stats = {"turns": 0, "commits": 0, "commit_failures": 0, "commit_us_p50": 0, "commit_us_p99": 0, "activations": 0}
    minutes = Minutes(survey, "h1", lambda: stats, lambda: seconds)

    async def pass_a_minute(**more: int) -> None:
        nonlocal time_us, seconds
        time_us, seconds = time_us + MINUTE_US, seconds + 60.0
        stats.update(more)
        await minutes.note()

    await pass_a_minute(turns=600, commits=60, commit_us_p50=2_000, commit_us_p99=9_000, activations=5)
    await pass_a_minute(activations=4)
    survey.is_away = True
    with pytest.raises(StoreUnavailable):
        await pass_a_minute(turns=700, commits=70, commit_failures=2)
    survey.is_away = False
    await pass_a_minute(turns=900, commits=90)
    noted = await survey.minutes(since_us=0)
    assert [(one.turns, one.commits, one.failed_commits, one.seconds, one.activations) for one in noted] == [
        (600, 60, 0, 60, 5),
        (0, 0, 0, 60, 4),
        (300, 30, 2, 120, 4),
    ]
    assert [(one.commit_us_p50, one.commit_us_p99) for one in noted] == [(2_000, 9_000), (0, 0), (2_000, 9_000)]
    time_us += 25 * 60 * MINUTE_US
    await pass_a_minute()
    assert len(await survey.minutes(since_us=0)) == 1, "a day is kept"
