"""`fire.operations`: an action on every matching job, tracked, cancellable and resumable."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import attrs
import pytest

from firelock import Firelock, Operation, Retry
from firelock.control.operations import KEPT, Operations, Outcome, Status
from firelock.errors import ConfigurationError, StorageError, StorageUnavailable
from firelock.model import lifecycle
from firelock.model.ids import newest_first_key
from firelock.model.state import State
from firelock.storage import FoundJobs, JobFilter
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import FailingStorage, Worker

BULK = JobFilter(queue="bulk")


@pytest.fixture(params=["memory", "sqlite"])
def fire(request, tmp_path):
    """An app over each storage."""
    storage = MemoryStorage() if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    with Firelock(storage) as fire:
        yield fire


@pytest.fixture
def watched():
    """An app over a storage that records its calls, with programmable failures."""
    with Firelock(FailingStorage()) as fire:
        yield fire


def send(to: str, number: int = 0) -> None:
    if number < 0:
        raise ValueError(f"no mailbox {to}")


def sending(fire):
    """Return the task of this app."""
    return fire.task(name="send", queue="bulk", retry=Retry.never())(send)


def deleting(fire, where=BULK):
    """Start an operation by ada that deletes the matching jobs."""
    return fire.operations.start("delete", where, by="ada")


def fill(fire, number, *, failed=0):
    """Store jobs that have failed and then jobs that wait, in these numbers, and return their ids."""
    task = sending(fire)
    worker = Worker(fire)
    bad = task.enqueue_many([(f"ada{place}@x", -1) for place in range(failed)])
    while worker.run(500):
        pass
    good = task.enqueue_many([(f"bob{place}@x", place) for place in range(number)])
    return [job.id for job in (*bad, *good)]


def run(fire, operation, **options):
    """Run the operation without pauses, and return its state afterwards."""
    return fire.operations.run(operation.id, wait=lambda seconds: None, **options)


def after(chunks):
    """Return a function that returns False this many times and then True, which stops the operation."""
    answers = iter([False] * chunks)
    return lambda: next(answers, True)


def states(fire):
    return {state: number for state, number in fire.jobs.counts().by_state.items() if number}


# ---- starting --------------------------------------------------------------------------------------------


def test_start_of_an_operation_changes_no_job(fire):
    """The operation is stored and waits until it is run. It contains the expected number of jobs."""
    fill(fire, 3, failed=2)

    operation = deleting(fire)

    assert {State.ENQUEUED: 3, State.FAILED: 2} == states(fire)
    assert isinstance(operation, Operation)
    assert ("delete", "running", "ada", "deleted by ada", 5, 0) == (
        operation.verb, operation.state, operation.by, operation.reason, operation.expected, operation.changed
    )  # fmt: skip
    assert operation == fire.operations.get(operation.id)
    assert [operation] == fire.operations.resumable() == fire.operations.list().operations


def test_jobs_enqueued_after_the_start_are_not_changed(fire):
    """The filter's upper time bound is the start of the operation, or its own bound if that is earlier."""
    fill(fire, 2)

    operation = deleting(fire)
    fire.storage.clock_offset += 1_000_000
    later = sending(fire).enqueue("late")

    assert 2 == run(fire, operation).changed
    assert State.ENQUEUED is later.refresh().state
    sooner = JobFilter(queue="bulk", until=7)
    assert 7 == fire.operations.start("delete", sooner, by="ada").where.until


def test_delete_with_an_empty_filter_is_refused(watched):
    """A filter that was left empty by mistake must not delete any job."""
    fill(watched, 1)

    with pytest.raises(ConfigurationError, match="An empty filter would delete every job"):
        watched.operations.start("delete", JobFilter(), by="ada")
    with pytest.raises(ConfigurationError, match="An empty filter would delete every job"):
        watched.operations.start("delete", JobFilter(), by="ada", contains={"argument": ""})

    assert [] == watched.operations.list().operations


