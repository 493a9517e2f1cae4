"""`fire.jobs`, `fire.queues` and `fire.servers`: pages of results, and one result per id for actions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from firelock import Firelock, Retry
from firelock.control.queues import QueueView
from firelock.errors import (
    ConfigurationError,
    JobConflict,
    JobNotFound,
    ScheduleError,
    StorageError,
    StorageUnavailable,
)
from firelock.model.state import State
from firelock.storage import Applied, NewSession, PartlyApplied, Renewal
from tests.core.fakes import FailingStorage, Failure, Worker


@pytest.fixture
def fire():
    """An app over a storage that records its calls."""
    with Firelock(FailingStorage()) as fire:
        yield fire


@pytest.fixture
def worker(fire):
    """A worker that runs the app's jobs by hand."""
    return Worker(fire)


def add(a: int, b: int = 0) -> int:
    if a < 0:
        raise ValueError(f"no sum of {a}")
    return a + b


@pytest.fixture
def adding(fire):
    """A task that fails for negative numbers."""
    return fire.task(name="add", queue="sums", retry=Retry.never(), tags=["a:{a}"])(add)


# ---- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job_id", ["", "nobody", "x" * 10_000, "'; drop table job; --", 7, None])
def test_unknown_id_is_not_found(fire, job_id):
    for verb in (fire.jobs.get, fire.jobs.copy):
        with pytest.raises(JobNotFound, match="was not found: the id is wrong, or the job has been pruned"):
            verb(job_id)


def test_jobs_are_found_with_filters(fire, adding, worker):
    """Jobs are found by state, task, queue, tag, server, error or the beginning of the id.

    The newest are first, and filters can be combined.
    """
    other = fire.task(name="other")(lambda: None).using(tags=["x"]).enqueue()
    bad, good = adding.enqueue(-1), adding.enqueue(1)
    worker.run()
    waiting = adding.enqueue(2)

    def found(**filters):
        return list(fire.jobs.find(**filters))

    assert [waiting, good, bad, other] == found()
    assert [bad] == found(state="failed") == found(fingerprint=bad.refresh().error.fingerprint)
    assert [other] == found(task="other") == found(queue="default") == found(tag="x")
    assert [good, bad, other] == found(server="host:a")
    assert [waiting] == found(id_prefix=waiting.id[:36]) == found(state="enqueued", task="add", queue="sums")
    assert [waiting, good] == list(asyncio.run(fire.jobs.afind(task="add", limit=2)))


@pytest.mark.parametrize("limit", [0, 501, True, "5"])
def test_page_limit_must_be_from_1_to_500(fire, limit):
    """The error contains the limit that was passed."""
    with pytest.raises(ConfigurationError, match=r"limit must be from 1 to 500 jobs per page"):
        fire.jobs.find(limit=limit)


@pytest.mark.parametrize("state", [state for state in State if state is not State.SCHEDULED])
def test_filter_by_due_time_finds_only_scheduled_jobs(fire, state):
    """A filter that combines a due time with another state could never match a job."""
    with pytest.raises(
        ConfigurationError, match=rf"state must be 'scheduled' with by_due=True, got '{state}'"
    ):
        fire.jobs.find(by_due=True, state=state)


def test_counts_are_a_mapping_from_states(fire, adding, worker):
    """Every state has a number, even if no job is in this state. An unknown state is not in the mapping."""
    adding.enqueue_many([(1,), (-1,), (2,)])
    worker.run()
    adding.enqueue(3)

    counts = fire.jobs.counts()

    expected = {**dict.fromkeys(State, 0), State.ENQUEUED: 1, State.SUCCEEDED: 2, State.FAILED: 1}
    assert expected == counts.by_state == dict(counts) == {state: getattr(counts, state) for state in State}
    assert (list(State), 4, {"sums"}) == (list(counts), counts.total, set(counts.by_queue))
    assert (True, False) == ("failed" in counts, "faild" in counts)
    with pytest.raises(ConfigurationError, match=r"state must be one of awaiting, scheduled.*, got 'faild'"):
        counts["faild"]


# ---- iterating over all matching jobs --------------------------------------------------------------------


async def gathered(jobs):
    """Return the items of an async iterator."""
    return [job async for job in jobs]


