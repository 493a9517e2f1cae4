"""The schedules of recurring jobs, as values.

Schedules can be compared, hashed, printed and stored as JSON, and they compute their due times.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Literal, Self, TypedDict, TypeVar, Unpack, assert_never

import attrs

from firelock.errors import ScheduleError
from firelock.schedules.cron.grammar import describe_fields, parse_fields, tidy
from firelock.schedules.cron.timezones import Timetable, WallTimes, find_zone, zone_name

_MISFIRE_LIMIT_MAX = 10_000
_YEARS = (1900, 9000)


class Misfire(StrEnum):
    """The rule for due times that passed while no server could fire them."""

    ONCE = "once"  # one run, for the latest missed due time
    ALL = "all"  # one run for each of the newest `misfire_limit` missed due times
    SKIP = "skip"  # no run


class Overlap(StrEnum):
    """The rule for a due time at which the previous job has not ended."""

    ALLOW = "allow"  # the due time fires anyway
    SKIP = "skip"  # the due time is dropped
    QUEUE_ONE = "queue_one"  # one due time waits for the previous job; further due times are dropped


_Choice = TypeVar("_Choice", Misfire, Overlap)


def _choose(kind: type[_Choice], name: str, value: str) -> _Choice:
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(repr(str(choice)) for choice in kind)
        raise ScheduleError(f"{name} must be one of {choices}, got {value!r}.") from error


def _to_misfire(value: Misfire | str) -> Misfire:
    return _choose(Misfire, "misfire", value)


def _to_overlap(value: Overlap | str) -> Overlap:
    return _choose(Overlap, "overlap", value)


def _to_misfire_limit(value: int) -> int:
    return _require_whole("misfire_limit", value, high=_MISFIRE_LIMIT_MAX)


def _require_whole(name: str, value: object, *, low: int = 1, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ScheduleError(f"{name} must be an integer from {low} to {high}, got {value!r}.")
    return value


def _require_span(name: str, value: object, *, low: timedelta, high: timedelta) -> timedelta:
    if not isinstance(value, timedelta) or not low <= value <= high:
        raise ScheduleError(f"{name} must be a timedelta from {low} to {high}, got {value!r}.")
    return value


def _require_instant(name: str, value: object) -> datetime:
    """Return the time in UTC."""
    expected = "an aware datetime, such as datetime.now(UTC)"
    if not isinstance(value, datetime):
        message = f"{name} must be {expected}, got {value!r}."
    elif value.utcoffset() is None:
        message = f"{name} must be {expected}, got {value.isoformat()}, which has no time zone."
    elif not _YEARS[0] <= value.year < _YEARS[1]:
        message = f"{name} must be in the years {_YEARS[0]} to {_YEARS[1]}, got {value.isoformat()}."
    else:
        return value.astimezone(UTC)
    raise ScheduleError(message)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(days=3650)
_UPCOMING_MAX = 10_000
_JSON_LIMIT = 2048
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


class CronOptions(TypedDict, total=False):
    """The keyword arguments of `Cron`, which each of its class methods accepts."""

    tz: str | tzinfo
    misfire: Misfire | Literal["once", "all", "skip"]
    misfire_limit: int
    overlap: Overlap | Literal["allow", "skip", "queue_one"]


def _upcoming(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    _require_whole("count", count, low=0, high=_UPCOMING_MAX)
    instants: list[datetime] = []
    while len(instants) < count and (instant := schedule.next_after(after)) is not None:
        instants.append(instant)
        after = instant
    return instants


@attrs.frozen
class Cron:
    """A cron expression in a time zone: five fields, or six with seconds first, or a macro such as `@daily`.

    If a clock change skips a local time of the schedule, the schedule fires at the first time after the gap.
    If a local time occurs twice, the schedule fires only the first time, unless seconds, minutes or hours use
    `*`, a range or a step; in that case, it fires both times.

    Raises:
        ScheduleError: The expression, the zone or an option is invalid, or no date matches.
    """

    expression: str = attrs.field(converter=tidy)
    tz: str = attrs.field(default="UTC", kw_only=True, converter=zone_name)
    misfire: Misfire = attrs.field(default=Misfire.ONCE, kw_only=True, converter=_to_misfire)
    misfire_limit: int = attrs.field(default=100, kw_only=True, converter=_to_misfire_limit)
    overlap: Overlap = attrs.field(default=Overlap.ALLOW, kw_only=True, converter=_to_overlap)
    _timetable: Timetable = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        zone = find_zone(self.tz)
        object.__setattr__(self, "_timetable", Timetable(WallTimes(parse_fields(self.expression)), zone))

    @classmethod
    def minutely(cls, **options: Unpack[CronOptions]) -> Self:
        """Return a schedule that fires at each full minute."""
        return cls("* * * * *", **options)

    @classmethod
    def hourly(cls, minute: int = 0, **options: Unpack[CronOptions]) -> Self:
        """Return a schedule that fires once an hour, at the given minute."""
        return cls(f"{_minute(minute)} * * * *", **options)

    @classmethod
    def daily(cls, hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]) -> Self:
        """Return a schedule that fires once a day."""
        return cls(f"{_time(hour, minute)} * * *", **options)

    @classmethod
    def weekly(
        cls, day: str | int = "mon", hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]
    ) -> Self:
        """Return a schedule that fires once a week; the day is a name (`mon`, `monday`) or 0 to 7."""
        return cls(f"{_time(hour, minute)} * * {_weekday(day)}", **options)

    @classmethod
    def monthly(cls, day: int = 1, hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]) -> Self:
        """Return a schedule that fires once a month; months without this day are skipped."""
        _require_whole("day", day, high=31)
        return cls(f"{_time(hour, minute)} {day} * *", **options)

    @classmethod
    def yearly(
        cls, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0, **options: Unpack[CronOptions]
    ) -> Self:
        """Return a schedule that fires once a year; years without this day are skipped."""
        _require_whole("month", month, high=12)
        _require_whole("day", day, high=31)
        return cls(f"{_time(hour, minute)} {day} {month} *", **options)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due time after `instant`, in UTC; None if there is none within 40 years.

        Raises:
            ScheduleError: `instant` is not aware.
        """
        return self._timetable.next_after(_require_instant("instant", instant))

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the next `count` due times after `after`, in order, or fewer if there are no more.

        Raises:
            ScheduleError: `after` is not aware, or `count` is not from 0 to 10,000.
        """
        return _upcoming(self, after, count)

    def count(self, after: datetime, until: datetime) -> int:
        """Return the number of due times after `after` and not after `until`, without listing them."""
        return self._timetable.count(_require_instant("after", after), _require_instant("until", until))

    def note(self, instant: datetime) -> str | None:
        """Describe how a clock change affects one of the due times; return None if none does.

        For example, "02:30 does not exist on 29 March: runs at 03:00".
        """
        return self._timetable.note(_require_instant("instant", instant))

    def describe(self) -> str:
        """Return the schedule in English: "at 02:00 every day, Europe/Istanbul"."""
        return f"{describe_fields(self._timetable.walls.fields)}, {self.tz}"


def _minute(minute: int) -> int:
    return _require_whole("minute", minute, low=0, high=59)


def _time(hour: int, minute: int) -> str:
    return f"{_minute(minute)} {_require_whole('hour', hour, low=0, high=23)}"


def _weekday(day: str | int) -> str:
    if not isinstance(day, str):
        return str(_require_whole("day", day, low=0, high=7))
    folded = day.lower()
    if folded not in _WEEKDAYS and folded not in {name[:3] for name in _WEEKDAYS}:
        raise ScheduleError(f"day must be a weekday such as 'mon' or 'monday', or 0 to 7, got {day!r}.")
    return folded[:3]


def _to_interval(value: timedelta) -> timedelta:
    return _require_span("interval", value, low=_SHORTEST, high=_LONGEST)


def _to_anchor(value: datetime | None) -> datetime:
    return _EPOCH if value is None else _require_instant("anchor", value)


@attrs.frozen
class Every:
    """A fixed interval that clock changes do not affect: anchor + n · interval, for every integer n.

    The anchor (default: 1970-01-01 00:00 UTC) sets the phase; it is not a start time.

    Raises:
        ScheduleError: The interval is below a second or above ten years, or an option or the anchor is
            invalid.
    """

    interval: timedelta = attrs.field(converter=_to_interval)
    misfire: Misfire = attrs.field(default=Misfire.ONCE, kw_only=True, converter=_to_misfire)
    misfire_limit: int = attrs.field(default=100, kw_only=True, converter=_to_misfire_limit)
    overlap: Overlap = attrs.field(default=Overlap.ALLOW, kw_only=True, converter=_to_overlap)
    anchor: datetime = attrs.field(default=None, kw_only=True, converter=_to_anchor)

    def next_after(self, instant: datetime) -> datetime:
        """Return the first due time after `instant`, in UTC.

        Raises:
            ScheduleError: `instant` is not aware.
        """
        return self.anchor + (self._periods(_require_instant("instant", instant)) + 1) * self.interval

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the next due times after `after`, in order.

        Raises:
            ScheduleError: `after` is not aware, or `count` is not from 0 to 10,000.
        """
        return _upcoming(self, after, count)

    def count(self, after: datetime, until: datetime) -> int:
        """Return the number of due times after `after` and not after `until`."""
        start, end = _require_instant("after", after), _require_instant("until", until)
        return max(0, self._periods(end) - self._periods(start))

    def note(self, instant: datetime) -> None:
        """Return None, because clock changes do not affect an interval."""

    def describe(self) -> str:
        """Return the schedule in English: "every 5 minutes"."""
        for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
            count, rest = divmod(self.interval, timedelta(seconds=unit))
            if not rest:
                return f"every {name}" if count == 1 else f"every {count} {name}s"
        return f"every {self.interval.total_seconds():g} seconds"

    def _periods(self, instant: datetime) -> int:
        return (instant - self.anchor) // self.interval


