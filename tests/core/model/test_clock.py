"""Timestamps as integers, and a client's copy of the storage's clock."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.errors import ScheduleError, StorageUnavailable
from firelock.model.clock import (
    SECOND,
    HostClocks,
    HostWatch,
    Jump,
    StorageClock,
    StorageWatch,
    elapsed_seconds,
    from_micros,
    micros,
    span_micros,
)
from tests.core.fakes import Host

offsets = st.integers(min_value=-1_439, max_value=1_439).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
aware = st.datetimes(
    min_value=datetime(1900, 1, 1), max_value=datetime(9000, 1, 1), timezones=offsets  # noqa: DTZ001
)  # fmt: skip


# ---- timestamps ------------------------------------------------------------------------------------------


def test_micros_count_from_1970():
    """The epoch is zero, and earlier times are negative."""
    assert 0 == micros(datetime(1970, 1, 1, tzinfo=UTC))
    assert -1 == micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    assert 1_764_028_800 * SECOND + 7 == micros(datetime(2025, 11, 25, 0, 0, 0, 7, tzinfo=UTC))


@given(instant=aware)
def test_time_is_restored_exactly_from_microseconds(instant):
    """A time in any zone that is converted and restored equals the original, but is in UTC."""
    back = from_micros(micros(instant))

    assert instant == back
    assert UTC is back.tzinfo


@given(one=aware, other=aware)
def test_microseconds_have_the_same_order_as_times(one, other):
    """This includes times in different zones."""
    assert (one < other, one == other) == (micros(one) < micros(other), micros(one) == micros(other))


def test_repeated_hour_has_two_different_times():
    """When clocks are set back, the two values of `fold` differ by an hour."""
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))

    assert 3_600 * SECOND == micros(first.replace(fold=1)) - micros(first)


def test_naive_datetime_raises():
    """Such a datetime is ambiguous. The message contains the value and the fix."""
    with pytest.raises(ScheduleError, match=r"2026-01-01T00:00:00 has no time zone\. Pass an aware datetime"):
        micros(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake


@given(span=st.timedeltas())
def test_duration_is_converted_exactly(span):
    """A duration is stored as a whole number of microseconds."""
    assert span == timedelta(microseconds=span_micros(span))


# ---- the storage's clock ---------------------------------------------------------------------------------


class Store:
    """A storage whose clock the test sets."""

    clock_offset = 0

    def __init__(self, at):
        self.at = at
        self.is_away = False
        self.readings = 0

    def clock(self):
        self.readings += 1
        if self.is_away:
            raise StorageUnavailable("away")
        return self.at + self.clock_offset


class Machine:
    """The monotonic clock of a machine, which the test sets forward."""

    def __init__(self):
        self.seconds = 5_000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def machine():
    """The machine of the client."""
    return Machine()


@pytest.fixture
def store():
    """A storage whose clock is at 77 s."""
    return Store(at=77 * SECOND)


@pytest.fixture
def watch(store, machine):
    """A client's clock, not read yet."""
    return StorageClock(store, monotonic=machine.monotonic)


def test_storage_clock_is_read_once_per_minute(watch, store, machine):
    """Between two readings, the client adds the time that has passed on its own clock."""
    seen = []
    for seconds in (0, 59.5, 1):
        machine.seconds += seconds
        seen.append((watch.now(), store.readings))
        store.at = 80 * SECOND

    assert [(77 * SECOND, 1), (136_500_000, 1), (80 * SECOND, 2)] == seen


def test_clock_offset_applies_without_a_new_reading(watch, store):
    """If a test changes the offset of the storage's clock, the client's clock changes by the same amount."""
    seen = []
    for offset in (10, 3_600, 0):
        store.clock_offset = offset * SECOND
        seen.append(watch.now())

    assert ([87 * SECOND, 3_677 * SECOND, 77 * SECOND], 1) == (seen, store.readings)


def test_clock_continues_during_an_outage(watch, store, machine):
    """One earlier reading is enough. The storage's clock is read again after the outage."""
    watch.now()
    store.is_away = True
    machine.seconds += 100
    during = watch.now()
    store.is_away, store.at = False, 200 * SECOND
    machine.seconds += 1
    after = watch.now()

    assert (177 * SECOND, 200 * SECOND) == (during, after)


def test_failed_reading_is_repeated_once_per_second(watch, store, machine):
    """For a second after a failed reading, the client does not call the storage again."""
    watch.now()
    store.is_away = True
    machine.seconds += 100

    for _ in range(3):
        watch.now()
        machine.seconds += 0.4

    assert 2 == store.readings


def test_clock_raises_if_it_was_never_read(watch, store):
    """Without an earlier reading, the client cannot compute the time."""
    store.is_away = True

    with pytest.raises(StorageUnavailable):
        watch.now()


def test_clock_is_fresh_for_a_minute(watch, machine):
    """A caller that must not block can check whether the next reading is a round trip."""
    seen = [watch.is_fresh]
    watch.now()
    for _ in range(2):
        seen.append(watch.is_fresh)
        machine.seconds += 60.5

    assert [False, True, False] == seen


# ---- clock jumps -----------------------------------------------------------------------------------------


class HostStore:
    """A storage whose clock is the wall clock of its host, as in SQLite."""

    def __init__(self, host):
        self.host = host
        self.readings = 0

    def clock(self):
        self.readings += 1
        return self.host.wall_nanos() // 1_000


@pytest.fixture
def host():
    """A host whose clocks the test sets."""
    return Host(stands_still=True)


@pytest.fixture
def local(host):
    """A storage that uses the wall clock of the host."""
    return HostStore(host)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere another clock counts suspensions")