def test_invalid_operation_is_refused(watched):
    """The error contains the value and the valid alternatives."""
    start = watched.operations.start
    for verb in ("remove", "", None):
        with pytest.raises(
            ConfigurationError, match=f"verb must be one of requeue, delete, move, got {verb!r}"
        ):
            start(verb, BULK, by="ada")
    with pytest.raises(ConfigurationError, match="where must be a filter"):
        start("delete", {"queue": "bulk"}, by="ada")
    with pytest.raises(ConfigurationError, match=r"state must be one of .*, got 'gone'"):
        start("delete", JobFilter(state="gone"), by="ada")
    with pytest.raises(ConfigurationError, match="'result' is unknown; use argument or error"):
        start("delete", BULK, by="ada", contains={"result": "x"})
    with pytest.raises(ConfigurationError, match=r"contains\['error'\] must be a string, got 7"):
        start("delete", BULK, by="ada", contains={"error": 7})
    with pytest.raises(ConfigurationError, match="by must be a string, got None"):
        start("delete", BULK, by=None)
    with pytest.raises(ConfigurationError, match="reason has 501 characters; use at most 500"):
        start("delete", BULK, by="ada", reason="x" * 501)

    assert [] == watched.operations.list().operations


# ---- running ---------------------------------------------------------------------------------------------


def test_every_matching_job_is_changed(fire):
    """The matching jobs fill several pages.

    The operation keeps the first ids, and each job's history contains the reason.
    """
    ids = fill(fire, 1_200)
    operation = fire.operations.start("delete", BULK, by="ada", reason="tenant left")

    done = run(fire, operation)

    assert {State.DELETED: 1_200} == states(fire)
    assert (Status.DONE, 1_200, 1_200, 0, 0, tuple(ids[:10])) == (
        done.state, done.total_seen, done.changed, done.skipped, done.missing, done.first_ids
    )  # fmt: skip
    assert "tenant left" == fire.jobs.get(ids[0]).reason
    assert done.ended_at == done.updated_at >= done.started_at
    assert done == fire.operations.get(operation.id) == fire.operations.cancel(operation.id, "bob")
    assert [] == fire.operations.resumable()


def test_failed_jobs_are_requeued_oldest_first(fire):
    """Jobs that fail again after the start of the operation no longer match, so the operation ends."""
    ids = fill(fire, 0, failed=3)
    operation = fire.operations.start("requeue", JobFilter(state=State.FAILED), by="ada")

    done = run(fire, operation)

    assert (Status.DONE, 3) == (done.state, done.changed)
    assert ids == [job.id for job in Worker(fire, "host:b").claim()]
    assert 0 == fire.jobs.get(ids[0]).record().retries


@pytest.mark.parametrize("where", [JobFilter(), BULK, JobFilter(is_retrying=False)])
def test_requeue_must_have_a_state(watched, where):
    """Without a state, the requeue would also repeat jobs that have succeeded."""
    fill(watched, 1)

    with pytest.raises(ConfigurationError, match="without a state"):
        watched.operations.start("requeue", where, by="ada")

    assert [] == watched.operations.list().operations
    assert watched.operations.start("requeue", JobFilter(is_retrying=True), by="ada").is_running


def test_job_that_left_the_filtered_state_is_skipped(watched):
    """If a failed job is deleted after its page was read, it is not requeued."""
    ids = fill(watched, 0, failed=2)
    operation = watched.operations.start("requeue", JobFilter(state=State.FAILED), by="ada")
    Meddler.into(watched, lambda: watched.jobs.delete(ids[:1]))

    done = run(watched, operation)

    assert (2, 1, 1, 0) == (done.total_seen, done.changed, done.skipped, done.missing)
    assert {State.DELETED: 1, State.ENQUEUED: 1} == states(watched)


def test_job_that_was_pruned_during_the_operation_is_missing(watched):
    """Missing jobs are counted separately."""
    ids = fill(watched, 1, failed=1)
    operation = watched.operations.start("requeue", JobFilter(state=State.FAILED), by="ada")

    def prune():
        watched.jobs.delete(ids[:1])
        watched.storage.clock_offset += 10**15
        watched.storage.prune(10)

    Meddler.into(watched, prune)

    assert (1, 0, 0, 1) == tuple(
        getattr(run(watched, operation), name) for name in ("total_seen", "changed", "skipped", "missing")
    )


def test_delete_without_a_state_includes_jobs_that_started(watched):
    """A change of state during the operation does not protect a job from the delete."""
    fill(watched, 2)
    operation = deleting(watched)
    Meddler.into(watched, lambda: Worker(watched, "host:b").claim(1))

    assert 2 == run(watched, operation).changed
    assert {State.DELETED: 2} == states(watched)


