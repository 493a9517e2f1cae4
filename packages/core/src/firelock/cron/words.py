"""A schedule in English words, for people who do not read cron."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from firelock.cron.days import DayRule, LastDay, LastWeekday, LastWorkday, NearestWorkday, NthWeekday
from firelock.cron.fields import Fields

__all__ = ["describe_cron", "describe_span"]

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
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
    if len(fields.months) < len(_MONTHS):
        parts.append(f"in {_spans(fields.months, [_MONTHS[month - 1] for month in fields.months])}")
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
    words = [_spans(ordered, [_WEEKDAYS[(day + 1) % 7] for day in ordered])] if ordered else []
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
            return f"the {_ORDINALS[nth - 1]} {_WEEKDAYS[weekday]}"
        case LastWeekday(weekday=weekday):
            return f"the last {_WEEKDAYS[weekday]}"
        case _:
            message = f"No words for {rule!r}."
            raise NotImplementedError(message)
