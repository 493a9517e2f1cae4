"""Across modules: jobs that end in a transaction of their task, under concurrent changes and errors."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from firelock import Firelock, JobContext, Retry, Settings, Snooze
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import SECOND
from firelock.model.state import State
from firelock.storage import Applied, Feature
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import FailingStorage, plugin, until

LONG_WAITS = Settings(poll=60, heartbeat=1, session_timeout=30, sweep=60)
DAYS = 86_400 * SECOND


class Transaction:
    """A caller's transaction: it stores the ends when it commits."""

    def __init__(self):
        self.ends = []

    def commit(self):
        """Store all ends."""
        for end in self.ends:
            end()


class JoiningStorage(FailingStorage):
    """A storage that takes part in such transactions.

    It reconciles only while the test allows it.
    """

    features = MemoryStorage.features | {Feature.TRANSACTIONAL_ENQUEUE}

    def __init__(self):
        super().__init__()
        self.compares = threading.Event()
        self.compares.set()

    def apply(self, transitions, *, within=None):
        """Store the end when the transaction commits."""
        if within is None:
            return super().apply(transitions)
        within.ends.append(lambda: MemoryStorage.apply(self, transitions))
        return [Applied.APPLIED]

    def reconcile(self, session, held):
        """Wait until the test allows the reconciliation."""
        assert self.compares.wait(30)
        return super().reconcile(session, held)


class Bench:
    """An app whose task commits the end of its job, waits for the test, and then calls `then`."""

    def __init__(self):
        def jobs_settled(settled):
            self.settled += [(one.job.fence, one.transition.to, one.transition.result) for one in settled]

        def attempt_failed(error):
            self.failed.append(str(error))

        def work(job: JobContext) -> object:
            return self._work(job)

        self.storage, self.settled, self.failed = JoiningStorage(), [], []
        hooks = plugin(jobs_settled=jobs_settled, attempt_failed=attempt_failed)
        self.fire = Firelock(self.storage, plugins=[hooks], settings=LONG_WAITS)
        self.server = self.fire.server(workers=1, name="host:a")
        self.committed, self.opened = threading.Semaphore(0), threading.Event()
        self.reasons, self.then = [], lambda: "returned"
        self.work = self.fire.task(name="work", retry=Retry.fixed(60, attempts=3))(work)

    def _work(self, job):
        transaction = Transaction()
        job.complete_within(transaction, job.fence)
        transaction.commit()
        self.committed.release()
        while not self.opened.wait(0.005):
            if job.cancelled:
                self.reasons.append(job.cancel_reason)
            job.raise_if_cancelled()
        return self.then()

    def commit(self):
        """Return a job that has committed its end and is still running.

        Reconciliation is blocked from then on.
        """
        self.storage.compares.clear()
        job = self.work.enqueue()
        assert self.committed.acquire(timeout=30)
        return job

    def close(self):
        self.opened.set()
        self.storage.compares.set()
        self.storage.recover()
        self.server.stop(grace=10)
        self.fire.close()


@pytest.fixture
def bench():
    """A bench whose server runs."""
    with closing(Bench()) as bench:
        bench.server.start()
        yield bench


def test_requeue_after_the_commit_cancels_the_run(bench):
    """The requeued job runs again, so the first run no longer belongs to it.

    The outcome of the later run is counted.
    """
    job = bench.commit()

    bench.fire.queues.pause("default")
    job.requeue()
    bench.storage.compares.set()
    until(lambda: bench.reasons)
    bench.fire.queues.resume("default")
    assert bench.committed.acquire(timeout=30)
    bench.opened.set()
    until(lambda: job.refresh().state == "succeeded")
    bench.server.stop()

    assert ["deleted, or taken from this server"] == bench.reasons
    assert [(2, State.SUCCEEDED, "2")] == [one for one in bench.settled if one[1] is State.SUCCEEDED]


