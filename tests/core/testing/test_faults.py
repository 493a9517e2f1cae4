"""`FaultyStorage`: another storage, until it is told to fail."""

from __future__ import annotations

import threading

import pytest

from firelock import ConfigurationError, StorageError, StorageUnavailable
from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.storage import Storage
from firelock.storage.memory import MemoryStorage
from firelock.testing import FaultyStorage


@pytest.fixture
def storage():
    return FaultyStorage.around(MemoryStorage())


def job(name="a"):
    return NewJob(name, "task", "{}", "json", "default", 0, State.ENQUEUED, 0)


def test_a_verb_fails_as_often_as_told(storage):
    """So many calls raise and do nothing; the next one works."""
    storage.fail_next("insert", times=2)

    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="insert was told to fail"):
            storage.insert([job()])

    assert [None] == storage.get(["a"])
    assert [True] == storage.insert([job()]).is_new


def test_a_verb_can_fail_after_its_effect(storage):
    """It is done, and the caller never learns of it: a lost reply."""
    storage.fail_next("insert", after_effect=True)

    with pytest.raises(StorageUnavailable):
        storage.insert([job()])

    assert "a" == storage.get(["a"])[0].id
    assert [False] == storage.insert([job()]).is_new


def test_faults_of_one_verb_come_in_turn(storage):
    """Each with the error that was chosen."""
    errors = [StorageError("first"), StorageError("second")]
    for error in errors:
        storage.fail_next("counts", error)

    for error in errors:
        with pytest.raises(StorageError) as caught:
            storage.counts()
        assert error is caught.value
    assert {} == storage.counts().by_state


def test_a_storage_that_is_away_does_nothing(storage):
    """Within the block every verb raises; after it the storage is what it was."""
    with storage.away():
        with pytest.raises(StorageUnavailable, match="is away"):
            storage.insert([job()])
        with pytest.raises(StorageUnavailable):
            storage.clock()

    assert 2 == storage.refusals
    assert [None] == storage.get(["a"])


@pytest.mark.parametrize("verb", ["enqueue", "_closing", "close", "interrupt", "new_ids"])
def test_what_is_no_verb_that_can_fail_is_refused(storage, verb):
    """A name with a slip would never fail anything."""
    with pytest.raises(ConfigurationError, match=f"'{verb}'.*claim, .*insert"):
        storage.fail_next(verb)


def test_every_verb_of_the_contract_is_passed_on():
    """Nothing is answered by the contract's own body, which would pass the storage by."""
    verbs = {name for name, value in vars(Storage).items() if callable(value) and not name.startswith("_")}

    assert verbs <= set(vars(FaultyStorage))


def test_it_has_the_clock_and_the_features_of_the_storage_inside(storage):
    """Tests move the time of both at once."""
    storage.clock_offset = 5_000_000

    assert storage.inside.clock_offset == storage.clock_offset == 5_000_000
    assert storage.inside.features == storage.features
    assert storage.inside.url == storage.url


def test_threads_share_the_faults(storage):
    """Of many calls at once exactly so many fail."""
    storage.fail_next("counts", times=7)
    failed = []

    def count():
        for _ in range(10):
            try:
                storage.counts()
            except StorageUnavailable:
                failed.append(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 7 == len(failed)
