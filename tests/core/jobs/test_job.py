"""The handle of a job: its snapshot, and its methods, whose errors explain conflicts with the job's state."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from firelock import Firelock, Retry
from firelock.arguments.serializer import JsonSerializer
from firelock.errors import (
    JobConflict,
    JobDeleted,
    JobFailed,
    JobNotCommitted,
    JobNotFound,
    ResultTimeout,
    ResultUnavailable,
    StorageError,
    StorageUnavailable,
    UnknownTask,
)
from firelock.model.answers import Inserted
from firelock.model.state import State
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import FailingStorage, Worker, plugin

LATER = datetime(2090, 11, 24, 12, tzinfo=UTC)


class Fallible(FailingStorage):
    """A storage with transactions: jobs that are enqueued in a transaction are stored when it commits."""

    def insert(self, jobs, *, within=None):
        if within is None:
            return super().insert(jobs)
        within.extend(jobs)
        return Inserted([True] * len(jobs))


@pytest.fixture
def fire():
    """An app whose storage has transactions and programmable failures."""
    with Firelock(Fallible()) as fire:
        yield fire


@pytest.fixture
def worker(fire):
    """A worker that runs the app's jobs when the test calls it."""
    return Worker(fire)


def add(a: int, b: int = 0) -> int:
    return a + b


@pytest.fixture
def adding(fire):
    """A task that returns a number."""
    return fire.task(name="add", queue="sums", priority=5, tags=["a:{a}"])(add)


@pytest.fixture
def failing(fire):
    """A task that fails without a retry."""

    def fail():
        raise ValueError("no such sum")

    return fire.task(name="fail", retry=Retry.never())(fail)


# ---- the snapshot ----------------------------------------------------------------------------------------


def test_handle_shows_the_last_read_state(adding, worker):
    """The `refresh()` method reads the job again and returns the same handle."""
    job = adding.enqueue(1)

    worker.run()
    before, same = job.state, job.refresh()

    assert (State.ENQUEUED, State.SUCCEEDED) == (before, job.state)
    assert (1, 0, "host:a", None) == (job.attempt, job.retries, job.server, job.error)
    assert job.created_at <= job.started_at <= job.ended_at
    assert same is job


def test_handles_of_the_same_job_are_equal(adding, fire):
    """The comparison ignores the shown state. Equal handles have equal hashes."""
    job, other = adding.enqueue(1), adding.enqueue(2)

    assert job == job.refresh() == fire.jobs.get(job.id)
    assert {job} == {job, fire.jobs.get(job.id)}
    assert (True, True) == (job != other, job != job.id)
    assert f"<Job {job.id} add enqueued>" == repr(job)


def facts_of(job):
    """Return the values of all properties of the handle."""
    return {
        name: getattr(job, name)
        for name, value in vars(type(job)).items()
        if isinstance(value, property) and not name.startswith("_") and name != "output"
    }


def test_new_handle_shows_the_enqueued_job(adding):
    """Values that depend on a run or an error are empty."""
    job = adding.schedule(LATER, 1)

    shown = facts_of(job)

    assert {
        "task": "add", "state": State.SCHEDULED, "queue": "sums", "priority": 5, "tags": ("a:1",), "meta": {},
        "reason": None, "created_at": job.created_at, "due_at": LATER, "next_due_at": LATER, "error": None,
        "attempt": 0, "retries": 0, "server": None, "started_at": None, "ended_at": None, "limits": (),
        "unique_key": None, "start_before": None, "waits_for": None, "batch_id": None,
    } == shown  # fmt: skip
    assert UTC is job.created_at.tzinfo


def test_due_at_does_not_change_when_the_job_runs(adding, worker):
    """In contrast, `next_due_at` is the time for which the job currently waits."""
    later, now = adding.schedule(LATER, 1), adding.enqueue(1)
    waiting = (later.due_at, later.next_due_at, now.due_at, now.next_due_at)

    later.requeue()
    worker.run()
    ended = [(job.due_at, job.next_due_at) for job in (later.refresh(), now.refresh())]

    assert (LATER, LATER, now.created_at, None) == waiting
    assert [(LATER, None), (now.created_at, None)] == ended


