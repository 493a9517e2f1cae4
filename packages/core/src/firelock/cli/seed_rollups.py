"""The minute rollups of a seed: by the minute for the last day, coarser before, for 30 days."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

from firelock.cli.seed_rhythm import DAY, MINUTE
from firelock.clock import SECOND
from firelock.storage import DURATION_BUCKETS, Rollup, Storage
from firelock.values import ClaimedJob

__all__ = ["Rollups"]

_BUCKETS = tuple(int(bound * SECOND) for bound in DURATION_BUCKETS)
_KEPT = 30 * DAY
_AT_ONCE = 500
# What is older than this many days is added up in slots of so many minutes: fewer rows, the same sums.
_SLOTS = ((1, MINUTE), (2, 5 * MINUTE), (30, 30 * MINUTE))


class Rollups:
    """Counts what ended, as servers do."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._sums: dict[tuple[int, str, str, str], list[int]] = {}

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._sums)

    def add(self, job: ClaimedJob, outcome: str, at: int, duration: int) -> None:
        """An ended attempt is counted."""
        age = self._now - at
        if age >= _KEPT - DAY // 24:
            return
        slot = next(slot for days, slot in _SLOTS if age < days * DAY)
        key = (at - at % slot, job.task, job.queue, outcome)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0] * (len(_BUCKETS) + 3)
        sums[0] += 1
        sums[1] += duration
        sums[2 + bisect_left(_BUCKETS, duration)] += 1

    def write(self, storage: Storage) -> Iterator[int]:
        """The rows are stored; yield after each batch how many are."""
        rows = (
            Rollup(minute, task, queue, outcome, count, duration, tuple(histogram))
            for (minute, task, queue, outcome), (count, duration, *histogram) in sorted(self._sums.items())
        )
        done = 0
        while batch := list(islice(rows, _AT_ONCE)):
            storage.record_metrics(batch)
            done += len(batch)
            yield done
