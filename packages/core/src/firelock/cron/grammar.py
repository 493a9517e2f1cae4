"""Cron text becomes lists of numbers and day rules; whatever is wrong is refused with its field and column.

The grammar is checked here, since croniter takes more than crontab does (hashes, random values, years) and
names no column. croniter then expands names, ranges and steps. It is given the forms in which it agrees with
crontab: wrapped ranges with a step and ranges of one value are spelled out first
(test_cron_fields.py names both).
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Protocol

import attrs

from firelock.errors import ScheduleError

__all__ = [
    "LENGTH_LIMIT",
    "MACROS",
    "DayRule",
    "Fields",
    "LastDay",
    "LastWeekday",
    "LastWorkday",
    "MonthShape",
    "NearestWorkday",
    "NthWeekday",
    "days_in",
    "describe_cron",
    "describe_span",
    "parse_fields",
    "shape_of",
    "shapes_of",
    "tidy",
]

LENGTH_LIMIT = 256
MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
    "@every_minute": "* * * * *",
    "@every_second": "* * * * * *",
}
_ITEM_LIMIT = 60
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WITHOUT_SECONDS, _WITH_SECONDS = 5, 6

_FOREIGN = re.compile(r"[^0-9A-Za-z*?,/#@_ \t-]")
_VALUE = r"(?:[0-9]{1,4}|[a-z]{3})"
_PLAIN = re.compile(rf"(?P<low>\*|{_VALUE})(?:-(?P<high>{_VALUE}))?(?:/(?P<step>[0-9]{{1,4}}))?")
_LAST_DAY = re.compile(r"l(?:-([0-9]{1,2}))?")
_NEAREST_WORKDAY = re.compile(r"([0-9]{1,2})w")
_LAST_WEEKDAY = re.compile(rf"({_VALUE})l")
_NTH_WEEKDAY = re.compile(rf"({_VALUE})#([0-9])")


@attrs.frozen
class _Kind:
    """What one field may hold."""

    name: str
    low: int
    high: int  # the largest number that may be written
    count: int  # how many different values there are
    names: tuple[str, ...] = ()
    forms: str = "a number, *, a range a-b, a step /n, or a list of these"


_SECOND = _Kind("seconds", 0, 59, 60)
_MINUTE = _Kind("minutes", 0, 59, 60)
_HOUR = _Kind("hours", 0, 23, 24)
_DAY = _Kind("day of month", 1, 31, 31, forms="a number, *, ?, a-b, /n, L, L-3, LW, 15W, or a list of these")
_MONTH = _Kind(
    "month", 1, 12, 12, _MONTHS, forms="a number, a name such as jan, *, a-b, /n, or a list of these"
)
_WEEKDAY = _Kind(
    "day of week", 0, 7, 7, _WEEKDAYS, forms="a number, a name such as mon, *, ?, a-b, /n, 5L, 5#2, or a list"
)
_KINDS = (_SECOND, _MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


@attrs.frozen
class Fields:
    """A cron expression read: what each field allows, sorted. Weekdays count from Sunday = 0."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    day_rules: tuple[DayRule, ...]
    weekday_rules: tuple[DayRule, ...]
    any_day: bool  # the day-of-month field is *, ? or */1
    any_weekday: bool  # the same of the day-of-week field
    is_interval: bool  # seconds, minutes or hours use *, a range or a step


@attrs.frozen
class _Piece:
    """A part of the expression, lower case, and where it starts (1 is the first column)."""

    text: str
    column: int


@attrs.define
class _Read:
    """What the items of one field came to."""

    plain: list[str] = attrs.field(factory=list)
    rules: list[DayRule] = attrs.field(factory=list)
    is_any: bool = False


def tidy(expression: str) -> str:
    """Return the expression with single spaces between its fields.

    Raises:
        ScheduleError: it is no text, is empty, has over 256 characters, or holds one that cron does not know.
    """
    if not isinstance(expression, str):
        message = f"A cron expression is text, not {type(expression).__name__}. Write it as in '0 2 * * *'."
        raise ScheduleError(message)
    if len(expression) > LENGTH_LIMIT:
        message = (
            f"Cron expression {expression[:32]!r}… has {len(expression):,} characters; at most "
            f"{LENGTH_LIMIT} are read. Use ranges and steps, or several recurring jobs."
        )
        raise ScheduleError(message)
    if foreign := _FOREIGN.search(expression):
        message = (
            f"Cron expression {expression!r}, column {foreign.start() + 1}: character {foreign.group()!r} "
            "has no meaning. Use ASCII digits, letters and * ? , - / # with spaces between the fields."
        )
        raise ScheduleError(message)
    if not expression.strip():
        message = (
            "The cron expression is empty. Write five fields, such as '0 2 * * *', or six with seconds first."
        )
        raise ScheduleError(message)
    return " ".join(expression.split())