def test_next_due_at_is_the_time_of_the_retry(fire, worker):
    """The retry does not change `due_at`."""

    def fail():
        raise ValueError

    job = fire.task(name="again", retry=Retry.fixed(60, jitter=0))(fail).enqueue()
    worker.run()
    job.refresh()

    assert job.created_at == job.due_at
    assert timedelta(seconds=60) == job.next_due_at - fire.jobs.get(job.id).history()[-1].at


@pytest.mark.parametrize(
    "make",
    [
        lambda adding: adding.enqueue_many([(1,), (2,)])[1],
        lambda adding: adding.schedule(LATER, 1).then(adding, 2),
        lambda adding: adding.enqueue(1).refresh(),
    ],
    ids=["of many", "continuation", "refreshed"],
)
def test_properties_do_not_read_the_storage(adding, fire, make):
    """Therefore, a coroutine can use the properties of a handle without blocking."""
    job = make(adding)
    fire.storage.fail_always("get", StorageUnavailable("gone"))

    shown = facts_of(job)

    assert ("add", 0, None) == (shown["task"], shown["attempt"], shown["error"])


def test_reading_a_result_refreshes_the_handle(adding, worker):
    """The caller does not need to read the state again. Other handles do not change."""
    job, awaited, other = adding.enqueue_many([(1,), (2,), (3,)])
    worker.run()

    assert (1, 2) == (job.result(), asyncio.run(awaited.aresult()))

    assert (State.SUCCEEDED, State.SUCCEEDED, State.ENQUEUED) == (job.state, awaited.state, other.state)
    assert 1 == job.attempt


def test_result_timeout_refreshes_the_handle(adding, worker):
    """The job is still running when the timeout ends."""
    job = adding.enqueue(1)
    worker.claim()

    with pytest.raises(ResultTimeout):
        job.result(timeout=0)

    assert (State.PROCESSING, "host:a") == (job.state, job.server)


def test_record_is_read_once_per_handle(adding, fire):
    """A new handle has not yet read the record, so the first call reads it."""
    job = adding.enqueue(1)
    fire.jobs.delete([job.id])

    read, seen = job.record(), asyncio.run(job.arecord())

    assert (State.DELETED, State.DELETED) == (read.state, job.state)
    assert seen is read


class Slow(MemoryStorage):
    """A storage that delays the reply to the thread named `slow` until the test releases it."""

    def __init__(self):
        super().__init__("")
        self.read, self.go = threading.Event(), threading.Event()

    def get(self, ids):
        records = super().get(ids)
        if threading.current_thread().name == "slow":
            self.read.set()
            assert self.go.wait(30)
        return records


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        (lambda job: job.delete(), State.DELETED),
        (lambda job: job.result(timeout=30), State.SUCCEEDED),
        (lambda job: job.refresh(), State.SUCCEEDED),
    ],
    ids=["delete", "result", "refresh"],
)
def test_late_reply_does_not_overwrite_newer_state_of_a_handle(verb, state):
    """If two reads are concurrent, the handle shows the result of the read that began last."""
    storage = Slow()
    with Firelock(storage) as fire:
        job = fire.task(name="add")(add).enqueue(1)
        slow = threading.Thread(target=job.refresh, name="slow")
        slow.start()
        assert storage.read.wait(30)
        if state is State.SUCCEEDED:
            Worker(fire).run()

        verb(job)
        seen = job.state
        storage.go.set()
        slow.join(30)

        assert (state, state) == (seen, job.state)


