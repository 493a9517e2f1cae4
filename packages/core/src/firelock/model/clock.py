"""Times as integers, and the clocks of the host and the storage.

A time is the number of microseconds since 1970-01-01 UTC. Such times are exact, ordered and the same on every
storage. Users see aware datetimes; all code below the client uses microseconds (`micros`). `StorageClock`
keeps a client's timestamps close to the storage's own time without a round trip for each timestamp.

A host has three clocks. The wall clock can be set by people and programs. `elapsed_seconds` never goes back,
and includes the time during which the machine was suspended. CLOCK_MONOTONIC never goes back, but it stops
during a suspension. If two of them advance by different amounts, the wall clock was set or the machine was
suspended. `HostWatch` detects this, and `StorageWatch` detects its effect on the storage's clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import attrs

from firelock.errors import ScheduleError, StorageUnavailable

if TYPE_CHECKING:
    from firelock.storage import Storage

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_SYNC_EVERY_SECONDS = 60.0
_ASK_AGAIN_SECONDS = 1.0
# The largest difference between clocks that is not a jump; adjustments by NTP slewing are far smaller.
_JUMP_SECONDS = 1.0


def micros(instant: datetime) -> int:
    """Return a time as exact microseconds.

    Raises:
        ScheduleError: The datetime has no time zone.
    """
    if instant.tzinfo is None:
        raise ScheduleError(
            f"{instant.isoformat()} has no time zone. Pass an aware datetime, such as datetime.now(UTC) + …"
        )
    return (instant - _EPOCH) // _MICRO


def from_micros(instant: int) -> datetime:
    """Return a time in microseconds as an exact, aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=instant)


def span_micros(span: timedelta) -> int:
    """Return a duration as whole microseconds."""
    return span // _MICRO


# ---- the clocks of this host -----------------------------------------------------------------------------


def _clock_of_elapsed_time() -> int | None:
    """Return the id of the clock that also advances during a suspension; None if no such clock exists."""
    if sys.platform == "darwin":
        # clock_gettime(3) of macOS: CLOCK_MONOTONIC "will continue to increment while the system is asleep".
        # time.monotonic() is mach_absolute_time() there, which does not.
        return getattr(time, "CLOCK_MONOTONIC", None)
    # clock_gettime(2) of Linux: "identical to CLOCK_MONOTONIC, except that it also includes any time that the
    # system is suspended". OpenBSD and newer releases of FreeBSD have it too.
    return getattr(time, "CLOCK_BOOTTIME", None)


_ELAPSED = _clock_of_elapsed_time()
# This function returns the seconds of a clock that never goes back, includes suspensions, and is the same for
# all processes of this host. On a host without such a clock, CLOCK_MONOTONIC is used, and a suspension looks
# like a wall clock that was set forward.
elapsed_seconds: Callable[[], float] = (
    time.monotonic if _ELAPSED is None else partial(time.clock_gettime, _ELAPSED)
)


@attrs.frozen
class HostClocks:
    """The clocks of this host, in seconds; tests can replace them."""

    wall: Callable[[], float] = time.time
    elapsed: Callable[[], float] = elapsed_seconds
    awake: Callable[[], float] = time.monotonic  # a clock that stops while the machine is suspended


HOST_CLOCKS = HostClocks()


def _clocks_of(monotonic: Callable[[], float]) -> HostClocks:
    return HOST_CLOCKS if monotonic is elapsed_seconds else HostClocks(monotonic, monotonic, monotonic)


@attrs.frozen
class Jump:
    """The changes of this host's clocks between two checks, in seconds; 0 if there was no change."""

    set_by: float = 0.0  # the change of the wall clock, positive (forward) or negative (back)
    suspended: float = 0.0  # the duration of a suspension of the machine

    def __bool__(self) -> bool:
        """Return whether a clock was set or the machine was suspended."""
        return bool(self.set_by or self.suspended)

    def __str__(self) -> str:
        """Return a description of the changes, for example "was suspended for 5.0 s"."""
        words = []
        if self.suspended:
            words.append(f"was suspended for {self.suspended:,.1f} s")
        if self.set_by:
            direction = "forward" if self.set_by > 0 else "back"
            words.append(f"had its clock set {direction} by {abs(self.set_by):,.1f} s")
        return " and ".join(words)


@attrs.frozen
class _HostReading:
    """One reading of the host's clocks, in the order of the fields.

    Each clock is read between two readings of another clock. Another thread or process can use the processor
    between two readings. The extra readings measure this delay, so that it does not look like a jump.
    """

    awake_first: float
    elapsed_first: float
    wall: float
    elapsed_last: float
    awake_last: float


def _excess(moved: float, *, least: float, most: float) -> float:
    """Return how many seconds too far a clock moved (negative if not far enough); 0 without a jump."""
    excess = moved - most if moved > most else min(0.0, moved - least)
    return excess if abs(excess) > _JUMP_SECONDS else 0.0


@attrs.define(eq=False)
class HostWatch:
    """A detector of wall-clock changes and machine suspensions since the last check.

    Each check begins where the last check ended, so slow drift never adds up to a jump.
    """

    _clocks: HostClocks = HOST_CLOCKS
    _last: _HostReading = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._last = self._read()

    def check(self) -> Jump:
        """Return the changes since the last check; the result is false if there are none."""
        previous, now = self._last, self._read()
        self._last = now
        suspended = _excess(
            now.elapsed_first - previous.elapsed_first,
            least=now.awake_first - previous.awake_last,
            most=now.awake_last - previous.awake_first,
        )
        set_by = _excess(
            now.wall - previous.wall,
            least=now.elapsed_first - previous.elapsed_last,
            most=now.elapsed_last - previous.elapsed_first,
        )
        return Jump(set_by, max(0.0, suspended))

    def _read(self) -> _HostReading:
        clocks = self._clocks
        return _HostReading(clocks.awake(), clocks.elapsed(), clocks.wall(), clocks.elapsed(), clocks.awake())


# ---- the storage's clock ---------------------------------------------------------------------------------


@attrs.define(eq=False)
class StorageClock:
    """The storage's time, which is read about once a minute and advanced by this host's clock in between.

    The time is read again if the wall clock was set, because the storage might use the same clock. After the
    first reading, this time also advances during an outage of the storage, so that a run can end while the
    storage is unreachable.

    Args:
        storage: the storage whose time is read.
        monotonic: returns elapsed seconds, including those of a suspension.
        host: the host's other clocks. If a test passes only `monotonic`, that clock replaces all of them.
    """

    _storage: Storage
    _monotonic: Callable[[], float] = elapsed_seconds
    host: HostClocks = attrs.Factory(lambda self: _clocks_of(self._monotonic), takes_self=True)
    # The reading is always replaced as a whole. If a thread combined parts of two readings, its time would be
    # up to a minute ahead.
    _reading: _ClockReading | None = None
    _wall: Callable[[], float] = attrs.field(init=False)
    # This is set after an outage, so that not every call of `now` waits for the storage.
    _asks_again_at: float = float("-inf")

    def __attrs_post_init__(self) -> None:
        self._wall = self.host.wall

    @property
    def uncertainty(self) -> float:
        """The maximum number of seconds by which `now` is behind because the last reading took time."""
        return 0.0 if self._reading is None else self._reading.took

    @property
    def is_fresh(self) -> bool:
        """Whether `now` returns without a round trip."""
        reading, elapsed = self._reading, self._monotonic()
        return (
            reading is not None
            and elapsed <= reading.until
            and reading.wall_least <= self._wall() - elapsed <= reading.wall_most
        )

    def now(self) -> int:
        """Return the storage's current time in microseconds, at the cost of about one round trip per minute.

        Raises:
            StorageUnavailable: The time was never read and cannot be read now.
        """
        reading, elapsed = self._reading, self._monotonic()
        if reading is None or not (
            (elapsed <= reading.until and reading.wall_least <= self._wall() - elapsed <= reading.wall_most)
            or elapsed < self._asks_again_at
        ):
            reading = self._read(reading)
            elapsed = self._monotonic()
        return reading.base + int((elapsed - reading.at) * SECOND) + self._offset()

    def _offset(self) -> int:
        """Return the current offset that a test has added to the storage's clock; it applies immediately."""
        return getattr(self._storage, "clock_offset", 0)

    def _read(self, previous: _ClockReading | None) -> _ClockReading:
        began, wall = self._monotonic(), self._wall()
        try:
            base = self._storage.clock()
        except StorageUnavailable:
            if previous is None:
                raise
            self._asks_again_at = self._monotonic() + _ASK_AGAIN_SECONDS
            return previous
        at, ahead = self._monotonic(), wall - began
        self._reading = reading = _ClockReading(
            at, base - self._offset(), at - began, at + _SYNC_EVERY_SECONDS, ahead - _JUMP_SECONDS,
            ahead + _JUMP_SECONDS,
        )  # fmt: skip
        return reading


@attrs.frozen
class _ClockReading:
    """A reading of the storage's clock, and the time until which it can be used."""

    at: float  # elapsed seconds
    base: int  # the storage's time, without the offset of a test
    took: float  # duration of the reading, in seconds
    until: float  # elapsed seconds
    wall_least: float  # seconds by which the wall clock is ahead of elapsed seconds, until that clock is set
    wall_most: float


@attrs.frozen
class StorageClockCheck:
    """The state of the storage's clock at one check."""

    now: int  # micros
    jumped: float  # seconds by which it moved more (or less) than CLOCK_MONOTONIC; 0 if at most a second
    cause: Jump  # the changes of this host's clocks
    awake_before: float
    awake_after: float
    uncertainty: float  # maximum number of seconds by which the clock is behind

    def __str__(self) -> str:
        """Return a description of the jump."""
        if self.cause:
            return f"This machine {self.cause}"
        direction = "forward" if self.jumped > 0 else "back"
        return f"The storage's clock was set {direction} by {abs(self.jumped):,.1f} s"


@attrs.define(eq=False)
class StorageWatch:
    """A comparison of the storage's clock with this host's CLOCK_MONOTONIC from one check to the next.

    The two differ if the storage's clock is set. For SQLite this is the host's wall clock, for other storages
    the clock of a server. They also differ if this machine is suspended, because the storage's clock
    continues.
    """

    _clock: StorageClock
    _host: HostWatch = attrs.field(init=False)
    _last: StorageClockCheck | None = None

    def __attrs_post_init__(self) -> None:
        self._host = HostWatch(self._clock.host)

    def check(self) -> StorageClockCheck:
        """Return the storage's time and its jump since the last check, usually without a round trip.

        Raises:
            StorageUnavailable: The storage's clock was never read and cannot be read now.
        """
        awake, last = self._clock.host.awake, self._last
        before = awake()
        now = self._clock.now()
        after, uncertainty, cause = awake(), self._clock.uncertainty, self._host.check()
        jumped = 0.0
        if last is not None:
            jumped = _excess(
                (now - last.now) / SECOND,
                least=before - last.awake_after - uncertainty,
                most=after - last.awake_before + last.uncertainty,
            )
        self._last = StorageClockCheck(now, jumped, cause, before, after, uncertainty)
        return self._last