@lru_cache(maxsize=1_024)
def parse_fields(expression: str) -> Fields:
    """Return what the expression allows, field by field; the expression is tidy.

    Read once: whoever shows or fires stored definitions asks for the same again and again.

    Raises:
        ScheduleError: a field is wrong, or no date matches the expression.
    """
    pieces = _split(expression)
    reads = {
        kind.name: _read_field(expression, kind, piece)
        for kind, piece in zip(_KINDS[-len(pieces) :], pieces, strict=True)
    }
    fields = _expand(expression, reads, has_interval=any(set("*-/") & set(p.text) for p in pieces[:-3]))
    if not any(days_in(fields, shape) for month in fields.months for shape in shapes_of(month)):
        message = (
            f"Cron expression {expression!r} never fires: no month it names has such a day. "
            "Correct the day of month (L is the last day) or the month."
        )
        raise ScheduleError(message)
    return fields


def _split(expression: str) -> list[_Piece]:
    text = expression.lower()
    if text.startswith("@"):
        if text not in MACROS:
            known = ", ".join(MACROS)
            message = f"Cron expression {expression!r} is unknown. Use one of {known}, or five or six fields."
            raise ScheduleError(message)
        text = MACROS[text]
    pieces = [_Piece(match.group(), match.start() + 1) for match in re.finditer(r"[^ ]+", text)]
    if len(pieces) not in {_WITHOUT_SECONDS, _WITH_SECONDS}:
        message = (
            f"Cron expression {expression!r} has {len(pieces)} fields. Write five (minutes, hours, day of "
            "month, month, day of week) or six with seconds first."
        )
        raise ScheduleError(message)
    return pieces


def _read_field(expression: str, kind: _Kind, piece: _Piece) -> _Read:
    texts = piece.text.split(",")
    if len(texts) > _ITEM_LIMIT:
        raise _refusal(
            expression, kind, piece, f"the list has {len(texts)} items; at most {_ITEM_LIMIT} are read"
        )
    read = _Read()
    column = piece.column
    for text in texts:
        try:
            _read_item(kind, text, read, is_alone=len(texts) == 1)
        except ValueError as error:
            raise _refusal(expression, kind, _Piece(text, column), str(error)) from None
        column += len(text) + 1
    return read


def _refusal(expression: str, kind: _Kind, piece: _Piece, problem: str) -> ScheduleError:
    return ScheduleError(
        f"Cron expression {expression!r}, {kind.name} {piece.text!r} (column {piece.column}): {problem}. "
        f"Write {kind.forms}."
    )


def _read_item(kind: _Kind, text: str, read: _Read, *, is_alone: bool) -> None:
    if text == "?" and kind in {_DAY, _WEEKDAY} and is_alone:
        text = "*"
    if rule := _day_rule(kind, text):
        read.rules.append(rule)
        return
    found = _PLAIN.fullmatch(text)
    if found is None or (found["low"] == "*" and found["high"]):
        message = "this form is not read here" if text else "an item is missing"
        raise ValueError(message)
    read.plain.extend(_plain_forms(kind, found["low"], found["high"], found["step"]))
    read.is_any |= text in {"*", "*/1"}


def _day_rule(kind: _Kind, text: str) -> DayRule | None:
    if kind is _DAY:
        if text == "lw":
            return LastWorkday()
        if found := _LAST_DAY.fullmatch(text):
            return LastDay(_bounded("offset from the last day", int(found[1] or 0), low=0, high=30))
        if found := _NEAREST_WORKDAY.fullmatch(text):
            return NearestWorkday(_number(kind, found[1]))
    if kind is _WEEKDAY:
        if found := _LAST_WEEKDAY.fullmatch(text):
            return LastWeekday(_number(kind, found[1]) % 7)
        if found := _NTH_WEEKDAY.fullmatch(text):
            return NthWeekday(
                _number(kind, found[1]) % 7, _bounded("week of the month", int(found[2]), low=1, high=5)
            )
    return None