Schedule = Cron | Every


def parse_schedule(value: str | Cron | Every) -> Schedule:
    """Return the schedule; a plain string is a cron expression in UTC.

    Raises:
        ScheduleError: The string is not a cron expression, or the value has another type.
    """
    if isinstance(value, Cron | Every):
        return value
    if isinstance(value, str):
        return Cron(value)
    raise ScheduleError(
        "A schedule must be a Cron, an Every or a cron expression, such as Cron('0 2 * * *') or "
        f"Every(timedelta(minutes=5)), got {value!r}."
    )


def schedule_to_json(schedule: Schedule) -> str:
    """Return compact JSON from which `schedule_from_json` creates an equal schedule.

    Durations are in microseconds.
    """
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


_POLICY = ("misfire", "misfire_limit", "overlap")


def schedule_from_json(text: str) -> Schedule:
    """Return the stored schedule. Fields that were added by a newer release are ignored.

    Raises:
        ScheduleError: The string does not come from `schedule_to_json`, or describes an invalid schedule.
    """
    try:
        if len(text) > _JSON_LIMIT:
            raise ValueError(f"{len(text):,} characters")
        stored = json.loads(text)
        policy = {name: stored[name] for name in _POLICY if name in stored}
        if "cron" in stored:
            return Cron(stored["cron"], tz=stored.get("tz", "UTC"), **policy)
        return Every(stored["every"] * _MICRO, anchor=_EPOCH + stored["anchor"] * _MICRO, **policy)
    except ScheduleError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ScheduleError(
            f"The stored schedule {text[:64]!r} is invalid ({error}). Store it again with schedule_to_json."
        ) from error


