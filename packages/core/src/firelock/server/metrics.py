"""Minute rollups of what ended here, added up in memory and written now and then."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable

from firelock.clock import SECOND
from firelock.storage import DURATION_BUCKETS, Rollup, Storage
from firelock.values import ClaimedJob

__all__ = ["Metrics"]

_MINUTE = 60 * SECOND
_BUCKETS = tuple(int(bound * SECOND) for bound in DURATION_BUCKETS)


class Metrics:
    """Counts, durations and histograms by minute, task, queue and outcome.

    Statistics, not truth: what a killed child had not written yet is missing in them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[int, str, str, str], list[int]] = {}

    def add(self, ends: Iterable[tuple[ClaimedJob, str, int, int]]) -> None:
        """Ended attempts are counted: each its job, outcome, instant and duration in micros."""
        with self._lock:
            sums_of = self._sums
            for job, outcome, at, duration in ends:
                key = (at // _MINUTE, job.task, job.queue, outcome)
                sums = sums_of.get(key)
                if sums is None:
                    sums = sums_of[key] = [0] * (len(_BUCKETS) + 3)
                sums[0] += 1
                sums[1] += duration
                sums[2 + bisect_left(_BUCKETS, duration)] += 1

    def flush(self, storage: Storage) -> None:
        """What was counted is in the storage; on its error it is counted still and the error passes."""
        with self._lock:
            sums, self._sums = self._sums, {}
        if not sums:
            return
        rollups = [
            Rollup(minute * _MINUTE, task, queue, outcome, count, duration, tuple(histogram))
            for (minute, task, queue, outcome), (count, duration, *histogram) in sums.items()
        ]
        try:
            storage.record_metrics(rollups)
        except BaseException:
            self._put_back(sums)
            raise

    def _put_back(self, sums: dict[tuple[int, str, str, str], list[int]]) -> None:
        with self._lock:
            for key, older in sums.items():
                newer = self._sums.get(key, [0] * len(older))
                self._sums[key] = [a + b for a, b in zip(older, newer, strict=True)]