def test_job_has_history_attempts_log_and_progress(fire, worker):
    """All times in these values are aware datetimes."""

    def talk(job):
        job.log("half way", level="warning")
        job.progress(1, 2, "page one")
        raise ValueError("boom")

    talk.__annotations__["job"] = "JobContext"
    job = fire.task(name="talk", retry=Retry.never())(talk).enqueue()
    worker.run()

    assert [State.ENQUEUED, State.FAILED] == [entry.state for entry in job.history()]
    assert [(1, "ValueError", "boom")] == [
        (one.attempt, one.error.type, one.error.message) for one in job.errors()
    ]
    assert "ValueError: boom" in job.errors()[0].error.traceback
    assert [(1, "warning", "half way")] == [(line.number, line.level, line.text) for line in job.log()]
    assert [] == job.log(after=1)
    assert (1, 2, "page one") == (job.progress().done, job.progress().total, job.progress().message)
    assert {UTC} == {one.at.tzinfo for one in (*job.history(), *job.errors(), *job.log(), job.progress())}


def test_progress_is_none_if_the_job_has_not_reported_any(adding):
    """The value is None and not zero."""
    assert (None, [], []) == ((job := adding.enqueue(1)).progress(), job.log(), job.errors())


def test_pruned_job_is_not_found(adding, fire):
    """The handle keeps the values that it last read."""
    job = adding.enqueue(1)
    fire.storage.clear()

    for verb in (job.refresh, job.requeue, job.delete):
        with pytest.raises(JobNotFound, match=f"Job {job.id} is not stored: .*pruned"):
            verb()
    with pytest.raises(JobNotFound):
        job.then(adding, 1)
    assert State.ENQUEUED is job.state


# ---- results ---------------------------------------------------------------------------------------------


def test_result_waits_through_retries(fire, worker):
    """A failed attempt with a retry does not end the wait."""
    failures = [ValueError("first")]

    def flaky() -> str:
        if failures:
            raise failures.pop()
        return "done"

    job = fire.task(name="flaky", retry=Retry.fixed(0, jitter=0))(flaky).enqueue()
    worker.run()
    with pytest.raises(ResultTimeout):
        job.result(timeout=0)
    worker.run()

    assert "done" == job.result()


def test_result_of_a_failed_job_raises(failing, worker):
    """The message contains the error of the last attempt."""
    job = failing.enqueue()
    worker.run()

    with pytest.raises(JobFailed, match=rf"Job {job.id} \(fail\) failed: ValueError: no such sum"):
        job.result()
    with pytest.raises(JobFailed):
        asyncio.run(job.aresult())


def test_result_of_a_deleted_job_raises(adding, fire):
    """The message contains the reason for the deletion. This also works with timeout=0."""
    job = adding.enqueue(1)
    fire.jobs.delete([job.id])

    for result in (lambda: job.result(timeout=0), lambda: asyncio.run(job.aresult(timeout=0))):
        with pytest.raises(JobDeleted, match=rf"Job {job.id} \(add\) was deleted: deleted by code\."):
            result()


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_result_raises_after_its_timeout(adding, timeout):
    """The message contains the timeout. The caller can wait again afterwards."""
    job = adding.enqueue(1)

    for _ in range(2):
        with pytest.raises(ResultTimeout, match=rf"Job {job.id} \(add\) had not ended within {timeout} s"):
            job.result(timeout=timeout)
    with pytest.raises(ResultTimeout):
        asyncio.run(job.aresult(timeout=timeout))


def test_pruned_result_is_unavailable(adding, fire):
    """The result was removed with its job."""
    job = adding.enqueue(1)
    fire.storage.clear()

    with pytest.raises(ResultUnavailable, match=f"Job {job.id} is no longer stored"):
        job.result()


def test_result_of_an_unknown_task_cannot_be_read(adding, fire, worker):
    """The type of the result is unknown without the task."""
    job = adding.enqueue(1)
    worker.run()

    with (
        Firelock(fire.storage) as other,
        pytest.raises(
            UnknownTask, match=f"result of job {job.id} cannot be read: task 'add' is not registered here"
        ),
    ):
        other.jobs.get(job.id).result()


class Rot13(JsonSerializer):
    """A serializer from a plugin."""

    name = "rot13"

    def dumps(self, value):
        return super().dumps(value).translate(ROT13)

    def loads(self, text):
        return super().loads(text.translate(ROT13))


LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROT13 = str.maketrans(LETTERS, LETTERS[13:] + LETTERS[:13])


ROTATING = plugin(register_serializers=lambda: {"rot13": Rot13()})


def test_every_result_uses_the_serializer_of_its_job():
    """This includes None, because a serializer can read only values that it has written."""
    with Firelock("memory://", serializer="rot13", plugins=[ROTATING]) as fire:
        jobs = [
            fire.task(name="nothing")(lambda: None).enqueue(),
            fire.task(name="word")(lambda: "word").enqueue(),
        ]

        Worker(fire).run()

        assert ["ahyy", '"jbeq"'] == [job.record().result for job in map(type(jobs[0]).refresh, jobs)]
        assert [None, "word"] == [job.result() for job in jobs]


def test_result_with_a_missing_serializer_is_unavailable():
    """The message contains the name of the serializer."""
    storage = FailingStorage()
    writing = Firelock(storage, serializer="rot13", plugins=[ROTATING])
    job = writing.task(name="word")(lambda: "word").enqueue()
    Worker(writing).run()

    with Firelock(storage) as reading:
        reading.task(name="word")(lambda: "word")
        with pytest.raises(ResultUnavailable, match="serializer 'rot13', which is not installed here"):
            reading.jobs.get(job.id).result()


def test_outage_during_a_wait_raises_storage_error(adding, fire):
    """If the storage is unreachable when the timeout ends, a StorageError is raised instead of a timeout."""
    job = adding.enqueue(1)
    fire.storage.fail_always("get", StorageUnavailable("down"))

    with pytest.raises(StorageUnavailable):
        job.result(timeout=0.01)


def test_closing_the_app_ends_waits_for_results(adding, fire):
    """This includes waits in coroutines."""
    job = adding.enqueue(1)

    async def wait():
        waiting = asyncio.create_task(job.aresult())
        await asyncio.wait([waiting], timeout=0.02)
        await asyncio.to_thread(fire.close)
        await waiting

    with pytest.raises(StorageError, match="closed while a result was awaited"):
        asyncio.run(wait())


# ---- changes ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_state(adding, failing, worker):
    """Return a function that creates a job in a given state."""
    make = {
        State.AWAITING: lambda: adding.schedule(LATER, 1).then(adding, 2),
        State.SCHEDULED: lambda: adding.schedule(LATER, 1),
        State.FAILED: failing.enqueue,
        State.DELETED: lambda: adding.enqueue(1).delete(),
    }

    def made(state):
        job = make.get(state, lambda: adding.enqueue(1))()
        if state is State.PROCESSING:
            worker.claim()
        elif state in (State.SUCCEEDED, State.FAILED):
            worker.run()
        return job

    return made


@pytest.mark.parametrize(
    "state", [state for state in State if state not in (State.ENQUEUED, State.PROCESSING)]
)
def test_job_that_is_not_enqueued_or_running_can_be_requeued(in_state, state):
    """After the requeue, the handle shows the new state and the reason."""
    job = in_state(state)
    assert state is job.refresh().state

    again = job.requeue()

    assert (State.ENQUEUED, "requeued by code") == (job.state, job.reason)
    assert again is job


@pytest.mark.parametrize("state", [State.ENQUEUED, State.PROCESSING])
def test_requeue_of_an_enqueued_or_running_job_is_refused(in_state, state):
    """The message contains the state and the reason."""
    job = in_state(state)

    with pytest.raises(
        JobConflict, match=f"Job {job.id} is {state}; it cannot be requeued: it is already {state}"
    ):
        job.requeue()
    with pytest.raises(JobConflict):
        asyncio.run(job.arequeue())

    assert state is job.state


