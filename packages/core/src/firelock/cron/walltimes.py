"""The wall times a cron expression names: naive local datetimes, before any time zone has its say."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import datetime

import attrs

from firelock.cron.days import shape_of
from firelock.cron.fields import Fields, days_in

__all__ = ["SEARCH_YEARS", "WallTimes"]

# 29 February falls on a given weekday every 28 years, every 40 across a year such as 2100.
SEARCH_YEARS = 40
_JANUARY, _DECEMBER = 1, 12

_Time = tuple[int, int, int]


@attrs.frozen
class WallTimes:
    """All wall times that match, found and counted without walking from one to the next."""

    fields: Fields
    _days: dict[tuple[int, int], tuple[int, ...]] = attrs.field(
        init=False, factory=dict, eq=False, repr=False
    )

    def at_or_after(self, wall: datetime) -> datetime | None:
        """Return the first match that is not before the whole second `wall`; None if 40 years hold none."""
        days = self._days_of(wall.year, wall.month)
        if wall.day in days:
            time = self._time_at_or_after(wall.hour, wall.minute, wall.second)
            if time is not None:
                return datetime(wall.year, wall.month, wall.day, *time)  # noqa: DTZ001 (wall times are naive)
        later = bisect_right(days, wall.day)
        if later < len(days):
            return self._first_on(wall.year, wall.month, days[later])
        year, month = wall.year, wall.month
        for _ in range(SEARCH_YEARS * _DECEMBER):
            year, month = (year, month + 1) if month < _DECEMBER else (year + 1, _JANUARY)
            if days := self._days_of(year, month):
                return self._first_on(year, month, days[0])
        return None

    def count(self, start: datetime, end: datetime) -> int:
        """Return how many matches lie at or after `start` and before `end`; 0 when `end` is not later."""
        if end <= start:
            return 0
        whole_days = 0
        year, month = start.year, start.month
        while (year, month) < (end.year, end.month):
            whole_days += len(self._days_of(year, month))
            year, month = (year, month + 1) if month < _DECEMBER else (year + 1, _JANUARY)
        return whole_days * self._times_a_day() + self._passed_in_month(end) - self._passed_in_month(start)

    def _days_of(self, year: int, month: int) -> tuple[int, ...]:
        if month not in self.fields.months:
            return ()
        shape = shape_of(year, month)
        key = (shape.length, shape.first)
        days = self._days.get(key)
        if days is None:
            days = self._days[key] = days_in(self.fields, shape)
        return days

    def _first_on(self, year: int, month: int, day: int) -> datetime:
        fields = self.fields
        first = (fields.hours[0], fields.minutes[0], fields.seconds[0])
        return datetime(year, month, day, *first)  # noqa: DTZ001 (wall times are naive)

    def _time_at_or_after(self, hour: int, minute: int, second: int) -> _Time | None:
        hours, minutes, seconds = self.fields.hours, self.fields.minutes, self.fields.seconds
        at_hour = bisect_left(hours, hour)
        if at_hour < len(hours) and hours[at_hour] == hour:
            at_minute = bisect_left(minutes, minute)
            if at_minute < len(minutes) and minutes[at_minute] == minute:
                at_second = bisect_left(seconds, second)
                if at_second < len(seconds):
                    return hour, minute, seconds[at_second]
                at_minute += 1
            if at_minute < len(minutes):
                return hour, minutes[at_minute], seconds[0]
            at_hour += 1
        return (hours[at_hour], minutes[0], seconds[0]) if at_hour < len(hours) else None

    def _times_a_day(self) -> int:
        return len(self.fields.hours) * len(self.fields.minutes) * len(self.fields.seconds)

    def _passed_in_month(self, wall: datetime) -> int:
        """Return how many matches of the month lie before this wall time."""
        days = self._days_of(wall.year, wall.month)
        passed = bisect_left(days, wall.day) * self._times_a_day()
        if wall.day not in days:
            return passed
        hours, minutes, seconds = self.fields.hours, self.fields.minutes, self.fields.seconds
        passed += bisect_left(hours, wall.hour) * len(minutes) * len(seconds)
        if wall.hour not in hours:
            return passed
        passed += bisect_left(minutes, wall.minute) * len(seconds)
        return passed + (bisect_left(seconds, wall.second) if wall.minute in minutes else 0)
