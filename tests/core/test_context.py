"""What a running job may ask about itself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from firelock import JobContext, current_job
from firelock.clock import micros
from firelock.context import Console, JobCancelled
from firelock.errors import ScheduleError
from firelock.memory import MemoryStorage
from firelock.values import ClaimedJob, NewJob, State

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def claimed(**fields):
    """A claimed job with these fields."""
    given = {
        "id": "a", "task": "mail.send", "arguments": "{}", "serializer": "json", "queue": "bulk",
        "priority": 7, "attempt": 3, "retries": 2, "crashes": 0, "fence": 9, "created_at": micros(NOON),
        "enqueued_at": 0, "claimed_at": 0, "tags": ("x",), "recurring_id": "nightly",
    }  # fmt: skip
    return ClaimedJob(**{**given, **fields})


def context(**fields):
    """The context of a claimed job."""
    return JobContext(claimed(**fields), Console(lambda: 0))


def test_a_job_knows_itself():
    """The context says what was stored of the job and which run this is."""
    job = context()

    assert ("a", "mail.send", 3, 2, 9, "bulk", 7, ("x",), "nightly") == (
        job.id, job.task, job.attempt, job.retries, job.fence, job.queue, job.priority, job.tags,
        job.recurring_id,
    )  # fmt: skip


def test_due_at_is_the_nominal_instant():
    """A job that was made for an instant is due then, whenever it runs; any other when it was created."""
    later = NOON.replace(hour=13)

    assert (later, NOON) == (context(nominal_at=micros(later)).due_at, context().due_at)


def test_a_cancelled_job_is_told_once():
    """The first reason stands; raise_if_cancelled raises it."""
    job = context()
    job.raise_if_cancelled()

    job.cancel("deleted")
    job.cancel("timed out")

    assert job.cancelled
    with pytest.raises(JobCancelled, match="deleted"):
        job.raise_if_cancelled()


def test_except_exception_lets_a_cancellation_pass():
    """A task that catches every Exception is still cancelled."""
    assert not issubclass(JobCancelled, Exception)


def test_what_a_job_says_goes_to_its_console():
    """Log lines carry the attempt; progress is the job's."""
    storage, console = MemoryStorage(), Console(lambda: 5)
    job = JobContext(claimed(id=storage.new_ids(1)[0]), console)
    storage.insert([NewJob(job.id, "mail.send", "{}", "json", "default", 0, State.ENQUEUED, 0)])

    job.log("half way", level="debug")
    job.progress(1, 2, "page one")
    console.flush(storage)

    assert [("half way", "debug", 3)] == [
        (one.text, one.level, one.attempt) for one in storage.read_log(job.id)
    ]
    assert [(1, 2, "page one")] == [
        (one.done, one.total, one.message) for one in [storage.get([job.id])[0].progress]
    ]


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
    """Attempt, retries, instant, queue and tags are as given."""
    job = JobContext.fake(
        id="x", attempt=2, retries=1, due_at=NOON, queue="bulk", tags=("t",), cancelled=True
    )

    assert ("x", 2, 1, NOON, "bulk", ("t",), True) == (
        job.id, job.attempt, job.retries, job.due_at, job.queue, job.tags, job.cancelled,
    )  # fmt: skip
    with pytest.raises(JobCancelled):
        job.raise_if_cancelled()


def test_a_fake_takes_no_naive_instant():
    """A naive datetime is refused here as everywhere."""
    with pytest.raises(ScheduleError, match="no time zone"):
        JobContext.fake(due_at=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake
