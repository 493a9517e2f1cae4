"""The data of charts, which are drawn with or without a script, and of their tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs

from firelock.storage import DURATION_BUCKETS
from firelock_dashboard.stats.history import SPANS

if TYPE_CHECKING:
    from firelock_dashboard.stats.history import Series
    from firelock_dashboard.stats.live import Sample

LIVE = "live"
SPAN_NAMES = (LIVE, *SPANS)
KINDS = ("throughput", "latency", "depth")

# The stacked values, from the bottom up: a name, the outcomes that are summed, and the state that sets the
# colour.
_STACK = (
    ("succeeded", ("succeeded",), "succeeded"),
    ("deleted", ("deleted",), "deleted"),
    ("retried", ("retried", "crashed"), "retrying"),
    ("failed", ("failed",), "failed"),
)

_WIDTH, _HEIGHT = 1000.0, 200.0  # the size of the drawing without a script
_LIVE_SECONDS = 120
_HOUR_MINUTES = 60
_GAP = 0.18  # the gap between bars, as a share of a bucket's width
_TICKS = 5
_ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


@attrs.frozen
class Line:
    """One series with a value per bucket; a value is None if it is unknown or nothing ended."""

    name: str
    state: str  # sets its colour
    values: list[float | None]

    def is_empty(self) -> bool:
        """Return whether all values of the line are zero or missing."""
        return not any(self.values)


@attrs.frozen
class Bar:
    """A rectangle of the drawing."""

    state: str
    x: float
    y: float
    width: float
    height: float


@attrs.frozen
class Chart:
    """Series over buckets of equal length: stacked bars for counts, otherwise lines."""

    kind: str
    span: str
    bucket_seconds: int
    starts: list[float]  # seconds since 1970
    lines: list[Line]
    unit: str  # "count", "rate" (per second) or "seconds"
    known: list[bool]
    missing: int = 0

    @property
    def is_stacked(self) -> bool:
        """Whether values add up."""
        return self.kind == "throughput"

    @cached_property
    def top(self) -> float:
        """The upper end of the scale: a round number that no stack exceeds."""
        columns = zip(*(map(_number, line.values) for line in self.lines), strict=True)
        return round_up(max((sum(one) if self.is_stacked else max(one) for one in columns), default=0.0))

    @cached_property
    def bottom(self) -> float:
        """The lower end of the scale, which is 0 or, on a logarithmic scale, a power of ten."""
        if self.kind != "latency":
            return 0.0
        lowest = min((value for line in self.lines for value in line.values if value), default=0.001)
        return float(10.0 ** math.floor(math.log10(lowest)))

    def bars(self) -> list[Bar]:
        """Return the stacked bars of the drawing, in drawing order."""
        width, top = _WIDTH / max(1, len(self.starts)), self.top
        found = []
        for place in range(len(self.starts)):
            y = _HEIGHT
            for line in self.lines:
                height = _HEIGHT * _number(line.values[place]) / top
                if height:
                    y -= height
                    found.append(
                        Bar(line.state, round(place * width + width * _GAP / 2, 2), round(y, 2),
                            round(width * (1 - _GAP), 2), round(height, 2))
                    )  # fmt: skip
        return found

    def path(self, line: Line) -> str:
        """Return a line of the drawing as an SVG path, with gaps where values are missing."""
        width = _WIDTH / max(1, len(self.starts))
        points = [
            None if value is None else (place * width + width / 2, self._height_of(value))
            for place, value in enumerate(line.values)
        ]
        return _path(points)

    def dots(self, line: Line) -> str:
        """Return the points of a line as an SVG path of short strokes, so that single points are visible."""
        width = _WIDTH / max(1, len(self.starts))
        return "".join(
            f"M{place * width + width / 2:.1f},{self._height_of(value):.1f}h0.1"
            for place, value in enumerate(line.values)
            if value is not None
        )

    def _height_of(self, value: float) -> float:
        low, high = self.bottom, self.top
        if self.kind == "latency":
            low, high, value = math.log(low), math.log(max(high, low * 10)), math.log(max(value, low))
        return _HEIGHT * (1 - (value - low) / (high - low))

    def ticks(self) -> list[datetime]:
        """Return the times below the drawing, at equal intervals from its beginning to its end."""
        if not self.starts:
            return []
        first, last = self.starts[0], self.starts[-1] + self.bucket_seconds
        return [
            datetime.fromtimestamp(first + (last - first) * place / (_TICKS - 1), UTC)
            for place in range(_TICKS)
        ]

    def rows(self) -> list[tuple[datetime, datetime, list[float | None]]]:
        """Return the start, the end and the values of each bucket that has values, newest first."""
        columns = [line.values for line in self.lines]
        return [
            (
                datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(start + self.bucket_seconds, UTC),
                [values[place] for values in columns],
            )
            for place, start in reversed(list(enumerate(self.starts)))
            if any(values[place] for values in columns)
        ]  # fmt: skip

    def is_empty(self) -> bool:
        """Return whether the chart has no values to draw."""
        return all(line.is_empty() for line in self.lines)


def chart_of_series(series: Series, kind: str) -> Chart:
    """Return the chart of a series: throughput or latency."""
    starts = [start / 1_000_000 for start in series.starts]
    if kind == "latency":
        lines = [
            Line("p50", "processing", _seconds(series.p50)),
            Line("p95", "scheduled", _seconds(series.p95)),
        ]
    else:
        lines = [Line(name, state, _added(series, outcomes)) for name, outcomes, state in _STACK]
    return Chart(
        kind, series.span, series.bucket_seconds, starts,
        [line for line in lines if not line.is_empty() or line.name in {"succeeded", "failed", "p50", "p95"}],
        "seconds" if kind == "latency" else "count", series.known, series.missing,
    )  # fmt: skip


def chart_of_depths(by_minute: Mapping[int, tuple[int, int]], now: float) -> Chart:
    """Return the chart of the last hour with the running and waiting jobs at the end of each minute."""
    last = math.floor(now) // 60 * 60
    starts = [last - 60 * (_HOUR_MINUTES - 1 - place) for place in range(_HOUR_MINUTES)]
    found = [by_minute.get(start) for start in starts]
    lines = [
        Line("processing", "processing", [None if one is None else one[1] for one in found]),
        Line("enqueued", "enqueued", [None if one is None else one[0] for one in found]),
    ]
    known = [one is not None for one in found]
    return Chart("depth", "1h", 60, [float(start) for start in starts], lines, "count", known)


def chart_of_samples(
    samples: Sequence[Sample], now: float, kind: str, ended: Mapping[int, Mapping[str, int]] | None = None
) -> Chart:
    """Return the chart of the last two minutes with one bucket per second.

    The kind of the chart selects ended jobs, or waiting and running jobs.

    `ended` contains the ended attempts by the start of their minute. If a minute's samples do not contain all
    of its attempts, the rest are distributed evenly among its seconds without a sample. The numbers of
    waiting and running jobs in these seconds are unknown.
    """
    last = math.floor(now)
    starts = [float(last - _LIVE_SECONDS + 1 + place) for place in range(_LIVE_SECONDS)]
    by_second = {math.floor(sample.at): sample for sample in samples}
    found = [by_second.get(int(start)) for start in starts]

    def line(name: str, state: str) -> Line:
        return Line(name, state, [None if one is None else getattr(one, name) for one in found])

    if kind == "depth":
        lines = [line("processing", "processing"), line("enqueued", "enqueued")]
    else:
        lines = [line(name, state) for name, _, state in _STACK]
        _fill(lines, starts, by_second, ended or {})
    unit = "count" if kind == "depth" else "rate"
    return Chart(kind, LIVE, 1, starts, lines, unit, [one is not None for one in found])


def _fill(
    lines: Sequence[Line],
    starts: Sequence[float],
    by_second: Mapping[int, Sample],
    ended: Mapping[int, Mapping[str, int]],
) -> None:
    """Distribute the rest of each minute's sum evenly among its seconds without a sample."""
    outcomes = {name: parts for name, parts, _ in _STACK}
    first, last = int(starts[0]), int(starts[-1])
    for line in lines:
        seen = {at: getattr(sample, line.name) for at, sample in by_second.items()}
        for minute, counts in ended.items():
            seconds = range(minute, min(minute + 60, last + 1))
            unseen = [at for at in seconds if seen.get(at) is None]
            left = float(sum(counts.get(name, 0) for name in outcomes[line.name]))
            left -= sum(seen.get(at) or 0.0 for at in seconds)
            for at in unseen:
                if at >= first:
                    line.values[at - first] = round(max(0.0, left) / len(unseen), 2)


