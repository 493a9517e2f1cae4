"""Instants as integers, and a client's idea of the storage's time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.clock import SECOND, StorageClock, from_micros, micros, span_micros
from firelock.errors import ScheduleError, StorageUnavailable

offsets = st.integers(min_value=-1_439, max_value=1_439).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
aware = st.datetimes(
    min_value=datetime(1900, 1, 1), max_value=datetime(9000, 1, 1), timezones=offsets  # noqa: DTZ001
)  # fmt: skip


# ---- instants --------------------------------------------------------------------------------------------


def test_micros_count_from_1970():
    """The epoch is zero; an instant before it is negative."""
    assert 0 == micros(datetime(1970, 1, 1, tzinfo=UTC))
    assert -1 == micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    assert 1_764_028_800 * SECOND + 7 == micros(datetime(2025, 11, 25, 0, 0, 0, 7, tzinfo=UTC))


@given(instant=aware)
def test_an_instant_comes_back_exactly(instant):
    """Whatever its zone, an instant is the same after a journey through micros, and in UTC."""
    back = from_micros(micros(instant))

    assert instant == back
    assert UTC is back.tzinfo


@given(one=aware, other=aware)
def test_micros_are_ordered_as_their_instants(one, other):
    """Comparing micros is comparing instants, across zones."""
    assert (one < other, one == other) == (micros(one) < micros(other), micros(one) == micros(other))


def test_an_hour_that_happens_twice_has_two_instants():
    """Where clocks go back, the fold tells the two apart by an hour."""
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))

    assert 3_600 * SECOND == micros(first.replace(fold=1)) - micros(first)


def test_an_instant_without_a_zone_is_refused():
    """A naive datetime names no instant; the message shows it and the way out."""
    with pytest.raises(ScheduleError, match=r"2026-01-01T00:00:00 has no time zone\. Pass an aware datetime"):
        micros(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake


@given(span=st.timedeltas())
def test_a_span_is_exact(span):
    """A span is its whole number of micros."""
    assert span == timedelta(microseconds=span_micros(span))


# ---- the storage's time ----------------------------------------------------------------------------------


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
    """A machine's monotonic clock that the test moves."""

    def __init__(self):
        self.seconds = 5_000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def machine():
    """The machine that the client runs on."""
    return Machine()


@pytest.fixture
def store():
    """A storage whose clock stands at 77 s."""
    return Store(at=77 * SECOND)


@pytest.fixture
def watch(store, machine):
    """A client's clock that has not been read yet."""
    return StorageClock(store, monotonic=machine.monotonic)


def test_the_storage_is_asked_once_a_minute(watch, store, machine):
    """Between two readings time goes on by itself."""
    seen = []
    for seconds in (0, 59.5, 1):
        machine.seconds += seconds
        seen.append((watch.now(), store.readings))
        store.at = 80 * SECOND

    assert [(77 * SECOND, 1), (136_500_000, 1), (80 * SECOND, 2)] == seen


def test_an_offset_moves_the_clock_at_once(watch, store):
    """A test that moves the storage's time moves it by as much, without a reading."""
    seen = []
    for offset in (10, 3_600, 0):
        store.clock_offset = offset * SECOND
        seen.append(watch.now())

    assert ([87 * SECOND, 3_677 * SECOND, 77 * SECOND], 1) == (seen, store.readings)


def test_an_outage_does_not_stop_the_clock(watch, store, machine):
    """Once read, the clock goes on while the storage is away, and is read again when it is back."""
    watch.now()
    store.is_away = True
    machine.seconds += 100
    during = watch.now()
    store.is_away, store.at = False, 200 * SECOND
    machine.seconds += 1
    after = watch.now()

    assert (177 * SECOND, 200 * SECOND) == (during, after)


def test_an_outage_is_met_once_a_second(watch, store, machine):
    """Looks at the time within a second of a failed reading do not wait for the storage."""
    watch.now()
    store.is_away = True
    machine.seconds += 100

    for _ in range(3):
        watch.now()
        machine.seconds += 0.4

    assert 2 == store.readings


def test_a_clock_that_was_never_read_says_so(watch, store):
    """Without one reading there is no time to carry on."""
    store.is_away = True

    with pytest.raises(StorageUnavailable):
        watch.now()


def test_a_clock_is_fresh_for_a_minute(watch, machine):
    """Whoever must not wait can tell beforehand whether the next look is a round trip."""
    seen = [watch.is_fresh]
    watch.now()
    for _ in range(2):
        seen.append(watch.is_fresh)
        machine.seconds += 60.5

    assert [False, True, False] == seen
