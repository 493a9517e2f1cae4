"""Formatting of numbers, durations and times; pure functions, used as template filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, overload

from firelock.storage import DURATION_BUCKETS

if TYPE_CHECKING:
    from firelock.storage import JobRecord

_THIN = " "  # the space between a number and its unit
_EXACT_BELOW = 100_000
_LINE = 36  # characters
_UNITS = ((86_400, "d", "h", 3_600), (3_600, "h", "min", 60), (60, "min", "s", 1))


def count_text(number: int) -> str:
    """Return 12,431 up to 99,999, then 1.2 M; templates show the exact number next to it."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if abs(number) >= max(size, _EXACT_BELOW):
            return f"{_short(number / size, 100)}{_THIN}{unit}"
    return f"{number:,}"


def span(seconds: float | timedelta | None) -> str:
    """Return 840 ms, 3.2 s, 1 min 04 s, 2 h 10 min or 3 d 4 h, at least 0; return a dash for None."""
    if seconds is None:
        return "–"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(0.0, seconds)
    for size, unit, smaller, small in _UNITS:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            rest //= small
            tail = f"{rest:02d}" if unit == "min" else f"{rest}"
            return f"{whole}{_THIN}{unit} {tail}{_THIN}{smaller}" if rest else f"{whole}{_THIN}{unit}"
    if seconds >= 1:
        return f"{_short(seconds)}{_THIN}s"
    if seconds >= 0.001:  # noqa: PLR2004
        return f"{seconds * 1_000:.0f}{_THIN}ms"
    return f"{seconds * 1_000_000:.0f}{_THIN}µs"


def percentile(bound: float | None, runs: int | None = None) -> str:
    """Return ≤ 51 ms for an upper bound of a percentile, rounded up; for a single run, its duration.

    Within the first bucket of the histogram, the result is "< 1 ms".
    """
    if bound is None or runs == 1:
        return span(bound)
    if bound <= DURATION_BUCKETS[0]:
        return f"< {span(DURATION_BUCKETS[0])}"
    unit = 10.0 ** (math.floor(math.log10(bound)) - 1)  # the unit of the second digit
    return f"≤ {span(math.ceil(bound / unit - 1e-9) * unit)}"


def _short(number: float, exact_below: float = 10) -> str:
    """Return a small number with one decimal, and a larger number without decimals."""
    return f"{number:.1f}" if number < exact_below else f"{number:.0f}"


@overload
def instant(at: int | datetime) -> datetime: ...
@overload
def instant(at: int | datetime | None) -> datetime | None: ...
def instant(at: int | datetime | None) -> datetime | None:
    """Return micros or a datetime as an aware datetime in UTC."""
    if at is None or isinstance(at, datetime):
        return at
    return datetime.fromtimestamp(at / 1_000_000, UTC)


@overload
def micros(moment: datetime) -> int: ...
@overload
def micros(moment: datetime | None) -> int | None: ...
def micros(moment: datetime | None) -> int | None:
    """Return an aware datetime as micros since 1970, without rounding."""
    if moment is None:
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def iso(at: int | datetime | None) -> str:
    """Return the time for a `datetime` attribute, in UTC to the millisecond."""
    moment = instant(at)
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds") if moment else ""
    return text.replace("+00:00", "Z")


def stamp(at: int | datetime | None) -> str:
    """Return a time such as 2026-11-25 14:30:05 UTC."""
    moment = instant(at)
    return "–" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(at: int | datetime | None, now: datetime) -> str:
    """Return "4 min ago" or "in 6 min" in the largest unit that fits; a dash for None."""
    moment = instant(at)
    if moment is None:
        return "–"
    seconds = (now - moment).total_seconds()
    for size, unit in ((86_400 * 365, "y"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if abs(seconds) >= size:
            text = f"{int(abs(seconds) // size)}{_THIN}{unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "now"


def rate(per_minute: float) -> str:
    """Return 42/min, or 3.4/s for a higher rate."""
    if per_minute >= 600:  # noqa: PLR2004
        return f"{count_text(round(per_minute / 60))}/s"
    return f"{_short(per_minute) if per_minute else 0}/min"


def percent(part: float, whole: float) -> str:
    """Return a percentage such as 0.4 % or 18 %; a dash if the whole is zero."""
    if not whole:
        return "–"
    return f"{_short(100 * part / whole) if part else 0}{_THIN}%"


def shares(counts: Sequence[int]) -> list[str]:
    """Return each count's share of the total, with one decimal if any share needs it.

    The shares add up to 100 %.
    """
    whole = sum(counts)
    if not whole:
        return ["–" for _ in counts]
    tenths = [1_000 * count // whole for count in counts]
    by_rest = sorted(range(len(counts)), key=lambda place: -(1_000 * counts[place] % whole))
    for place in by_rest[: 1_000 - sum(tenths)]:
        tenths[place] += 1
    decimals = 1 if any(one % 10 for one in tenths) else 0
    return [
        f"< {0.1:.1f}{_THIN}%" if count and not one else f"{one / 10:.{decimals}f}{_THIN}%"
        for count, one in zip(counts, tenths, strict=True)
    ]


def bytes_text(size: float) -> str:
    """Return a size such as 41.2 MiB."""
    if size < 1024:  # noqa: PLR2004 - like the next
        return f"{size:.0f}{_THIN}B"
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1024:  # noqa: PLR2004
            return f"{size:.1f}{_THIN}{unit}"
    return f"{size / 1024:.1f}{_THIN}GiB"


def short_id(job_id: str) -> str:
    """Return the end of an id, because ids created at the same time differ only at the end."""
    return job_id[-8:]


def job_name(job: JobRecord) -> str:
    """Return the displayed name of a job: the name of its task or, if the job is a batch, of the batch."""
    relations = job.relations
    return job.task if relations is None or relations.batch is None else relations.batch.name


def task_name(task: str) -> str:
    """Return the last part of a task's name, which is its displayed name."""
    return task.rpartition(".")[2]


def task_path(task: str) -> str:
    """Return the part before the last one, with its dot, or an empty string if there is none."""
    head, dot, _ = task.rpartition(".")
    return head + dot


def one_line(name: str) -> str:
    """Return the CSS class of a name that fits on one line of a table on a wide page, or an empty string."""
    return "one-line" if len(name) <= _LINE else ""