def test_iterator_returns_all_matching_jobs(fire, adding, worker):
    """The jobs are in the same order as in `find`, newest first, over any number of pages.

    The async iterator returns the same jobs.
    """
    jobs = adding.enqueue_many([(number,) for number in range(1_101)])
    other = fire.task(name="other")(add).enqueue(1)

    assert [other, *reversed(jobs)] == list(fire.jobs.iterate())
    assert jobs == list(fire.jobs.iterate(task="add", oldest_first=True))
    assert jobs == asyncio.run(gathered(fire.jobs.aiterate(queue="sums", oldest_first=True)))
    assert [jobs[7]] == list(fire.jobs.iterate(tag="a:7"))
    assert [] == list(fire.jobs.iterate(state="failed"))


def test_iterator_reads_one_page_at_a_time(fire, adding):
    """A page of 500 jobs is read when it is needed, so memory does not grow with the number of jobs."""
    adding.enqueue_many([(number,) for number in range(1_101)])

    jobs = fire.jobs.iterate()
    reads = [len(fire.storage.called["find"])]
    for _ in range(2):
        for _ in range(500):
            next(jobs)
        reads.append(len(fire.storage.called["find"]))

    assert [0, 1, 2] == reads


def test_iterator_refuses_invalid_filters_immediately(fire):
    """The error is raised by the call and not when the first page is read."""
    for verb in (fire.jobs.find, fire.jobs.iterate, fire.jobs.aiterate):
        with pytest.raises(ConfigurationError, match=r"state must be one of awaiting.*, got 'running'"):
            verb(state="running")
    with pytest.raises(ScheduleError, match="no time zone"):
        fire.jobs.iterate(until=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test
    with pytest.raises(TypeError, match=r"aiterate\(\) has no condition 'limit'; use state, task"):
        fire.jobs.aiterate(limit=5)


@pytest.mark.parametrize("oldest_first", [True, False])
def test_iterator_omits_jobs_enqueued_during_the_iteration(fire, adding, oldest_first):
    """A loop that enqueues a job for each job must terminate."""
    jobs = adding.enqueue_many([(number,) for number in range(501)])  # more than a page contains

    found = islice(fire.jobs.iterate(oldest_first=oldest_first), 600)
    seen = [(job.id, adding.enqueue(3))[0] for job in found]

    assert {job.id for job in jobs} == set(seen)
    assert 501 == len(seen)


def fail_in_turn(storage, verb, *errors):
    """Make each of the next calls of this method raise one of these errors; None means success."""
    storage.failing[verb].extend(None if error is None else Failure(error) for error in errors)


# ---- acting on many jobs ---------------------------------------------------------------------------------


def test_requeue_of_many_jobs_returns_a_result_for_each(fire, adding, worker):
    """A job is refused if its state does not allow a requeue.

    An unknown id is reported as missing. The other jobs are enqueued.
    """
    done = adding.enqueue(1)
    worker.run()
    waiting = adding.enqueue(2)

    results = fire.jobs.requeue([done.id, waiting.id, "nobody"], reason="deployed a fix")

    assert [Applied.APPLIED, Applied.REFUSED, Applied.MISSING] == results
    assert (State.ENQUEUED, "deployed a fix") == (done.refresh().state, done.refresh().reason)


def test_delete_of_many_jobs_returns_a_result_for_each(fire, adding):
    """A job that is already deleted is refused.

    Continuations are released or deleted immediately.
    """
    gone, parent = adding.enqueue(1), adding.enqueue(2)
    gone.delete()
    child = parent.then(adding, 3)

    results = fire.jobs.delete([gone.id, parent.id], reason="tenant left")

    assert [Applied.REFUSED, Applied.RELEASE_NEEDED] == results
    assert ("tenant left", State.DELETED) == (parent.refresh().reason, child.refresh().state)


def test_actions_on_many_jobs_use_chunks_of_500(fire, adding):
    """Each call to the storage is small, however many ids are passed. The async methods do the same."""
    jobs = adding.enqueue_many([(number,) for number in range(1_100)])

    results = asyncio.run(fire.jobs.adelete([job.id for job in jobs]))
    again = asyncio.run(fire.jobs.arequeue([job.id for job in jobs]))

    assert ({Applied.APPLIED}, 1_100, {Applied.APPLIED}) == (set(results), len(again), set(again))
    assert [500, 500, 100] * 2 == [len(transitions) for (transitions,) in fire.storage.called["apply"]]


@pytest.mark.parametrize(
    ("verb", "error", "advice"),
    [
        (
            "requeue",
            StorageUnavailable("gone"),
            "became unreachable .*: gone.* Try again with the ids",
        ),
        (
            "delete",
            StorageError("disk full"),
            "refused .*: disk full.* Fix the cause, then try",
        ),
        ("reschedule", StorageUnavailable("gone"), "became unreachable"),
    ],
)
def test_error_in_a_later_chunk_contains_the_results_so_far(fire, adding, verb, error, advice):
    """If the first call fails, the storage's own error is raised."""
    ids = [job.id for job in adding.enqueue_many([(number,) for number in range(1_100)])]
    act = getattr(fire.jobs, verb)
    when = (timedelta(0),) if verb == "reschedule" else ()
    answer = Applied.APPLIED if verb == "delete" else Applied.REFUSED  # the jobs are enqueued
    fail_in_turn(fire.storage, "apply", error, None, error)

    with pytest.raises(StorageError) as at_once:
        act(ids, *when)
    with pytest.raises(PartlyApplied, match=advice) as caught:
        act(ids, *when)

    assert error is at_once.value
    assert (answer,) * 500 + (None,) * 600 == caught.value.results
    assert isinstance(error, StorageUnavailable) == isinstance(caught.value, StorageUnavailable)
    assert "after 500 of 1,100 results" in str(caught.value)


def test_job_that_changed_since_its_delete_is_not_restored(fire, adding, worker):
    """The job was deleted again while it ran, so its state before the first delete is obsolete."""
    changed, same = adding.enqueue(1), adding.enqueue(2)
    fire.jobs.delete([changed.id, same.id])
    history = fire.storage.history

    def history_then_more(job_id):
        entries = history(job_id)
        fire.storage.history = history
        fire.jobs.requeue([changed.id])
        worker.claim()
        fire.jobs.delete([changed.id])
        return entries

    fire.storage.history = history_then_more
    results = fire.jobs.restore([changed.id, "nobody", same.id])

    assert [Applied.REFUSED, Applied.MISSING, Applied.APPLIED] == results
    assert (State.DELETED, State.ENQUEUED) == (changed.refresh().state, same.refresh().state)


def test_outage_during_a_restore_reports_the_unchanged_jobs(fire, adding):
    """Results of unchanged and changed jobs are returned in the order of the ids."""
    jobs = adding.enqueue_many([(number,) for number in range(600)])
    fire.jobs.delete([job.id for job in jobs])
    fail_in_turn(fire.storage, "apply", None, StorageUnavailable("gone"))

    with pytest.raises(PartlyApplied) as caught:
        fire.jobs.restore(["nobody", *(job.id for job in jobs)])

    assert (Applied.MISSING, *[Applied.APPLIED] * 500, *[None] * 100) == caught.value.results


def test_outage_after_the_last_result_does_not_lose_results(fire, adding, caplog):
    """A server releases the continuations in its next sweep."""
    parent = adding.enqueue(1)
    child = parent.then(adding, 2)
    fire.storage.fail("release", StorageUnavailable("gone"))

    results = fire.jobs.delete([parent.id])

    assert ([Applied.RELEASE_NEEDED], State.AWAITING) == (results, child.refresh().state)
    assert (
        "Continuations were not released; a server will release them in its next sweep: gone" in caplog.text
    )


def test_restore_of_many_jobs_returns_a_result_for_each(fire, adding, worker):
    """A job whose data was lost when it was deleted is not restored, and its result contains the reason.

    The async methods do the same.
    """
    waiting, failed, done, parent = (adding.enqueue(number) for number in (1, -1, 2, 3))
    parent.then(adding, 5)
    fire.jobs.delete([waiting.id, parent.id])
    worker.run()
    fire.jobs.delete([failed.id, done.id])
    living = adding.enqueue(4)
    ids = [one.id for one in (waiting, failed, done, parent, living)] + ["nobody"]

    whys = fire.jobs.why_not_restored(ids)
    results = fire.jobs.restore(ids, reason="it was a mistake")

    applied, refused, missing = Applied.APPLIED, Applied.REFUSED, Applied.MISSING
    assert [applied, applied, refused, refused, refused, missing] == results
    assert [None, None] == whys[:2]
    assert [
        "it had succeeded, and the delete removed its result",
        "continuations waited for it, and its delete decided whether they run",
        "it is enqueued, not deleted",
        "it was not found",
    ] == whys[2:]
    assert (State.ENQUEUED, "it was a mistake") == (waiting.refresh().state, waiting.refresh().reason)
    assert (State.FAILED, [refused]) == (failed.refresh().state, asyncio.run(fire.jobs.arestore([failed.id])))
    assert ["it is failed, not deleted"] == asyncio.run(fire.jobs.awhy_not_restored([failed.id]))


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_ids_must_be_a_list_of_strings(fire, adding, verb):
    """A single string would be split into characters, and a handle is not an id."""
    job = adding.enqueue(1)
    act = getattr(fire.jobs, verb)

    for ids in (job.id, b"x"):
        with pytest.raises(ConfigurationError, match=r"ids must be a list of ids, got one string: "):
            act(ids)
    for ids in ([job], [7], [None]):
        with pytest.raises(ConfigurationError, match=r"An id must be a string, got .*; use job\.id"):
            act(ids)
    with pytest.raises(ConfigurationError, match=r"ids must be a list of ids, got 7"):
        act(7)

    assert State.ENQUEUED is job.refresh().state


def test_scheduled_jobs_are_moved_to_another_due_time(fire, adding):
    """The new due time is an aware datetime, or a timedelta from now. Other jobs are not changed."""
    moved, waiting = adding.schedule(300, 1), adding.enqueue(2)
    when, before = datetime(2040, 1, 1, tzinfo=UTC), datetime.now(UTC)

    results = fire.jobs.reschedule([moved.id, waiting.id, "nobody"], when, reason="after the release")
    after = moved.refresh()
    seen = (after.state, after.next_due_at, after.reason)
    fire.jobs.reschedule([moved.id], timedelta(hours=2))

    assert [Applied.APPLIED, Applied.REFUSED, Applied.MISSING] == results
    assert (State.SCHEDULED, when, "after the release") == seen
    assert ["scheduled"] * 3 == [entry.state for entry in moved.history()]
    assert timedelta(0) <= moved.refresh().next_due_at - before - timedelta(hours=2) < timedelta(minutes=1)


@pytest.mark.parametrize("when", [timedelta(0), timedelta.min, datetime(1900, 1, 1, tzinfo=UTC)])
def test_job_moved_to_a_past_time_is_due_immediately(fire, adding, when):
    """The job is enqueued with the next due jobs, however long ago its due time was."""
    job = adding.schedule(300, 1)

    fire.jobs.reschedule([job.id], when)

    assert 1 == fire.storage.promote(10).promoted
    assert State.ENQUEUED is job.refresh().state


def test_invalid_due_time_is_refused(fire, adding):
    """The job does not change."""
    job = adding.schedule(300, 1)

    with pytest.raises(ScheduleError, match="when must be an aware datetime or a timedelta from now, got 5"):
        fire.jobs.reschedule([job.id], 5)
    with pytest.raises(ScheduleError, match="is after the year 9999"):
        fire.jobs.reschedule([job.id], timedelta.max)

    assert job.next_due_at == job.refresh().next_due_at


def test_waiting_jobs_are_moved_to_another_queue(fire, adding, worker):
    """A job keeps its id, history and continuations.

    Each id has a result and, if its job was not moved, a readable reason.
    """
    ended = adding.enqueue(1)
    worker.run()
    waiting, later = adding.enqueue(2), adding.schedule(300, 3)
    after = waiting.then(adding, 4)
    ids = [waiting.id, later.id, after.id, ended.id, "nobody"]

    results = fire.jobs.move(ids, queue="bulk", priority=5, reason="night shift")
    again = asyncio.run(fire.jobs.amove(ids, queue="bulk"))

    assert [Applied.APPLIED] * 3 + [Applied.REFUSED, Applied.MISSING] == results
    assert [Applied.ALREADY] * 3 + [Applied.REFUSED, Applied.MISSING] == again
    assert [("bulk", 5)] * 3 == [(one.refresh().queue, one.priority) for one in (waiting, later, after)]
    assert ["enqueued", "scheduled", "awaiting"] == [one.state for one in (waiting, later, after)]
    assert [
        None, "moved from queue sums, priority 0, to queue bulk, priority 5: night shift"
    ] == [entry.reason for entry in waiting.history()]  # fmt: skip
    assert [None, None, None, "it is succeeded; only awaiting, scheduled and enqueued jobs can be moved",
            "it was not found"] == fire.jobs.why_not_moved(ids)  # fmt: skip
    assert [(waiting.id, "bulk", 5)] == [(one.id, one.queue, one.priority) for one in worker.claim()]


def test_handle_moves_its_job_or_raises_a_conflict(fire, adding, worker):
    """The handle shows the new queue. For a running job, the conflict contains the reason."""
    job = adding.enqueue(1)

    moved = job.move(queue="bulk", reason="by hand")
    asyncio.run(job.amove(priority=-7))
    job.move(priority=-7)
    worker.claim()

    assert moved is job
    assert ("bulk", -7) == (job.queue, job.priority)
    assert 3 == len(job.history())
    with pytest.raises(JobConflict, match=r"cannot be moved: it is processing, so a server already has it"):
        job.move(queue="other")
    with fire.batch("nightly") as batch:
        batch.add(adding, 1)
    with pytest.raises(JobConflict, match="a batch is not in a queue; move its members"):
        fire.jobs.get(batch.id).move(queue="other")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, r'A move needs a target: pass queue="bulk", priority=10 or both'),
        ({"queue": "Bulk Jobs"}, "Queue name must be 1 to 64 .*, got 'Bulk Jobs'"),
        ({"priority": 101}, "Priority must be an integer from -100 to 100, got 101"),
    ],
)
def test_move_without_a_possible_target_is_refused(fire, adding, target, message):
    """The error is raised before the storage is called."""
    job = adding.enqueue(1)

    for move in (lambda: fire.jobs.move([job.id], **target), lambda: job.move(**target)):
        with pytest.raises(ConfigurationError, match=message):
            move()

    assert ("sums", 0) == (job.refresh().queue, job.priority)