@pytest.mark.parametrize("state", [State.SCHEDULED, State.ENQUEUED, State.FAILED])
def test_restore_returns_a_deleted_job_to_its_earlier_state(in_state, state):
    """The job also has its earlier due time or error again."""
    job = in_state(state)
    before = job.refresh().record()
    job.delete()

    restored = job.restore()

    assert (state, "restored by code") == (restored.state, restored.reason)
    assert (before.due_at, before.error) == (restored.record().due_at, restored.record().error)
    assert (before.retries, before.attempt) == (restored.retries, restored.attempt)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (State.PROCESSING, "it was running when it was deleted"),
        (State.SUCCEEDED, "it had succeeded, and the delete removed its result"),
        (State.AWAITING, "it waited for another job, a signal or its batch, and the delete ended this wait"),
    ],
)
def test_restore_is_refused_if_the_delete_lost_data(in_state, state, why):
    """The message contains the earlier state, the lost data and `requeue()` as the alternative."""
    job = in_state(state)
    job.delete()

    with pytest.raises(JobConflict, match=rf"Job {job.id} cannot be restored: {why}.*requeue\(\)"):
        job.restore()
    with pytest.raises(JobConflict):
        asyncio.run(job.arestore())

    assert State.DELETED is job.refresh().state


def test_restore_of_a_parent_is_refused(adding):
    """The deletion of the parent has already determined whether its continuations run."""
    job = adding.enqueue(1)
    job.then(adding, 2)
    job.delete()

    with pytest.raises(
        JobConflict, match="continuations waited for it, and its delete decided whether they run"
    ):
        job.restore()


@pytest.mark.parametrize("state", [state for state in State if state is not State.DELETED])
def test_restore_of_a_job_that_is_not_deleted_is_refused(in_state, state):
    """The message contains the current state."""
    job = in_state(state)

    with pytest.raises(JobConflict, match=f"it is {state}, not deleted"):
        job.restore()


def test_restore_is_refused_if_the_job_has_changed(adding, fire, worker):
    """During the restore, the job is requeued, runs and is deleted again.

    The first deletion can therefore no longer be undone.
    """
    job = adding.enqueue(1)
    job.delete()
    history = fire.storage.history

    def history_then_more(job_id):
        entries = history(job_id)
        fire.storage.history = history
        fire.jobs.requeue([job_id])
        worker.claim()
        fire.jobs.delete([job_id])
        return entries

    fire.storage.history = history_then_more
    with pytest.raises(JobConflict, match="it cannot be restored: it was changed meanwhile"):
        job.restore()

    assert State.DELETED is job.refresh().state


@pytest.mark.parametrize("state", [state for state in State if state is not State.DELETED])
def test_job_in_any_other_state_can_be_deleted(in_state, state):
    """After the delete, the handle shows the new state, and the record has an expiry time."""
    job = in_state(state)

    same = job.delete()

    assert (State.DELETED, "deleted by code") == (job.state, job.reason)
    assert job.record().expires_at is not None
    assert same is job


# ---- uncommitted jobs ------------------------------------------------------------------------------------


def test_uncommitted_job_is_not_found(adding, fire):
    """The error contains the fix.

    For an uncommitted job, only a continuation in the same transaction is possible.
    """
    session = []
    job = adding.using(within=session).enqueue(1)

    for verb in (
        job.refresh, job.result, job.requeue, job.delete, lambda: job.then(adding, 2),
        lambda: asyncio.run(job.aresult()), lambda: asyncio.run(job.athen(adding, 2)),
    ):  # fmt: skip
        with pytest.raises(JobNotCommitted, match=f"Job {job.id} is not stored: .* Commit it first"):
            verb()
    child = job.then(adding.using(within=session), 2)

    assert (State.ENQUEUED, State.AWAITING) == (job.state, child.state)
    assert {} == fire.storage.counts().by_state


def test_handle_of_a_job_can_be_used_after_the_commit(adding, fire, worker):
    session = []
    job = adding.using(within=session).enqueue(40, 2)
    asynchronous = asyncio.run(adding.using(within=session).aenqueue(1))

    fire.storage.insert(session)
    worker.run()

    assert (42, 1) == (job.result(timeout=5), asynchronous.result(timeout=5))
    assert State.AWAITING is not job.then(adding, 2).refresh().state
