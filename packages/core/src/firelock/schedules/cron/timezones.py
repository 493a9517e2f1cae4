"""The conversion of wall times, which are local times without a zone, to UTC times.

A wall time that a clock change skips (a gap) fires at the first time after the gap. A wall time that occurs
twice (an overlap) fires in the first pass; an interval-like expression fires in both passes. UTC times are
whole seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from math import prod
from zoneinfo import ZoneInfo, available_timezones

import attrs

from firelock.errors import ScheduleError
from firelock.schedules.cron.grammar import MONTHS, CronFields, days_in, shape_of

_SECOND = timedelta(seconds=1)
# Since 1900, no zone has changed twice within 3.9 days, and no clock was put back by more than 23 hours. The
# first fact limits the distance between two checks of the offset. The second limits the time after which wall
# times can repeat.
_CHECK_INTERVAL = timedelta(days=3)
_LONGEST_OVERLAP = timedelta(hours=24)


@attrs.frozen
class Timetable:
    """The due times of one cron expression in one time zone."""

    walls: WallTimes
    zone: ZoneInfo

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due time after `instant`; None if there is none within 40 years."""
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
        """Return the number of due times after `after` and not after `until`, without listing them."""
        start, end = after.replace(microsecond=0), until.replace(microsecond=0)
        here = start.astimezone(self.zone)
        wall = _bare(here) + _SECOND
        if here.fold and not self.walls.fields.is_interval:
            wall = self._overlap_end(here, start)
        total = 0
        for change in self._changes(start, end):
            old_offset, new_offset = self._offset(change - _SECOND), self._offset(change)
            old, new = change.replace(tzinfo=None) + old_offset, change.replace(tzinfo=None) + new_offset
            total += self.walls.count(wall, old)
            if new > old:
                # All times in the gap fire only once, at its end, unless the schedule fires at that time
                # anyway.
                swallowed = self.walls.count(max(wall, old), new)
                total += bool(swallowed and not self.walls.count(new, new + _SECOND))
            wall = new if new > old or self.walls.fields.is_interval else old
        return total + self.walls.count(wall, self._wall(end) + _SECOND)

    def note(self, at: datetime) -> str | None:
        """Describe how a clock change affects one of the due times; return None if none does."""
        return self._note_on_gap(at) or self._note_on_overlap(at)

    def _note_on_gap(self, at: datetime) -> str | None:
        before, here = self._wall(at - _SECOND) + _SECOND, self._wall(at)
        skipped = self.walls.count(before, here)
        if not skipped:
            return None
        first = self.walls.at_or_after(before) or before
        if skipped > 1:
            gap = f"{_clock(before)} to {_clock(here)} does not exist on {_day(first)}"
            return f"{gap}: its {skipped:,} times run once, at {_clock(here)}"
        runs_anyway = self.walls.count(here, here + _SECOND)
        outcome = f"the run at {_clock(here)} replaces it" if runs_anyway else f"runs at {_clock(here)}"
        return f"{_clock(first)} does not exist on {_day(first)}: {outcome}"

    def _note_on_overlap(self, at: datetime) -> str | None:
        here = at.astimezone(self.zone)
        if here.replace(fold=0).utcoffset() == here.replace(fold=1).utcoffset():
            return None
        comes_twice = f"{_clock(here)} occurs twice on {_day(here)}"
        if not self.walls.fields.is_interval:
            return f"{comes_twice}: runs once, the first time"
        return f"{comes_twice}: runs both times, this is the {'second' if here.fold else 'first'}"

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self.zone).utcoffset() or timedelta(0)

    def _wall(self, instant: datetime) -> datetime:
        return _bare(instant.astimezone(self.zone))

    def _first_at(self, wall: datetime) -> datetime:
        """Return the first time at which clocks show this wall time, or a later one if this is skipped."""
        instant = wall.replace(tzinfo=self.zone).astimezone(UTC)
        if self._wall(instant) == wall:
            return instant
        before = wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        return self._change(before, instant)

    def _earlier_in_second_pass(self, floor: datetime, fire: datetime) -> datetime | None:
        """Return the first due time of a second pass that begins between `floor` and `fire`, or None."""
        end = min(fire, floor + _LONGEST_OVERLAP)
        if self._offset(end) >= self._offset(floor):
            return None
        change = self._change(floor, end)
        again = self.walls.at_or_after(self._wall(change))
        return None if again is None else _instant(again, self._offset(change))

    def _overlap_end(self, here: datetime, instant: datetime) -> datetime:
        """Return the wall time at which the second pass that contains `here` ends."""
        first_pass = here.replace(fold=0).astimezone(UTC)
        return self._change(first_pass, instant).replace(tzinfo=None) + self._offset(first_pass)

    def _changes(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the times after `after` and not after `until` at which the offset changes."""
        low = after
        while low < until:
            high = min(low + _CHECK_INTERVAL, until)
            if self._offset(low) != self._offset(high):
                yield self._change(low, high)
            low = high

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the first time with another offset than `before`; the offset of `after` must also differ."""
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


def _clock(wall: datetime) -> str:
    return f"{wall:%H:%M:%S}" if wall.second else f"{wall:%H:%M}"


def _day(wall: datetime) -> str:
    return f"{wall.day} {MONTHS[wall.month - 1]}"


# ---- zones -----------------------------------------------------------------------------------------------


@cache
def _zone_names() -> frozenset[str]:
    # "localtime" depends on the machine, so the same schedule would differ between servers.
    return frozenset(available_timezones() - {"localtime"})


def zone_name(zone: str | tzinfo) -> str:
    """Return the name of a zone that was passed as a name, a `ZoneInfo` or `datetime.UTC`.

    Raises:
        ScheduleError: The value has another type, or is a `ZoneInfo` from a file, which has no name.
    """
    if isinstance(zone, str):
        return zone
    name = "UTC" if zone is UTC else getattr(zone, "key", None)
    if not isinstance(name, str):
        raise ScheduleError(
            f"tz must be a name such as 'Europe/Istanbul', or a ZoneInfo that has one, got {zone!r:.64}."
        )
    return name


def find_zone(name: str) -> ZoneInfo:
    """Return the zone with this name.

    The name is only looked up in the list of known names; it is never used as a path.

    Raises:
        ScheduleError: No zone has this name.
    """
    if name in _zone_names():
        return ZoneInfo(name)
    shown = repr(name[:64])
    if not _zone_names():
        message = f"Unknown time zone {shown}: this system has no time zone data. Install the package tzdata."
    else:
        message = (
            f"Unknown time zone {shown}. Use an IANA name such as 'Europe/Istanbul' or 'UTC'{_hint(name)}."
        )
    raise ScheduleError(message)


def _hint(name: str) -> str:
    folded = name.casefold() if len(name) <= 64 else ""  # noqa: PLR2004 (no zone is longer)
    close = next((known for known in sorted(_zone_names()) if known.casefold() == folded), None)
    return f"; did you mean {close!r}?" if close else ""


# ---- wall times ------------------------------------------------------------------------------------------

# 29 February falls on a given weekday every 28 years, or after 40 years across a year such as 2100.
SEARCH_YEARS = 40
_DECEMBER = 12


@attrs.frozen
class WallTimes:
    """The naive local times that match an expression; they are found and counted without listing them."""

    fields: CronFields
    _days: dict[tuple[int, int], tuple[int, ...]] = attrs.field(
        init=False, factory=dict, eq=False, repr=False
    )

    def at_or_after(self, wall: datetime) -> datetime | None:
        """Return the first match at or after the whole second `wall`; None without a match in 40 years."""
        today = self._at_or_after((wall.hour, wall.minute, wall.second))
        first = tuple(unit[0] for unit in self._units())
        year, month, day = wall.year, wall.month, wall.day + (today is None)
        for _ in range(SEARCH_YEARS * _DECEMBER + 1):
            days = self._days_of(year, month)
            at = bisect_left(days, day)
            if at < len(days):
                is_today = (year, month, days[at]) == (wall.year, wall.month, wall.day)
                hour, minute, second = today if is_today and today else first
                return datetime(year, month, days[at], hour, minute, second)  # noqa: DTZ001 (wall times are naive)
            (year, month), day = _month_after(year, month), 1
        return None

    def count(self, start: datetime, end: datetime) -> int:
        """Return the number of matches from `start` to before `end`; 0 if `end` is not later."""
        if end <= start:
            return 0
        whole_days = 0
        year, month = start.year, start.month
        while (year, month) < (end.year, end.month):
            whole_days += len(self._days_of(year, month))
            year, month = _month_after(year, month)
        times = whole_days * prod(map(len, self._units()))
        return times + self._passed_in_month(end) - self._passed_in_month(start)

    def _units(self) -> tuple[tuple[int, ...], ...]:
        return self.fields.hours, self.fields.minutes, self.fields.seconds

    def _days_of(self, year: int, month: int) -> tuple[int, ...]:
        if month not in self.fields.months:
            return ()
        shape = shape_of(year, month)
        key = (shape.length, shape.first)
        days = self._days.get(key)
        if days is None:
            days = self._days[key] = days_in(self.fields, shape)
        return days

    def _at_or_after(self, time: tuple[int, int, int]) -> tuple[int, ...] | None:
        """Return the first matching time of a day at or after this time; None if no time matches."""
        units = self._units()
        for depth in (2, 1, 0):  # the units before this one are kept, and this one advances if necessary
            kept, unit = time[:depth], units[depth]
            at = bisect_left(unit, time[depth] + (depth < 2))  # noqa: PLR2004 - seconds may stay unchanged
            if at < len(unit) and all(value in one for value, one in zip(kept, units, strict=False)):
                return (*kept, unit[at], *(later[0] for later in units[depth + 1 :]))
        return None

    def _passed_in_month(self, wall: datetime) -> int:
        """Return the number of matches before this wall time in the same month."""
        units = (self._days_of(wall.year, wall.month), *self._units())
        passed, size = 0, prod(map(len, units))
        for value, unit in zip((wall.day, wall.hour, wall.minute, wall.second), units, strict=True):
            size //= max(1, len(unit))
            passed += bisect_left(unit, value) * size
            if value not in unit:
                break
        return passed


def _month_after(year: int, month: int) -> tuple[int, int]:
    return (year, month + 1) if month < _DECEMBER else (year + 1, 1)
