"""What somebody wrote into a row by hand harms the job of that row, at most."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from firelock.storage import JobFilter, On, State
from firelock.testing.conformance.scene import requeues, succeeds


def overwrite(path, job_id, column, garbage):
    """The column of a job's row holds what no version of ours wrote."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE firelock_jobs SET {column} = ? WHERE id = ?", (garbage, job_id))


@pytest.mark.parametrize(
    "column", ["attempt", "retries", "crashes", "fence", "created_at", "timeout_seconds"]
)
def test_a_row_without_its_numbers_is_quarantined(scene, path, column):
    """A job whose numbers are none is failed with the reason; its neighbours are claimed."""
    before, bad, behind = scene.add_many(3)
    overwrite(path, bad, column, "soon")

    claimed = scene.claim(scene.begin())

    assert [before, behind] == [job.id for job in claimed]
    record = scene.record(bad)
    assert State.FAILED is record.state
    assert "the stored row cannot be read: a column holds what nobody wrote there" == record.reason
    assert {State.PROCESSING: 2, State.FAILED: 1} == scene.storage.counts().by_state


def test_a_child_of_a_quarantined_job_is_decided(scene, path):
    """The end of such a job is an end like any other."""
    bad = scene.add()
    child = scene.continuation(bad, on=On.FINISHED)
    overwrite(path, bad, "attempt", "first")

    scene.claim(scene.begin())
    scene.storage.release(10)

    assert State.ENQUEUED is scene.state(child)


@pytest.mark.parametrize(
    ("column", "garbage"),
    [
        ("tags", "[not json"), ("parents", "[[1]]"), ("history", "no line\n"), ("creation", "{"),
        ("tags", "7"),
        ("meta_json", "[1"), ("meta_json", 7), ("meta_json", b"\xff"), ("meta_json", '"acme"'),
    ],
)  # fmt: skip
def test_what_only_describes_a_job_keeps_it_from_nothing(scene, path, column, garbage):
    """A job runs and is shown, without what cannot be read of it."""
    job_id = scene.add(tags=("one",))
    overwrite(path, job_id, column, garbage)

    (job,) = scene.claim(scene.begin())

    assert (job_id, {}) == (job.id, job.meta)
    assert {} == scene.record(job_id).meta
    assert [job_id] == [found.id for found in scene.storage.find(JobFilter(), limit=10).jobs]
    assert State.ENQUEUED is scene.history(job_id)[0].state


def test_a_job_with_tags_nobody_can_read_is_pruned(scene, path):
    """Retention goes on behind it."""
    job_id = scene.settle(succeeds(scene.run(scene.begin(), scene.add(tags=("one",))), expires_at=1))
    overwrite(path, job_id, "tags", "[not json")

    assert 1 == scene.storage.prune(10)


def test_an_unknown_state_reads_as_failed(scene, path):
    """Such a job is shown, and an operator may delete it or have it run."""
    job_id = scene.add()
    overwrite(path, job_id, "state", "banana")

    before = scene.state(job_id)
    scene.settle(requeues(job_id))

    assert (State.FAILED, State.ENQUEUED) == (before, scene.state(job_id))


def test_a_task_that_is_no_text_ends_no_list(scene, path):
    """Lists of all jobs walk from task to task, and come to an end."""
    job_ids = scene.add_many(2)
    overwrite(path, job_ids[0], "task", b"\xff")

    assert [job_ids[1]] == [found.id for found in scene.storage.find(JobFilter(), limit=10).jobs]
