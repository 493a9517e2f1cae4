"""The grammar of cron expressions, which determines the allowed values of each field.

Each item is checked here, because croniter accepts more than crontab does (hashes, random values, years), and
its errors do not contain a column. croniter then parses names, ranges and steps, in the forms in which it
agrees with crontab. Wrapped ranges with a step and ranges of one value are expanded before that;
test_grammar.py contains examples of both.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import attrs

from firelock.errors import ScheduleError
from firelock.model.text import number_of

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
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_WEEK = len(_WEEKDAYS)
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_ITEM_LIMIT = 60
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
    """A kind of field, with its allowed values and forms."""

    name: str
    low: int
    high: int  # the largest number that is allowed
    count: int  # the number of different values
    names: tuple[str, ...] = ()
    forms: str = "a number, *, a range a-b, a step /n, or a list of these"

    def number(self, text: str) -> int:
        """Return the value of a number or name.

        Raises:
            ValueError: The string is neither a number nor a name. The message describes the problem.
        """
        if text.isdigit():
            return _bounded("value", text, low=self.low, high=self.high)
        if text not in self.names:
            hint = f"use {', '.join(self.names)}" if self.names else "this field has no names"
            raise ValueError(f"unknown name {text!r}; {hint}")
        return self.names.index(text) + self.low


def _short(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name[:3].lower() for name in names)


_SECOND = _Kind("seconds", 0, 59, 60)
_MINUTE = _Kind("minutes", 0, 59, 60)
_HOUR = _Kind("hours", 0, 23, 24)
_DAY = _Kind("day of month", 1, 31, 31, forms="a number, *, ?, a-b, /n, L, L-3, LW, 15W, or a list of these")
_MONTH = _Kind(
    "month", 1, 12, 12, _short(MONTHS), "a number, a name such as jan, *, a-b, /n, or a list of these"
)
_WEEKDAY = _Kind(
    "day of week", 0, 7, 7, _short(_WEEKDAYS),
    "a number, a name such as mon, *, ?, a-b, /n, 5L, 5#2, or a list",
)  # fmt: skip
_KINDS = (_SECOND, _MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)


@attrs.frozen
class CronFields:
    """A parsed cron expression, with the sorted values that each field allows. Sunday is weekday 0."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    day_rules: tuple[DayRule, ...]
    weekday_rules: tuple[DayRule, ...]
    any_day: bool  # whether the day-of-month field is *, ? or */1
    any_weekday: bool  # whether the day-of-week field is *, ? or */1
    is_interval: bool  # whether seconds, minutes or hours use *, a range or a step


@attrs.define
class _Read:
    """The parsed items of one field."""

    plain: list[str] = attrs.Factory(list)
    rules: list[DayRule] = attrs.Factory(list)
    is_any: bool = False


def tidy(expression: str) -> str:
    """Return the expression with single spaces between its fields.

    Raises:
        ScheduleError: The expression is not a string, is empty, has more than 256 characters, or contains a
            character that cron does not use.
    """
    if not isinstance(expression, str):
        message = f"A cron expression must be a string such as '0 2 * * *', got {type(expression).__name__}."
    elif len(expression) > LENGTH_LIMIT:
        message = (
            f"Cron expression {expression[:32]!r}… must have at most {LENGTH_LIMIT} characters, got "
            f"{len(expression):,}. Use ranges and steps, or several recurring jobs."
        )
    elif foreign := _FOREIGN.search(expression):
        message = (
            f"Cron expression {expression!r}, column {foreign.start() + 1}: character {foreign.group()!r} "
            "is not allowed. Use ASCII digits, letters and * ? , - / # with spaces between the fields."
        )
    elif not expression.strip():
        message = (
            "The cron expression is empty. Use five fields, such as '0 2 * * *', or six with seconds first."
        )
    else:
        return " ".join(expression.split())
    raise ScheduleError(message)


@lru_cache(maxsize=1_024)
def parse_fields(expression: str) -> CronFields:
    """Return the values that each field of a tidy expression allows.

    The result is cached because the same stored definitions are displayed and fired repeatedly.

    Raises:
        ScheduleError: A field is invalid, or no date matches the expression.
    """
    pieces = _split(expression)
    kinds = _KINDS[-len(pieces) :]
    reads = {kind: _read_field(expression, kind, *piece) for kind, piece in zip(kinds, pieces, strict=True)}
    values = _expand(expression, reads)
    day, weekday = reads[_DAY], reads[_WEEKDAY]
    fields = CronFields(
        seconds=values.get(_SECOND, (0,)),
        minutes=values[_MINUTE],
        hours=values[_HOUR],
        days=values[_DAY],
        months=values[_MONTH],
        weekdays=values[_WEEKDAY],
        day_rules=tuple(day.rules),
        weekday_rules=tuple(weekday.rules),
        any_day=day.is_any,
        any_weekday=weekday.is_any,
        is_interval=any(set("*-/") & set(text) for _, text in pieces[:-3]),
    )
    if not any(days_in(fields, shape) for month in fields.months for shape in shapes_of(month)):
        raise ScheduleError(
            f"Cron expression {expression!r} never fires, because none of its months has such a day. "
            "Use another day of the month (L is the last day) or another month."
        )
    return fields


def _split(expression: str) -> list[tuple[int, str]]:
    """Return the column and the lower-case string of each field."""
    text = expression.lower()
    if text.startswith("@"):
        if text not in MACROS:
            known = ", ".join(MACROS)
            raise ScheduleError(
                f"Cron macro {expression!r} is unknown. Use one of {known}, or five or six fields."
            )
        text = MACROS[text]
    pieces = [(match.start() + 1, match.group()) for match in re.finditer(r"[^ ]+", text)]
    if len(pieces) not in {_WITHOUT_SECONDS, _WITH_SECONDS}:
        raise ScheduleError(
            f"Cron expression {expression!r} has {number_of(len(pieces), 'field')}. Use five (minutes, "
            "hours, day of month, month, day of week) or six with seconds first."
        )
    return pieces


def _read_field(expression: str, kind: _Kind, column: int, field: str) -> _Read:
    items, item, read = field.split(","), field, _Read()
    try:
        if len(items) > _ITEM_LIMIT:
            raise ValueError(f"the list has {len(items)} items; at most {_ITEM_LIMIT} are allowed")
        for item in items:
            is_any = item == "?" and kind in {_DAY, _WEEKDAY} and len(items) == 1
            text = "*" if is_any else item
            if rule := _day_rule(kind, text):
                read.rules.append(rule)
            else:
                found = _PLAIN.fullmatch(text)
                if found is None or (found["low"] == "*" and found["high"]):
                    raise ValueError("this form is not supported" if text else "an item is missing")
                read.plain.extend(_plain_forms(kind, *found.group("low", "high", "step")))
                read.is_any |= text in {"*", "*/1"}
            column += len(item) + 1
    except ValueError as error:
        raise ScheduleError(
            f"Cron expression {expression!r}, {kind.name} {item!r} (column {column}): {error}. "
            f"Use {kind.forms}."
        ) from None
    return read


def _day_rule(kind: _Kind, text: str) -> DayRule | None:
    if kind is _DAY:
        if text == "lw":
            return LastWorkday()
        if found := _LAST_DAY.fullmatch(text):
            return LastDay(_bounded("offset from the last day", found[1] or "0", low=0, high=30))
        if found := _NEAREST_WORKDAY.fullmatch(text):
            return NearestWorkday(kind.number(found[1]))
    if kind is _WEEKDAY:
        if found := _LAST_WEEKDAY.fullmatch(text):
            return LastWeekday(kind.number(found[1]) % _WEEK)
        if found := _NTH_WEEKDAY.fullmatch(text):
            nth = _bounded("week of the month", found[2], low=1, high=5)
            return NthWeekday(kind.number(found[1]) % _WEEK, nth)
    return None


def _plain_forms(kind: _Kind, low: str, high: str | None, step: str | None) -> list[str]:
    """Return the item as one or more forms that croniter expands in the same way as crontab."""
    stride = _bounded("step", step or "1", low=1, high=kind.count)
    if low == "*":
        return [f"*/{stride}"]
    start, top = kind.number(low), kind.low + kind.count - 1
    if high is None and step is None:
        return [low]
    end = top if high is None else kind.number(high)
    if kind is _WEEKDAY and (start, end) != (0, _WEEK):
        start, end = start % _WEEK, end % _WEEK
    else:
        end = min(end, top)
    if start < end:
        return [f"{start}-{end}/{stride}"]
    span = (end - start) % kind.count
    return [str(kind.low + (start - kind.low + ahead) % kind.count) for ahead in range(0, span + 1, stride)]


