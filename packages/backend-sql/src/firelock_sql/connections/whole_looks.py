"""Reads that skip the beginning of an index while it is full of old row versions.

While a transaction holds a snapshot open on a PostgreSQL server, the server keeps the index entry of each row
version that was replaced since. A read from the beginning of the index of due jobs then steps over the
entries of all jobs that were due before. A read of the jobs that a session holds steps over the entries of
all jobs that it ever held. This costs 0.15 µs per entry, or 30 ms after 200,000 jobs.

So these reads are timed. After several slow ones, most of the next reads skip the part that was read before,
and only an occasional one is a full read. The slow full reads then take only a small share of the time,
however many entries there are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

EARLIEST = -(1 << 62)
"""A time before the due time of every job."""

LONG_SECONDS = 0.010
_IN_A_ROW = 3  # slow reads; the first one over dead entries marks them, so the next one is fast
_REST = 20  # multiples of the duration of a slow read
_REST_OF_HELD = 100  # longer, because nothing waits for what only a full read finds
LATE = 5_000_000  # microseconds that a transaction may stay open before its due jobs need a full read


class WholeLooks:
    """The time of the next full read.

    Args:
        rest: how long no full read follows a slow one, as a multiple of its duration.
        long_seconds: a read that takes longer is slow.
        clock: the monotonic clock.
    """

    def __init__(
        self, rest: float, long_seconds: float = LONG_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rest = rest
        self._long_seconds = long_seconds
        self.clock = clock
        self._whole_at = clock()
        self._long_looks = 0

    @property
    def is_time(self) -> bool:
        """Whether the next read is a full one."""
        return self.clock() >= self._whole_at

    def looked(self, seconds: float) -> None:
        """Record how long a full read took."""
        if seconds <= self._long_seconds:
            self._long_looks = 0
            return
        self._long_looks += 1
        if self._long_looks >= _IN_A_ROW:
            self._whole_at = self.clock() + seconds * self._rest

    def expect(self) -> None:
        """Make the next read a full one, because it may find something."""
        self._whole_at = self.clock()


class HeldLooks(WholeLooks):
    """Reads of all jobs that a session holds; the partial ones read only the jobs that the caller names."""

    def __init__(
        self, long_seconds: float = LONG_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(_REST_OF_HELD, long_seconds, clock)


class DueFloor:
    """The time from which reads search for due jobs, because all earlier ones have been enqueued.

    `promote` advances it. A job that is stored later but due before that time waits for the next full read of
    `promote`. Threads may share it: claims read `start`, and one thread calls `promote`.

    Args:
        long_seconds: see `WholeLooks`; infinite for a database that keeps no old versions in its indexes.
        clock: the monotonic clock.
    """

    def __init__(self, long_seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._looks = WholeLooks(_REST, long_seconds, clock)
        self.start = EARLIEST

    def begin(self) -> int:
        """Return the time from which this call of `promote` searches."""
        return EARLIEST if self._looks.is_time else self.start

    def looked(self, begin: int, seconds: float) -> None:
        """Record how long a read from a start time took."""
        if begin == EARLIEST:
            self._looks.looked(seconds)

    def passed(self, begin: int, instant: int) -> None:
        """Record that all jobs due from `begin` to this time have been enqueued."""
        is_whole = begin == EARLIEST and self._looks.is_time
        self.start = EARLIEST if is_whole else instant - LATE
