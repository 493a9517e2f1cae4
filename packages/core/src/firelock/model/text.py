"""Functions that format times, durations and values for display."""

from __future__ import annotations

from collections.abc import Iterable

_SECOND = 1_000_000
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_TENTH, _FEW = 0.1, 10
_SHOWN = 101  # maximum number of characters of a value in a message; enough to recognize the value


def printable(text: str) -> str:
    """Return the string with lone surrogates and NULs escaped, because storages do not accept them."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def shorten(text: str, limit: int) -> str:
    """Return the string, cut to this number of characters with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(value: object) -> str:
    """Return the shortened repr of a value for a message, or its type if `repr` fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int with too many digits, or a foreign __repr__
        text = f"a value of type {type(value).__name__}"
    return shorten(text, _SHOWN)


def did_you_mean(name: str, known: Iterable[str], *, suffix: str = "") -> str:
    """Return "Did you mean …? " with the most similar known name; "" if no known name is similar."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed for a message

    names = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), names, n=1)
    return f"Did you mean {names[near[0]]}{suffix}? " if near else ""


def message_of(error: BaseException) -> str:
    """Return the message of an exception in a form that every storage accepts, even if `__str__` raises."""
    try:
        return printable(str(error))
    except BaseException as broken:  # noqa: BLE001 - an exception may do anything in __str__
        return f"(its message cannot be read: {type(broken).__name__})"


def number_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 job", "1,200 jobs". The default of `plural` is the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def isoformat(instant: int | None) -> str | None:
    """Return a time in microseconds as ISO 8601 in UTC, as in `--json`: "2026-11-25T02:04:36.560455Z"."""
    if instant is None:
        return None
    from firelock.model.clock import from_micros  # noqa: PLC0415 - loaded when first used

    return from_micros(instant).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def clock_time(instant: int | None) -> str:
    """Return a time in microseconds for display: "2026-11-25 02:04:36 UTC"."""
    if instant is None:
        return ""
    from firelock.model.clock import from_micros  # noqa: PLC0415 - loaded when first used

    return f"{from_micros(instant):%Y-%m-%d %H:%M:%S} UTC"


def span(micros: int) -> str:
    """Return a duration with about two digits: "35 ms", "1.2 s", "12 s", "5 min", "3 h", "4 d"."""
    seconds = abs(micros) / _SECOND
    if seconds < _TENTH:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _FEW:
        return f"{seconds:.1f} s"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def age(instant: int | None, now: int) -> str:
    """Return a time relative to now: "5 min ago", "in 12 s"."""
    if instant is None:
        return ""
    return f"in {span(instant - now)}" if instant > now else f"{span(now - instant)} ago"