def spark(values: Iterable[float], *, width: int = 120, height: int = 28) -> str:
    """Return a sparkline as an SVG path; empty if there are fewer than two values, or if all are zero."""
    numbers = list(values)
    top = max(numbers, default=0)
    if len(numbers) < 2 or top <= 0:  # noqa: PLR2004 - a line has two ends
        return ""
    spacing = width / (len(numbers) - 1)
    return _path(
        [(place * spacing, height - 1 - (height - 2) * value / top) for place, value in enumerate(numbers)]
    )


def round_up(value: float) -> float:
    """Return the next round number, such as 1, 1.5, 2, 2.5 or 3 times a power of ten; 1 for zero."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in _ROUND if value <= factor * power * (1 + 1e-9))


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Return an SVG path through the points; None is a gap, and a single point becomes a short stroke."""
    parts = []
    for before, point in pairwise([None, *points]):
        if point is None:
            continue
        x, y = point
        parts.append(f"L{x:.1f},{y:.1f}" if before else f"M{x:.1f},{y:.1f}h0.1")
    return "".join(parts)


def _added(series: Series, outcomes: Sequence[str]) -> list[float | None]:
    columns = zip(*(series.by_outcome[name] for name in outcomes), strict=True)
    return [sum(counts) if is_known else None for counts, is_known in zip(columns, series.known, strict=True)]


def _seconds(bounds: Sequence[float | None]) -> list[float | None]:
    """Return bounds of durations in seconds for drawing; bounds shown as "< 1 ms" are drawn at 1 ms."""
    return [None if bound is None else max(bound, DURATION_BUCKETS[0]) for bound in bounds]


def _number(value: float | None) -> float:
    return value or 0.0
