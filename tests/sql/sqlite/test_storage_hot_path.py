"""The fast paths of the hot path: their results equal those of the slow paths, at a bounded cost."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import attrs
import pytest

from firelock.storage import Applied, ClaimRequest, State, bounded_history
from firelock.testing.conformance.scene import Running, deletes, requeues, snoozes, succeeds
from firelock_sql.rows.job_row import COMPACT_FROM


@pytest.fixture
def commits(path, scene):
    """A function that returns the number of transactions committed since its last call."""
    with closing(sqlite3.connect(path)) as watcher:

        def version():
            return watcher.execute("pragma data_version").fetchone()[0]

        seen = [version()]

        def count():
            before, seen[0] = seen[0], version()
            return seen[0] - before

        yield count


def stored_data(scene, job_id):
    """Return everything that the storage has about a job, without its id."""
    record = attrs.evolve(scene.record(job_id), id="", created_at=0, changed_at=0, enqueued_at=0)
    history = [attrs.evolve(entry, at=0) for entry in scene.history(job_id)]
    return attrs.evolve(record, claimed_at=0, started_at=0, ended_at=0), [
        attrs.evolve(entry, claimed_at=entry.claimed_at and 1, started_at=entry.started_at and 1)
        for entry in history
    ]


def test_plain_end_is_shown_like_any_other(scene):
    """A job that the claiming handle settled without a read equals a job that another handle settled."""
    holder = scene.begin()
    short, long = scene.run(holder), scene.run(holder)

    results = [scene.apply(succeeds(short)), *scene.handles.open().apply([succeeds(long)])]

    assert [Applied.APPLIED, Applied.APPLIED] == results
    assert stored_data(scene, short.id) == stored_data(scene, long.id)


def test_later_change_keeps_a_plain_end_in_the_history(scene):
    """An outcome that is stored only in columns becomes a history line when newer values replace it."""
    running = scene.run(scene.begin())
    scene.settle(succeeds(running))
    end = scene.last_entry(running.id)

    scene.settle(requeues(running.id))

    states = [entry.state for entry in scene.history(running.id)]
    assert [State.ENQUEUED, State.SUCCEEDED, State.ENQUEUED] == states
    assert end == scene.history(running.id)[1]


def test_late_end_does_not_settle_a_job_with_a_reused_number(scene):
    """After the first job was deleted, another job got the same number, session and fence."""
    holder = scene.begin()
    old = scene.run(holder)
    scene.settle(deletes(old.id, at=scene.stamp(), expires_at=1))
    scene.storage.prune(10)
    new = scene.run(holder)

    result = scene.apply(succeeds(old))

    assert old.job.fence == new.job.fence
    assert (Applied.MISSING, State.PROCESSING) == (result, scene.state(new.id))


def test_rewritten_history_equals_one_bounded_at_each_change(scene):
    """Lines that were rewritten to save space are read in the same way as lines that were never rewritten."""
    job_id, holder = scene.add(), scene.begin()
    expected = scene.history(job_id)

    for _ in range(COMPACT_FROM + 30):
        (job,) = scene.claim(holder)
        snoozed = snoozes(Running(job, holder))
        snoozed.to, snoozed.due_at = State.ENQUEUED, None
        scene.settle(snoozed)
        expected = bounded_history(expected, snoozed.entry())

    assert expected == scene.history(job_id)


@pytest.mark.parametrize("number", [1, 8, 63, 500])
def test_jobs_of_one_call_are_one_commit(scene, commits, number):
    """All jobs of a call are stored in one transaction, however many there are."""
    jobs = [scene.new_job() for _ in range(number)]
    commits()

    scene.storage.insert(jobs)

    assert 1 == commits()
    assert [job.id for job in jobs] == [job.id for job in scene.claim(scene.begin(), limit=number)]


def test_exchange_is_one_commit(scene, commits):
    """One transaction settles a hundred jobs and claims a hundred others."""
    holder = scene.begin()
    scene.add_many(200)
    ends = [succeeds(Running(job, holder)) for job in scene.claim(holder)]
    commits()

    answer = scene.storage.exchange(ends, ClaimRequest(None, 100, holder.session, scene.stamp()))

    assert 1 == commits()
    assert (100, 100) == (answer.results.count(Applied.APPLIED), len(answer.claim.jobs))


def test_claims_that_find_nothing_do_not_commit(scene, commits):
    """An idle server does not take a lock or write anything."""
    holder = scene.begin()
    scene.schedule(3_600)
    commits()

    scene.claim(holder)
    scene.storage.exchange([], ClaimRequest(None, 10, holder.session, scene.stamp()))
    scene.storage.promote(10)
    scene.storage.release(10)
    scene.storage.orphans(10)
    scene.storage.prune(10)
    scene.storage.reconcile(holder.session, [])

    assert 0 == commits()