def test_move_that_fails_in_a_later_chunk_reports_earlier_results(fire, adding):
    ids = [job.id for job in adding.enqueue_many([(number,) for number in range(600)])]
    error = StorageUnavailable("gone")
    fail_in_turn(fire.storage, "move", None, error)

    with pytest.raises(PartlyApplied, match="after 500 of 600 results") as caught:
        fire.jobs.move(ids, queue="bulk")

    assert (Applied.APPLIED,) * 500 + (None,) * 100 == caught.value.results


def test_reason_passed_to_a_handle_is_in_the_history(fire, adding):
    """The methods for delete, restore and requeue accept a reason, like the methods for many jobs."""
    job = adding.enqueue(1)

    job.delete(reason="wrong customer")
    asyncio.run(job.arestore(reason="right one after all"))
    job.delete()
    job.requeue(reason="once more")

    assert [None, "wrong customer", "right one after all", "deleted by code", "once more"] == [
        entry.reason for entry in job.history()
    ]


def test_copy_has_the_options_of_the_stored_job(fire, adding):
    """The copy is placed at the end of its queue. An app without the task can create it too."""
    retry = Retry(attempts=2)
    old = adding.using(queue="bulk", priority=7, tags=["x"], timeout=5, retry=retry).enqueue(1, b=2)
    old.delete()

    new = fire.jobs.get(Firelock(fire.storage).jobs.copy(old.id).id)

    was, now = old.record(), new.record()
    for name in ("task", "arguments", "serializer", "queue", "priority", "tags", "timeout_seconds", "retry"):
        assert getattr(was, name) == getattr(now, name)
    assert ({"a:1", "x"}, retry.to_json()) == (set(now.tags), now.retry)
    assert (State.ENQUEUED, f"copied from {old.id}", 0) == (now.state, now.reason, now.attempt)
    assert "again, please" == asyncio.run(fire.jobs.acopy(old.id, reason="again, please")).reason


