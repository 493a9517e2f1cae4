"""The watch: readings that are shown immediately, repeated in a thread, or discarded."""

from __future__ import annotations

import pytest

from firelock import Firelock
from firelock.errors import StorageUnavailable
from firelock_dashboard import Dashboard
from firelock_dashboard.stats.watch import Watch
from tests.core.fakes import FailingStorage, until


@pytest.fixture
def storage():
    return FailingStorage()


@pytest.fixture
def watch(storage, tick):
    fire = Firelock(storage)
    dashboard = Dashboard(fire)
    yield Watch(fire, dashboard.history, monotonic=tick)
    dashboard.close()
    fire.close()


def grouped(storage):
    """Return how often failures were grouped."""
    return len(storage.called["failure_groups"])


def test_recent_reading_is_shared_by_requests(watch, storage, tick):
    """Two requests get the same reading if it has not reached its maximum age."""
    watch.failure_groups()
    tick.at += 9
    watch.failure_groups()

    assert 1 == grouped(storage)


def test_outdated_reading_is_returned_and_renewed_in_a_thread(watch, storage, tick, our_threads):
    """A request gets the previous reading immediately, while a thread reads the values again."""
    first = watch.failure_groups()
    tick.at += 11

    assert watch.failure_groups() is first
    until(lambda: grouped(storage) == 2 and not our_threads("firelock-watch"))
    assert watch.failure_groups() is not first


def test_first_request_after_a_long_pause_waits_for_a_reading(watch, storage, tick):
    """The first visitor after a long pause waits for a new reading."""
    first = watch.failure_groups()
    tick.at += 61

    assert watch.failure_groups() is not first
    assert 2 == grouped(storage)


def test_failed_background_reading_is_repeated_by_the_next_request(watch, storage, tick, our_threads):
    """The error in the thread is not shown.

    The next request reads the values itself and raises its own error.
    """
    watch.failure_groups()
    tick.at += 11
    storage.fail_always("failure_groups", StorageUnavailable("no route"))
    watch.failure_groups()
    until(lambda: not our_threads("firelock-watch"))

    with pytest.raises(StorageUnavailable):
        watch.failure_groups()


def test_action_discards_all_readings(watch, storage):
    """A visitor who has just changed something sees the change immediately."""
    watch.failure_groups()
    watch.invalidate()
    watch.failure_groups()

    assert 2 == grouped(storage)


def test_fast_readings_are_repeated_after_a_change(watch, storage):
    """An open page shows the latest change."""
    watch.failure_groups()
    watch.expire()
    watch.failure_groups()

    assert 2 == grouped(storage)


def test_slow_readings_are_kept_after_a_change(watch, storage, tick, monkeypatch):
    """On a busy storage, data changes all the time, but slow readings must not be repeated all the time."""
    read = storage.failure_groups

    def read_slowly(*args, **kwargs):
        tick.at += 1
        return read(*args, **kwargs)

    monkeypatch.setattr(storage, "failure_groups", read_slowly)
    watch.failure_groups()
    watch.expire()
    watch.failure_groups()

    assert 1 == grouped(storage)


def test_diagnosis_is_shown_when_it_is_ready(watch, storage, our_threads):
    """A diagnosis may be slow, so no request waits for it."""
    watch.readings()

    until(lambda: storage.called["diagnose"])
    until(lambda: not our_threads("firelock-watch"))


def test_diagnosis_is_shared_for_ten_seconds(watch, tick):
    """A diagnosis examines thousands of jobs, so repeated requests of an open page share it."""
    first = watch.diagnosis()
    tick.at += 9

    assert watch.diagnosis() is first
    tick.at += 60
    assert watch.diagnosis() is not first
