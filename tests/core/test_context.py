"""The data that a running job can read about itself."""

from __future__ import annotations

import asyncio
import math
import threading
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

import pytest

from firelock import Firelock, JobContext, Retry, current_job
from firelock.context import Console
from firelock.errors import ConfigurationError, JobCancelled, ScheduleError, StorageError, StorageUnavailable
from firelock.model.job import NewJob
from firelock.model.state import State
from tests.core.fakes import FailingStorage, Worker


def test_context_contains_the_values_of_the_claimed_job():
    seen = []

    def note(job: JobContext) -> None:
        seen.append(job)

    with Firelock("memory://") as fire:
        fire.task(name="note", queue="bulk", priority=7, tags=["x"])(note).using(
            meta={"tenant": "acme"}
        ).recur("nightly", "0 2 * * *")
        made = fire.recurring.trigger("nightly")
        Worker(fire).run()

    (job,) = seen
    assert (made.id, "note", 1, 0, 1, "bulk", 7, ("x",), "nightly", made.due_at) == (
        job.id, job.task, job.attempt, job.retries, job.fence, job.queue, job.priority, job.tags,
        job.recurring_id, job.due_at,
    )  # fmt: skip
    assert {"tenant": "acme"} == job.meta


def test_first_cancellation_of_a_job_is_kept():
    """`except Exception` does not catch the cancellation."""
    job = JobContext.fake()

    job.raise_if_cancelled()
    job.cancel("deleted")
    job.cancel("timed out")

    assert job.cancelled
    with pytest.raises(JobCancelled, match="deleted") as caught:
        job.raise_if_cancelled()
    assert not isinstance(caught.value, Exception)


def test_current_job_outside_of_a_job_raises_an_error():
    """The error states where `current_job()` works."""
    with pytest.raises(
        LookupError, match=r"No job is running in this context\. Use current_job\(\) inside a task"
    ):
        current_job()


# ---- fakes for the tests of tasks ------------------------------------------------------------------------


def test_fake_context_is_a_first_attempt_by_default():
    """A unit test of a task needs no server, because each field of a fake context has a default."""
    job = JobContext.fake()

    job.log("nobody hears this")
    job.progress(1, 2)

    assert (1, 0, "default", (), False) == (job.attempt, job.retries, job.queue, job.tags, job.cancelled)
    assert datetime(1970, 1, 1, tzinfo=UTC) == job.due_at


def test_every_field_of_a_fake_context_can_be_passed():
    given = {
        "id": "x", "attempt": 2, "retries": 1, "due_at": datetime(2026, 11, 24, 12, tzinfo=UTC),
        "queue": "bulk", "tags": ("t",), "meta": {"tenant": "acme"}, "cancelled": True,
    }  # fmt: skip

    job = JobContext.fake(**given)

    assert given == {name: getattr(job, name) for name in given}
    with pytest.raises(JobCancelled):
        job.raise_if_cancelled()


def test_fake_context_records_its_completions():
    """Any session is accepted and no job ends, so a test can detect that a task completes its job twice."""
    job = JobContext.fake()

    before = job.completions
    job.complete_within("default", "charged")
    asyncio.run(job.acomplete_within(object()))

    assert () == before
    assert ("charged", None) == job.completions


def test_cancelled_fake_context_cannot_be_completed():
    """As for a deleted job, an error is raised. A test can check how the task's transaction reacts."""
    job = JobContext.fake(cancelled=True)

    with pytest.raises(JobCancelled):
        job.complete_within("default")
    assert () == job.completions


def test_context_of_a_real_job_has_no_completions():
    """The result of a real job is in the storage."""
    with Firelock("memory://") as fire:
        job = fire.task(name="ask", retry=Retry.never())(lambda: len(current_job().completions)).enqueue()
        Worker(fire).run()

        assert (
            "completions is only available on a context from JobContext.fake()" in job.refresh().error.message
        )


