"""Days of a month that depend on its length and its first weekday; weekdays count from Sunday = 0."""

from __future__ import annotations

from calendar import monthrange
from typing import Protocol

import attrs

__all__ = [
    "DayRule",
    "LastDay",
    "LastWeekday",
    "LastWorkday",
    "MonthShape",
    "NearestWorkday",
    "NthWeekday",
    "shape_of",
    "shapes_of",
]

_WEEK = 7
_LENGTHS = {2: (28, 29), 4: (30,), 6: (30,), 9: (30,), 11: (30,)}


@attrs.frozen
class MonthShape:
    """All that decides on which days a cron expression falls within a month."""

    length: int
    first: int  # weekday of day 1

    def weekday(self, day: int) -> int:
        """Return the weekday of a day of this month."""
        return (self.first + day - 1) % _WEEK


def shape_of(year: int, month: int) -> MonthShape:
    """Return the shape of one month of the calendar."""
    monday_based, length = monthrange(year, month)
    return MonthShape(length, (monday_based + 1) % _WEEK)


def shapes_of(month: int) -> list[MonthShape]:
    """Return every shape this month of the year ever takes: all of them come within 400 years."""
    return [MonthShape(length, first) for length in _LENGTHS.get(month, (31,)) for first in range(_WEEK)]


class DayRule(Protocol):
    """A rule that names at most one day of a month."""

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None where the month has none."""
        ...


@attrs.frozen
class LastDay:
    """`L`, `L-3`: the last day, or so many days before it."""

    before: int = 0

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None where it would lie before the first."""
        return month.length - self.before if self.before < month.length else None


@attrs.frozen
class LastWorkday:
    """`LW`: the last Monday to Friday."""

    def day(self, month: MonthShape) -> int:
        """Return the day; every month has one."""
        match month.weekday(month.length):
            case 0:
                return month.length - 2
            case 6:
                return month.length - 1
            case _:
                return month.length


@attrs.frozen
class NearestWorkday:
    """`15W`: the Monday to Friday nearest to a day, never in another month."""

    target: int

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None where the month is too short for the target."""
        if self.target > month.length:
            return None
        match month.weekday(self.target):
            case 6:
                return self.target - 1 if self.target > 1 else self.target + 2
            case 0:
                return self.target + 1 if self.target < month.length else self.target - 2
            case _:
                return self.target


@attrs.frozen
class NthWeekday:
    """`5#2`: the second Friday."""

    weekday: int
    nth: int  # 1 to 5

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None where the month has no fifth one."""
        day = 1 + (self.weekday - month.first) % _WEEK + _WEEK * (self.nth - 1)
        return day if day <= month.length else None


@attrs.frozen
class LastWeekday:
    """`5L`: the last Friday."""

    weekday: int

    def day(self, month: MonthShape) -> int:
        """Return the day; every month has one."""
        return month.length - (month.weekday(month.length) - self.weekday) % _WEEK
