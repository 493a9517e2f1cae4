"""What the changes of a time zone do to a schedule: golden cases, and a reference that walks every step."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firelock.cron import Cron

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def instant(text):
    """Return 'YYYY-MM-DD HH:MM' as an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# ---- golden cases --------------------------------------------------------------------------------------

# Expression, zone, after, and all that fires next, in UTC.
GOLDEN = {
    "a gap of an hour moves to its end": (
        "30 2 * * *", "Europe/Berlin", "2026-03-28 01:30",
        ["2026-03-29 01:00", "2026-03-30 00:30"],
    ),
    "the end of a gap fires once": (
        "30 2,3 * * *", "Europe/Berlin", "2026-03-28 03:00",
        ["2026-03-29 01:00", "2026-03-29 01:30", "2026-03-30 00:30"],
    ),
    "all that a gap swallows fires once": (
        "0,15,30 2 * * *", "Europe/Berlin", "2026-03-28 03:00",
        ["2026-03-29 01:00", "2026-03-30 00:00"],
    ),
    "an interval runs on through a gap": (
        "*/30 * * * *", "Europe/Berlin", "2026-03-29 00:00",
        ["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30"],
    ),
    "an hourly minute inside a gap fires at its end": (
        "30 * * * *", "Europe/Berlin", "2026-03-29 00:00",
        ["2026-03-29 00:30", "2026-03-29 01:00", "2026-03-29 01:30"],
    ),
    "a fixed time in an overlap fires in the first pass": (
        "30 2 * * *", "Europe/Berlin", "2026-10-24 12:00",
        ["2026-10-25 00:30", "2026-10-26 01:30"],
    ),
    "a list of times is fixed": (
        "0,30 2,3 * * *", "Europe/Berlin", "2026-10-24 12:00",
        ["2026-10-25 00:00", "2026-10-25 00:30", "2026-10-25 02:00", "2026-10-25 02:30"],
    ),
    "a fixed time asked for in the second pass waits for the next day": (
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
    "a step of hours fires in both passes": (
        "0 */2 * * *", "Europe/Berlin", "2026-10-24 22:30",
        ["2026-10-25 00:00", "2026-10-25 01:00", "2026-10-25 03:00"],
    ),
    "every second runs on through an overlap": (
        "59 59 * * * *", "America/New_York", "2026-11-01 05:00",
        ["2026-11-01 05:59:59", "2026-11-01 06:59:59", "2026-11-01 07:59:59"],
    ),
    "New York's gap": (
        "30 2 * * *", "America/New_York", "2026-03-07 12:00",
        ["2026-03-08 07:00", "2026-03-09 06:30"],
    ),
    "New York's overlap": (
        "30 1 * * *", "America/New_York", "2026-10-31 12:00",
        ["2026-11-01 05:30", "2026-11-02 06:30"],
    ),
    "Lord Howe's gap of half an hour": (
        "15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00",
        ["2026-10-03 15:30", "2026-10-04 15:15"],
    ),
    "Lord Howe's overlap of half an hour, fixed": (
        "45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00",
        ["2026-04-04 14:45", "2026-04-05 15:15"],
    ),
    "Lord Howe's overlap of half an hour, interval": (
        "45 * * * *", "Australia/Lord_Howe", "2026-04-04 14:00",
        ["2026-04-04 14:45", "2026-04-04 15:15", "2026-04-04 16:15"],
    ),
    "the day that Apia skipped": (
        "0 12 * * *", "Pacific/Apia", "2011-12-29 12:00",
        ["2011-12-29 22:00", "2011-12-30 10:00", "2011-12-30 22:00"],
    ),
    "the Friday that Apia skipped": (
        "0 12 * * fri", "Pacific/Apia", "2011-12-29 12:00",
        ["2011-12-30 10:00", "2012-01-05 22:00"],
    ),
    "Casablanca's clocks go back for Ramadan": (
        "30 2 * * *", "Africa/Casablanca", "2026-02-14 12:00",
        ["2026-02-15 01:30", "2026-02-16 02:30"],
    ),
    "Casablanca's clocks go forward after Ramadan": (
        "30 2 * * *", "Africa/Casablanca", "2026-03-21 12:00",
        ["2026-03-22 02:00", "2026-03-23 01:30"],
    ),
    "Istanbul's last overlap": (
        "30 3 * * *", "Europe/Istanbul", "2015-11-07 12:00",
        ["2015-11-08 00:30", "2015-11-09 01:30"],
    ),
    "Istanbul has no changes any more": (
        "0 2 * * *", "Europe/Istanbul", "2026-10-24 12:00",
        ["2026-10-24 23:00", "2026-10-25 23:00"],
    ),
    "a year across two changes": (
        "0 0 1 * *", "Europe/Berlin", "2026-02-10 00:00",
        ["2026-02-28 23:00", "2026-03-31 22:00", "2026-04-30 22:00"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "zone", "after", "fires"), GOLDEN.values(), ids=GOLDEN.keys())
def test_a_change_of_the_clocks_has_its_golden_answer(expression, zone, after, fires):
    """The case named by the id fires at exactly these instants."""
    found = Cron(expression, tz=zone).upcoming(instant(after), len(fires))

    assert [instant(fire) for fire in fires] == found


# ---- the reference: walk every step and ask whether it matches -----------------------------------------


class Reference:
    """The rules of the dialect as a question about one wall time; nothing of the tested code is used."""

    NAMES: ClassVar = {
        3: {"jan": 1, "oct": 10},
        4: {"sun": 0, "mon": 1, "tue": 2, "fri": 5},
    }
    BOUNDS = ((0, 60), (0, 24), (1, 31), (1, 12), (0, 7))

    def __init__(self, expression, zone):
        parts = expression.lower().split()
        self.step = SECOND if len(parts) == 6 else MINUTE
        self.second = parts[0] if len(parts) == 6 else "0"
        self.parts = parts[-5:]
        self.zone = ZoneInfo(zone)
        self.is_interval = any(sign in " ".join([self.second, *self.parts[:2]]) for sign in "*-/")

    def fires(self, after, until, *, overlap):
        """Return the instants after the first and not after the second; overlaps are no longer than given."""
        found = []
        now = after - overlap
        latest = wall = self.wall(now)
        while now < until:
            former, now = wall, now + self.step
            wall = self.wall(now)
            if wall - former > self.step:
                skipped = former + self.step
                fires = self.matches(wall)
                while skipped < wall and not fires:
                    fires = self.matches(skipped)
                    skipped += self.step
            else:
                fires = (self.is_interval or wall > latest) and self.matches(wall)
            latest = max(latest, wall)
            if fires and now > after:
                found.append(now)
        return found

    def wall(self, now):
        return now.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def matches(self, wall):
        minute, hour, day, month, weekday = self.parts
        if not (
            self.numbers(self.second, wall.second, 0)
            and self.numbers(minute, wall.minute, 0)
            and self.numbers(hour, wall.hour, 1)
            and self.numbers(month, wall.month, 3)
        ):
            return False
        by_day = any(self.day(item, wall) for item in day.split(","))
        by_weekday = any(self.weekday(item, wall) for item in weekday.split(","))
        if day in {"*", "?"} or weekday in {"*", "?"}:
            return by_day and by_weekday
        return by_day or by_weekday

    def numbers(self, text, value, field):
        return any(self.number(item, value, field) for item in text.split(","))

    def number(self, item, value, field):
        low, size = self.BOUNDS[field]
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if first in {"*", "?"}:
            start, end = low, low + size - 1
        else:
            start = self.value(first, field)
            end = self.value(last, field) if last else (low + size - 1 if step else start)
        ahead = (value - start) % size
        return ahead <= (end - start) % size and ahead % int(step or 1) == 0

    def value(self, text, field):
        number = self.NAMES.get(field, {}).get(text)
        return int(text) % (7 if field == 4 else 100) if number is None else number

    def day(self, item, wall):
        last = monthrange(wall.year, wall.month)[1]
        workdays = [day for day in range(1, last + 1) if wall.replace(day=day).weekday() < 5]
        if item == "lw":
            return wall.day == workdays[-1]
        if item.startswith("l"):
            return wall.day == last - int(item[2:] or 0)
        if item.endswith("w"):
            target = int(item[:-1])
            return target <= last and wall.day == min(workdays, key=lambda day: abs(day - target))
        return self.number(item, wall.day, 2)

    def weekday(self, item, wall):
        today = (wall.weekday() + 1) % 7
        if "#" in item:
            weekday, _, nth = item.partition("#")
            return today == self.value(weekday, 4) and (wall.day - 1) // 7 + 1 == int(nth)
        if item.endswith("l"):
            last = monthrange(wall.year, wall.month)[1]
            return today == self.value(item[:-1], 4) and wall.day + 7 > last
        return self.number(item, today, 4)


def assert_equals_the_walk(expression, zone, after, until, *, overlap=timedelta(hours=2)):
    """Fail unless the schedule fires, and counts, exactly as the reference."""
    cron = Cron(expression, tz=zone)
    expected = Reference(expression, zone).fires(after, until, overlap=overlap)
    found = cron.upcoming(after, len(expected) + 1)
    assert expected == [fire for fire in found if fire <= until], f"{expression} in {zone} from {after}"
    assert len(expected) == cron.count(after, until), f"{expression} in {zone} from {after}"


def changes(zone, first, last):
    """Return the instants from which another offset holds, in the years from first to last."""
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
def test_every_change_from_2024_to_2030_equals_the_walk(zone):
    """Around each change of a zone every kind of expression fires as the minute-by-minute walk says."""
    seen = changes(zone, 2024, 2030)

    for change in seen:
        for expression in EXPRESSIONS:
            assert_equals_the_walk(
                expression, zone, change - timedelta(minutes=95), change + timedelta(minutes=155)
            )
    assert bool(seen) == (zone not in {"Asia/Kathmandu", "Europe/Istanbul"})


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Pacific/Apia", "2011-12-30 10:00"),  # a day skipped
        ("Pacific/Kwajalein", "1993-08-21 12:00"),  # a day skipped
        ("Pacific/Kwajalein", "1969-09-30 13:00"),  # 23 hours repeated
        ("Asia/Pyongyang", "2018-05-04 15:00"),  # half an hour skipped at midnight
        ("Europe/Istanbul", "2016-03-27 01:00"),
    ],
)
def test_a_rare_change_equals_the_walk(zone, change):
    """Changes by a day, and by half an hour at midnight, are walked as any other."""
    middle = instant(change)

    for expression in ["*/20 * * * *", "30 5 * * *", "0 */7 * * *", "15,45 1,13 L * fri", "0 0 * * tue"]:
        day = timedelta(hours=30)
        assert_equals_the_walk(expression, zone, middle - day, middle + day, overlap=day)