def test_fake_context_refuses_a_naive_datetime_and_invalid_metadata():
    with pytest.raises(ScheduleError, match="no time zone"):
        JobContext.fake(due_at=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test
    with pytest.raises(ConfigurationError, match="Meta 'tenant' must be a string, such as '7', got 7"):
        JobContext.fake(meta={"tenant": 7})


@pytest.fixture
def console():
    """A console whose clock counts 1, 2, 3."""
    ticks = count(1)
    return Console(lambda: next(ticks))


@pytest.fixture
def storage():
    """A storage with one job, "a"."""
    storage = FailingStorage()
    storage.insert([NewJob("a", "mail.send", "{}", "json", "default", 0, State.ENQUEUED, 0)])
    yield storage
    storage.close()


def texts(storage, job_id="a"):
    """Return the lines of a job's log."""
    return [line.text for line in storage.read_log(job_id, limit=2_000)]


def test_only_the_newest_progress_is_written(console, storage):
    """A job that often reports progress causes only one write per flush."""
    for done in range(5):
        console.progress("a", done, 5, None)

    console.flush(storage)

    assert [4] == [one.progress.done for one in storage.get(["a"])]


def test_flush_without_new_lines_does_not_call_the_storage(console, storage):
    """Lines are written only once."""
    console.flush(storage)
    console.log("a", 1, "debug", "once")
    console.flush(storage)
    console.flush(storage)

    assert (1, ["once"]) == (len(storage.called["append_logs"]), texts(storage))


def test_unknown_log_level_is_refused(console):
    """The error names the level and the four valid ones."""
    with pytest.raises(ValueError, match="Log level 'fatal' is unknown; use one of debug, info"):
        console.log("a", 1, "fatal", "said")


@pytest.mark.parametrize(
    ("done", "total"),
    [("3", 10), (3, None), (math.nan, 10), (3, math.inf), (Decimal(3), 10), (True, 10), (10**400, 10)],
)
def test_progress_must_be_plain_numbers(console, storage, done, total):
    """A value that cannot be stored as a number raises an error in the job, where its author can see it."""
    with pytest.raises(ValueError, match="Progress must be two finite numbers, done and total, got "):
        console.progress("a", done, total, None)

    console.flush(storage)
    assert [None] == [one.progress for one in storage.get(["a"])]


def test_long_line_or_progress_message_is_truncated(console, storage):
    """Lines and progress messages are truncated to 4,096 characters, of which the last is an ellipsis."""
    console.log("a", 1, "info", "x" * 5_000)
    console.progress("a", 1, 2, "y" * 5_000)

    console.flush(storage)

    assert ["x" * 4_095 + "…"] == texts(storage)
    assert "y" * 4_095 + "…" == storage.get(["a"])[0].progress.message


def test_logged_object_is_converted_to_a_string(console, storage):
    """Characters that no storage accepts are escaped."""
    console.log("a", 1, "info", 42)
    console.log("a", 1, "info", "a\0b \ud800")

    console.flush(storage)

    assert ["42", "a\\0b \\ud800"] == texts(storage)


def test_job_that_logs_too_fast_keeps_its_newest_lines(console, storage):
    """If more than 1,000 lines wait, the oldest are dropped.

    The first remaining line contains their number.
    """
    for number in range(1_005):
        console.log("a", 1, "info", f"line {number}")

    console.flush(storage)

    written = texts(storage)
    assert (1_000, "(6 lines omitted: written too fast)", "line 6") == (len(written), *written[:2])
    assert "line 1004" == written[-1]


def test_lines_are_kept_while_the_storage_is_unreachable(console, storage):
    """After an outage, lines are written along with later ones.

    For progress, only the latest value is written.
    """
    storage.fail("append_logs", StorageUnavailable("down"))
    for text, done in (("first", 1), ("second", 2)):
        console.log("a", 1, "info", text)
        console.progress("a", done, 2, None)
        if done == 1:
            with pytest.raises(StorageUnavailable):
                console.flush(storage)
            assert [] == texts(storage)
    console.flush(storage)

    assert ["first", "second"] == texts(storage)
    assert [2] == [one.progress.done for one in storage.get(["a"])]


def test_refused_lines_are_dropped_with_a_warning(console, storage, caplog):
    """Settling a job must not wait for lines that the storage never accepts."""
    storage.fail("append_logs", StorageError("value too long"))
    console.log("a", 1, "info", "refused")

    console.flush(storage)
    console.log("a", 1, "info", "taken")
    console.flush(storage)

    assert ["taken"] == texts(storage)
    assert "The storage rejected log lines of 1 job; discarding these lines." in caplog.text


def test_lines_of_a_locked_job_are_sent_again(console, storage, monkeypatch):
    """Lines of a locked job are written before later ones, and only once.

    Lines of other jobs are written immediately.
    """
    monkeypatch.setattr("firelock.context._LOCKED_REST", 0.0)
    storage.insert([NewJob("b", "mail.send", "{}", "json", "default", 0, State.ENQUEUED, 0)])
    taken = storage.append_logs

    def with_a_locked(lines, progress):
        unlocked = {job_id: some for job_id, some in lines.items() if job_id != "a"}
        taken(unlocked, {})
        return ["a"]

    monkeypatch.setattr(storage, "append_logs", with_a_locked)
    for job_id in ("a", "b"):
        console.log(job_id, 1, "info", "first")
        console.progress(job_id, 1, 2, None)
    console.flush(storage)
    assert ([], ["first"]) == (texts(storage), [line.text for line in storage.read_log("b")])
    monkeypatch.undo()

    console.log("a", 1, "info", "second")
    console.flush(storage)
    console.flush(storage)

    assert ["first", "second"] == texts(storage)
    assert [1] == [one.progress.done for one in storage.get(["a"])]
    assert 1 == len(storage.read_log("b"))


def test_lines_of_a_locked_job_are_not_sent_with_every_flush(console, storage, monkeypatch):
    """Lines of other jobs are sent with every flush."""
    monkeypatch.setattr("firelock.context._LOCKED_REST", 1e9)
    sent = []
    monkeypatch.setattr(storage, "append_logs", lambda lines, progress: sent.append(set(lines)) or ["a"])
    console.log("a", 1, "info", "said")
    console.flush(storage)
    for job_id in ("a", "b"):
        console.log(job_id, 1, "info", "more")

    console.flush(storage)
    console.flush(storage)

    assert [{"a"}, {"b"}] == sent


def test_flush_waits_for_another_flush_until_a_timeout(console, storage, monkeypatch):
    """A flush that hangs in another thread must not delay the settling of jobs forever.

    The hanging flush keeps its lines.
    """
    monkeypatch.setattr("firelock.context._LONGEST_WAIT", 0.01)
    began, may_end = threading.Event(), threading.Event()

    def hang(lines, progress):
        began.set()
        assert may_end.wait(60)
        return ()

    monkeypatch.setattr(storage, "append_logs", hang)
    console.log("a", 1, "info", "said")
    thread = threading.Thread(target=console.flush, args=(storage,))
    thread.start()
    assert began.wait(60)

    console.flush(storage)

    assert thread.is_alive()
    may_end.set()
    thread.join(60)