def _plain_forms(kind: _Kind, low: str, high: str | None, step: str | None) -> list[str]:
    """Return the item in forms that croniter expands as crontab does."""
    stride = _bounded("step", int(step), low=1, high=kind.count) if step else 1
    if low == "*":
        return [f"*/{stride}"]
    start = _number(kind, low)
    top = kind.low + kind.count - 1
    if high is None and step is None:
        return [low]
    end = top if high is None else _number(kind, high)
    if kind is _WEEKDAY and (start, end) != (0, 7):
        start, end = start % 7, end % 7
    else:
        end = min(end, top)
    if start < end:
        return [f"{start}-{end}/{stride}"]
    span = (end - start) % kind.count
    return [str(kind.low + (start - kind.low + ahead) % kind.count) for ahead in range(0, span + 1, stride)]


def _number(kind: _Kind, text: str) -> int:
    if text.isdigit():
        return _bounded("value", int(text), low=kind.low, high=kind.high)
    if text not in kind.names:
        known = f"known are {', '.join(kind.names)}" if kind.names else "this field has no names"
        message = f"unknown name {text!r}; {known}"
        raise ValueError(message)
    return kind.names.index(text) + kind.low


def _bounded(what: str, value: int, *, low: int, high: int) -> int:
    if not low <= value <= high:
        message = f"{what} {value} is not between {low} and {high}"
        raise ValueError(message)
    return value


def _expand(expression: str, reads: dict[str, _Read], *, has_interval: bool) -> Fields:
    from croniter import croniter  # noqa: PLC0415 - 60 ms that only users of cron expressions pay

    order = [kind for kind in (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY, _SECOND) if kind.name in reads]
    # A field of rules only must still be something croniter reads; its values are not used below.
    texts = [",".join(reads[kind.name].plain) or "*" for kind in order]
    try:
        expanded, _ = croniter.expand(" ".join(texts))
    except ValueError as error:
        message = f"Cron expression {expression!r} cannot be read: {error}"
        raise ScheduleError(message) from error
    values = {
        kind.name: _values(kind, found) if reads[kind.name].plain else ()
        for kind, found in zip(order, expanded, strict=True)
    }
    day, weekday = reads[_DAY.name], reads[_WEEKDAY.name]
    return Fields(
        seconds=values.get(_SECOND.name, (0,)),
        minutes=values[_MINUTE.name],
        hours=values[_HOUR.name],
        days=values[_DAY.name],
        months=values[_MONTH.name],
        weekdays=values[_WEEKDAY.name],
        day_rules=tuple(day.rules),
        weekday_rules=tuple(weekday.rules),
        any_day=day.is_any,
        any_weekday=weekday.is_any,
        is_interval=has_interval,
    )


def _values(kind: _Kind, expanded: Sequence[int | str]) -> tuple[int, ...]:
    if "*" in expanded:
        return tuple(range(kind.low, kind.low + kind.count))
    return tuple(sorted(int(value) for value in expanded))


def days_in(fields: Fields, month: MonthShape) -> tuple[int, ...]:
    """Return the days of such a month that match, in order; months the expression excludes are not looked at.

    Day of month and day of week combine as in crontab: a day matches either when both are restricted.
    """
    by_day = {day for day in fields.days if day <= month.length} | _ruled(fields.day_rules, month)
    by_weekday = {day for day in range(1, month.length + 1) if month.weekday(day) in fields.weekdays}
    by_weekday |= _ruled(fields.weekday_rules, month)
    if fields.any_day or fields.any_weekday:
        return tuple(sorted(by_day & by_weekday))
    return tuple(sorted(by_day | by_weekday))


def _ruled(rules: Sequence[DayRule], month: MonthShape) -> set[int]:
    return {day for rule in rules if (day := rule.day(month)) is not None}


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


_MONTHS_IN_FULL = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS_IN_FULL = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_CLOCK_TIMES = 6  # more of them read better as a rule
_RUN = 3  # from so many neighbours on, "9 to 17" instead of a list


def describe_cron(fields: Fields) -> str:
    """Return when the fields match: "at 02:00 every day", "every 15 minutes on Monday to Friday"."""
    times = len(fields.hours) * len(fields.minutes) * len(fields.seconds)
    is_clock = times <= _CLOCK_TIMES and not fields.is_interval
    days = _days(fields)
    parts = [_clock_times(fields) if is_clock else _rule(fields)]
    if days:
        parts.append(days)
    elif is_clock:
        parts.append("every day")
    if len(fields.months) < len(_MONTHS_IN_FULL):
        parts.append(f"in {_spans(fields.months, [_MONTHS_IN_FULL[month - 1] for month in fields.months])}")
    return " ".join(parts)


