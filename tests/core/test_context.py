"""What a running job may ask about itself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from firelock import Firelock, JobContext, current_job
from firelock.context import JobCancelled
from firelock.errors import ScheduleError
from tests.core.fakes import Worker


def test_a_job_knows_itself():
    """What a task may ask is what was claimed."""
    seen = []

    def note(job: JobContext) -> None:
        seen.append(job)

    with Firelock("memory://") as fire:
        fire.task(name="note", queue="bulk", priority=7, tags=["x"])(note).recur("nightly", "0 2 * * *")
        made = fire.recurring.trigger("nightly")
        Worker(fire).run()

    (job,) = seen
    assert (made.id, "note", 1, 0, 1, "bulk", 7, ("x",), "nightly", made.due_at) == (
        job.id, job.task, job.attempt, job.retries, job.fence, job.queue, job.priority, job.tags,
        job.recurring_id, job.due_at,
    )  # fmt: skip


def test_a_cancelled_job_is_told_once():
    """The first reason stays; `except Exception` lets it pass."""
    job = JobContext.fake()

    job.raise_if_cancelled()
    job.cancel("deleted")
    job.cancel("timed out")

    assert job.cancelled
    with pytest.raises(JobCancelled, match="deleted") as caught:
        job.raise_if_cancelled()
    assert not isinstance(caught.value, Exception)


def test_outside_of_a_job_there_is_none():
    """The message says where current_job() works."""
    with pytest.raises(LookupError, match=r"No job is running here; current_job\(\) works inside a task"):
        current_job()


# ---- fakes for the tests of tasks ------------------------------------------------------------------------


def test_a_fake_is_a_first_attempt():
    """A task's unit test needs no server: what it may ask has an answer."""
    job = JobContext.fake()

    job.log("nobody hears this")
    job.progress(1, 2)

    assert (1, 0, "default", (), False) == (job.attempt, job.retries, job.queue, job.tags, job.cancelled)
    assert datetime(1970, 1, 1, tzinfo=UTC) == job.due_at


def test_a_fake_is_what_its_test_needs():
    """Each field can be given."""
    given = {
        "id": "x", "attempt": 2, "retries": 1, "due_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "queue": "bulk", "tags": ("t",), "cancelled": True,
    }  # fmt: skip

    job = JobContext.fake(**given)

    assert given == {name: getattr(job, name) for name in given}
    with pytest.raises(JobCancelled):
        job.raise_if_cancelled()


def test_a_fake_takes_no_naive_instant():
    """A naive datetime is refused here as everywhere."""
    with pytest.raises(ScheduleError, match="no time zone"):
        JobContext.fake(due_at=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake
