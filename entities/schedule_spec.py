"""What a schedule says, as data: what to start, when, and what to do when occurrences are late or overlap.

Pure: no clock. All its answers follow from the spec and from times given.
"""

import datetime as dt
import re
from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .errors import InvalidArguments, InvalidKey
from .ids import EntityId, check_key
from .recurrence import cron_text, from_us, occurrences, to_us, zone

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_previous", "allow"]
"""When an occurrence comes while a run that the schedule has started goes on: leave it out; start it afterwards (one of
them at most, or all); cancel the run and start afterwards; start it beside the run."""
CatchUp = Literal["one", "all", "none"]
"""Occurrences missed while nothing was running: only the latest of them, every one, none."""

PERIOD_MIN = dt.timedelta(milliseconds=10)
LONGEST = dt.timedelta(days=366 * 100)
ON_TIME = dt.timedelta(seconds=10)
"""With catch-up "none": what is not later than this is not missed."""
_TEMPLATE = re.compile(r"\{time(?::([^{}]*))?\}")


class ScheduleSpec(BaseModel):
    """What a schedule starts and when."""

    model_config = ConfigDict(extra="forbid")

    type: str
    key: str
    """Key of the entity; `{time}` in it is the occurrence (UTC), `{time:%Y-%m-%d}` a form of it in the zone `tz`."""
    name: str
    """The workflow to start, or the handler to send to."""
    arguments: dict[str, Any] = {}
    """Texts among them may hold `{time}` as well."""
    every: dt.timedelta | None = None
    cron: str = ""
    tz: str = "UTC"
    start_at: AwareDatetime | None = None
    """No occurrence before this; with `every` also the first one."""
    end_at: AwareDatetime | None = None
    """No occurrence after this."""
    jitter: dt.timedelta = dt.timedelta(0)
    """Each occurrence starts up to so much later; how much follows from the schedule's name and the occurrence."""
    overlap: Overlap = "skip"
    catch_up: CatchUp = "one"
    catch_up_window: dt.timedelta = Field(default=dt.timedelta(days=365))
    """What is later than this is missed in any case."""

    def check(self) -> None:
        """Raises InvalidArguments, naming the field and the fix."""
        if (self.every is None) == (not self.cron):
            raise InvalidArguments("a schedule needs `every` or `cron`, and not both")
        if self.every is not None and not PERIOD_MIN <= self.every <= LONGEST:
            raise InvalidArguments(f"every={self.every}: from {PERIOD_MIN} to 100 years")
        if not dt.timedelta(0) <= self.jitter <= (self.every or LONGEST):
            raise InvalidArguments(f"jitter={self.jitter}: not negative, and not longer than the period")
        if not dt.timedelta(0) < self.catch_up_window <= LONGEST:
            raise InvalidArguments(f"catch_up_window={self.catch_up_window}: longer than 0, at most 100 years")
        if self.start_at and self.end_at and self.end_at < self.start_at:
            raise InvalidArguments(f"end_at={self.end_at} is before start_at={self.start_at}")
        try:
            zone(self.tz)
            if self.cron:
                cron_text(self.cron, self.tz)
            self.target(0)
        except (ValueError, InvalidKey) as error:
            raise InvalidArguments(str(error)) from None

    def occurrences(self, after_us: int, anchor_us: int) -> Iterator[int]:
        """When it is due, strictly after `after_us`. `anchor_us`: where the grid of `every` begins without start_at."""
        start_us = None if self.start_at is None else to_us(self.start_at)
        end_us = None if self.end_at is None else to_us(self.end_at)
        if start_us is not None:
            after_us = max(after_us, start_us - 1)
        for due_us in self._grid(after_us, anchor_us if start_us is None else start_us):
            if end_us is not None and due_us > end_us:
                return
            yield due_us

    def _grid(self, after_us: int, anchor_us: int) -> Iterator[int]:
        if self.cron:
            yield from occurrences(cron_text(self.cron, self.tz), after_us)
            return
        assert self.every is not None
        every_us = self.every // dt.timedelta(microseconds=1)
        due_us = anchor_us + ((after_us - anchor_us) // every_us + 1) * every_us
        while True:
            yield due_us
            due_us += every_us

    def starts_us(self, schedule: str, due_us: int) -> int:
        """When an occurrence starts: jitter included."""
        jitter_us = self.jitter // dt.timedelta(microseconds=1)
        if not jitter_us:
            return due_us
        return due_us + Random(f"{schedule}/{due_us}").randrange(jitter_us)  # noqa: S311 - it must be repeatable

    def target(self, due_us: int) -> EntityId:
        """Whom an occurrence is for. Raises InvalidKey."""
        return EntityId(self.type, check_key(self.type, self._render(self.key, due_us)))

    def arguments_for(self, due_us: int) -> dict[str, Any]:
        """Its arguments, as plain JSON values."""
        return {
            name: self._render(value, due_us) if isinstance(value, str) else value
            for name, value in self.arguments.items()
        }

    def _render(self, template: str, due_us: int) -> str:
        moment = from_us(due_us)
        default = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        here = moment.astimezone(zone(self.tz))
        return _TEMPLATE.sub(lambda found: here.strftime(found[1]) if found[1] else default, template)
