"""What both kinds of schedule share: the policies and the checks of their values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TypeVar
from zoneinfo import ZoneInfo, available_timezones

from firelock.errors import ScheduleError

__all__ = [
    "MISFIRE_LIMIT_MAX",
    "Misfire",
    "Overlap",
    "find_zone",
    "require_instant",
    "require_span",
    "require_whole",
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