def test_elapsed_time_includes_suspensions():
    """Linux has a clock that continues during a suspension. Elapsed time is read from this clock."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)

    now = elapsed_seconds()

    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_client_clock_includes_a_suspension(host, local):
    """After a resume, the client's clock agrees with the storage's clock without a reading."""
    watch = host.clock_of(local)
    before = watch.now()

    host.suspend(40)

    assert (before + 40 * SECOND, 1) == (watch.now(), local.readings)


@pytest.mark.parametrize("seconds", [600, -600, 1.5])
def test_client_clock_is_read_again_if_the_wall_clock_is_set(host, local, seconds):
    """The storage might use the same wall clock, so its clock is read once more."""
    watch = host.clock_of(local)
    before = watch.now()

    host.set_clock(seconds)
    was_fresh = watch.is_fresh
    seen = [watch.now() - before, watch.now() - before]

    assert (False, [seconds * SECOND] * 2, 2) == (was_fresh, seen, local.readings)


def test_setting_the_wall_clock_does_not_change_a_database_clock(host, store):
    """The clock of the database server is read once more and has not changed."""
    watch = host.clock_of(store)
    watch.now()

    host.set_clock(600)

    assert (77 * SECOND, 2) == (watch.now(), store.readings)


@pytest.mark.parametrize(
    ("act", "expected", "words"),
    [
        (lambda host: host.set_clock(600), Jump(set_by=600), "had its clock set forward by 600.0 s"),
        (lambda host: host.set_clock(-1.5), Jump(set_by=-1.5), "had its clock set back by 1.5 s"),
        (
            lambda host: host.suspend(3_600),
            Jump(suspended=3_600),
            "was suspended for 3,600.0 s",
        ),
        (
            lambda host: (host.suspend(10), host.set_clock(-20)),
            Jump(set_by=-20, suspended=10),
            "was suspended for 10.0 s and had its clock set back by 20.0 s",
        ),
        (lambda host: host.go_on(10_000), Jump(), ""),
        (lambda host: host.set_clock(0.9), Jump(), ""),
        (lambda host: host.suspend(0.9), Jump(), ""),
    ],
    ids=["forward", "back", "suspended", "both", "time passes", "small step", "short suspension"],
)
def test_host_watch_detects_clock_changes_and_suspensions(act, expected, words):
    """A jump of more than a second is reported once, with a description. Passing time is not a jump."""
    host = Host(stands_still=True)
    watch = HostWatch(host.clocks)
    act(host)

    first, second = watch.check(), watch.check()

    assert (expected, words, Jump()) == (first, str(first), second)


def test_slow_drift_is_not_reported_as_a_jump(host, local):
    """NTP slews a clock by half a millisecond per second, which is nearly two seconds per hour."""
    watch, storage_watch = HostWatch(host.clocks), StorageWatch(host.clock_of(local))
    storage_watch.check()
    seen = []
    for _ in range(720):
        host.go_on(5)
        host.set_clock(0.0025)
        seen.append((watch.check(), storage_watch.check().jumped))

    assert {(Jump(), 0.0)} == set(seen)


def test_suspension_seems_to_be_a_clock_change_without_a_suspension_clock(host):
    """Without a clock that includes suspensions, only a forward jump of the wall clock can be detected."""
    clocks = HostClocks(host.clocks.wall, host.clocks.awake, host.clocks.awake)
    watch = HostWatch(clocks)

    host.suspend(60)

    assert Jump(set_by=60) == watch.check()


@pytest.mark.parametrize("stalled", range(5))
def test_pause_between_two_readings_is_not_a_jump(stalled):
    """For 10 s between two readings of the same check, another process uses the processor."""
    passed = 0.0
    pauses = iter([0.0] * 5 + [10.0 if place == stalled else 0.0 for place in range(5)] + [0.0] * 5)

    def read():
        nonlocal passed
        passed += next(pauses)
        return passed

    watch = HostWatch(HostClocks(read, read, read))

    assert [Jump(), Jump()] == [watch.check(), watch.check()]


@pytest.mark.parametrize("act", [Host.set_clock, Host.suspend])
@pytest.mark.parametrize("seconds", [600, 1.5])
def test_storage_watch_detects_a_jump_of_the_host(host, local, act, seconds):
    """The storage's clock is ahead by the same amount, and the message contains the cause."""
    watch = StorageWatch(host.clock_of(local))
    watch.check()
    host.go_on(5)
    act(host, seconds)

    first, second = watch.check(), watch.check()

    assert (seconds, 0) == (first.jumped, second.jumped)
    assert str(first).startswith("This machine ")
    assert "600.0 s" in str(first) or "1.5 s" in str(first)


def test_storage_watch_detects_a_change_of_a_database_clock(host, store):
    """The clock of the database server is read once per minute."""
    watch = StorageWatch(host.clock_of(store))
    watch.check()
    store.at += 61 * SECOND - 600 * SECOND
    host.go_on(61)

    check = watch.check()

    assert (-600, "The storage's clock was set back by 600.0 s") == (check.jumped, str(check))


def test_slow_reply_of_a_storage_is_not_a_jump(host):
    """The storage read its clock when the request arrived, and the reply took 5 s."""

    class Slow(Store):
        takes = 5

        def clock(self):
            at = super().clock()
            host.passed += self.takes
            self.at += self.takes * SECOND
            return at

    store = Slow(at=77 * SECOND)
    watch = StorageWatch(host.clock_of(store))
    watch.check()
    Slow.takes = 0
    host.passed += 61
    store.at += 61 * SECOND

    assert 0 == watch.check().jumped
