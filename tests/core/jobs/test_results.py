"""Waiting for results: one thread polls for all waits, and each wait gets the result of its job."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from firelock.errors import StorageError
from firelock.jobs.results import Results
from firelock.model import lifecycle
from firelock.model.job import NewJob
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import ClaimRequest, NewSession
from tests.core.fakes import FailingStorage, until

HOLDER = ClaimHolder("session-a", "host:a")


@pytest.fixture
def storage():
    """A storage with a session that can run jobs."""
    storage = FailingStorage()
    storage.begin_session(NewSession("session-a", "server-a", "host:a", "host", 7, 0, 1e6))
    yield storage
    storage.close()


@pytest.fixture
def results(storage):
    """The waits for results on this storage, closed at the end."""
    results = Results(storage)
    yield results
    results.close()


def add(storage, job_id):
    """Store an enqueued job and return its id."""
    storage.insert([NewJob(job_id, "mail.send", "{}", "json", "default", 0, State.ENQUEUED, 0)])
    return job_id


def end(storage):
    """Let all enqueued jobs succeed."""
    for job in storage.claim(ClaimRequest(None, 2_000, "session-a", 0)).jobs:
        storage.apply(
            [
                lifecycle.succeeded(
                    job, HOLDER, at=1, started_at=1, result="1", result_absent=None, expires_at=None
                )
            ]
        )


def test_all_waits_share_one_poll(storage, results, our_threads):
    """Each poll is one storage call for all waits. It contains the id of a job only once."""
    for number in range(30):
        add(storage, f"job-{number}")

    futures = [results.wait_for(f"job-{number}") for number in range(30)]
    again = results.wait_for("job-0")
    until(lambda: any(len(ids) == 30 for (ids,) in storage.called["get"]))
    waiting = our_threads("firelock-results")
    end(storage)

    assert [f"job-{number}" for number in range(30)] == [future.result(10).record.id for future in futures]
    assert "job-0" == again.result(10).record.id
    assert 1 == len(waiting)


def test_storage_call_of_a_poll_has_at_most_500_ids(storage, results):
    """A poll for more waits needs several calls."""
    for number in range(1_100):
        add(storage, f"job-{number}")

    futures = [results.wait_for(f"job-{number}") for number in range(1_100)]
    end(storage)

    assert all(future.result(20).record.state is State.SUCCEEDED for future in futures)
    assert 500 >= max(len(ids) for (ids,) in storage.called["get"])


def test_polling_thread_ends_with_the_last_wait(storage, results, our_threads):
    """A later wait starts a new thread."""
    for name in ("a", "b"):
        future = results.wait_for(add(storage, name))
        end(storage)
        future.result(10)
        until(lambda: not our_threads("firelock-results"))

    assert [] == our_threads("firelock-results")


def test_abandoned_wait_is_not_polled(storage, results, our_threads):
    """After the last wait is abandoned, polling stops. Another wait for the same job continues."""
    add(storage, "a")
    one, other = results.wait_for("a"), results.wait_for("a")

    results.forget("a", one)
    results.forget("a", one)
    results.forget("never waited for", one)
    end(storage)
    ended = other.result(10).record
    until(lambda: not our_threads("firelock-results"))

    assert ("a", False) == (ended.id, one.done())


def test_cancelled_wait_does_not_affect_other_waits(storage, results):
    """The cancelled future stays cancelled."""
    add(storage, "a")
    one, other = results.wait_for("a"), results.wait_for("a")

    one.cancel()
    end(storage)

    assert "a" == other.result(10).record.id
    with pytest.raises(CancelledError):
        one.result(0)


def test_storage_error_is_raised_to_all_waits(storage, results):
    """This applies to errors that a retry cannot fix."""
    storage.fail("get", StorageError("broken"))

    future = results.wait_for(add(storage, "a"))

    with pytest.raises(StorageError, match="broken"):
        future.result(10)


def test_each_wait_has_a_separate_polling_interval(storage):
    """The interval grows to a quarter of a second. A new wait does not affect the others."""
    now = [1_000.0]
    polls = storage.called["get"]
    results = Results(storage, clock=lambda: now[0])

    def poll_after(seconds):
        """Advance the clock and return the ids of the jobs in the next poll."""
        now[0] += seconds
        seen = len(polls)
        until(lambda: len(polls) > seen)
        return polls[seen][0]

    results.wait_for(add(storage, "old"))
    alone = [poll_after(0.25) for _ in range(20)]
    now[0] += 0.01  # all old waits are polled together, at multiples of a quarter of a second
    results.wait_for(add(storage, "new"))
    together = [poll_after(seconds) for seconds in (0.005, 0.1, 0.1, 0.25)]
    results.close()

    assert alone == [["old"]] * 20
    assert [*map(sorted, together)] == [["new"], ["new"], ["new"], ["new", "old"]]


def test_close_skips_cancelled_waits(storage, results):
    """A cancelled future stays cancelled."""
    future = results.wait_for(add(storage, "a"))
    future.cancel()

    results.close()

    assert future.cancelled()
