"""Across modules: a value that a person wrote into a row affects at most the job of that row."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from firelock.storage import JobFilter, On, State
from firelock.testing.conformance.scene import BASE, requeues, reschedules, succeeds


def overwrite(path, job_id, column, garbage):
    """Set the column of a job's row to a value that no version of Firelock writes."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE firelock_jobs SET {column} = ? WHERE id = ?", (garbage, job_id))


def read_column(path, job_id, column):
    """Return the value in a column of a job's row."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {column} FROM firelock_jobs WHERE id = ?", (job_id,)).fetchone()[0]


@pytest.mark.parametrize(
    "column", ["attempt", "retries", "crashes", "fence", "created_at", "timeout_seconds"]
)
def test_row_with_unreadable_numbers_is_quarantined(scene, path, column):
    """The job fails with this reason, and other jobs are claimed."""
    before, bad, behind = scene.add_many(3)
    overwrite(path, bad, column, "soon")

    claimed = scene.claim(scene.begin())

    assert [before, behind] == [job.id for job in claimed]
    record = scene.record(bad)
    assert State.FAILED is record.state
    assert "the stored row cannot be read: a column contains an invalid value" == record.reason
    assert {State.PROCESSING: 2, State.FAILED: 1} == scene.storage.counts().by_state


def test_child_of_a_quarantined_job_is_released(scene, path):
    """A quarantined job releases its continuations like any other job that has failed."""
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
def test_unreadable_description_does_not_prevent_a_run(scene, path, column, garbage):
    """The job runs and is shown without the parts that cannot be read."""
    job_id = scene.add(tags=("one",))
    overwrite(path, job_id, column, garbage)

    (job,) = scene.claim(scene.begin())

    assert (job_id, {}) == (job.id, job.meta)
    assert {} == scene.record(job_id).meta
    assert [job_id] == [found.id for found in scene.storage.find(JobFilter(), limit=10).jobs]
    assert State.ENQUEUED is scene.history(job_id)[0].state


def test_new_fields_of_dependencies_and_steps_are_ignored(scene, path):
    """A newer release might store additional fields. The fields of this release are still read."""
    parent = scene.add(reason="first")
    child = scene.continuation(parent)
    before = scene.record(child).parents, scene.history(parent)
    overwrite(path, child, "parents", f'[["{parent}","succeeded",0,{{"new":1}}]]')
    overwrite(
        path, parent, "creation", read_column(path, parent, "creation").replace("]", ',7,8,9,10,0,5,"new"]')
    )

    assert before[0] == scene.record(child).parents
    (entry,) = scene.history(parent)
    assert (before[1][0].state, before[1][0].at, "first") == (entry.state, entry.at, entry.reason)


def test_new_fields_remain_in_a_shortened_history(scene, path):
    """The remaining lines are kept exactly as they were stored."""
    job_id = scene.schedule(60)
    scene.settle(reschedules(job_id, due_at=BASE))
    line = read_column(path, job_id, "history")
    newer = line.replace("]\n", ',null,null,null,null,0,null,{"new":1}]\n')
    overwrite(path, job_id, "history", newer)

    for _ in range(250):
        scene.settle(reschedules(job_id, due_at=BASE))

    lines = read_column(path, job_id, "history").splitlines(keepends=True)
    assert newer == lines[0]
    assert len(lines) < 250


def test_job_with_unreadable_tags_is_pruned(scene, path):
    """Retention also continues with the jobs after it."""
    job_id = scene.settle(succeeds(scene.run(scene.begin(), scene.add(tags=("one",))), expires_at=1))
    overwrite(path, job_id, "tags", "[not json")

    assert 1 == scene.storage.prune(10)


def test_unknown_state_is_shown_as_failed(scene, path):
    """The job is shown, and an operator can delete or requeue it."""
    job_id = scene.add()
    overwrite(path, job_id, "state", "banana")

    before = scene.state(job_id)
    scene.settle(requeues(job_id))

    assert (State.FAILED, State.ENQUEUED) == (before, scene.state(job_id))


def test_invalid_task_does_not_end_a_list(scene, path):
    """The list omits a job whose task name is invalid, and continues with the jobs of the next task."""
    job_ids = scene.add_many(2)
    overwrite(path, job_ids[0], "task", b"\xff")

    assert [job_ids[1]] == [found.id for found in scene.storage.find(JobFilter(), limit=10).jobs]
