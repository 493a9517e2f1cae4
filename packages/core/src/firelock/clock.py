"""Instants are integers: microseconds since 1970-01-01 UTC, exact, ordered and the same on every storage.

Users see aware datetimes; everything behind the client sees micros. `StorageClock` keeps a client's stamps
close to the storage's own time without a round trip for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from firelock.errors import ScheduleError

__all__ = ["SECOND", "StorageClock", "from_micros", "micros", "span_micros"]

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_SYNC_EVERY_SECONDS = 60.0


def micros(instant: datetime) -> int:
    """Return the instant as micros; exact.

    Raises:
        ScheduleError: the datetime has no time zone.
    """
    if instant.tzinfo is None:
        message = (
            f"{instant.isoformat()} has no time zone. Pass an aware datetime, such as datetime.now(UTC) + …"
        )
        raise ScheduleError(message)
    return (instant - _EPOCH) // _MICRO


def from_micros(instant: int) -> datetime:
    """Return micros as an aware datetime in UTC; exact."""
    return _EPOCH + timedelta(microseconds=instant)


def span_micros(span: timedelta) -> int:
    """Return a span as whole micros; exact."""
    return span // _MICRO


class HasClock(Protocol):
    """What a `StorageClock` needs of a storage."""

    clock_offset: int

    def clock(self) -> int:
        """Return the storage's own time in micros."""
        ...


class StorageClock:
    """The storage's time, read once a minute at most; between readings the monotonic clock carries it on."""

    def __init__(self, storage: HasClock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._monotonic = monotonic
        self._base = 0
        self._read_at = float("-inf")
        self._offset = 0

    def now(self) -> int:
        """Return the storage's present time in micros; one round trip a minute, none otherwise."""
        elapsed = self._monotonic() - self._read_at
        if elapsed > _SYNC_EVERY_SECONDS:
            self._base = self._storage.clock()
            self._offset = self._storage.clock_offset
            self._read_at = self._monotonic()
            elapsed = 0.0
        return self._base + int(elapsed * SECOND) + self._storage.clock_offset - self._offset
