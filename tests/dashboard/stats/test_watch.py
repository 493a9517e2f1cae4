"""The watch: what is shown at once, what is read beside, and what is forgotten."""

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
    """How often failures were grouped."""
    return len(storage.called["failure_groups"])


def test_what_is_new_is_read_once_for_all(watch, storage, tick):
    """Two who ask within the time share one reading."""
    watch.failure_groups()
    tick.at += 9
    watch.failure_groups()

    assert 1 == grouped(storage)


def test_what_is_no_longer_new_is_read_beside(watch, storage, tick, our_threads):
    """Who asks gets the former value at once, and one thread reads it again."""
    first = watch.failure_groups()
    tick.at += 11

    assert watch.failure_groups() is first
    until(lambda: grouped(storage) == 2 and not our_threads("firelock-watch"))
    assert watch.failure_groups() is not first


def test_after_a_long_pause_nobody_is_shown_what_was(watch, storage, tick):
    """The first visitor of the morning waits for a reading of his own."""
    first = watch.failure_groups()
    tick.at += 61

    assert watch.failure_groups() is not first
    assert 2 == grouped(storage)


def test_what_cannot_be_read_beside_is_read_by_who_asks_next(watch, storage, tick, our_threads):
    """An error beside is nobody's; it is met by whoever asks for it next, as an error."""
    watch.failure_groups()
    tick.at += 11
    storage.fail_always("failure_groups", StorageUnavailable("no route"))
    watch.failure_groups()
    until(lambda: not our_threads("firelock-watch"))

    with pytest.raises(StorageUnavailable):
        watch.failure_groups()


def test_an_action_makes_everything_forgotten(watch, storage):
    """Whoever has just changed something sees it at once."""
    watch.failure_groups()
    watch.forget()
    watch.failure_groups()

    assert 2 == grouped(storage)


def test_quick_readings_are_repeated_when_something_moved(watch, storage):
    """A page that is open shows what has just changed."""
    watch.failure_groups()
    watch.expire()
    watch.failure_groups()

    assert 2 == grouped(storage)


def test_slow_readings_are_kept_when_something_moved(watch, storage, tick, monkeypatch):
    """On a busy storage something moves all the time: it is not read all the time."""
    read = storage.failure_groups

    def read_slowly(*args, **kwargs):
        tick.at += 1
        return read(*args, **kwargs)

    monkeypatch.setattr(storage, "failure_groups", read_slowly)
    watch.failure_groups()
    watch.expire()
    watch.failure_groups()

    assert 1 == grouped(storage)


def test_what_the_storage_finds_is_told_when_it_is_known(watch, storage, our_threads):
    """A diagnosis may take its time: nobody waits for it."""
    watch.sight()

    until(lambda: storage.called["diagnose"])
    until(lambda: not our_threads("firelock-watch"))


def test_a_diagnosis_is_made_once_for_ten_seconds(watch, tick):
    """It looks at thousands of jobs; whoever has its page open asks again and again."""
    first = watch.diagnosis()
    tick.at += 9

    assert watch.diagnosis() is first
    tick.at += 60
    assert watch.diagnosis() is not first
