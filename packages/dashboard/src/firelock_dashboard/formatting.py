"""Numbers, spans and instants as people read them; pure functions, used as filters in templates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = [
    "ago", "bytes_text", "count_text", "instant", "iso", "micros", "percent", "rate", "short_id", "span",
    "stamp", "task_name", "task_path",
]  # fmt: skip

_THIN = " "  # a thin space that does not break
_EXACT_BELOW = 100_000
_UNITS = ((86_400, "d", "h", 3_600), (3_600, "h", "min", 60), (60, "min", "s", 1))


def count_text(number: int) -> str:
    """Return 12 431 up to 99 999, then 1.2 M; templates show the exact number beside."""
    if abs(number) < _EXACT_BELOW:
        return f"{number:,}".replace(",", _THIN)
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if abs(number) >= size:
            value = number / size
            return f"{value:.1f}{_THIN}{unit}" if value < 100 else f"{value:.0f}{_THIN}{unit}"  # noqa: PLR2004
    raise AssertionError(number)


def span(seconds: float | timedelta | None) -> str:
    """Return 840 ms, 3.2 s, 1 min 04 s, 2 h 10 min, 3 d 4 h; never negative, a dash for None."""
    if seconds is None:
        return "–"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(0.0, seconds)
    if seconds < 0.001:  # noqa: PLR2004
        return f"{seconds * 1_000_000:.0f}{_THIN}µs"
    if seconds < 1:
        return f"{seconds * 1_000:.0f}{_THIN}ms"
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f}{_THIN}s" if seconds < 10 else f"{seconds:.0f}{_THIN}s"  # noqa: PLR2004
    for size, unit, smaller, small in _UNITS:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            rest //= small
            tail = f"{rest:02d}" if unit == "min" else f"{rest}"
            return f"{whole}{_THIN}{unit} {tail}{_THIN}{smaller}" if rest else f"{whole}{_THIN}{unit}"
    raise AssertionError(seconds)


def instant(at: int | datetime | None) -> datetime | None:
    """Return micros or a datetime as an aware datetime in UTC."""
    if at is None or isinstance(at, datetime):
        return at
    return datetime.fromtimestamp(at / 1_000_000, UTC)


def micros(moment: datetime) -> int:
    """Return an aware datetime as micros since 1970; exact."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def iso(at: int | datetime | None) -> str:
    """Return the instant for a `datetime` attribute, in UTC to the millisecond."""
    moment = instant(at)
    return (
        ""
        if moment is None
        else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def stamp(at: int | datetime | None) -> str:
    """Return 2026-11-25 14:30:05 UTC."""
    moment = instant(at)
    return "–" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(at: int | datetime | None, now: datetime) -> str:
    """Return "4 min ago" or "in 6 min" in the largest unit; a dash for None."""
    moment = instant(at)
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    text = _largest_unit(abs(seconds))
    if text is None:
        return "now"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def _largest_unit(seconds: float) -> str | None:
    for size, unit in ((86_400 * 365, "y"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)}{_THIN}{unit}"
    return None


def rate(per_minute: float) -> str:
    """Return 42/min, or 3.4/s where it is quicker."""
    if per_minute >= 600:  # noqa: PLR2004
        return f"{count_text(round(per_minute / 60))}/s"
    return f"{per_minute:.1f}/min" if 0 < per_minute < 10 else f"{per_minute:.0f}/min"  # noqa: PLR2004


def percent(part: float, whole: float) -> str:
    """Return 0.4 %, 18 %; a dash where there is nothing to take a part of."""
    if not whole:
        return "–"
    value = 100 * part / whole
    return f"{value:.1f}{_THIN}%" if 0 < value < 10 else f"{value:.0f}{_THIN}%"  # noqa: PLR2004


def bytes_text(size: float) -> str:
    """Return 41.2 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":  # noqa: PLR2004
            return f"{size:.0f}{_THIN}{unit}" if unit == "B" else f"{size:.1f}{_THIN}{unit}"
        size /= 1024
    raise AssertionError(size)


def short_id(job_id: str) -> str:
    """Return the end of an id that tells jobs apart: ids of one moment share their beginning."""
    return job_id[-8:]


def task_name(task: str) -> str:
    """Return the last part of a task's name: what people call it."""
    return task.rpartition(".")[2]


def task_path(task: str) -> str:
    """Return what stands before the last part, with its dot; empty if nothing does."""
    head, dot, _ = task.rpartition(".")
    return head + dot
