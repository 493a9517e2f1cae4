"""Schedules as values: creating, checking, describing, storing and evaluating them."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.errors import ScheduleError
from firelock.schedules.cron import (
    Cron,
    Every,
    parse_schedule,
    schedule_from_json,
    schedule_to_json,
)
from firelock.schedules.cron import timezones as zones

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


# ---- construction -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "name"),
    [(ZoneInfo("Europe/Istanbul"), "Europe/Istanbul"), (ZoneInfo("UTC"), "UTC"), (UTC, "UTC")],
)
def test_time_zone_can_be_an_object(zone, name):
    """A `ZoneInfo` and the result of Django's `get_current_timezone()` are accepted. The name is stored."""
    nightly = Cron.daily(2, tz=zone)

    assert Cron.daily(2, tz=name) == nightly
    assert name == nightly.tz
    assert nightly == schedule_from_json(schedule_to_json(nightly))


def test_crons_with_equal_options_are_equal():
    """Equal crons have equal hashes. Crons can be pickled and are immutable."""
    one, other = Cron("0 2 * * *", tz="Europe/Berlin"), Cron("0 2  * * *", tz="Europe/Berlin")

    assert one == other
    assert 1 == len({one, other, pickle.loads(pickle.dumps(one))})
    assert one != Cron("0 2 * * *")
    assert one.next_after(NEW_YEAR) == pickle.loads(pickle.dumps(one)).next_after(NEW_YEAR)
    with pytest.raises(AttributeError):
        one.tz = "UTC"


@pytest.mark.parametrize(
    ("built", "expression"),
    [
        (Cron.minutely(), "* * * * *"),
        (Cron.hourly(15), "15 * * * *"),
        (Cron.daily(2, 30), "30 2 * * *"),
        (Cron.weekly(), "0 0 * * mon"),
        (Cron.weekly("Friday", 18, 5), "5 18 * * fri"),
        (Cron.weekly(7), "0 0 * * 7"),
        (Cron.monthly(15, 6), "0 6 15 * *"),
        (Cron.yearly(), "0 0 1 1 *"),
        (Cron.yearly(12, 24, 18, 30), "30 18 24 12 *"),
    ],
)
def test_builder_creates_an_expression(built, expression):
    """Each builder is a short form of an expression."""
    assert Cron(expression) == built


@pytest.mark.parametrize(
    "build", [Cron.minutely, Cron.hourly, Cron.daily, Cron.weekly, Cron.monthly, Cron.yearly]
)
def test_builder_accepts_all_options(build):
    """The options are the time zone and the policies."""
    built = build(tz="Asia/Tokyo", misfire="skip", misfire_limit=7, overlap="skip")

    assert ("Asia/Tokyo", "skip", 7, "skip") == (built.tz, built.misfire, built.misfire_limit, built.overlap)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Cron.hourly(60),
        lambda: Cron.hourly("*/5"),
        lambda: Cron.daily(24),
        lambda: Cron.daily(1, -1),
        lambda: Cron.weekly("mo"),
        lambda: Cron.weekly("mon,tue"),
        lambda: Cron.monthly(32),
        lambda: Cron.yearly(13),
        lambda: Cron.yearly(2, 30),
    ],
)
def test_builder_with_an_invalid_time_raises(build):
    """A builder accepts only numbers in a range, so callers cannot insert other expressions."""
    with pytest.raises(ScheduleError):
        build()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"misfire": "never"}, "misfire must be one of 'once', 'all', 'skip', got 'never'."),
        ({"overlap": "queue"}, "overlap must be one of 'allow', 'skip', 'queue_one', got 'queue'."),
        ({"misfire_limit": 0}, "misfire_limit must be an integer from 1 to 10000, got 0"),
        ({"misfire_limit": 10_001}, "misfire_limit must be an integer from 1 to 10000, got 10001"),
        ({"misfire_limit": True}, "misfire_limit must be an integer from 1 to 10000, got True"),
    ],
)
@pytest.mark.parametrize(
    "make", [lambda **options: Cron("* * * * *", **options), lambda **options: Every(timedelta(1), **options)]
)
def test_invalid_policy_raises(make, options, words):
    """The error for an unknown policy lists the valid ones."""
    with pytest.raises(ScheduleError, match=words.replace(".", r"\.")):
        make(**options)


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Mars/X", "Unknown time zone 'Mars/X'. Use an IANA name"),
        ("../../etc/passwd", "Unknown time zone '../../etc/passwd'"),
        ("", "Unknown time zone ''"),
        ("Europe", "Unknown time zone 'Europe'"),
        ("europe/istanbul", "did you mean 'Europe/Istanbul'?"),
        ("Europe/Istanbul\0", "Unknown time zone 'Europe/Istanbul\\x00'"),
        ("x" * 10_000, "Unknown time zone 'xxxxx"),
        (None, "tz must be a name such as 'Europe/Istanbul', or a ZoneInfo that has one, got None"),
        (timezone(timedelta(hours=3)), "or a ZoneInfo that has one, got datetime.timezone("),
    ],
)
def test_unknown_time_zone_raises(zone, words):
    """A zone must be a known IANA name and is never opened as a path. The message stays short."""
    with pytest.raises(ScheduleError) as caught:
        Cron("* * * * *", tz=zone)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.fixture
