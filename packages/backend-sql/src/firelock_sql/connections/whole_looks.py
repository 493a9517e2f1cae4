"""Reads that leave out the beginning of an index while that is full of old versions of rows.

While a transaction holds a snapshot open on a PostgreSQL server, it keeps the index entry of each version of
a row that was changed since. A read from the beginning of the index of due jobs steps over the entries of
all jobs that were due before, and a read of what a session holds over those of all jobs that it held: 0.15 µs
each, 30 ms after 200,000 jobs. So these reads are timed. After several long ones, most of the next ones leave
out what was read before, and only now and then is one whole. A long read is then a small part of the time,
however many entries there are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

EARLIEST = -(1 << 62)
"""An instant before every job's."""

LONG_SECONDS = 0.010
_IN_A_ROW = 3  # long reads; the first along entries that nobody sees any more marks them, the next is short
_REST = 20  # times as long as a long read took
_REST_OF_HELD = 100  # nobody waits for what only a whole read finds
LATE = 5_000_000  # micros for which a transaction may be open, and its due jobs need no whole read


class WholeLooks:
    """When the next read may be a whole one.

    Args:
        rest: how many times as long as a long read took the next ones are not whole.
        long_seconds: a read that took longer was a long one.
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
        """Return whether the next read is whole."""
        return self.clock() >= self._whole_at

    def looked(self, seconds: float) -> None:
        """Note how long a whole read took."""
        if seconds <= self._long_seconds:
            self._long_looks = 0
            return
        self._long_looks += 1
        if self._long_looks >= _IN_A_ROW:
            self._whole_at = self.clock() + seconds * self._rest

    def expect(self) -> None:
        """Make the next read a whole one, since it may find something."""
        self._whole_at = self.clock()


class HeldLooks(WholeLooks):
    """Reads of all that a session holds; the others read only the jobs that the caller names."""

    def __init__(
        self, long_seconds: float = LONG_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(_REST_OF_HELD, long_seconds, clock)


class DueFloor:
    """The instant from which reads look for due jobs, since all earlier ones have been enqueued.

    `promote` moves it. A job that is stored later and due before it waits for the next whole read of
    `promote`. Threads may share it: claims read `start`, and one thread calls `promote`.

    Args:
        long_seconds: see `WholeLooks`; infinite for a database that keeps no old versions in its indexes.
        clock: the monotonic clock.
    """

    def __init__(self, long_seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._looks = WholeLooks(_REST, long_seconds, clock)
        self.start = EARLIEST

    def begin(self) -> int:
        """Return the instant from which this call of `promote` looks."""
        return EARLIEST if self._looks.is_time else self.start

    def looked(self, begin: int, seconds: float) -> None:
        """Note how long a read from an instant on took."""
        if begin == EARLIEST:
            self._looks.looked(seconds)

    def passed(self, begin: int, instant: int) -> None:
        """All jobs that were due from `begin` up to this instant have been enqueued."""
        is_whole = begin == EARLIEST and self._looks.is_time
        self.start = EARLIEST if is_whole else instant - LATE