def _bounded(what: str, text: str, *, low: int, high: int) -> int:
    value = int(text)
    if not low <= value <= high:
        raise ValueError(f"{what} must be from {low} to {high}, got {value}")
    return value


def _expand(expression: str, reads: dict[_Kind, _Read]) -> dict[_Kind, tuple[int, ...]]:
    from croniter import croniter  # noqa: PLC0415 - takes 60 ms, only in programs that use cron expressions

    kinds = [kind for kind in (*_KINDS[1:], _SECOND) if kind in reads]  # in croniter's order
    # croniter must be able to parse even a field that has only rules; the values of such a field are not
    # used.
    texts = [",".join(reads[kind].plain) or "*" for kind in kinds]
    try:
        expanded, _ = croniter.expand(" ".join(texts))
    except ValueError as error:
        raise ScheduleError(f"Cron expression {expression!r} is invalid: {error}") from error
    return {
        kind: _values(kind, found) if reads[kind].plain else ()
        for kind, found in zip(kinds, expanded, strict=True)
    }


def _values(kind: _Kind, expanded: Sequence[int | str]) -> tuple[int, ...]:
    if "*" in expanded:
        return tuple(range(kind.low, kind.low + kind.count))
    return tuple(sorted(map(int, expanded)))


# ---- days of a month -------------------------------------------------------------------------------------

_LENGTHS = {2: (28, 29), 4: (30,), 6: (30,), 9: (30,), 11: (30,)}


@attrs.frozen
class MonthShape:
    """The properties of a month that determine which of its days a cron expression matches."""

    length: int
    first: int  # the weekday of day 1

    def weekday(self, day: int) -> int:
        """Return the weekday of a day of this month."""
        return (self.first + day - 1) % _WEEK


def shape_of(year: int, month: int) -> MonthShape:
    """Return the shape of one calendar month."""
    monday_based, length = monthrange(year, month)
    return MonthShape(length, (monday_based + 1) % _WEEK)


def shapes_of(month: int) -> list[MonthShape]:
    """Return all shapes that this month of the year can have; all of them occur within 400 years."""
    return [MonthShape(length, first) for length in _LENGTHS.get(month, (31,)) for first in range(_WEEK)]


def days_in(fields: CronFields, month: MonthShape) -> tuple[int, ...]:
    """Return the matching days of a month of this shape, in order; the month field is not checked.

    Day of month and day of week combine as in crontab: if both are restricted, a day matches if either field
    matches.
    """
    by_day = {day for day in fields.days if day <= month.length} | _ruled(fields.day_rules, month)
    by_weekday = {day for day in range(1, month.length + 1) if month.weekday(day) in fields.weekdays}
    by_weekday |= _ruled(fields.weekday_rules, month)
    is_one_enough = not (fields.any_day or fields.any_weekday)
    return tuple(sorted(by_day | by_weekday if is_one_enough else by_day & by_weekday))


def _ruled(rules: Sequence[DayRule], month: MonthShape) -> set[int]:
    return {day for rule in rules if (day := rule.day(month)) is not None}


class DayRule(Protocol):
    """A rule that selects at most one day of a month; `str` returns its display name."""

    def day(self, month: MonthShape) -> int | None:
        """Return the selected day; None if the month has no such day."""


@attrs.frozen
class LastDay:
    """`L` or `L-3`: the last day of the month, or this many days before it."""

    before: int = 0

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None if it would be before the first."""
        return month.length - self.before if self.before < month.length else None

    def __str__(self) -> str:
        if not self.before:
            return "the last day"
        return f"the day {self.before} day{'s' if self.before > 1 else ''} before the last"


@attrs.frozen
class NearestWorkday:
    """`15W`: the working day (Monday to Friday) nearest to a day, in the same month."""

    target: int

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None if the month does not have the target day."""
        target = self.target
        if target > month.length:
            return None
        match month.weekday(target):
            case 6:
                return target - 1 if target > 1 else target + 2
            case 0:
                return target + 1 if target < month.length else target - 2
            case _:
                return target

    def __str__(self) -> str:
        return f"the working day nearest to day {self.target}"


@attrs.frozen
class LastWorkday:
    """`LW`: the last working day (Monday to Friday)."""

    def day(self, month: MonthShape) -> int | None:
        """Return the day; every month has one."""
        return NearestWorkday(month.length).day(month)

    def __str__(self) -> str:
        return "the last working day"


