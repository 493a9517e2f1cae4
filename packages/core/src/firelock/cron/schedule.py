"""The two schedules a recurring job may have, as values that compare, hash, print and store as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Literal, Self, TypedDict, Unpack

import attrs

from firelock.cron.fields import parse_fields, tidy
from firelock.cron.notes import note_on
from firelock.cron.options import (
    Misfire,
    Overlap,
    find_zone,
    require_instant,
    require_span,
    require_whole,
    to_misfire,
    to_misfire_limit,
    to_overlap,
)
from firelock.cron.timetable import Timetable
from firelock.cron.walltimes import WallTimes
from firelock.cron.words import describe_cron, describe_span
from firelock.errors import ScheduleError

__all__ = ["Cron", "Every", "Schedule", "parse_schedule", "schedule_from_json", "schedule_to_json"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(days=3650)
_UPCOMING_MAX = 10_000
_JSON_LIMIT = 2048
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


class CronOptions(TypedDict, total=False):
    """What every builder of `Cron` takes besides the time: the keyword arguments of `Cron`."""

    tz: str
    misfire: Misfire | Literal["once", "all", "skip"]
    misfire_limit: int
    overlap: Overlap | Literal["allow", "skip", "queue_one"]


def _upcoming(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    require_whole("count", count, low=0, high=_UPCOMING_MAX)
    instants: list[datetime] = []
    while len(instants) < count and (instant := schedule.next_after(after)) is not None:
        instants.append(instant)
        after = instant
    return instants


@attrs.frozen
class Cron:
    """A cron expression in a time zone: five fields, or six with seconds first, or a macro such as `@daily`.

    A wall time that a clock change skips fires at the first instant after the gap. One that comes twice fires
    in the first pass only, unless seconds, minutes or hours use `*`, a range or a step: then in both.

    Raises:
        ScheduleError: the expression, zone or a policy is wrong, or no date matches.
    """

    expression: str = attrs.field(converter=tidy)
    tz: str = attrs.field(default="UTC", kw_only=True)
    misfire: Misfire = attrs.field(default=Misfire.ONCE, kw_only=True, converter=to_misfire)
    misfire_limit: int = attrs.field(default=100, kw_only=True, converter=to_misfire_limit)
    overlap: Overlap = attrs.field(default=Overlap.ALLOW, kw_only=True, converter=to_overlap)
    _timetable: Timetable = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        zone = find_zone(self.tz)
        object.__setattr__(self, "_timetable", Timetable(WallTimes(parse_fields(self.expression)), zone))

    @classmethod
    def minutely(cls, **options: Unpack[CronOptions]) -> Self:
        """Return the schedule that fires at each full minute."""
        return cls("* * * * *", **options)

    @classmethod
    def hourly(cls, minute: int = 0, **options: Unpack[CronOptions]) -> Self:
        """Return the schedule that fires once an hour, at the given minute."""
        return cls(f"{_minute(minute)} * * * *", **options)

    @classmethod
    def daily(cls, hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]) -> Self:
        """Return the schedule that fires once a day."""
        return cls(f"{_time(hour, minute)} * * *", **options)

    @classmethod
    def weekly(
        cls, day: str | int = "mon", hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]
    ) -> Self:
        """Return the schedule that fires once a week; the day is a name (`mon`, `monday`) or 0 to 7."""
        return cls(f"{_time(hour, minute)} * * {_weekday(day)}", **options)

    @classmethod
    def monthly(cls, day: int = 1, hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]) -> Self:
        """Return the schedule that fires once a month; a month without that day is left out."""
        require_whole("day", day, low=1, high=31)
        return cls(f"{_time(hour, minute)} {day} * *", **options)

    @classmethod
    def yearly(
        cls, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]
    ) -> Self:
        """Return the schedule that fires once a year; a year without that day is left out."""
        require_whole("month", month, low=1, high=12)
        require_whole("day", day, low=1, high=31)
        return cls(f"{_time(hour, minute)} {day} {month} *", **options)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first instant strictly after, in UTC; None if the next 40 years hold none.

        Raises:
            ScheduleError: the instant is not aware.
        """
        return self._timetable.next_after(require_instant("instant", instant))

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the next instants strictly after, in order; fewer than `count` if no more come.

        Raises:
            ScheduleError: the instant is not aware, or the count is not 0 to 10,000.
        """
        return _upcoming(self, after, count)

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many instants lie after the first and not after the second, without walking them."""
        return self._timetable.count(require_instant("after", after), require_instant("until", until))

    def note(self, instant: datetime) -> str | None:
        """Return what a change of clocks does to one of its instants, for people; None where nothing.

        "02:30 does not exist on 29 March: runs at 03:00".
        """
        return note_on(self._timetable, require_instant("instant", instant))

    def describe(self) -> str:
        """Return the schedule in English words: "at 02:00 every day, Europe/Istanbul"."""
        return f"{describe_cron(self._timetable.walls.fields)}, {self.tz}"


