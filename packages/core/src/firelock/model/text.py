"""Instants, spans and values as people read them."""

from __future__ import annotations

from collections.abc import Iterable

_SECOND = 1_000_000
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_TENTH, _FEW = 0.1, 10
_SHOWN = 101  # characters of a value that a message shows: enough to know it again


def printable(text: str) -> str:
    """Return the text with lone surrogates and NULs made visible, since no storage takes them."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def shorten(text: str, limit: int) -> str:
    """Return the text, cut to so many characters with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(value: object) -> str:
    """Return a value as a message shows it: its repr, cut where it is long or cannot be made."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of too many digits, or a stranger's __repr__
        text = f"a value of type {type(value).__name__}"
    return shorten(text, _SHOWN)


def did_you_mean(name: str, known: Iterable[str], *, suffix: str = "") -> str:
    """Return "Did you mean …? " with the known name that is most like a misspelt one; "" if none is."""
    from difflib import get_close_matches  # noqa: PLC0415 - for a message alone

    names = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), names, n=1)
    return f"Did you mean {names[near[0]]}{suffix}? " if near else ""


def message_of(error: BaseException) -> str:
    """Return what an exception says, fit for every storage, also where its own `__str__` raises."""
    try:
        return printable(str(error))
    except BaseException as broken:  # noqa: BLE001 - an exception may do anything in __str__
        return f"(its message cannot be read: {type(broken).__name__})"


def isoformat(instant: int | None) -> str | None:
    """Return micros as ISO 8601 in UTC, as `--json` gives it: "2026-11-25T02:04:36.560455Z"."""
    if instant is None:
        return None
    from firelock.model.clock import from_micros  # noqa: PLC0415 - loaded when first used

    return from_micros(instant).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def clock_time(instant: int | None) -> str:
    """Return micros as people read them: "2026-11-25 02:04:36 UTC"."""
    if instant is None:
        return ""
    from firelock.model.clock import from_micros  # noqa: PLC0415 - loaded when first used

    return f"{from_micros(instant):%Y-%m-%d %H:%M:%S} UTC"


def span(micros: int) -> str:
    """Return a span in two figures or so: "35 ms", "1.2 s", "12 s", "5 min", "3 h", "4 d"."""
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
    """Return how long ago an instant was, or how far ahead it is: "5 min ago", "in 12 s"."""
    if instant is None:
        return ""
    return f"in {span(instant - now)}" if instant > now else f"{span(now - instant)} ago"