def test_delete_after_the_commit_does_not_affect_the_run(bench):
    """The job had succeeded before it was deleted, so it is counted as succeeded."""
    job = bench.commit()

    job.delete()
    bench.storage.compares.set()
    until(lambda: bench.settled)
    bench.opened.set()
    until(lambda: not bench.fire.jobs.find(state="processing").jobs)
    bench.server.stop()

    assert ([(1, State.SUCCEEDED, "1")], []) == (bench.settled, bench.reasons)


def test_job_removed_after_the_commit_counts_as_ended(bench):
    """Only jobs that have ended are removed, so the run continues and its outcome is counted."""
    job = bench.commit()

    bench.storage.clock_offset += 30 * DAYS
    bench.storage.prune(10)
    bench.storage.clock_offset -= 30 * DAYS
    assert [None] == bench.storage.get([job.id])
    bench.storage.compares.set()
    until(lambda: bench.settled)
    bench.opened.set()
    bench.server.stop()

    assert ([(1, State.SUCCEEDED, "1")], []) == (bench.settled, bench.reasons)


def test_job_removed_before_its_outcome_was_sent_counts_as_ended(bench):
    """The storage reports that the job does not exist, and the outcome is counted."""
    bench.commit()

    bench.storage.clock_offset += 30 * DAYS
    bench.storage.prune(10)
    bench.storage.clock_offset -= 30 * DAYS
    bench.opened.set()
    bench.storage.compares.set()
    bench.server.stop()

    assert [(1, State.SUCCEEDED, "1")] == bench.settled


def test_lookup_of_a_refused_outcome_is_retried_during_an_outage(bench):
    """An outage during the lookup does not lose the outcome, which is counted once."""
    bench.then = lambda: Snooze(60)
    bench.storage.fail("get", StorageUnavailable("away"), StorageUnavailable("still away"))
    bench.commit()

    bench.opened.set()
    bench.storage.compares.set()
    until(lambda: bench.settled)
    bench.server.stop()

    assert [(1, State.SUCCEEDED, "1")] == bench.settled


def test_refused_outcome_is_discarded_if_its_lookup_fails(bench, caplog):
    """A discarded outcome is logged. It delays neither other outcomes nor the stop of the server."""
    bench.then = lambda: Snooze(60)
    bench.storage.fail("get", StorageError("unreadable"))
    bench.opened.set()
    bench.work.enqueue()
    until(lambda: any("not counting them" in line for line in caplog.messages))

    bench.server.stop()

    assert [] == bench.settled


def test_error_after_the_commit_in_an_outage_is_counted_as_a_success(bench):
    """The worker has no record of the commit and reports a failed attempt.

    The state in the storage determines the count.
    """

    def fail():
        raise ValueError("the cache is away")

    bench.then = fail
    bench.storage.fail("get", StorageUnavailable("away"))
    bench.opened.set()
    job = bench.work.enqueue()

    until(lambda: bench.settled)
    bench.server.stop()

    assert (["the cache is away"], [(1, State.SUCCEEDED, "1")]) == (bench.failed, bench.settled)
    assert "succeeded" == job.refresh().state


def test_outcome_whose_reply_was_lost_is_counted_once(bench):
    """The outcome is sent again, and the storage recognizes the repetition."""
    bench.opened.set()
    bench.storage.fail("exchange", StorageUnavailable("lost"), is_late=True)
    bench.storage.fail("apply", StorageUnavailable("lost"), is_late=True)
    bench.work.enqueue()

    until(lambda: bench.settled)
    bench.server.stop()

    assert [(1, State.SUCCEEDED, "1")] == bench.settled


def test_return_right_after_the_commit_needs_no_lookup(bench):
    """The job is settled without a lookup or reconciliation."""
    bench.opened.set()
    bench.work.enqueue_many([()] * 20)

    until(lambda: len(bench.settled) == 20)

    assert [] == bench.storage.called["get"]