def test_deleting_parents_releases_their_children(fire):
    """When the operation deletes a parent, its continuations are released or deleted immediately."""
    task = sending(fire)
    child = task.enqueue("parent").then(task, "child")

    run(fire, fire.operations.start("delete", JobFilter(state=State.ENQUEUED), by="ada"))

    assert State.DELETED is child.refresh().state


@pytest.mark.parametrize(
    ("contains", "changed"),
    [
        ({"argument": "ADA1@"}, 1),
        ({"error": "valueerror: NO mailbox ada"}, 2),
        ({"error": "mailbox", "argument": "ada0"}, 1),
        ({"argument": ""}, 5),
    ],
)
def test_contains_selects_jobs_by_strings(fire, contains, changed):
    """The search ignores case, and all given strings must match.

    Other jobs are counted as seen, but not as skipped.
    """
    fill(fire, 3, failed=2)

    done = run(fire, fire.operations.start("delete", BULK, by="ada", contains=contains))

    assert (Status.DONE, 5, changed, 0) == (done.state, done.total_seen, done.changed, done.skipped)


# ---- sharing the storage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "options", "waited"), [(2, {"pace": 2.5}, 5.0), (1, {"jobs_a_second": 50}, 9.0)]
)
def test_operation_pauses_after_each_chunk_except_the_last(watched, seconds, options, waited):
    """The pause lets workers proceed.

    It is a multiple of the chunk's duration, or lasts until the rate allows more changes.
    """
    fill(watched, 1_200)
    operation = deleting(watched)
    ticks, waits = iter(range(0, 100, seconds)), []

    watched.operations.run(operation.id, wait=waits.append, monotonic=lambda: next(ticks), **options)

    assert [waited] * 2 == waits
    assert [500, 500, 200] == [len(changes) for (changes,) in watched.storage.called["apply"][-3:]]


def test_operation_is_not_run_by_two_runners_at_a_time(fire):
    """The second runner does not change any job and returns the progress of the first one."""
    fill(fire, 600)
    operation = deleting(fire)

    with fire.lock(f"operation:{operation.id}"):
        seen = run(fire, operation)

    assert (Status.RUNNING, 0, {State.ENQUEUED: 600}) == (seen.state, seen.changed, states(fire))


def test_runner_that_lost_its_lock_stops_writing(watched):
    """The progress of the new runner is kept, and the previous runner stops at its next check."""
    fill(watched, 1_200)
    operation = deleting(watched)

    def take_over(_):
        record = watched.storage.get_record("operation", operation.id)
        value = {**json.loads(record.value), "fence": 99}
        watched.storage.put_record("operation", operation.id, json.dumps(value))

    seen = watched.operations.run(operation.id, wait=take_over)

    assert (Status.RUNNING, 99, 500) == (seen.state, seen.fence, watched.operations.get(operation.id).changed)


def test_loss_of_the_lock_is_checked_before_each_chunk(watched):
    """If a lock has no fence, only its attribute `lost` shows that it was lost."""
    fill(watched, 1_200)
    lock = SimpleNamespace(fence=7, lost=False)
    operations = Operations(watched.client, lambda name, **_: nullcontext(lock))
    operation = operations.start("delete", BULK, by="ada")

    seen = operations.run(operation.id, wait=lambda _: setattr(lock, "lost", True))

    assert (Status.RUNNING, 500) == (seen.state, seen.changed)


def test_empty_page_is_not_treated_as_the_last(watched):
    """A storage that limits its search may not have found anything yet."""
    fill(watched, 5)
    operation = deleting(watched)
    find = watched.storage.find
    pages = [FoundJobs([], find(operation.where, limit=1, oldest_first=True).cursor)]
    watched.storage.find = lambda *args, **options: pages.pop() if pages else find(*args, **options)

    done = run(watched, operation)

    assert (Status.DONE, 4, 4) == (done.state, done.total_seen, done.changed)


def test_stopped_operation_is_continued_where_it_stopped(fire):
    """After a server has stopped, the next server continues the operation. Nothing is counted twice."""
    fill(fire, 1_200)
    operation = deleting(fire)

    stopped = run(fire, operation, should_stop=after(1))

    assert (Status.RUNNING, 500, {State.DELETED: 500, State.ENQUEUED: 700}) == (
        stopped.state, stopped.changed, states(fire)
    )  # fmt: skip
    assert [stopped] == fire.operations.resumable()
    done = run(Firelock(fire.storage), stopped)
    assert (Status.DONE, 1_200, 1_200) == (done.state, done.total_seen, done.changed)