def test_copy_has_no_recurring_job_and_no_parent(fire, adding):
    """The copy is enqueued immediately, whatever created or delayed the original job."""
    adding.recur("nightly", "0 2 * * *", 1)
    made = fire.recurring.trigger("nightly")
    child = made.then(adding, 2)

    copies = [fire.jobs.copy(job.id).record() for job in (made, child)]

    assert [(None, (), None)] * 2 == [(one.recurring_id, one.parents, one.nominal_at) for one in copies]
    assert [State.ENQUEUED] * 2 == [one.state for one in copies]


# ---- queues ----------------------------------------------------------------------------------------------


def test_list_of_queues_contains_queues_with_jobs_or_settings(fire, adding, worker):
    """The queues are ordered by name."""
    adding.enqueue_many([(1,), (2,), (3,)])
    adding.schedule(300, 4)
    worker.claim(1)
    before = datetime.now(UTC) - timedelta(minutes=1)
    fire.queues.pause("bulk", note="until Monday", by="ada")

    paused_at = fire.queues.list()[0].paused_at
    assert paused_at > before
    assert [
        QueueView("bulk", 0, 0, 0, True, "until Monday", "ada", paused_at),
        QueueView("sums", 2, 1, 1, False, None),
    ] == fire.queues.list()
    assert fire.queues.list() == asyncio.run(fire.queues.alist())


