"""The two schedules a recurring job may have, as values that compare, hash, print and store as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Literal, Self, TypedDict, TypeVar, Unpack, assert_never
from zoneinfo import ZoneInfo, available_timezones

import attrs

from firelock.cron.grammar import describe_cron, describe_span, parse_fields, tidy
from firelock.cron.timezones import Timetable, WallTimes, note_on
from firelock.errors import ScheduleError

__all__ = [
    "MISFIRE_LIMIT_MAX",
    "Cron",
    "Every",
    "Firing",
    "Misfire",
    "Overlap",
    "Schedule",
    "due_instants",
    "find_zone",
    "parse_schedule",
    "require_instant",
    "require_span",
    "require_whole",
    "schedule_from_json",
    "schedule_to_json",
    "to_misfire",
    "to_misfire_limit",
    "to_overlap",
]

MISFIRE_LIMIT_MAX = 10_000
_YEARS = (1900, 9000)


class Misfire(StrEnum):
    """What becomes of the instants that passed while no server could fire them."""

    ONCE = "once"  # one run, for the latest of them
    ALL = "all"  # one run for each, at most `misfire_limit`, the newest kept
    SKIP = "skip"  # none


class Overlap(StrEnum):
    """What becomes of an instant whose former job has not ended."""

    ALLOW = "allow"  # it fires all the same
    SKIP = "skip"  # it is dropped
    QUEUE_ONE = "queue_one"  # one waits for the former job, more are dropped


_Choice = TypeVar("_Choice", Misfire, Overlap)


def _choose(kind: type[_Choice], name: str, value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(repr(str(choice)) for choice in kind)
        message = f"{name}={value!r} is unknown. Use one of {choices}."
        raise ScheduleError(message) from error


def to_misfire(value: Misfire | str) -> Misfire:
    """Return the misfire policy of that name.

    Raises:
        ScheduleError: no policy has that name.
    """
    return _choose(Misfire, "misfire", value)


def to_overlap(value: Overlap | str) -> Overlap:
    """Return the overlap policy of that name.

    Raises:
        ScheduleError: no policy has that name.
    """
    return _choose(Overlap, "overlap", value)


def to_misfire_limit(value: int) -> int:
    """Return the limit unchanged.

    Raises:
        ScheduleError: it is not a whole number from 1 to 10,000.
    """
    return require_whole("misfire_limit", value, low=1, high=MISFIRE_LIMIT_MAX)


def require_whole(name: str, value: object, *, low: int, high: int) -> int:
    """Return the number unchanged.

    Raises:
        ScheduleError: it is not an int (a bool is not one here) or lies outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"{name}={value!r} is not a whole number from {low} to {high}."
        raise ScheduleError(message)
    return value


def require_span(name: str, value: object, *, low: timedelta, high: timedelta) -> timedelta:
    """Return the span unchanged.

    Raises:
        ScheduleError: it is no timedelta or lies outside the bounds.
    """
    if not isinstance(value, timedelta) or not low <= value <= high:
        message = f"{name}={value!r} is not a timedelta from {low} to {high}."
        raise ScheduleError(message)
    return value


def require_instant(name: str, value: object) -> datetime:
    """Return the instant in UTC.

    Raises:
        ScheduleError: it is no datetime, has no time zone, or lies outside the years 1900 to 9000.
    """
    if not isinstance(value, datetime):
        message = f"{name}={value!r} is not a datetime. Pass an aware one, such as datetime.now(UTC)."
        raise ScheduleError(message)
    if value.tzinfo is None or value.utcoffset() is None:
        message = (
            f"{name}={value.isoformat()} has no time zone. Pass an aware one, such as datetime.now(UTC)."
        )
        raise ScheduleError(message)
    if not _YEARS[0] <= value.year < _YEARS[1]:
        message = f"{name}={value.isoformat()} lies outside the years {_YEARS[0]} to {_YEARS[1]}."
        raise ScheduleError(message)
    return value.astimezone(UTC)


@cache
def _zone_names() -> frozenset[str]:
    # "localtime" is whatever the machine is set to: the same schedule would differ from server to server.
    return frozenset(available_timezones() - {"localtime"})


