"""Instants are integers: microseconds since 1970-01-01 UTC, exact, ordered and the same on every storage.

Users see aware datetimes; everything behind the client sees micros. `StorageClock` keeps a client's stamps
close to the storage's own time without a round trip for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import attrs

from firelock.errors import ScheduleError, StorageUnavailable

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_SYNC_EVERY_SECONDS = 60.0
_ASK_AGAIN_SECONDS = 1.0


def micros(instant: datetime) -> int:
    """Return the instant as micros; exact.

    Raises:
        ScheduleError: the datetime has no time zone.
    """
    if instant.tzinfo is None:
        raise ScheduleError(
            f"{instant.isoformat()} has no time zone. Pass an aware datetime, such as datetime.now(UTC) + …"
        )
    return (instant - _EPOCH) // _MICRO


def from_micros(instant: int) -> datetime:
    """Return micros as an aware datetime in UTC; exact."""
    return _EPOCH + timedelta(microseconds=instant)


def span_micros(span: timedelta) -> int:
    """Return a span as whole micros; exact."""
    return span // _MICRO


class HasClock(Protocol):
    """What a `StorageClock` needs of a storage."""

    def clock(self) -> int:
        """Return the storage's own time in micros."""


@attrs.define(eq=False)
class StorageClock:
    """The storage's time, read once a minute at most; between readings the monotonic clock carries it on.

    Once it was read it goes on through an outage, so that a run can end while the storage is away.
    """

    _storage: HasClock
    _monotonic: Callable[[], float] = time.monotonic
    # Replaced as a whole: a thread that met half of another's reading would be a minute ahead.
    _reading: tuple[float, int, int] | None = None  # when, the storage's time, its offset
    _asks_again_at: float = float("-inf")  # after an outage was met; nobody waits for each look at the time

    @property
    def is_fresh(self) -> bool:
        """Tell whether `now` answers without a round trip."""
        return self._reading is not None and self._monotonic() - self._reading[0] <= _SYNC_EVERY_SECONDS

    def now(self) -> int:
        """Return the storage's present time in micros; one round trip a minute, none otherwise.

        Raises:
            StorageUnavailable: it was never read and cannot be.
        """
        reading, machine = self._reading, self._monotonic()
        if reading is None or (machine - reading[0] > _SYNC_EVERY_SECONDS and machine >= self._asks_again_at):
            reading = self._read(reading)
            machine = self._monotonic()
        read_at, base, offset = reading
        elapsed = machine - read_at
        return base + int(elapsed * SECOND) + self._offset() - offset

    def _offset(self) -> int:
        """Return what a test has added to the storage's clock, so that it holds before the next reading."""
        return getattr(self._storage, "clock_offset", 0)

    def _read(self, former: tuple[float, int, int] | None) -> tuple[float, int, int]:
        try:
            base = self._storage.clock()
        except StorageUnavailable:
            if former is None:
                raise
            self._asks_again_at = self._monotonic() + _ASK_AGAIN_SECONDS
            return former
        self._reading = (self._monotonic(), base, self._offset())
        return self._reading
