"""Schedules at offset changes of time zones: fixed cases, and comparisons with a reference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firelock.schedules.cron import Cron
from tests.core.schedules.cron.walk import assert_matches_reference

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def instant(text):
    """Return 'YYYY-MM-DD HH:MM' as a datetime in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# ---- fixed cases ---------------------------------------------------------------------------------------

# The values are the expression, the zone, the start and the next times. Times are in UTC.
GOLDEN = {
    "a gap of an hour moves to its end": (
        "30 2 * * *", "Europe/Berlin", "2026-03-28 01:30",
        ["2026-03-29 01:00", "2026-03-30 00:30"],
    ),
    "the end of a gap fires once": (
        "30 2,3 * * *", "Europe/Berlin", "2026-03-28 03:00",
        ["2026-03-29 01:00", "2026-03-29 01:30", "2026-03-30 00:30"],
    ),
    "all times in a gap fire once": (
        "0,15,30 2 * * *", "Europe/Berlin", "2026-03-28 03:00",
        ["2026-03-29 01:00", "2026-03-30 00:00"],
    ),
    "an hourly minute inside a gap fires at its end": (
        "30 * * * *", "Europe/Berlin", "2026-03-29 00:00",
        ["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30"],
    ),
    "a fixed time in an overlap fires in the first pass": (
        "30 2 * * *", "Europe/Berlin", "2026-10-24 12:00",
        ["2026-10-25 00:30", "2026-10-26 01:30"],
    ),
    "a fixed time after the first pass fires on the next day": (
        "30 2 * * *", "Europe/Berlin", "2026-10-25 01:10",
        ["2026-10-26 01:30"],
    ),
    "an interval fires in both passes": (
        "30 * * * *", "Europe/Berlin", "2026-10-24 23:40",
        ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"],
    ),
    "a range of hours fires in both passes": (
        "30 2-2 * * *", "Europe/Berlin", "2026-10-24 12:00",
        ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-26 01:30"],
    ),
    "Lord Howe's gap of half an hour": (
        "15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00",
        ["2026-10-03 15:30", "2026-10-04 15:15"],
    ),
    "the day that Apia skipped": (
        "0 12 * * *", "Pacific/Apia", "2011-12-29 12:00",
        ["2011-12-29 22:00", "2011-12-30 10:00", "2011-12-30 22:00"],
    ),
    "Casablanca's clocks go back for Ramadan": (
        "30 2 * * *", "Africa/Casablanca", "2026-02-14 12:00",
        ["2026-02-15 01:30", "2026-02-16 02:30"],
    ),
    "a year across two changes": (
        "0 0 1 * *", "Europe/Berlin", "2026-02-10 00:00",
        ["2026-02-28 23:00", "2026-03-31 22:00", "2026-04-30 22:00"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "zone", "after", "fires"), GOLDEN.values(), ids=GOLDEN.keys())
def test_offset_change_fires_at_the_expected_times(expression, zone, after, fires):
    """The id of each case describes the rule."""
    found = Cron(expression, tz=zone).upcoming(instant(after), len(fires))

    assert [instant(fire) for fire in fires] == found


# ---- comparison with the reference ----------------------------------------------------------------------


def changes(zone, first, last):
    """Return the times of offset changes in the years from first to last."""
    place = ZoneInfo(zone)
    found = []
    low = datetime(first, 1, 1, tzinfo=UTC)
    while low.year <= last:
        high = low + timedelta(days=1)
        offset = low.astimezone(place).utcoffset()
        if high.astimezone(place).utcoffset() != offset:
            near = low
            while near.astimezone(place).utcoffset() == offset:
                near += MINUTE
            found.append(near)
        low = high
    return found


SAMPLE = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Istanbul",
    "Pacific/Chatham",
]
EXPRESSIONS = [
    "*/15 * * * *",
    "30 * * * *",
    "30 0-4 * * *",
    "5,35 0,1,2,3,12 * * *",
    "30 2 * * sun",
    "0 0 L * 0#5",
    "45 23 * * *",
]