def test_crash_between_a_change_and_its_record_is_harmless(watched):
    """The chunk is processed again: its changed jobs are skipped, and the others are changed."""
    fill(watched, 1_200)
    operation = deleting(watched)

    def crash(_):
        watched.storage.fail("put_record", StorageUnavailable("gone"))

    with pytest.raises(StorageUnavailable):
        watched.operations.run(operation.id, wait=crash)
    again = run(watched, operation)

    assert {State.DELETED: 1_200} == states(watched)
    assert (Status.DONE, 1_200, 700, 500) == (
        again.state, again.total_seen, again.changed, again.skipped
    )  # fmt: skip


def test_operation_is_resumable_after_an_outage(watched):
    fill(watched, 3)
    operation = deleting(watched)
    watched.storage.fail("find", StorageUnavailable("away"))

    with pytest.raises(StorageUnavailable, match="away"):
        run(watched, operation)

    assert [operation.id] == [one.id for one in watched.operations.resumable()]
    assert 3 == run(watched, operation).changed


def test_operation_fails_at_a_permanent_error(watched):
    """The operation contains the reason and is never run again."""
    fill(watched, 3)
    operation = deleting(watched)
    watched.storage.fail("find", StorageError("the index is broken"))

    failed = run(watched, operation)

    assert (Status.FAILED, "StorageError: the index is broken") == (failed.state, failed.error)
    assert failed == watched.operations.get(operation.id) == run(watched, operation)
    assert ([], {State.ENQUEUED: 3}) == (watched.operations.resumable(), states(watched))


# ---- cancelling ------------------------------------------------------------------------------------------


def test_chunk_changed_during_a_cancellation_is_counted(watched):
    """The changes of the chunk are counted, even if the cancellation was stored before them."""
    fill(watched, 1_200)
    operation = deleting(watched)
    Meddler.into(watched, lambda: watched.operations.cancel(operation.id, "bob"))

    seen = run(watched, operation)

    assert (Status.CANCELLED, 500, {State.DELETED: 500, State.ENQUEUED: 700}) == (
        seen.state, seen.changed, states(watched)
    )  # fmt: skip
    assert seen == watched.operations.get(operation.id)


# ---- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation_id",
    ["", "nobody", pytest.param(newest_first_key(7), id="unused"), "\x00", "\ud800", None, 7],
)
def test_unknown_operation_is_none(fire, operation_id):
    """Looking up an unknown operation returns None. Running or cancelling it raises an error."""
    assert fire.operations.get(operation_id) is None
    with pytest.raises(ConfigurationError, match=r"Operation .* was not found"):
        fire.operations.run(operation_id)
    with pytest.raises(ConfigurationError, match=r"Operation .* was not found"):
        fire.operations.cancel(operation_id, "ada")


def test_newest_operations_are_first(fire):
    """Pages work as for audit entries. Resumable operations are ordered by their start time."""
    started = [fire.operations.start("delete", BULK, by=str(number)) for number in range(3)]

    first = fire.operations.list(2)
    second = fire.operations.list(limit=2, cursor=first.cursor)

    assert [started[2], started[1], started[0]] == [*first, *second]
    assert started == fire.operations.resumable()
    with pytest.raises(ConfigurationError, match="limit must be from 1 to 500 operations per page"):
        fire.operations.list(0)
    with pytest.raises(StorageError, match="does not belong to a page of operations"):
        fire.operations.list(cursor="nonsense")


# ---- the stored record -----------------------------------------------------------------------------------


def test_stored_filter_is_restored(fire):
    """Storing a filter does not change it, so its cursors remain valid.

    This includes states and strings with unusual characters.
    """
    where = JobFilter(
        State.SCHEDULED, "t", "q", "tag \u2028", "server", "print", "nightly", "0193", "parent", 1, 2, True,
        batch_id="batch",
    )  # fmt: skip
    names = {field.name for field in attrs.fields(JobFilter)} - {"by_due"}  # an operation never has an order
    fields = {name: getattr(where, name) for name in names}
    assert None not in fields.values()

    for one in [where, *(JobFilter(**{name: value}) for name, value in fields.items())]:
        verb = "requeue" if one.state else "delete"
        started = fire.operations.start(verb, one, by="ada", contains={"error": "\ud800\x00"})
        assert started == fire.operations.get(started.id)
        assert attrs.evolve(one, until=started.where.until) == started.where


