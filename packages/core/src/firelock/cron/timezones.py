"""Wall times become instants: what a time zone's changes do to a schedule is decided here and nowhere else.

A wall time that a change skips (a gap) fires at the first instant after it. One that comes twice (an overlap)
fires in the first pass; an interval-like expression fires in both. Instants are UTC and whole seconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import attrs

from firelock.cron.grammar import Fields, days_in, shape_of

__all__ = [
    "SEARCH_YEARS",
    "Timetable",
    "WallTimes",
    "note_on",
]

_SECOND = timedelta(seconds=1)
# Since 1900 no zone has changed twice within 3.9 days, and none was put back by more than 23 hours. The first
# bounds how far apart two looks at the offset may be, the second how far ahead wall times may repeat.
_LOOK_EVERY = timedelta(days=3)
_LONGEST_OVERLAP = timedelta(hours=24)


@attrs.frozen
class Timetable:
    """The instants of one cron expression in one time zone."""

    walls: WallTimes
    zone: ZoneInfo

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first instant strictly after; None if 40 years hold none."""
        floor = instant.replace(microsecond=0)
        here = floor.astimezone(self.zone)
        wall = _bare(here) + _SECOND
        is_interval = self.walls.fields.is_interval
        if here.fold:
            overlap_end = self._overlap_end(here, floor)
            again = self.walls.at_or_after(wall) if is_interval else None
            if again is not None and again < overlap_end:
                return _instant(again, self._offset(floor))
            wall = overlap_end
        found = self.walls.at_or_after(wall)
        if found is None:
            return None
        fire = self._first_at(found)
        if not is_interval or here.fold:
            return fire
        return self._earlier_in_second_pass(floor, fire) or fire

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many instants lie after the first and not after the second, without walking them."""
        start, end = after.replace(microsecond=0), until.replace(microsecond=0)
        here = start.astimezone(self.zone)
        wall = _bare(here) + _SECOND
        if here.fold and not self.walls.fields.is_interval:
            wall = self._overlap_end(here, start)
        total = 0
        for change in self._changes(start, end):
            before, behind = self._offset(change - _SECOND), self._offset(change)
            old, new = change.replace(tzinfo=None) + before, change.replace(tzinfo=None) + behind
            total += self.walls.count(wall, old)
            if new > old:
                # All that the gap swallows fires once, at its end, unless that fires anyway.
                swallowed = self.walls.count(max(wall, old), new)
                total += bool(swallowed and not self.walls.count(new, new + _SECOND))
            wall = new if new > old or self.walls.fields.is_interval else old
        return total + self.walls.count(wall, self._wall(end) + _SECOND)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self.zone).utcoffset() or timedelta(0)

    def _wall(self, instant: datetime) -> datetime:
        return _bare(instant.astimezone(self.zone))

    def _first_at(self, wall: datetime) -> datetime:
        """Return the first instant at which clocks show this wall time or, if they skip it, a later one."""
        instant = wall.replace(tzinfo=self.zone).astimezone(UTC)
        if self._wall(instant) == wall:
            return instant
        before = wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        return self._change(before, instant)

    def _earlier_in_second_pass(self, floor: datetime, fire: datetime) -> datetime | None:
        """Return the first instant of a second pass beginning between `floor` and `fire`, or None."""
        end = min(fire, floor + _LONGEST_OVERLAP)
        if self._offset(end) >= self._offset(floor):
            return None
        change = self._change(floor, end)
        again = self.walls.at_or_after(self._wall(change))
        return None if again is None else _instant(again, self._offset(change))

    def _overlap_end(self, here: datetime, instant: datetime) -> datetime:
        """Return the wall time at which the second pass that `here` lies in is over."""
        first_pass = here.replace(fold=0).astimezone(UTC)
        return self._change(first_pass, instant).replace(tzinfo=None) + self._offset(first_pass)

    def _changes(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Return the instants after the first, not after the second, from which another offset holds."""
        low = after
        while low < until:
            high = min(low + _LOOK_EVERY, until)
            if self._offset(low) != self._offset(high):
                yield self._change(low, high)
            low = high

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the first instant with another offset than `before`; `after` has one."""
        offset = self._offset(before)
        low, high = 0, (after - before) // _SECOND
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(before + middle * _SECOND) == offset:
                low = middle
            else:
                high = middle
        return before + high * _SECOND


def _bare(local: datetime) -> datetime:
    return local.replace(tzinfo=None, fold=0)


def _instant(wall: datetime, offset: timedelta) -> datetime:
    return (wall - offset).replace(tzinfo=UTC)


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


_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def note_on(timetable: Timetable, at: datetime) -> str | None:
    """Return the note on an instant at which the timetable fires; None where no clock was changed."""
    return _note_on_gap(timetable, at) or _note_on_overlap(timetable, at)


def _note_on_gap(timetable: Timetable, at: datetime) -> str | None:
    before = (at - _SECOND).astimezone(timetable.zone).replace(tzinfo=None, fold=0) + _SECOND
    here = at.astimezone(timetable.zone).replace(tzinfo=None, fold=0)
    skipped = timetable.walls.count(before, here) if before < here else 0
    if not skipped:
        return None
    first = timetable.walls.at_or_after(before) or before
    if skipped > 1:
        gap = f"{_clock(before)} to {_clock(here)} does not exist on {_day(first)}"
        return f"{gap}: its {skipped:,} times run once, at {_clock(here)}"
    runs_anyway = timetable.walls.count(here, here + _SECOND)
    outcome = f"the run at {_clock(here)} stands for it" if runs_anyway else f"runs at {_clock(here)}"
    return f"{_clock(first)} does not exist on {_day(first)}: {outcome}"


def _note_on_overlap(timetable: Timetable, at: datetime) -> str | None:
    here = at.astimezone(timetable.zone)
    if here.replace(fold=0).utcoffset() == here.replace(fold=1).utcoffset():
        return None
    comes_twice = f"{_clock(here)} comes twice on {_day(here)}"
    if not timetable.walls.fields.is_interval:
        return f"{comes_twice}: runs once, the first time"
    return f"{comes_twice}: runs both times, this is the {'second' if here.fold else 'first'}"


def _clock(wall: datetime) -> str:
    return f"{wall:%H:%M:%S}" if wall.second else f"{wall:%H:%M}"


def _day(wall: datetime) -> str:
    return f"{wall.day} {_MONTHS[wall.month - 1]}"