@attrs.frozen
class NthWeekday:
    """`5#2`: the second Friday."""

    weekday: int
    nth: int  # 1 to 5

    def day(self, month: MonthShape) -> int | None:
        """Return the day; None if the month does not have a fifth such weekday."""
        day = 1 + (self.weekday - month.first) % _WEEK + _WEEK * (self.nth - 1)
        return day if day <= month.length else None

    def __str__(self) -> str:
        return f"the {_ORDINALS[self.nth - 1]} {_WEEKDAYS[self.weekday]}"


@attrs.frozen
class LastWeekday:
    """`5L`: the last Friday."""

    weekday: int

    def day(self, month: MonthShape) -> int:
        """Return the day; every month has one."""
        return month.length - (month.weekday(month.length) - self.weekday) % _WEEK

    def __str__(self) -> str:
        return f"the last {_WEEKDAYS[self.weekday]}"


# ---- description in English ------------------------------------------------------------------------------

_CLOCK_TIMES = 6  # up to this many times are listed; for more, a rule is easier to read
_RUN = 3  # minimum number of consecutive values for a range, such as "9 to 17", instead of a list


def describe_fields(fields: CronFields) -> str:
    """Describe the fields: "at 02:00 every day", "every 15 minutes on Monday to Friday"."""
    times = len(fields.hours) * len(fields.minutes) * len(fields.seconds)
    is_clock = times <= _CLOCK_TIMES and not fields.is_interval
    parts = [_clock_times(fields) if is_clock else _rule(fields)]
    days = "" if fields.any_day else f"on {_listed(_month_days(fields))} of the month"
    weekdays = "" if fields.any_weekday else f"on {_listed(_month_weekdays(fields))}"
    if days or weekdays:
        parts.append(" or ".join(filter(None, (days, weekdays))))
    elif is_clock:
        parts.append("every day")
    if len(fields.months) < len(MONTHS):
        parts.append(f"in {_spans(fields.months, [MONTHS[month - 1] for month in fields.months])}")
    return " ".join(parts)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _spans(numbers: Sequence[int], words: Sequence[str]) -> str:
    """Return a sorted list in words, with ranges of consecutive values: "1, 3 and 9 to 17"."""
    runs: list[list[int]] = []
    for at, number in enumerate(numbers):
        if runs and numbers[runs[-1][-1]] == number - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    listed: list[str] = []
    for run in runs:
        is_joined = len(run) >= _RUN
        listed += [f"{words[run[0]]} to {words[run[-1]]}"] if is_joined else [words[at] for at in run]
    return _listed(listed)


def _clock_times(fields: CronFields) -> str:
    shows_seconds = fields.seconds != (0,)
    times = [
        f"{hour:02}:{minute:02}" + (f":{second:02}" if shows_seconds else "")
        for hour in fields.hours
        for minute in fields.minutes
        for second in fields.seconds
    ]
    return f"at {_listed(times)}"


def _rule(fields: CronFields) -> str:
    parts = [] if fields.seconds == (0,) else [_unit(fields.seconds, _SECOND)]
    for values, kind in ((fields.minutes, _MINUTE), (fields.hours, _HOUR)):
        is_restricted = len(values) < kind.count
        if is_restricted or not parts or not parts[-1].startswith("every"):
            parts.append(_unit(values, kind))
    rule = " of ".join(parts)
    return rule if rule.startswith("every") else f"at {rule}"


def _unit(values: Sequence[int], kind: _Kind) -> str:
    step, name = kind.count // len(values), kind.name.removesuffix("s")
    if len(values) > 1 and tuple(values) == tuple(range(0, kind.count, step)):
        return f"every {name}" if step == 1 else f"every {step} {name}s"
    return f"{name if len(values) == 1 else kind.name} {_spans(values, list(map(str, values)))}"


def _month_days(fields: CronFields) -> list[str]:
    words = list(map(str, fields.day_rules))
    if fields.days:
        plural = "s" if len(fields.days) > 1 else ""
        words.insert(0, f"day{plural} {_spans(fields.days, list(map(str, fields.days)))}")
    return words


def _month_weekdays(fields: CronFields) -> list[str]:
    # Weeks begin on Monday in the output, so that the days of mon-fri and sat-sun are consecutive.
    ordered = sorted((weekday - 1) % _WEEK for weekday in fields.weekdays)
    words = [_spans(ordered, [_WEEKDAYS[(day + 1) % _WEEK] for day in ordered])] if ordered else []
    return words + [f"{rule} of the month" for rule in fields.weekday_rules]