def test_operation_on_a_list_by_due_time_drops_the_order(fire):
    """A range of due times is refused, because the range of an operation applies to times of changes."""
    by_due = JobFilter(by_due=True, queue="bulk")

    started = fire.operations.start("delete", by_due, by="ada")

    expected = JobFilter(state=State.SCHEDULED, queue="bulk")
    assert expected == attrs.evolve(started.where, until=None)
    with pytest.raises(ConfigurationError, match="with by_due must not have since or until"):
        fire.operations.start("delete", attrs.evolve(by_due, since=1), by="ada")
    with pytest.raises(ConfigurationError, match="must have the state scheduled, got failed"):
        fire.operations.start("delete", attrs.evolve(by_due, state=State.FAILED), by="ada")


def test_field_of_a_newer_version_is_kept_in_an_operation(watched):
    """The operation runs to completion."""
    fill(watched, 3)
    operation = deleting(watched)
    value = json.loads(watched.storage.get_record("operation", operation.id).value)
    watched.storage.put_record("operation", operation.id, json.dumps({**value, "colour": "red"}))

    seen = run(watched, operation)

    assert (Status.DONE, 3) == (seen.state, seen.changed)
    assert "red" == json.loads(watched.storage.get_record("operation", operation.id).value)["colour"]


def test_unknown_operation_of_a_newer_version_is_shown_as_failed(watched):
    """The operation is not run, deleted or changed, so a newer process can continue it."""
    fill(watched, 3)
    operation = deleting(watched)
    value = json.loads(watched.storage.get_record("operation", operation.id).value)
    value["where"]["colour"] = "red"
    watched.storage.put_record("operation", operation.id, json.dumps(value))
    before = watched.storage.get_record("operation", operation.id)

    seen = run(watched, operation)

    assert (Status.FAILED, "ada") == (seen.state, seen.by)
    assert "A newer version of Firelock stored this operation: where.colour is unknown here" in seen.error
    assert seen == watched.operations.cancel(operation.id, "bob")
    assert [seen] == watched.operations.list().operations
    assert [] == watched.operations.resumable()
    assert before == watched.storage.get_record("operation", operation.id)
    assert {State.ENQUEUED: 3} == states(watched)


class Meddler:
    """A helper that calls a function once, after a page was read and before its jobs are changed."""

    @staticmethod
    def into(fire, act):
        """Run the function just before the storage's next change."""
        storage = fire.storage
        apply, acts = storage.apply, [act]

        def meddled(transitions):
            while acts:
                acts.pop()()
            return apply(transitions)

        storage.apply = meddled


# ---- outcomes --------------------------------------------------------------------------------------------


def test_outcome_of_a_requeue_is_counted_from_its_jobs(fire):
    """The outcome contains the numbers of jobs that succeeded, failed again or have not ended.

    As soon as all jobs have ended, the outcome no longer changes.
    """
    ids = fill(fire, 0, failed=3)
    task, worker = fire.task_named("send"), Worker(fire)
    operation = fire.operations.start("requeue", JobFilter(state=State.FAILED), by="ada")
    before = fire.operations.outcome(operation.id)
    run(fire, operation)
    other = task.enqueue("eve@x")

    waiting = fire.operations.outcome(operation.id)
    fire.jobs.delete([ids[0]])
    worker.run(500)
    ended = fire.operations.outcome(operation.id)
    fire.jobs.requeue(ids)

    assert before is None
    assert (Outcome(3, {State.ENQUEUED: 3}), 3) == (waiting, waiting.unended)
    assert (Outcome(3, {State.DELETED: 1, State.FAILED: 2}), 0) == (ended, ended.unended)
    assert ended == fire.operations.outcome(operation.id) == fire.operations.get(operation.id).outcome
    assert State.SUCCEEDED is other.refresh().state


def test_delete_has_no_outcome(fire):
    """A delete is final. Requesting the outcome of an unknown operation raises an error."""
    fill(fire, 2)
    operation = run(fire, deleting(fire))

    assert fire.operations.outcome(operation.id) is None
    with pytest.raises(ConfigurationError, match="was not found"):
        fire.operations.outcome("nobody")