@pytest.mark.parametrize("zone", SAMPLE)
def test_offset_changes_from_2024_to_2030_match_the_reference(zone):
    """Every kind of expression is compared around each offset change of a zone."""
    seen = changes(zone, 2024, 2030)

    for change in seen:
        for expression in EXPRESSIONS:
            assert_matches_reference(
                expression, zone, change - timedelta(minutes=95), change + timedelta(minutes=155)
            )
    assert bool(seen) == (zone not in {"Asia/Kathmandu", "Europe/Istanbul"})


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Pacific/Apia", "2011-12-30 10:00"),  # a skipped day
        ("Pacific/Kwajalein", "1993-08-21 12:00"),  # a skipped day
        ("Pacific/Kwajalein", "1969-09-30 13:00"),  # 23 repeated hours
        ("Asia/Pyongyang", "2018-05-04 15:00"),  # half an hour skipped at midnight
        ("Europe/Istanbul", "2016-03-27 01:00"),
    ],
)
def test_rare_offset_changes_match_the_reference(zone, change):
    """Examples are changes by a day, or by half an hour at midnight."""
    middle = instant(change)

    for expression in ["*/20 * * * *", "30 5 * * *", "0 */7 * * *", "15,45 1,13 L * fri", "0 0 * * tue"]:
        day = timedelta(hours=30)
        assert_matches_reference(expression, zone, middle - day, middle + day, overlap=day)


def spans(low, high, *names):
    """Return strings for one item of a field: a value or a range, possibly wrapped and with a step."""
    value = st.integers(low, high).map(str)
    if names:
        value |= st.sampled_from(names)
    step = st.integers(1, high - low).map(str)
    return st.one_of(
        value,
        st.builds("{}-{}".format, value, value),
        st.builds("{}-{}/{}".format, value, value, step),
        st.builds("{}/{}".format, st.sampled_from(["*"]) | value, step),
    )


def field(*items):
    """Return strings for one field: * or a list of up to three items."""
    return st.just("*") | st.lists(st.one_of(*items), min_size=1, max_size=3).map(",".join)


TIMES = st.tuples(field(spans(0, 59)), field(spans(0, 23)))
DATES = st.tuples(
    field(spans(1, 31), st.sampled_from(["L", "LW", "L-2", "1W", "15W", "31W"])),
    field(spans(1, 12, "jan", "oct")),
    field(spans(0, 6, "mon", "FRI"), st.sampled_from(["5L", "sunL", "7#5", "mon#1", "3#2"])),
)


@settings(max_examples=120, deadline=None)
@given(
    times=TIMES,
    dates=DATES | st.just(("*", "*", "*")),
    zone=st.sampled_from(SAMPLE),
    start=st.integers(0, 7 * 365 * 1440),
)
def test_any_expression_matches_the_reference(times, dates, zone, start):
    """The expressions have five fields and are tested at any time in seven years."""
    after = datetime(2024, 1, 1, tzinfo=UTC) + start * MINUTE

    assert_matches_reference(" ".join(times + dates), zone, after, after + timedelta(hours=40))


@settings(max_examples=60, deadline=None)
@given(
    times=TIMES,
    dates=DATES,
    zone=st.sampled_from(SAMPLE),
    start=st.integers(0, 365 * 86_400),
    days=st.integers(0, 400),
)
def test_count_equals_the_number_of_upcoming_times(times, dates, zone, start, days):
    cron = Cron(" ".join(times + dates), tz=zone)
    after = datetime(2026, 1, 1, tzinfo=UTC) + start * SECOND
    fires = [fire for fire in cron.upcoming(after, 300) if fire <= after + timedelta(days=days)]
    until = fires[-1] if len(fires) == 300 else after + timedelta(days=days)

    assert len(fires) == cron.count(after, until)