_SECOND = timedelta(seconds=1)
_GRACE = timedelta(seconds=60)
_LONGEST_GRACE = timedelta(hours=1)
_FIRST_LOOK_BACK = timedelta(minutes=1)


@attrs.frozen
class Firing:
    """The due times for which jobs must now be created, and the next due time."""

    instants: list[datetime]  # the due times in order; each becomes one job
    dropped: int  # the number of past due times for which no job is created
    next_at: datetime | None  # the first due time after now; None if there is none


def due_instants(
    schedule: Schedule,
    *,
    due: datetime,
    now: datetime,
    since: datetime | None = None,
    grace: timedelta = _GRACE,
) -> Firing:
    """Return the due times to run, from the stored `due` up to `now`.

    The cost depends on the number of runs, not on the length of the downtime. A due time that is at most
    `grace` late is not missed. If no due time is missed, all of them run. Otherwise, the schedule's `misfire`
    applies: `once` runs only the latest due time up to now; `all` runs the due times within the grace and the
    newest `misfire_limit` of the missed ones; `skip` runs the due times within the grace. `due` counts as a
    due time even if the schedule has changed since it was stored. The due times of the current schedule count
    only if they are after `since`, the time when the schedule took effect. If `due` is in the future, nothing
    runs.

    Raises:
        ScheduleError: A time is not aware, or the grace is negative or above one hour.
    """
    due, now = _require_instant("due", due), _require_instant("now", now)
    _require_span("grace", grace, low=timedelta(0), high=_LONGEST_GRACE)
    if due > now:
        return Firing([], 0, due)
    start = due if since is None else min(max(due, _require_instant("since", since)), now)
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
    """Return, in order, the last `wanted` of `due` and the schedule's due times after `start` up to now."""
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
    """Return a time, `first` or later, after which there are exactly `wanted` due times up to now.

    Each second has at most one due time, so each step back by one second adds at most one.
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
