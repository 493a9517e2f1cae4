"""Cron expressions: valid strings, their meaning, and the errors for invalid strings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from croniter import croniter

from firelock.errors import ScheduleError
from firelock.schedules.cron import Cron
from tests.core.schedules.cron.walk import assert_matches_reference


def days_of(expression, year, month):
    """Return the days of a month on which the expression fires at midnight."""
    start = datetime(year, month, 1, tzinfo=UTC)
    fires = Cron(expression).upcoming(start - timedelta(seconds=1), 31)
    return [fire.day for fire in fires if (fire.year, fire.month) == (year, month)]


def hours_of(expression):
    """Return the hours of one day in which the expression fires."""
    start = datetime(2026, 6, 1, tzinfo=UTC)
    fires = Cron(expression).upcoming(start - timedelta(seconds=1), 24)
    return [fire.hour for fire in fires if fire.day == 1]


# November 2026 begins on a Sunday and has 30 days. August 2026 begins on a Saturday. 31 May is a Sunday.


DAYS = [
    "5 * *", "1,15 * *", "28-3 * *", "28-4/3 * *", "*/10 * *", "20/5 * *", "31 * *", "L * *", "l * *",
    "L-3 * *", "L-30 * *", "1,L * *", "LW * *", "15W * *", "15w * *", "1W * *", "31W * *", "1W,15W * *",
    "* * 0", "* * 7", "* * MON", "? * mon", "5 * ?", "* * fri-mon", "* * 5-7/2", "* * 6-2/3", "* * 7-2",
    "* * 1/2", "* * 5L", "* * friL", "* * 7L", "* * 5#2", "* * fri#2,mon#1", "* * 0#1", "* * 7#5",
    "* * wed#5", "* * tue,5L", "* feb *", "1 oct-dec *", "1 NOV,jan *", "1 nov-mar/2 *", "1 7/2 *",
    "13 * fri", "L * sun", "13 * 5#2", "15W * 5L", "1-31 * mon", "? * fri", "*/15 * fri",
]  # fmt: skip
HOURS = [
    "9", "9-12", "9-17/4", "22-2", "22-2/2", "*/6", "20/2", "23/2", "5-5", "1,1,1", "8,20-22", "8,*",
]  # fmt: skip


@pytest.mark.parametrize("days", DAYS)
def test_day_fields_match_the_reference(days):
    """Three years include months of every length that begin on every weekday.

    If both day fields are restricted, a day that matches either of them is enough.
    """
    first, day = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)

    assert_matches_reference(f"0 0 {days}", "UTC", first, first + 1_096 * day, overlap=day, step=day)


@pytest.mark.parametrize("hours", HOURS)
def test_hour_fields_match_the_reference(hours):
    """The other fields of an expression accept the same forms."""
    first, hour = datetime(2026, 6, 1, tzinfo=UTC), timedelta(hours=1)

    assert_matches_reference(
        f"\t0   {hours}\t* * * ", "UTC", first, first + 50 * hour, overlap=hour, step=hour
    )


def test_first_of_six_fields_is_the_second():
    start = datetime(2026, 11, 25, tzinfo=UTC)

    fires = Cron("15,45 30 2 * * *").upcoming(start, 3)

    assert [(2, 30, 15), (2, 30, 45), (2, 30, 15)] == [
        (fire.hour, fire.minute, fire.second) for fire in fires
    ]


@pytest.mark.parametrize(
    ("macro", "same"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("@every_minute", "* * * * *"),
        ("@every_second", "* * * * * *"),
    ],
)
def test_macro_equals_its_expression(macro, same):
    """A macro and its expression fire at the same times."""
    start = datetime(2026, 2, 27, 23, 59, 58, tzinfo=UTC)

    assert Cron(same).upcoming(start, 5) == Cron(macro).upcoming(start, 5)


# ---- combination of the two day fields ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 */1 * fri", [4, 11, 18, 25]),  # a step of one does not restrict
        ("0 0 * * 0-7/3", [2, 5, 6, 9, 12, 13, 16, 19, 20, 23, 26, 27, 30]),  # 0, 3 and 6
        ("0 0 13 * fri", [4, 11, 13, 18, 25]),
    ],
)
def test_either_of_two_restricted_day_fields_can_match(expression, days):
    """All cron programs use this rule. A field with `*` is not restricted."""
    assert days == days_of(expression, 2026, 12)


# ---- differences from croniter -------------------------------------------------------------------------


def test_croniter_differs_on_a_wrapped_range_with_a_step():
    """22-2/3 continues after midnight: 22, then 25, which is 1. croniter returns 2."""
    assert [2, 22] == croniter.expand("0 22-2/3 * * *")[0][1]

    assert [1, 22] == hours_of("0 22-2/3 * * *")


def test_croniter_differs_on_a_range_of_one_value():
    """5-5 means 5. croniter expands it to the whole day."""
    assert ["*"] == croniter.expand("0 5-5 * * *")[0][1]

    assert [5] == hours_of("0 5-5 * * *")


# ---- invalid expressions -------------------------------------------------------------------------------

REFUSED = [
    ("", "empty"),
    ("* * * *", "has 4 fields"),
    ("* * * * * * *", "has 7 fields"),
    ("60 * * * *", r"minutes '60' \(column 1\): value must be from 0 to 59, got 60"),
    ("* 24 * * *", r"hours '24' \(column 3\): value must be from 0 to 23, got 24"),
    ("* * 0 * *", r"day of month '0' \(column 5\): value must be from 1 to 31, got 0"),
    ("* * 32 * *", r"day of month '32' \(column 5\)"),
    ("* * * 13 *", r"month '13' \(column 7\)"),
    ("* * * * 8", r"day of week '8' \(column 9\)"),
    ("60 0 0 * * *", r"seconds '60' \(column 1\)"),
    ("*/0 * * * *", r"minutes '\*/0' \(column 1\): step must be from 1 to 60, got 0"),
    ("0 */25 * * *", r"column 3\): step must be from 1 to 24, got 25"),
    ("0-99999999 * * * *", r"minutes '0-99999999' \(column 1\)"),
    ("1,5,61 * * * *", r"minutes '61' \(column 5\)"),
    ("0 0 30 2 *", "never fires"),
    ("0 0 L-29 2 *", "never fires"),
    ("0 0 31W 2,4 *", "never fires"),
    ("0 " * 5_000, "must have at most 256 characters, got 10,000"),
    ("0" + ",0" * 1_000 + " * * * *", "must have at most 256 characters, got "),
    ("0" + ",0" * 60 + " * * * *", "the list has 61 items; at most 60 are allowed"),
    ("@reboot", "Use one of @yearly"),
    ("٣ * * * *", r"column 1: character '٣'"),
    ("0\xa02 * * *", r"column 2: character '\\xa0'"),
    ("0 2 * * *\n", r"column 10: character '\\n'"),
    ("0 2 * * * # nightly", "has 7 fields"),
    ("L * * * *", r"minutes 'l' \(column 1\)"),
    ("0 0 * L *", r"month 'l' \(column 7\)"),
    ("0 0 * * L", r"day of week 'l' \(column 9\)"),
    ("0 0 L-31 * *", "offset from the last day must be from 0 to 30, got 31"),
    ("0 0 L3 * *", "day of month 'l3'"),
    ("0 0 W * *", "day of month 'w'"),
    ("0 0 0W * *", "value must be from 1 to 31, got 0"),
    ("0 0 1-15W * *", "day of month '1-15w'"),
    ("0 0 * * 5W", "day of week '5w'"),
    ("0 0 5#2 * *", "day of month '5#2'"),
    ("0 0 * * 5#0", "week of the month must be from 1 to 5, got 0"),
    ("0 0 * * #2", "day of week '#2'"),
    ("0 0 * * 8#1", "value must be from 0 to 7, got 8"),
    ("0 0 * * mo", "day of week 'mo'"),
    ("0 0 * * jan", "unknown name 'jan'; use sun, mon"),
    ("0 0 * foo *", "unknown name 'foo'; use jan, feb"),
    ("foo 0 * * *", "this field has no names"),
    ("H * * * *", "minutes 'h'"),
    ("-1 * * * *", "minutes '-1'"),
    ("1- * * * *", "minutes '1-'"),
    ("1/ * * * *", "minutes '1/'"),
    ("/5 * * * *", "minutes '/5'"),
    ("1/2/3 * * * *", "minutes '1/2/3'"),
    ("*-5 * * * *", r"minutes '\*-5'"),
    ("1,,2 * * * *", r"minutes '' \(column 3\): an item is missing"),
    ("? * * * *", r"minutes '\?'"),
    ("0 0 ?,1 * *", r"day of month '\?'"),
    ("0 0 ? ? *", r"month '\?' \(column 7\)"),
    ("0; * * * *", "character ';'"),
    (5, "must be a string .*, got int"),
    (b"0 2 * * *", "must be a string .*, got bytes"),
]


@pytest.mark.parametrize(
    ("expression", "words"), REFUSED, ids=[f"{at}-{str(bad)[:20]!a}" for at, (bad, _) in enumerate(REFUSED)]
)
def test_error_of_an_invalid_expression_contains_the_position(expression, words):
    """The constructor raises the error. It contains the field, the column and the allowed values."""
    with pytest.raises(ScheduleError, match=words):
        Cron(expression)


def test_error_does_not_contain_a_long_expression():
    """The message is short, whatever the expression is."""
    with pytest.raises(ScheduleError) as caught:
        Cron("*" * 100_000)

    assert len(str(caught.value)) < 300


def test_29_february_is_a_possible_date():
    """A date that occurs only every few years is found, even on a given weekday and across the year 2100."""
    after = datetime(2096, 3, 1, tzinfo=UTC)

    assert datetime(2104, 2, 29, tzinfo=UTC) == Cron("0 0 29 2 *").next_after(after)
    # If both fields were restricted, either would match. A fifth Monday in February is always the 29th.
    assert datetime(2072, 2, 29, tzinfo=UTC) == Cron("0 0 * 2 1#5").next_after(
        datetime(2044, 2, 29, tzinfo=UTC)
    )
    assert datetime(2112, 2, 29, tzinfo=UTC) == Cron("0 0 * 2 1#5").next_after(
        datetime(2072, 2, 29, tzinfo=UTC)
    )
