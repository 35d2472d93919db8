"""What a host notes of itself each minute, for people: turns, commits and how long these took.

One small row per host and minute, written beside the hot path and without waiting for the disk. Nothing depends on it
(it upholds no promise): a minute that could not be noted is added to the next one.
"""

from collections.abc import Callable, Mapping

from ..entities.store.survey import Minute, Survey

EVERY_S = 60.0


class Minutes:
    """Differences between a host's counters and those it noted last."""

    def __init__(
        self,
        survey: Survey,
        incarnation: str,
        stats: Callable[[], Mapping[str, int]],
        monotonic: Callable[[], float],
    ) -> None:
        self._survey = survey
        self._incarnation = incarnation
        self._stats = stats
        self._monotonic = monotonic
        self._noted: Mapping[str, int] = {}
        self._noted_at = monotonic()

    async def note(self) -> None:
        """Note what has happened since the last time. Raises StoreUnavailable; then nothing is forgotten."""
        stats, now = dict(self._stats()), self._monotonic()
        commits = self._since(stats, "commits")
        await self._survey.note(
            Minute(
                incarnation=self._incarnation,
                at_us=0,
                seconds=max(1, round(now - self._noted_at)),
                turns=self._since(stats, "turns"),
                commits=commits,
                failed_commits=self._since(stats, "commit_failures"),
                commit_us_p50=stats.get("commit_us_p50", 0) if commits else 0,
                commit_us_p99=stats.get("commit_us_p99", 0) if commits else 0,
                activations=stats.get("activations", 0),
            )
        )
        self._noted, self._noted_at = stats, now

    def _since(self, stats: Mapping[str, int], name: str) -> int:
        return max(0, stats.get(name, 0) - self._noted.get(name, 0))
