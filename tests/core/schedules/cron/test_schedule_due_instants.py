"""The runs of a late recurring job, for each policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firelock.errors import ScheduleError
from firelock.schedules.cron import Cron, Every, Firing, Misfire, due_instants
from firelock.schedules.cron.grammar import parse_fields
from firelock.schedules.cron.timezones import Timetable, WallTimes

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def minutes(*offsets):
    """Return the times that are these numbers of minutes after noon."""
    return [NOON + offset * MINUTE for offset in offsets]


@pytest.mark.parametrize(("late", "runs"), [(60 * SECOND, 1), (60 * SECOND + timedelta(microseconds=1), 0)])
def test_grace_period_ends_after_exactly_60_seconds(late, runs):
    """A run that is 60 s late is on time. One microsecond more is a misfire."""
    firing = due_instants(Cron("0 12 * * *", misfire="skip"), due=NOON, now=NOON + late)

    assert runs == len(firing.instants)


def test_grace_period_can_be_set():
    """A run within the grace period is on time."""
    firing = due_instants(
        Cron("0 12 * * *", misfire="skip"), due=NOON, now=NOON + 2 * MINUTE, grace=2 * MINUTE
    )

    assert [NOON] == firing.instants


def test_schedule_does_not_fire_before_it_is_due():
    """A future due time does not cause a run and stays the next due time."""
    firing = due_instants(Cron("0 12 * * *"), due=NOON, now=NOON - SECOND)

    assert Firing([], 0, NOON) == firing


def test_due_time_outside_the_schedule_fires():
    """The stored due time applies even if the schedule has changed in the meantime."""
    firing = due_instants(Cron("30 * * * *", misfire="all"), due=NOON, now=NOON + 40 * MINUTE)

    assert Firing(minutes(0, 30), 0, NOON + 90 * MINUTE) == firing


def test_search_without_a_match_ends():
    """The search ends after 40 years and returns None."""
    fields = attrs.evolve(parse_fields("0 0 28 2 *"), days=(30,))

    assert Timetable(WallTimes(fields), ZoneInfo("Europe/Berlin")).next_after(NOON) is None


@pytest.mark.parametrize(
    ("due", "now", "grace"),
    [
        (NOON.replace(tzinfo=None), NOON, MINUTE),
        (NOON, NOON.replace(tzinfo=None), MINUTE),
        (NOON, NOON, -SECOND),
        (NOON, NOON, timedelta(hours=2)),
    ],
)
def test_invalid_times_raise(due, now, grace):
    """Naive datetimes and invalid grace periods are invalid."""
    with pytest.raises(ScheduleError):
        due_instants(Cron("* * * * *"), due=due, now=now, grace=grace)


# ---- comparison with a list of all times --------------------------------------------------------------


def expected_firing(schedule, due, now, since=None):
    """Return the expected result, computed from a list of all times by the documented policies."""
    passed = [due]
    while (following := schedule.next_after(max(passed[-1], since or due))) <= now:
        passed.append(following)
    late = [instant for instant in passed if now - instant > MINUTE]
    on_time = passed[len(late) :]
    runs = {
        "once": passed[-1:] if late else on_time,
        "all": late[-schedule.misfire_limit :] + on_time,
        "skip": on_time,
    }[schedule.misfire]
    return Firing(runs, len(passed) - len(runs), following)


SCHEDULES = [
    Cron("* * * * *", tz="Europe/Berlin"),
    Cron("30 2 * * *", tz="Europe/Berlin"),
    Cron("*/20 1-3 * * sun", tz="America/New_York"),
    Cron("*/13 5 * * * *"),
    Every(timedelta(minutes=3)),
    Every(timedelta(seconds=77.5), anchor=NOON),
]


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    misfire=st.sampled_from(Misfire),
    limit=st.integers(1, 40),
    start=st.integers(0, 365 * 86_400),
    downtime=st.timedeltas(timedelta(0), 5 * MINUTE) | st.timedeltas(timedelta(0), timedelta(days=2)),
    changed=st.none() | st.timedeltas(timedelta(hours=-1), timedelta(days=2)),
)
def test_due_runs_match_a_list_of_all_times(schedule, misfire, limit, *, start, downtime, changed):
    """The comparison covers any downtime, schedule change, policy and limit."""
    schedule = attrs.evolve(schedule, misfire=misfire, misfire_limit=limit)
    due = schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC) + start * SECOND)
    now = due + downtime
    since = None if changed is None else min(due + changed, now)

    assert expected_firing(schedule, due, now, since) == due_instants(schedule, due=due, now=now, since=since)


@pytest.mark.parametrize(("misfire", "runs"), [("once", 1), ("all", 161), ("skip", 61)])
def test_long_downtime_is_computed_without_listing_all_times(misfire, runs):
    """Listing every second of ten years would take too long."""
    days = 3_650
    schedule = Cron("* * * * * *", tz="Europe/Berlin", misfire=misfire)

    firing = due_instants(schedule, due=NOON - timedelta(days=days), now=NOON)

    assert (runs, days * 86_400 + 1 - runs) == (len(firing.instants), firing.dropped)