def _no_zones(monkeypatch):
    """Simulate a system that does not have time zone data.

    The names are cached per process, so the cache is cleared before and after the test.
    """
    monkeypatch.setattr(zones, "available_timezones", set)
    zones._zone_names.cache_clear()  # noqa: SLF001
    yield
    zones._zone_names.cache_clear()  # noqa: SLF001


@pytest.mark.usefixtures("_no_zones")
def test_missing_time_zone_data_raises_with_the_package_name():
    """The message contains the package to install."""
    with pytest.raises(ScheduleError, match="Install the package tzdata"):
        Cron("* * * * *", tz="Europe/Berlin")


# ---- evaluation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Cron("* * * * *"), Every(timedelta(minutes=1))])
@pytest.mark.parametrize(
    "bad",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001 (the naive datetime under test)
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
        None,
    ],
)
def test_invalid_start_time_raises(schedule, bad):
    """Naive datetimes, years out of range and other types are invalid."""
    with pytest.raises(ScheduleError):
        schedule.next_after(bad)
    with pytest.raises(ScheduleError):
        schedule.upcoming(bad, 1)
    with pytest.raises(ScheduleError):
        schedule.count(bad, NEW_YEAR)


@pytest.mark.parametrize("count", [-1, 10_001, True, 1.5])
def test_upcoming_with_an_invalid_count_raises(count):
    """The count must not be negative or too large, and must be an integer."""
    with pytest.raises(ScheduleError, match="count must be an integer from 0 to 10000, got "):
        Cron("* * * * *").upcoming(NEW_YEAR, count)


# ---- Every --------------------------------------------------------------------------------------------


@given(
    interval=st.integers(1_000_000, 10**13),
    anchor=st.integers(-(10**15), 10**15),
    start=st.integers(0, 10**15),
    periods=st.integers(0, 50),
)
def test_times_of_every_are_exact(interval, anchor, start, periods):
    """Each time is exactly anchor + n · interval. The count equals the number of listed times."""
    epoch, micro = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
    schedule = Every(interval * micro, anchor=epoch + anchor * micro)
    after = epoch + start * micro

    fires = schedule.upcoming(after, periods + 1)

    offsets = [(fire - epoch) // micro for fire in fires]
    assert all((offset - anchor) % interval == 0 for offset in offsets)
    assert start < offsets[0] <= start + interval
    assert [interval] * periods == [later - earlier for earlier, later in pairwise(offsets)]
    assert periods + 1 == schedule.count(after, fires[-1])
    assert 0 == schedule.count(fires[-1], after)


@pytest.mark.parametrize(
    "interval",
    [timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=999), timedelta(days=3651), 60, "5m", None],
)
def test_every_requires_an_interval_of_at_least_a_second(interval):
    """Durations above ten years and other types are invalid too."""
    with pytest.raises(ScheduleError, match="interval must be a timedelta from 0:00:01 to 3650 days"):
        Every(interval)


def test_every_requires_an_aware_anchor():
    with pytest.raises(ScheduleError, match="anchor must be an aware datetime"):
        Every(timedelta(minutes=1), anchor=datetime(2026, 1, 1))  # noqa: DTZ001 (the naive datetime under test)


# ---- strings ------------------------------------------------------------------------------------------


def test_string_is_parsed_as_a_cron_in_utc():
    """A schedule is returned unchanged."""
    every = Every(timedelta(minutes=5))

    assert Cron("0 2 * * *") == parse_schedule("0 2 * * *")
    assert every is parse_schedule(every)


@pytest.mark.parametrize("value", [None, 5, timedelta(minutes=5), b"0 2 * * *", ["0 2 * * *"], "nightly"])
def test_invalid_schedule_raises(value):
    """A value of another type or a string that is not a cron expression is invalid."""
    with pytest.raises(ScheduleError):
        parse_schedule(value)


