"""Reads that skip the beginning of an index while it is full of old row versions.

While a transaction holds a snapshot open on a PostgreSQL server, the server keeps the index entry of each row
version that has been replaced since the snapshot. In this situation, a read from the beginning of the index
of due jobs reads the entries of all jobs that were due before. A read of the jobs that a session holds reads
the entries of all jobs that the session ever held. Each entry costs 0.15 µs, so 200,000 jobs cost 30 ms.

Therefore, the duration of these reads is measured. After several slow reads, most of the following reads skip
the part that was read before, and only an occasional read is full. So slow full reads take up only a small
share of the time, regardless of the number of entries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

EARLIEST = -(1 << 62)
"""A time before the due time of every job."""

LONG_SECONDS = 0.010
_IN_A_ROW = 3  # number of slow reads in a row; the first read of dead entries marks them, so the next is fast
_REST = 20  # pause after a slow full read, as a multiple of its duration
_REST_OF_HELD = 100  # a longer pause, because no job waits for the results of a full read
LATE = 5_000_000  # microseconds; due jobs of transactions that are open longer need a full read


class FullReadSchedule:
    """The time of the next full read.

    Args:
        rest: the minimum time between a slow full read and the next full read, as a multiple of its duration.
        long_seconds: a read that takes longer is slow.
        clock: the monotonic clock.
    """

    def __init__(
        self, rest: float, long_seconds: float = LONG_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rest = rest
        self._long_seconds = long_seconds
        self.clock = clock
        self._next_full_at = clock()
        self._slow_reads = 0

    @property
    def is_due(self) -> bool:
        """Whether the next read is a full one."""
        return self.clock() >= self._next_full_at

    def record(self, seconds: float) -> None:
        """Record the duration of a full read."""
        if seconds <= self._long_seconds:
            self._slow_reads = 0
            return
        self._slow_reads += 1
        if self._slow_reads >= _IN_A_ROW:
            self._next_full_at = self.clock() + seconds * self._rest

    def read_fully_next(self) -> None:
        """Make the next read a full one, because other reads might miss something."""
        self._next_full_at = self.clock()


class HeldReadSchedule(FullReadSchedule):
    """The schedule of full reads of a session's jobs; other reads cover only jobs that the caller names."""

    def __init__(
        self, long_seconds: float = LONG_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(_REST_OF_HELD, long_seconds, clock)


class DueFloor:
    """The due time at which reads of due jobs start, because all jobs due earlier have been enqueued.

    `promote` advances it. A job that is stored later but has an earlier due time waits for the next full read
    by `promote`. Threads may share it: claims read `start`, and one thread calls `promote`.

    Args:
        long_seconds: see `FullReadSchedule`; infinite if the database keeps no old versions in its
            indexes.
        clock: the monotonic clock.
    """

    def __init__(self, long_seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._schedule = FullReadSchedule(_REST, long_seconds, clock)
        self.start = EARLIEST

    def begin(self) -> int:
        """Return the time from which this call of `promote` searches."""
        return EARLIEST if self._schedule.is_due else self.start

    def record(self, begin: int, seconds: float) -> None:
        """Record the duration of a read from a start time."""
        if begin == EARLIEST:
            self._schedule.record(seconds)

    def passed(self, begin: int, instant: int) -> None:
        """Record that all jobs due from `begin` to this time have been enqueued."""
        is_full = begin == EARLIEST and self._schedule.is_due
        self.start = EARLIEST if is_full else instant - LATE
