"""When the made-up jobs of a year come: more by day, in the week, from month to month, most at the end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from random import Random

import attrs

from firelock.clock import SECOND, from_micros

__all__ = ["DAY", "HOUR", "MINUTE", "Burst", "Rhythm"]

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
DAYS = 365
_LAST_GAP = 20 * SECOND  # the youngest job is this old
_SPREAD = 15 * SECOND  # at most so long before their burst its jobs were made
# How busy each hour of a day is, in UTC: a shop in Europe with some customers overseas.
_BY_HOUR = (
    0.32, 0.25, 0.22, 0.2, 0.22, 0.3, 0.45, 0.65, 0.85, 1.0, 1.08, 1.1, 1.12, 1.08, 1.02, 1.0, 1.05, 1.15,
    1.25, 1.2, 1.0, 0.8, 0.6, 0.45,
)  # fmt: skip
_BY_WEEKDAY = (1.0, 0.97, 0.98, 1.02, 1.1, 0.8, 0.66)
_GROWTH = 1.4  # so much more at the year's end than at its start, above 1
_RUN_UP_DAYS = 10  # so long before its end the year begins to be busier than usual
_SHARE_OF_LAST_DAY = (0.035, 0.2)  # at least, at most
_WANTED_IN_LAST_DAY = 3_500


@attrs.frozen
class Burst:
    """Jobs that are stored and claimed together: how many, when, and within which span they were made."""

    at: int
    spread: int
    first: int  # place of its first job among all
    count: int


class Rhythm:
    """Spreads jobs over the year that ends now."""

    def __init__(self, now: int, jobs: int) -> None:
        self.now = now
        self.jobs = jobs
        self._start = now - DAYS * DAY - _LAST_GAP
        weights = [self._weight(hour) for hour in range(DAYS * 24)]
        low, high = _SHARE_OF_LAST_DAY
        share = min(high, max(low, _WANTED_IN_LAST_DAY / jobs))
        factor = max(1.0, share * sum(weights[:-24]) / ((1 - share) * sum(weights[-24:])))
        weights = [weight * factor ** _run_up(DAYS - hour // 24) for hour, weight in enumerate(weights)]
        self._edges = [0.0, *accumulate(weights)]

    def _weight(self, hour: int) -> float:
        at = from_micros(self._start + hour * HOUR)
        growth = 1 + _GROWTH * hour / (DAYS * 24)
        wobble = 1 + 0.12 * ((hour * 7_919) % 97 / 97 - 0.5)
        return _BY_HOUR[at.hour] * _BY_WEEKDAY[at.weekday()] * growth * wobble

    def instant(self, place: float) -> int:
        """Return when the job of this place among all comes."""
        wanted = place / self.jobs * self._edges[-1]
        hour = min(len(self._edges) - 2, bisect_right(self._edges, wanted) - 1)
        low, high = self._edges[hour], self._edges[hour + 1]
        inside = (wanted - low) / (high - low)
        return self._start + int((hour + inside) * HOUR)

    def place(self, instant: int) -> int:
        """Return how many jobs come before the instant."""
        hours = (instant - self._start) / HOUR
        hour = int(hours)
        low, high = self._edges[hour], self._edges[hour + 1]
        return int((low + (high - low) * (hours - hour)) / self._edges[-1] * self.jobs)

    def bursts(self, random: Random, size: int) -> Iterator[Burst]:
        """Yield the bursts in order of time, smaller ones in the last day."""
        first, former = 0, self._start
        while first < self.jobs:
            is_recent = self.now - former < DAY
            usual = max(1, size // 2) if is_recent else size
            count = min(self.jobs - first, max(1, int(usual * (0.4 + 1.2 * random.random()))))
            at = max(former + 1, self.instant(first + count))
            yield Burst(at, min(at - former, _SPREAD), first, count)
            first, former = first + count, at


def _run_up(days_left: int) -> float:
    """Return 1 for the last day, 0 for those before the run-up, and what lies between them."""
    return max(0.0, 1 - (days_left - 1) / _RUN_UP_DAYS)