def test_outcome_of_a_large_operation_covers_its_first_jobs(fire):
    """The first two thousand jobs are read, in as many calls as needed."""
    ids = fill(fire, 2_600)
    fire.jobs.delete(ids)
    operation = run(fire, fire.operations.start("requeue", JobFilter(state=State.DELETED), by="ada"))

    outcome = fire.operations.outcome(operation.id)

    assert (2_600, 2_000, 2_000) == (operation.changed, outcome.checked, outcome.unended)


def test_old_ended_operations_are_deleted_with_their_ids(fire):
    """Running operations are kept, however old they are."""
    waiting = fire.operations.start("delete", BULK, by="waiting")
    fill(fire, 0, failed=1)
    operation = run(fire, fire.operations.start("requeue", JobFilter(state=State.FAILED), by="ada"))
    ids = [record.key.partition(":")[0] for record in fire.storage.list_records("operation_ids")]
    for _ in range(KEPT + 1):
        fire.storage.clock_offset += 1
        run(fire, fire.operations.start("delete", JobFilter(queue="none"), by="ada"))
    last = fire.operations.start("delete", JobFilter(queue="none"), by="last")

    stored = list(fire.operations.list(500))

    assert [operation.id] == ids
    assert (KEPT + 2, last, waiting) == (len(stored), stored[0], stored[-1])
    assert (None, []) == (fire.operations.get(operation.id), fire.storage.list_records("operation_ids"))


# ---- moves -----------------------------------------------------------------------------------------------


def test_operation_moves_all_waiting_jobs_of_a_filter(fire):
    """Ended jobs and jobs that are already in the target queue are skipped.

    The history names the actor who requested the move.
    """
    ids = fill(fire, 3, failed=2)
    later = fire.task_named("send").schedule(300, "later")
    fire.jobs.move(ids[-1:], priority=9)

    operation = fire.operations.start("move", BULK, by="ada", queue="night", priority=9)
    done = run(fire, operation)

    assert ("move", "night", 9, 4) == (
        operation.verb,
        operation.queue,
        operation.priority,
        operation.expected,
    )
    assert (Status.DONE, 4, 2) == (done.state, done.changed, done.skipped)
    assert {"night": 4} == {
        queue: sum(of.get(state, 0) for state in lifecycle.WAITING)
        for queue, of in fire.jobs.counts().by_queue.items()
        if any(of.get(state, 0) for state in lifecycle.WAITING)
    }
    assert "moved from queue bulk, priority 0, to queue night, priority 9: moved by ada" == (
        later.history()[-1].reason
    )
    again = run(fire, fire.operations.start("move", JobFilter(queue="night"), by="ada", priority=9))
    assert (0, 4) == (again.changed, again.skipped)


def test_move_skips_jobs_that_left_the_filtered_state(watched):
    """If a scheduled job was enqueued after it was read, it no longer matches the filter."""
    task = sending(watched)
    jobs = [task.schedule(300, str(number)) for number in range(2)]
    find = watched.storage.find

    def found_then_due(*arguments, **named):
        page = find(*arguments, **named)
        jobs[0].requeue()
        return page

    operation = watched.operations.start("move", JobFilter(state=State.SCHEDULED), by="ada", queue="night")
    watched.storage.find = found_then_due
    done = run(watched, operation)

    assert (1, 1) == (done.changed, done.skipped)
    assert ["bulk", "night"] == [job.refresh().queue for job in jobs]


@pytest.mark.parametrize(
    ("verb", "where", "target", "message"),
    [
        ("move", BULK, {}, "A move needs a target"),
        ("move", JobFilter(), {"queue": "x"}, "An empty filter would move every waiting job"),
        ("move", JobFilter(state=State.FAILED), {"queue": "x"}, "A move needs the state .* got failed"),
        ("move", BULK, {"queue": "X"}, "Queue name must be 1 to 64 .*, got 'X'"),
        ("delete", BULK, {"queue": "x"}, 'need the verb "move"'),
        ("requeue", JobFilter(state=State.FAILED), {"priority": 3}, 'need the verb "move"'),
    ],
)
def test_invalid_move_is_refused(fire, verb, where, target, message):
    """The error is raised before an operation is stored."""
    with pytest.raises(ConfigurationError, match=message):
        fire.operations.start(verb, where, by="ada", **target)

    assert [] == fire.operations.list().operations
