"""A reference implementation of schedules that checks every step for a match."""

from __future__ import annotations

from calendar import day_abbr, month_abbr, monthrange
from datetime import timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo

from firelock.schedules.cron import Cron

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


class Reference:
    """The rules of cron expressions as a check of one wall clock time, independent of the tested code."""

    NAMES: ClassVar = {
        3: {name.lower(): number for number, name in enumerate(month_abbr)},
        4: {name.lower(): (number + 1) % 7 for number, name in enumerate(day_abbr)},
    }
    BOUNDS = ((0, 60), (0, 24), (1, 31), (1, 12), (0, 7))

    def __init__(self, expression, zone, step):
        parts = expression.lower().split()
        self.step = SECOND if len(parts) == 6 else step
        self.second = parts[0] if len(parts) == 6 else "0"
        self.parts = parts[-5:]
        self.zone = ZoneInfo(zone)
        self.answers, self.dates = {}, {}  # caches, because every hour or minute needs the same values again
        self.is_interval = any(sign in " ".join([self.second, *self.parts[:2]]) for sign in "*-/")

    def fires(self, after, until, *, overlap):
        """Return the matching times in (after, until]; repeated periods last at most `overlap`."""
        found = []
        now = after - overlap
        latest = wall = self.wall(now)
        while now < until:
            previous, now = wall, now + self.step
            wall = self.wall(now)
            if wall - previous > self.step:
                skipped = previous + self.step
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
        minute, hour, _, month, _ = self.parts
        if not (
            self.numbers(self.second, wall.second, 0)
            and self.numbers(minute, wall.minute, 0)
            and self.numbers(hour, wall.hour, 1)
            and self.numbers(month, wall.month, 3)
        ):
            return False
        date = wall.date()
        if date not in self.dates:
            self.dates[date] = self.matches_date(wall)
        return self.dates[date]

    def matches_date(self, wall):
        _, _, day, _, weekday = self.parts
        by_day = any(self.day(item, wall) for item in day.split(","))
        by_weekday = any(self.weekday(item, wall) for item in weekday.split(","))
        if day in {"*", "?"} or weekday in {"*", "?"}:
            return by_day and by_weekday
        return by_day or by_weekday

    def numbers(self, text, value, field):
        key = text, value, field
        if key not in self.answers:
            self.answers[key] = any(self.number(item, value, field) for item in text.split(","))
        return self.answers[key]

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


def assert_matches_reference(expression, zone, after, until, *, overlap=timedelta(hours=2), step=MINUTE):
    """Fail unless the schedule and the reference with this step have the same times and the same count."""
    cron = Cron(expression, tz=zone)
    expected = Reference(expression, zone, step).fires(after, until, overlap=overlap)
    found = cron.upcoming(after, len(expected) + 1)
    assert expected == [fire for fire in found if fire <= until], f"{expression} in {zone} from {after}"
    assert len(expected) == cron.count(after, until), f"{expression} in {zone} from {after}"