def _minute(minute: int) -> int:
    return require_whole("minute", minute, low=0, high=59)


def _time(hour: int, minute: int) -> str:
    return f"{_minute(minute)} {require_whole('hour', hour, low=0, high=23)}"


def _weekday(day: str | int) -> str:
    if not isinstance(day, str):
        return str(require_whole("day", day, low=0, high=7))
    folded = day.lower()
    if folded not in _WEEKDAYS and folded not in {name[:3] for name in _WEEKDAYS}:
        message = f"day={day!r} is no weekday. Use a name such as 'mon' or 'monday', or 0 to 7."
        raise ScheduleError(message)
    return folded[:3]


def _to_interval(value: timedelta) -> timedelta:
    return require_span("interval", value, low=_SHORTEST, high=_LONGEST)


def _to_anchor(value: datetime | None) -> datetime:
    return _EPOCH if value is None else require_instant("anchor", value)


@attrs.frozen
class Every:
    """A fixed span, whatever the clocks on the wall do: anchor + n · interval, for every whole n.

    The anchor (by default 1970-01-01 00:00 UTC) fixes the phase; it is no start.

    Raises:
        ScheduleError: the interval is under a second or over ten years, or a policy or the anchor is wrong.
    """

    interval: timedelta = attrs.field(converter=_to_interval)
    misfire: Misfire = attrs.field(default=Misfire.ONCE, kw_only=True, converter=to_misfire)
    misfire_limit: int = attrs.field(default=100, kw_only=True, converter=to_misfire_limit)
    overlap: Overlap = attrs.field(default=Overlap.ALLOW, kw_only=True, converter=to_overlap)
    anchor: datetime = attrs.field(default=None, kw_only=True, converter=_to_anchor)

    def next_after(self, instant: datetime) -> datetime:
        """Return the first instant strictly after, in UTC.

        Raises:
            ScheduleError: the instant is not aware.
        """
        return self.anchor + (self._periods(require_instant("instant", instant)) + 1) * self.interval

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the next instants strictly after, in order.

        Raises:
            ScheduleError: the instant is not aware, or the count is not 0 to 10,000.
        """
        return _upcoming(self, after, count)

    def count(self, after: datetime, until: datetime) -> int:
        """Return how many instants lie strictly after the first and not after the second."""
        passed = self._periods(require_instant("until", until)) - self._periods(
            require_instant("after", after)
        )
        return max(passed, 0)

    def note(self, instant: datetime) -> None:
        """Return None: no clock on a wall touches it."""

    def describe(self) -> str:
        """Return the schedule in English words: "every 5 minutes"."""
        return describe_span(self.interval)

    def _periods(self, instant: datetime) -> int:
        return (instant - self.anchor) // self.interval


Schedule = Cron | Every


def parse_schedule(value: str | Cron | Every) -> Schedule:
    """Return the schedule; a bare text is a cron expression in UTC.

    Raises:
        ScheduleError: the text is no cron expression, or the value is something else.
    """
    if isinstance(value, Cron | Every):
        return value
    if isinstance(value, str):
        return Cron(value)
    message = f"{value!r} is no schedule. Pass Cron('0 2 * * *'), Every(timedelta(minutes=5)) or a cron text."
    raise ScheduleError(message)


def schedule_to_json(schedule: Schedule) -> str:
    """Return compact JSON that `schedule_from_json` turns into an equal schedule; spans are in micros."""
    head: dict[str, str | int]
    if isinstance(schedule, Cron):
        head = {"cron": schedule.expression, "tz": schedule.tz}
    else:
        head = {"every": schedule.interval // _MICRO, "anchor": (schedule.anchor - _EPOCH) // _MICRO}
    policy = {
        "misfire": str(schedule.misfire),
        "misfire_limit": schedule.misfire_limit,
        "overlap": str(schedule.overlap),
    }
    return json.dumps(head | policy, separators=(",", ":"))


def schedule_from_json(text: str) -> Schedule:
    """Return the schedule that was stored.

    Raises:
        ScheduleError: the text is not what `schedule_to_json` returns, or describes a wrong schedule.
    """
    try:
        if len(text) > _JSON_LIMIT:
            message = f"{len(text):,} characters"
            raise ValueError(message)
        stored = json.loads(text)
        if "cron" in stored:
            return Cron(stored.pop("cron"), **stored)
        return Every(stored.pop("every") * _MICRO, anchor=_EPOCH + stored.pop("anchor") * _MICRO, **stored)
    except ScheduleError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        message = (
            f"Stored schedule {text[:64]!r} cannot be read ({error}). Store it again with schedule_to_json."
        )
        raise ScheduleError(message) from error