def describe_span(span: timedelta) -> str:
    """Return "every 90 minutes": the span in the largest unit that divides it."""
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if not span % timedelta(seconds=unit):
            return _every(span // timedelta(seconds=unit), name)
    return f"every {span.total_seconds():g} seconds"


def _every(count: int, name: str) -> str:
    return f"every {name}" if count == 1 else f"every {count} {name}s"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _spans(numbers: Sequence[int], words: Sequence[str]) -> str:
    """Return the words of a sorted list, neighbours joined: "1, 3 and 9 to 17"."""
    runs: list[list[int]] = []
    for at, number in enumerate(numbers):
        if runs and numbers[runs[-1][-1]] == number - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    listed: list[str] = []
    for run in runs:
        if len(run) >= _RUN:
            listed.append(f"{words[run[0]]} to {words[run[-1]]}")
        else:
            listed.extend(words[at] for at in run)
    return _listed(listed)


def _clock_times(fields: Fields) -> str:
    shows_seconds = fields.seconds != (0,)
    times = [
        f"{hour:02}:{minute:02}" + (f":{second:02}" if shows_seconds else "")
        for hour in fields.hours
        for minute in fields.minutes
        for second in fields.seconds
    ]
    return f"at {_listed(times)}"


def _rule(fields: Fields) -> str:
    seconds, minutes, hours = fields.seconds, fields.minutes, fields.hours
    parts = [] if seconds == (0,) else [_unit(seconds, 60, "second")]
    if len(minutes) < 60 or not parts or not parts[0].startswith("every"):  # noqa: PLR2004 (minutes of an hour)
        parts.append(_unit(minutes, 60, "minute"))
    if len(hours) < 24 or not parts[-1].startswith("every"):  # noqa: PLR2004 (hours of a day)
        parts.append(_unit(hours, 24, "hour"))
    rule = " of ".join(parts)
    return rule if rule.startswith("every") else f"at {rule}"


def _unit(values: Sequence[int], size: int, name: str) -> str:
    step = size // len(values)
    if len(values) > 1 and tuple(values) == tuple(range(0, size, step)):
        return _every(step, name)
    plural = "s" if len(values) > 1 else ""
    return f"{name}{plural} {_spans(values, [str(value) for value in values])}"


def _days(fields: Fields) -> str:
    days = "" if fields.any_day else f"on {_listed(_month_days(fields))} of the month"
    weekdays = "" if fields.any_weekday else f"on {_listed(_month_weekdays(fields))}"
    return f"{days} or {weekdays}" if days and weekdays else days or weekdays


def _month_days(fields: Fields) -> list[str]:
    words = [_rule_words(rule) for rule in fields.day_rules]
    if fields.days:
        plural = "s" if len(fields.days) > 1 else ""
        words.insert(0, f"day{plural} {_spans(fields.days, [str(day) for day in fields.days])}")
    return words


def _month_weekdays(fields: Fields) -> list[str]:
    # A week that people read begins on Monday, so that mon-fri and sat-sun are runs.
    ordered = sorted((weekday + 6) % 7 for weekday in fields.weekdays)
    words = [_spans(ordered, [_WEEKDAYS_IN_FULL[(day + 1) % 7] for day in ordered])] if ordered else []
    return words + [f"{_rule_words(rule)} of the month" for rule in fields.weekday_rules]


def _rule_words(rule: DayRule) -> str:
    match rule:
        case LastDay(before=0):
            return "the last day"
        case LastDay(before=before):
            return f"the day {before} day{'s' if before > 1 else ''} before the last"
        case LastWorkday():
            return "the last working day"
        case NearestWorkday(target=target):
            return f"the working day nearest to day {target}"
        case NthWeekday(weekday=weekday, nth=nth):
            return f"the {_ORDINALS[nth - 1]} {_WEEKDAYS_IN_FULL[weekday]}"
        case LastWeekday(weekday=weekday):
            return f"the last {_WEEKDAYS_IN_FULL[weekday]}"
        case _:
            message = f"No words for {rule!r}."
            raise NotImplementedError(message)
