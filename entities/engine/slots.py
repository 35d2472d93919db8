"""Slots for attempts on one host: so many of each activity at once, so many begun per time, so many of all.

Attempts wait for the limits of their own activity first, so that a throttled activity holds no slot that another could
use. Waiting is no part of an attempt: its time limit counts from when it has all of them.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..activity import ActivityOptions
from ..rate import RateLimit


class Pace:
    """Evenly spaced starts. Pure: times are seconds of any one clock."""

    __slots__ = ("_interval_s", "_next")

    def __init__(self, rate: RateLimit) -> None:
        self._interval_s = rate.interval_s
        self._next = float("-inf")

    def reserve(self, now: float) -> float:
        """Take the next start; returns how many seconds from now it is."""
        begin = max(now, self._next)
        self._next = begin + self._interval_s
        return begin - now


class Slots:
    """All limits of one host. Owned by the activity loop."""

    def __init__(self, total: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._of: dict[tuple[str, int], asyncio.Semaphore] = {}
        self._paces: dict[tuple[str, RateLimit], Pace] = {}

    @asynccontextmanager
    async def slot(self, activity: str, options: ActivityOptions) -> AsyncGenerator[None]:
        """Wait until an attempt of this activity may run, and hold its place."""
        if options.max_concurrent is None:
            await self._keep_pace(activity, options)
            async with self._total:
                yield
            return
        own = self._of.setdefault((activity, options.max_concurrent), asyncio.Semaphore(options.max_concurrent))
        async with own:
            await self._keep_pace(activity, options)
            async with self._total:
                yield

    async def _keep_pace(self, activity: str, options: ActivityOptions) -> None:
        if options.rate is None:
            return
        pace = self._paces.setdefault((activity, options.rate), Pace(options.rate))
        wait_s = pace.reserve(asyncio.get_running_loop().time())
        if wait_s > 0.0:
            await asyncio.sleep(wait_s)
