"""Cron in time zones: gaps and overlaps of the clock, the grid, what was missed."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities.recurrence import MISSED_MAX, cron_text, following, from_us, occurrences, to_us

BERLIN = ZoneInfo("Europe/Berlin")


def local(text: str, after: datetime, count: int, tz: str = "Europe/Berlin") -> list[str]:
    found = islice(occurrences(cron_text(text, tz), to_us(after)), count)
    return [from_us(due_us).astimezone(ZoneInfo(tz)).strftime("%m-%d %H:%M %z") for due_us in found]


def test_weekdays_at_nine_in_berlin_keep_local_time_across_the_change() -> None:
    assert local("0 9 * * mon-fri", datetime(2026, 3, 26, 12, tzinfo=UTC), 3) == [
        "03-27 09:00 +0100", "03-30 09:00 +0200", "03-31 09:00 +0200",
    ]  # fmt: skip


def test_a_time_that_the_clocks_jump_over_comes_right_after_the_gap() -> None:
    assert local("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2) == [
        "03-29 03:00 +0200",
        "03-30 02:30 +0200",
    ]


def test_a_time_that_comes_twice_comes_once() -> None:
    assert local("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2) == [
        "10-25 02:30 +0200", "10-26 02:30 +0100",
    ]  # fmt: skip
    between = datetime(2026, 10, 25, 0, 45, tzinfo=UTC)  # 02:45 summer time: the first 02:30 has passed
    assert local("30 2 * * *", between, 1) == ["10-26 02:30 +0100"]


def test_every_half_hour_goes_by_elapsed_time() -> None:
    found = local("*/30 * * * *", datetime(2026, 10, 25, 0, 15, tzinfo=UTC), 4)
    assert found == ["10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100", "10-25 03:00 +0100"]


@pytest.mark.parametrize("tz", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"])
@pytest.mark.parametrize("expression", ["0 9 * * mon-fri", "30 2 * * *", "*/20 * * * *", "0 0 1 * *", "15 1-3 * * *"])
@given(st.datetimes(min_value=datetime(2025, 1, 1), max_value=datetime(2027, 12, 31)))  # noqa: DTZ001
def test_occurrences_follow_each_other_and_do_not_depend_on_where_one_begins(
    tz: str, expression: str, after: datetime
) -> None:
    text = cron_text(expression, tz)
    first, second, third = islice(occurrences(text, to_us(after.replace(tzinfo=UTC))), 3)
    assert to_us(after.replace(tzinfo=UTC)) < first < second < third
    assert next(occurrences(text, first)) == second
    assert next(occurrences(text, second)) == third
    assert next(occurrences(text, first - 1)) == first


def test_what_was_missed_is_counted_and_the_grid_is_kept() -> None:
    text = cron_text("0 9 * * *", "Europe/Berlin")
    due_us = to_us(datetime(2026, 3, 27, 9, tzinfo=BERLIN))
    now_us = to_us(datetime(2026, 3, 31, 12, tzinfo=BERLIN))
    missed, next_us = following(due_us, now_us, every_us=0, cron=text, catch_up_all=False)
    assert (missed, next_us) == (4, to_us(datetime(2026, 4, 1, 9, tzinfo=BERLIN)))
    assert following(due_us, now_us, every_us=0, cron=text, catch_up_all=True) == (
        0, to_us(datetime(2026, 3, 28, 9, tzinfo=BERLIN)),
    )  # fmt: skip


def test_counting_what_was_missed_has_a_bound() -> None:
    text = cron_text("* * * * * *", "UTC")
    year_us = 365 * 86_400_000_000
    assert following(0, year_us, every_us=0, cron=text, catch_up_all=False) == (MISSED_MAX, year_us + 1_000_000)


def test_a_last_occurrence_has_none_after_it() -> None:
    text = cron_text("0 0 29 2 *", "UTC")
    leap = list(islice(occurrences(text, 0), 3))
    assert [from_us(due_us).year for due_us in leap] == [1972, 1976, 1980]
    assert from_us(leap[0]) + timedelta(days=1461) == from_us(leap[1])
