"""When something recurs: fixed periods, and cron expressions in a time zone.

Pure: no clock, no I/O but the time zone database. Times are microseconds since the epoch. A cron reminder is stored as
one text, `minute hour day month weekday zone`, so that the grid of its occurrences follows from what is stored (P6).

Change of clocks, as Debian's cron has it: a job at a fixed time that the clocks jump over runs right after the gap; one
at a time that comes twice runs the first time only; one with `*` in its minutes or hours follows elapsed time.
"""

import datetime as dt
from collections.abc import Iterator
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MISSED_MAX = 10_000
"""Missed occurrences of a cron reminder are counted up to here."""
CRON_LENGTH_MAX = 200


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown; not a name; a folder of the database
        raise ValueError(f"there is no time zone {name[:60]!r}; write an IANA name such as Europe/Berlin") from error


def cron_text(expression: str, tz: str) -> str:
    """Expression and zone as one text. Raises ValueError saying what is wrong."""
    fields = expression.split()
    if len(fields) not in (5, 6) or len(expression) > CRON_LENGTH_MAX:
        raise ValueError(
            f"a cron expression has five fields (minute hour day month weekday), or six with seconds in front; "
            f"{expression[:60]!r} has {len(fields)}"
        )
    zone(tz)
    text = f"{' '.join(fields)} {tz}"
    try:
        first = next(occurrences(text, 0), None)
    except CronSimError as error:
        raise ValueError(f"{expression!r} is not a cron expression: {error}") from None
    if first is None:
        raise ValueError(f"{expression!r} never occurs")
    return text


def occurrences(text: str, after_us: int) -> Iterator[int]:
    """Due times of a cron text, strictly after `after_us`. Ends if there is none within fifty years."""
    expression, _, tz = text.rpartition(" ")
    after = (EPOCH + dt.timedelta(microseconds=after_us)).astimezone(zone(tz))
    for occurrence in CronSim(expression, after):
        due_us = to_us(occurrence)
        if due_us > after_us:  # the hour that comes twice: cron's own idea of "after" is by the wall clock
            yield due_us


def following(due_us: int, now_us: int, *, every_us: int, cron: str, catch_up_all: bool) -> tuple[int, int | None]:
    """What comes after the occurrence that was due at `due_us` and fires at `now_us`.

    Returns (how many others it stands for, because they were missed; when the next one is due, None if never).
    Occurrences keep their grid: nothing drifts.
    """
    if not cron:
        next_us = due_us + every_us
        if catch_up_all or next_us > now_us:
            return 0, next_us
        missed = (now_us - next_us) // every_us + 1
        return missed, next_us + missed * every_us
    missed = 0
    for next_us in occurrences(cron, due_us):
        if catch_up_all or next_us > now_us:
            return missed, next_us
        missed += 1
        if missed == MISSED_MAX:
            return missed, next(occurrences(cron, now_us), None)
    return missed, None


def cannot_recur(every_us: int, cron: str) -> str:
    """Why a stored recurrence means nothing here (a zone that this machine does not know, damage); empty if it does."""
    if every_us < 0:
        return f"its period is {every_us} µs"
    if not cron:
        return ""
    expression, _, tz = cron.rpartition(" ")
    try:
        CronSim(expression, EPOCH.astimezone(zone(tz)))
    except (ValueError, CronSimError) as error:
        return f"{cron[:80]!r} is no cron expression with a time zone here: {error}"
    return ""


def to_us(moment: dt.datetime) -> int:
    """A moment with time zone as microseconds since the epoch."""
    return round((moment - EPOCH) / dt.timedelta(microseconds=1))


def from_us(time_us: int) -> dt.datetime:
    """Inverse of to_us, in UTC."""
    return EPOCH + dt.timedelta(microseconds=time_us)