def spans(low, high, *names):
    """Return texts for one item of a field: a value, a range (wrapped too), either with a step."""
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
    """Return texts for one field: * or a list of up to three items."""
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
def test_any_expression_equals_the_walk_by_minutes(times, dates, zone, start):
    """Any expression of five fields, anywhere in seven years, fires as the minute-by-minute walk says."""
    after = datetime(2024, 1, 1, tzinfo=UTC) + start * MINUTE

    assert_equals_the_walk(" ".join(times + dates), zone, after, after + timedelta(hours=40))


@pytest.mark.parametrize(
    ("expression", "more"),
    [
        ("30 2-2 * * *", 1),  # the gap moves one, the overlap doubles one
        ("0,15,30 2 * * *", -2),  # the gap makes one of three
        ("0 * * * *", 0),
        ("30 2 * * *", 0),
    ],
)
def test_counting_sees_two_changes_that_cancel_out(expression, more):
    """Though the offset ends as it began, the count knows the gap and the overlap between."""
    cron = Cron(expression, tz="Europe/Berlin")
    after, until = instant("2026-02-01 00:00"), instant("2026-11-30 00:00")
    a_day = cron.count(after, after + timedelta(days=1))

    assert a_day * (until - after).days + more == cron.count(after, until)


@settings(max_examples=60, deadline=None)
@given(
    times=TIMES,
    dates=DATES,
    zone=st.sampled_from(SAMPLE),
    start=st.integers(0, 365 * 86_400),
    days=st.integers(0, 400),
)
def test_counting_equals_walking(times, dates, zone, start, days):
    """The number of instants between two moments is that of walking from one to the next."""
    cron = Cron(" ".join(times + dates), tz=zone)
    after = datetime(2026, 1, 1, tzinfo=UTC) + start * SECOND
    fires = [fire for fire in cron.upcoming(after, 300) if fire <= after + timedelta(days=days)]
    until = fires[-1] if len(fires) == 300 else after + timedelta(days=days)

    assert len(fires) == cron.count(after, until)