@pytest.mark.parametrize("name", ["", "A", "a b", "x" * 65, None, 7])
def test_invalid_queue_name_is_refused(fire, name):
    """Nothing is written if the name is not valid for a job's queue."""
    for verb in (fire.queues.pause, fire.queues.resume):
        with pytest.raises(ConfigurationError, match=r"Queue name must be 1 to 64 .*, got .*"):
            verb(name)

    assert [] == fire.queues.list()


# ---- servers ---------------------------------------------------------------------------------------------


def session(id, server_id="server-a", **fields):
    """Return a session of a server, with these fields changed."""
    given = {"workers": 4, "queues": "critical", "started_at": 0, "timeout_seconds": 30.0, **fields}
    return NewSession(id, server_id, f"host:{server_id}", "host", 7, **given)


def test_server_counts_are_the_sum_of_its_live_sessions(fire):
    """The numbers of workers and running jobs are added. Dead sessions are shown, but not counted."""
    for name in ("one", "two", "three"):
        fire.storage.begin_session(session(name))
    fire.storage.begin_session(session("other", "server-b"))
    fire.storage.renew([Renewal("one", 3), Renewal("two", 2), Renewal("three", 4)])
    fire.storage.end_session("three", (), reason="server stopped")
    fire.storage.end_session("other", (), reason="server stopped")

    servers = {server.id: server for server in fire.servers.list()}

    one, other = servers["server-a"], servers["server-b"]
    assert ("host:server-a", "host", "critical", 8, 5, True, 3) == (
        one.name, one.host, one.queues, one.workers, one.busy, one.is_alive, len(one.sessions)
    )  # fmt: skip
    assert datetime(1970, 1, 1, tzinfo=UTC) == one.started_at
    assert (0, 0, False) == (other.workers, other.busy, other.is_alive)
    assert list(servers.values()) == asyncio.run(fire.servers.alist())


def test_killed_server_is_lost(fire):
    """The last session of the server has expired."""
    fire.storage.begin_session(session("one"))
    fire.storage.clock_offset += 31_000_000
    fire.storage.orphans(10)

    (server,) = fire.servers.list()

    assert (False, True) == (server.is_alive, server.is_lost)


def test_stopped_server_is_not_lost(fire):
    """Only the last session matters, whatever happened to earlier processes."""
    fire.storage.begin_session(session("crashed"))
    fire.storage.begin_session(session("last"))
    fire.storage.end_session("crashed", (), reason="its process died")
    while_alive = fire.servers.list()[0]
    fire.storage.renew([Renewal("last", 0, "stopping")])
    fire.storage.end_session("last", (), reason="server stopped")

    (server,) = fire.servers.list()

    assert (True, False) == (while_alive.is_alive, while_alive.is_lost)
    assert (False, False) == (server.is_alive, server.is_lost)