@pytest.mark.parametrize(
    "schedule",
    [
        Cron("0 2 * * *"),
        Cron("*/15 0 9-17 ? * mon-fri", tz="Europe/Istanbul", misfire="all", misfire_limit=3, overlap="skip"),
        Every(timedelta(seconds=90)),
        Every(timedelta(microseconds=1_000_001), anchor=NEW_YEAR, misfire="skip", overlap="queue_one"),
    ],
)
def test_stored_schedule_is_restored_unchanged(schedule):
    """A schedule is stored as JSON."""
    assert schedule == schedule_from_json(schedule_to_json(schedule))


def test_stored_schedule_is_compact_and_readable():
    """The stored string does not contain spaces and contains every option."""
    assert (
        '{"cron":"0 2 * * *","tz":"UTC","misfire":"once","misfire_limit":100,"overlap":"allow"}'
        == schedule_to_json(Cron("0 2 * * *"))
    )
    assert (
        '{"every":300000000,"anchor":0,"misfire":"once","misfire_limit":100,"overlap":"allow"}'
        == schedule_to_json(Every(timedelta(minutes=5)))
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nightly",
        "[]",
        '{"cron":5}',
        '{"cron":"0 2 * * *","tz":"Mars/X"}',
        '{"every":"300","anchor":0}',
        '{"every":300000000}',
        '{"every":1e400,"anchor":0}',
        '{"every":NaN,"anchor":0}',
        '{"every":1,"anchor":0}',
        '{"every":300000000,"anchor":99999999999999999999}',
        "[" * 2_000,
        json.dumps({"cron": "0 2 * * *", "tz": "x" * 5_000}),
    ],
)
def test_damaged_stored_schedule_raises(text):
    """Reading the stored value raises a ScheduleError with a short message."""
    with pytest.raises(ScheduleError) as caught:
        schedule_from_json(text)

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("schedule", [Cron("0 2 * * *", tz="Europe/Istanbul"), Every(timedelta(minutes=5))])
def test_unknown_fields_of_a_stored_schedule_are_ignored(schedule):
    """A definition that a newer release has stored continues to fire, using the known fields."""
    stored = json.dumps({**json.loads(schedule_to_json(schedule)), "colour": "red"})

    assert schedule == schedule_from_json(stored)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Cron("0 2 * * *", tz="Europe/Istanbul"), "at 02:00 every day, Europe/Istanbul"),
        (Cron("0 2,14 * * *"), "at 02:00 and 14:00 every day, UTC"),
        (Cron("* * * * *"), "every minute, UTC"),
        (Cron("* * * * * *"), "every second, UTC"),
        (Cron("*/10 * 9 * * *"), "every 10 seconds of hour 9, UTC"),
        (Cron("* 5 * * * *"), "every second of minute 5 of every hour, UTC"),
        (Cron("30 * * * * *"), "at second 30 of every minute, UTC"),
        (Cron("*/5 * * * *"), "every 5 minutes, UTC"),
        (Cron("*/25 * * * *"), "at minutes 0, 25 and 50 of every hour, UTC"),
        (Cron("30 */2 * * *"), "at minute 30 of every 2 hours, UTC"),
        (Cron("*/15 9-17 * * mon-fri"), "every 15 minutes of hours 9 to 17 on Monday to Friday, UTC"),
        (Cron("0 0 1,15 * mon"), "at 00:00 on days 1 and 15 of the month or on Monday, UTC"),
        (Cron("0 0 L * *"), "at 00:00 on the last day of the month, UTC"),
        (Cron("0 0 LW * *"), "at 00:00 on the last working day of the month, UTC"),
        (Cron("0 0 L-3 * *"), "at 00:00 on the day 3 days before the last of the month, UTC"),
        (Cron("0 0 15W * *"), "at 00:00 on the working day nearest to day 15 of the month, UTC"),
        (Cron("0 0 * * 5L"), "at 00:00 on the last Friday of the month, UTC"),
        (Cron("0 0 * * 5#2"), "at 00:00 on the second Friday of the month, UTC"),
        (Cron("0 6 * 1-3,12 *"), "at 06:00 every day in January to March and December, UTC"),
        (Every(timedelta(minutes=5)), "every 5 minutes"),
        (Every(timedelta(minutes=90)), "every 90 minutes"),
        (Every(timedelta(days=1)), "every day"),
        (Every(timedelta(seconds=1.5)), "every 1.5 seconds"),
    ],
)
def test_schedule_is_described_in_words(schedule, words):
    """The description is in English."""
    assert words == schedule.describe()
