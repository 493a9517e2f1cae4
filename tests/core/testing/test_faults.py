"""`FaultyStorage`: a wrapper of another storage with programmable failures."""

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


def test_method_fails_the_requested_number_of_times(storage):
    """The requested number of calls raise an error and have no effect. The next call succeeds."""
    storage.fail_next("insert", times=2)

    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="insert fails, see fail_next"):
            storage.insert([job()])

    assert [None] == storage.get(["a"])
    assert [True] == storage.insert([job()]).is_new


def test_method_can_fail_after_its_effect(storage):
    """The change is stored, but the caller gets an error, as after a lost reply."""
    storage.fail_next("insert", after_effect=True)

    with pytest.raises(StorageUnavailable):
        storage.insert([job()])

    assert "a" == storage.get(["a"])[0].id
    assert [False] == storage.insert([job()]).is_new


def test_failures_of_a_method_are_raised_in_order(storage):
    """Each failure raises the error that was chosen for it."""
    errors = [StorageError("first"), StorageError("second")]
    for error in errors:
        storage.fail_next("counts", error)

    for error in errors:
        with pytest.raises(StorageError) as caught:
            storage.counts()
        assert error is caught.value
    assert {} == storage.counts().by_state


def test_unreachable_storage_does_nothing(storage):
    """Within the block, every method raises an error. After the block, the storage is unchanged."""
    with storage.away():
        with pytest.raises(StorageUnavailable, match="is unreachable within away"):
            storage.insert([job()])
        with pytest.raises(StorageUnavailable):
            storage.clock()

    assert 2 == storage.refusals
    assert [None] == storage.get(["a"])


@pytest.mark.parametrize("verb", ["enqueue", "_closing", "close", "interrupt", "new_ids"])
def test_unknown_method_name_is_refused(storage, verb):
    """A misspelled name would never cause a failure."""
    with pytest.raises(ConfigurationError, match=f"claim, .*insert.*, got '{verb}'"):
        storage.fail_next(verb)


def test_every_method_of_the_contract_is_delegated():
    """No method of the contract runs its default body, which would bypass the wrapped storage."""
    verbs = {name for name, value in vars(Storage).items() if callable(value) and not name.startswith("_")}

    assert verbs <= set(vars(FaultyStorage))


def test_wrapper_has_the_clock_and_features_of_the_storage(storage):
    """Tests move the clocks of both storages together."""
    storage.clock_offset = 5_000_000

    assert storage.inside.clock_offset == storage.clock_offset == 5_000_000
    assert storage.inside.features == storage.features
    assert storage.inside.url == storage.url


def test_failures_are_shared_by_threads(storage):
    """Exactly the requested number of concurrent calls fail, whichever threads make them."""
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