def find_zone(name: object) -> ZoneInfo:
    """Return the zone of that name; the name is looked up in the list of known ones, never used as a path.

    Raises:
        ScheduleError: no zone has that name.
    """
    if isinstance(name, str) and name in _zone_names():
        return ZoneInfo(name)
    shown = repr(name[:64]) if isinstance(name, str) else repr(type(name).__name__)
    if not _zone_names():
        message = f"Unknown time zone {shown}: this system has no time zone data. Install the package tzdata."
    else:
        message = (
            f"Unknown time zone {shown}. Use an IANA name such as 'Europe/Istanbul' or 'UTC'{_hint(name)}."
        )
    raise ScheduleError(message)


def _hint(name: object) -> str:
    folded = name.casefold() if isinstance(name, str) and len(name) <= 64 else ""  # noqa: PLR2004 (no zone is longer)
    close = next((known for known in sorted(_zone_names()) if known.casefold() == folded), None)
    return f"; did you mean {close!r}?" if close else ""


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


_SECOND = timedelta(seconds=1)
_GRACE = timedelta(seconds=60)
_LONGEST_GRACE = timedelta(hours=1)
_FIRST_LOOK_BACK = timedelta(minutes=1)


@attrs.frozen
class Firing:
    """What to run now and when to look again."""

    instants: list[datetime]  # nominal instants to run, in order; each becomes one job
    dropped: int  # instants that passed and get no run
    next_at: datetime | None  # the first instant after now; None when none ever comes


def due_instants(
    schedule: Schedule,
    *,
    due: datetime,
    now: datetime,
    since: datetime | None = None,
    grace: timedelta = _GRACE,
) -> Firing:
    """Return the instants to run from the stored `due` up to `now`; costs by what runs, not by the downtime.

    An instant at most `grace` late is no misfire. If none is later than that, all of them run. Otherwise the
    policy decides: `once` runs only the latest instant up to now; `all` runs those within the grace and the
    newest `misfire_limit` of the late ones; `skip` runs those within the grace. `due` counts as an instant,
    even if the schedule has changed since it was stored; of the schedule's own those after `since` count,
    when it became what it is. Nothing runs while `due` is still ahead.

    Raises:
        ScheduleError: an instant is not aware, or the grace is negative or above one hour.
    """
    due, now = require_instant("due", due), require_instant("now", now)
    require_span("grace", grace, low=timedelta(0), high=_LONGEST_GRACE)
    if due > now:
        return Firing([], 0, due)
    start = due if since is None else min(max(due, require_instant("since", since)), now)
    total = 1 + schedule.count(start, now)
    on_time_from = now - grace
    if due >= on_time_from:
        wanted = total
    else:
        wanted = _wanted(schedule, schedule.count(max(start, on_time_from - _MICRO), now), total)
    return Firing(_newest(schedule, wanted, due, start, now), total - wanted, schedule.next_after(now))


def _wanted(schedule: Schedule, on_time: int, total: int) -> int:
    match schedule.misfire:
        case Misfire.ONCE:
            return 1
        case Misfire.ALL:
            return min(total, on_time + schedule.misfire_limit)
        case Misfire.SKIP:
            return on_time
        case _:
            assert_never(schedule.misfire)


def _newest(schedule: Schedule, wanted: int, due: datetime, start: datetime, now: datetime) -> list[datetime]:
    """Return the last instants up to now, so many, in order: `due`, and the schedule's after `start`."""
    if wanted == 0:
        return []
    instants: list[datetime] = []
    if schedule.count(start, now) < wanted:
        instants.append(due)
    else:
        start = _start_of(schedule, wanted, start, now)
    while (instant := schedule.next_after(start)) is not None and instant <= now:
        instants.append(instant)
        start = instant
    return instants


def _start_of(schedule: Schedule, wanted: int, first: datetime, now: datetime) -> datetime:
    """Return a moment, `first` or later, after which exactly `wanted` instants come up to now.

    At most one instant comes a second, so that moving back by seconds meets every count.
    """
    span = _FIRST_LOOK_BACK
    while now - span > first and schedule.count(now - span, now) < wanted:
        span *= 4
    few, enough = 0, min(span, now - first) // _SECOND + 1
    while enough - few > 1:
        middle = (few + enough) // 2
        if schedule.count(now - middle * _SECOND, now) < wanted:
            few = middle
        else:
            enough = middle
    return max(first, now - enough * _SECOND)
