"""Wall times become instants: what a time zone's changes do to a schedule is decided here and nowhere else.

A wall time that a change skips (a gap) fires at the first instant after it. One that comes twice (an overlap)
fires in the first pass; an interval-like expression fires in both. Instants are UTC and whole seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import attrs

from firelock.cron.walltimes import WallTimes

__all__ = ["Timetable"]

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
