"""Batches that a client fills: the time at which their jobs are stored, and the batch handle."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from firelock import (
    ArgumentError,
    Batch,
    BatchCounts,
    BatchFinished,
    ConfigurationError,
    Debounce,
    DuplicateJob,
    Firelock,
    Job,
    JobConflict,
    JobDeleted,
    JobFailed,
    JobNotCommitted,
    JobNotFound,
    ResultTimeout,
    Retry,
    SignatureMismatch,
    State,
    StorageError,
    StorageUnavailable,
    TaskError,
    Unique,
)
from firelock.model import lifecycle
from firelock.model.answers import Inserted
from firelock.model.batch import BATCH_TASK
from firelock.model.dependencies import On
from firelock.storage import Applied, JobFilter
from tests.core.fakes import FailingStorage, ForeignTask, Worker, plugin

HOUR = 3_600_000_000


class Recording(FailingStorage):
    """A storage with transactions that records the jobs and holds of each call."""

    def __init__(self):
        super().__init__()
        self.inserts = []
        self.holds = []

    def insert(self, jobs, *, within=None, only_if=None):
        self.inserts.append(list(jobs))
        if within is None:
            return super().insert(jobs, only_if=only_if)
        within.extend(jobs)
        return Inserted([True] * len(jobs))

    def apply(self, transitions, *, within=None):
        self.holds += [
            (one.job_id, one.due_at) for one in transitions if one.to is State.AWAITING and not one.session
        ]
        if within is None:
            return super().apply(transitions)
        within.extend(transitions)
        return [Applied.APPLIED] * len(transitions)


@pytest.fixture
def fire():
    """An app on this storage."""
    with Firelock(Recording()) as fire:
        yield fire


@pytest.fixture
def storage(fire):
    """The app's storage."""
    return fire.storage


@pytest.fixture
def worker(fire):
    """A worker that runs the app's jobs on request, including the jobs that they release."""
    return Worker(fire)


@pytest.fixture
def load(fire):
    """A task that returns a number, and fails if the number is negative."""

    @fire.task(name="load", retry=Retry.never())
    def load(rows: int) -> int:
        if rows < 0:
            raise ValueError(rows)
        return rows

    return load


@pytest.fixture
def report(fire):
    """Another task."""

    @fire.task(name="report")
    def report(day: str = "") -> str:
        return day

    return report


def run_all(fire, worker):
    """Run until no job is left to run or to release."""
    while worker.run() or fire.storage.release(1_000):
        pass


def ends_with(error, match=None):
    """Return a context manager that expects the block to raise this error."""
    return pytest.raises(error, match=match)


def many(load, number):
    return [load.call(row) for row in range(number)]


# ---- when the jobs are stored ----------------------------------------------------------------------------


def test_batch_and_members_are_stored_in_one_step_when_block_ends(fire, storage, load, report):
    """Members are stored in the order in which they were added.

    Callbacks are stored with them, but are not members.
    """
    with fire.batch("import", tags=["eu"], on_failure="cancel") as batch:
        one = batch.add(load, 1)
        two = batch.add(load.using(after=one, on="finished"), rows=2)
        callback = batch.then(report, "done")
        before = list(storage.inserts)
    stored = storage.inserts[0]

    assert ([], 1) == (before, len(storage.inserts))
    assert [batch.id, one.id, two.id, callback.id] == [job.id for job in stored]
    assert (BATCH_TASK, State.AWAITING, None, ("eu",)) == (
        stored[0].task, stored[0].state, stored[0].due_at, stored[0].tags,
    )  # fmt: skip
    assert ("import", True) == (stored[0].relations.batch.name, stored[0].relations.batch.fails_fast)
    assert [None, batch.id, batch.id, None] == [job.relations and job.relations.batch_id for job in stored]
    assert [(one.id, On.FINISHED)] == [(edge.parent_id, edge.on) for edge in stored[2].parents]
    assert [(batch.id, On.SUCCEEDED)] == [(edge.parent_id, edge.on) for edge in stored[3].parents]
    assert BatchCounts(total=2, active=1, waiting=1) == batch.counts()
    assert (batch.id, None) == (one.batch_id, batch.batch_id)


def test_block_that_raises_stores_nothing(fire, storage, load):
    """The handles of a block that raised report that nothing was stored."""
    with ends_with(ZeroDivisionError), fire.batch("import") as batch:
        job = batch.add(load, 1)
        raise ZeroDivisionError

    assert [] == storage.inserts
    with pytest.raises(
        JobNotCommitted, match="the block of its batch raised an exception before this job was stored"
    ):
        job.refresh()
    with pytest.raises(
        ConfigurationError,
        match=r"No jobs can be added to <Batch .*'import' awaiting>, because it is not stored",
    ):
        batch.add(load, 1)
    with pytest.raises(ConfigurationError, match="its block was entered before"), batch:
        pass


def test_invalid_call_raises_when_it_is_added(fire, storage, load):
    """The error of an invalid call propagates out of the block unless it is caught there."""
    with fire.batch("import") as batch:
        with pytest.raises(ArgumentError):
            batch.add(load, "many")
        with pytest.raises(SignatureMismatch):
            batch.add(load)
        with pytest.raises(
            TaskError, match=r"add\(\) accepts a task and then its arguments, got .*Use add\(task, …\)"
        ):
            batch.add(len, [1])
        with pytest.raises(
            TaskError, match=r"add\(\) accepts a task and then its arguments, got .*Use add\(task, …\)"
        ):
            batch.add(ForeignTask(), 1)
        with pytest.raises(TaskError, match=r"add_many accepts only calls from task.call"):
            batch.add_many([(1,)])
        batch.add(load, 1)

    assert 1 == batch.counts().total


def test_up_to_500_members_are_stored_in_one_step(fire, storage, load):
    """The batch itself does not count toward the 500."""
    with fire.batch("import") as batch:
        batch.add_many(many(load, 500))

    assert [501] == [len(jobs) for jobs in storage.inserts]
    assert [] == storage.holds
    assert 500 == batch.counts().total


def test_add_many_creates_the_same_members_as_separate_calls(fire, storage):
    """If calls of one task have the same options, their shared values are computed once.

    Nothing else is shared.
    """

    @fire.task(name="load", queue="slow", retry=Retry.never())
    def load(n: int, more: str = "") -> int: ...

    @fire.task(name="tagged", tags=("n-{n}",))
    def tagged(n: int) -> None: ...

    later = load.using(delay=60, priority=7, meta={"tenant": "acme"})

    def calls(batch):
        first = batch.add(load, 0)
        return [
            load.call(1), load.call(2, more="x"), load.call(3), later.call(4), later.call(5), tagged.call(6),
            tagged.call(7), load.call(first.output), load.call(8), load.using(after=first).call(9),
            load.call(10),
        ]  # fmt: skip

    with fire.batch("together") as batch:
        batch.add_many(calls(batch))
    with fire.batch("alone") as batch:
        for call in calls(batch):
            batch.add_many([call])

    def shown(jobs):
        return [
            (
                job.task, job.arguments, job.queue, job.priority, job.state, job.tags, job.retry, job.meta,
                None if job.due_at is None else job.due_at - job.created_at,
                [(edge.parent_id == jobs[1].id, edge.on, edge.carries) for edge in job.parents],
                job.relations.batch_id == jobs[0].id, job.relations.inputs and job.relations.inputs[0].path,
            )
            for job in jobs[1:]
        ]  # fmt: skip

    together, alone = storage.inserts
    assert shown(alone) == shown(together)
    assert len({job.id for job in together}) == len(together) == 13


def test_larger_batch_is_stored_in_chunks_under_a_hold(fire, storage, load, worker):
    """The hold ends with the block. Members run during the hold, but the incomplete batch does not end."""
    with fire.batch("import", hold=timedelta(minutes=5)) as batch:
        batch.add_many(many(load, 501))
        held = storage.get([batch.id])[0]
        worker.run(1_000)
        storage.release(1_000)
        counts = batch.counts()
        batch.add_many(many(load, 600))
    run_all(fire, worker)

    assert [501, 500, 101] == [len(jobs) for jobs in storage.inserts]
    assert (State.AWAITING, held.created_at + HOUR // 12) == (held.state, pytest.approx(held.due_at, abs=1e6))
    assert (500, 500, True) == (counts.total, counts.succeeded, counts.is_held)
    assert [(batch.id, None)] == storage.holds
    assert (State.SUCCEEDED, 1_101) == (batch.refresh().state, batch.result().succeeded)


def test_hold_is_extended_as_chunks_are_stored(fire, storage, load):
    """The hold is extended when a quarter of it has passed, so a batch can be filled slowly."""
    with fire.batch("import") as batch:
        batch.add_many(many(load, 501))
        began = storage.get([batch.id])[0].due_at
        batch.add_many(many(load, 500))
        at_once = storage.get([batch.id])[0].due_at
        storage.clock_offset += HOUR // 2
        batch.add_many(many(load, 500))
        moved = storage.get([batch.id])[0].due_at

    assert began == at_once
    assert HOUR // 2 <= moved - began <= HOUR
    assert [moved, None] == [until for _, until in storage.holds]


def test_batch_is_cancelled_when_its_hold_expires(fire, storage, load):
    """The block raises an error when it stores its next chunk or when it ends."""
    with ends_with(BatchFinished), fire.batch("import") as batch:
        batch.add_many(many(load, 501))
        storage.clock_offset += 2 * HOUR
        storage.promote(1_000)

    storage.release(10_000)
    assert (State.DELETED, "its creator stopped before adding all members") == (
        batch.refresh().state,
        batch.reason,
    )
    assert 500 == batch.counts().deleted


def test_block_that_raises_after_the_first_chunk_cancels_the_batch(fire, storage, load, worker):
    """The stored members are deleted, and the others are never stored."""
    with ends_with(ZeroDivisionError), fire.batch("import") as batch:
        batch.add_many(many(load, 700))
        raise ZeroDivisionError
    run_all(fire, worker)

    assert [501] == [len(jobs) for jobs in storage.inserts]
    assert (State.DELETED, "the block that adds its members raised an exception") == (
        batch.refresh().state,
        batch.reason,
    )
    assert (500, 500) == (batch.counts().total, batch.counts().deleted)


def test_failed_chunk_is_stored_by_the_next_attempt(fire, storage, load):
    """A block that catches the error of an outage does not lose any members."""
    with fire.batch("import") as batch:
        storage.fail_always("insert", StorageUnavailable("away"))
        with pytest.raises(StorageUnavailable):
            batch.add_many(many(load, 600))
        storage.recover()

    assert 600 == batch.counts().total
    assert 1 < len(storage.inserts)


def test_batch_is_cancelled_if_its_last_chunk_fails(fire, storage, load):
    """No member of the incomplete batch runs."""
    with ends_with(StorageError, match="full"), fire.batch("import") as batch:
        batch.add_many(many(load, 501))
        storage.fail_always("insert", StorageError("full"))

    storage.recover()
    assert batch.counts().is_cancelled


def test_empty_batch_succeeds_immediately(fire, storage, report, worker):
    """The callbacks of an empty batch run."""
    with fire.batch("nothing") as batch:
        callback = batch.then(report, "done")

    assert (State.SUCCEEDED, State.ENQUEUED) == (batch.refresh().state, callback.refresh().state)
    assert BatchCounts() == batch.result(0)


def test_batch_in_a_transaction_is_committed_or_rolled_back_with_it(fire, storage, load, report):
    """All members are part of the transaction, without a hold.

    A block that raises removes the members that it has stored.
    """
    transaction = []
    with fire.batch("import", within=transaction) as batch:
        batch.add_many(many(load, 600))
    refused = []
    with ends_with(ZeroDivisionError), fire.batch("import", within=refused) as other:
        other.add_many(many(load, 600))
        raise ZeroDivisionError

    assert 601 == len(transaction)
    assert (batch.id, None) == (transaction[0].id, transaction[0].due_at)
    assert (other.id, State.DELETED) == (refused[-1].job_id, refused[-1].to)
    assert [] == storage.holds
    with pytest.raises(JobNotCommitted, match="has not committed"):
        batch.refresh()
    with ends_with(ConfigurationError, match="stored as a whole"), fire.batch("import") as inside:
        inside.add(load.using(within=[]), 1)


# ---- batches within batches ------------------------------------------------------------------------------


def test_inner_batch_is_a_member_of_the_outer_batch(fire, storage, load, worker):
    """An inner batch is filled in its own block or without one.

    It is stored in the same step as the outer batch, and the outer batch waits for it.
    """
    with fire.batch("outer") as outer:
        days = outer.add(load, 1)
        with outer.batch("inner", after=days) as inner:
            inner.add(load, 2)
        loose = outer.batch("loose")
        loose.add(load, 3)
        last = outer.add(load.using(after=[inner, loose]), 4)
    first = (outer.counts(), inner.counts())
    run_all(fire, worker)

    assert [7] == [len(jobs) for jobs in storage.inserts]
    assert (outer.id, outer.id, inner.id) == (
        inner.batch_id,
        loose.batch_id,
        storage.inserts[0][3].relations.batch_id,
    )
    assert (4, True) == (first[0].total, first[1].is_unopened)
    assert ["succeeded"] * 4 == [job.refresh().state for job in (outer, inner, loose, last)]


def test_batches_nest_at_most_8_levels_deep(fire, load):
    """If a batch is added to a stored batch, the depth of the stored batch is read and counts as well."""
    with fire.batch("1") as batch:
        inner = batch
        for number in range(2, 9):
            inner = inner.batch(str(number))
        with pytest.raises(
            ConfigurationError, match="'9' would be at depth 9; batches can be nested at most 8 deep"
        ):
            inner.batch("9")
        held = inner.add(load, 1)

    found = fire.batches.get(inner.id)
    assert (8, 1) == (found.depth(), fire.batches.get(batch.id).depth())
    with pytest.raises(ConfigurationError, match="would be at depth 9"):
        found.batch("9")
    assert held.batch_id == inner.id


def test_inner_batch_is_held_only_until_its_members_are_stored(fire, storage, load):
    """No inner batch ends before it is complete, regardless of where a chunk of the outer batch ends."""
    with fire.batch("outer") as outer:
        with outer.batch("early") as early:
            early.add_many(many(load, 10))
        with outer.batch("cut") as cut:
            cut.add_many(many(load, 600))
        during = {one.id: storage.get([one.id])[0].due_at is not None for one in (outer, early, cut)}
        outer.add_many(many(load, 500))
        later = storage.get([cut.id])[0].due_at

    assert {outer.id: True, early.id: False, cut.id: True} == during
    assert None is later
    assert {cut.id, outer.id} == {one for one, _ in storage.holds}
    assert [10, 600, 502] == [one.counts().total for one in (early, cut, outer)]


def test_inner_batch_whose_block_raises_is_not_stored(fire, storage, load):
    """Jobs that depend on such a batch are refused.

    The outer block continues if it catches the error.
    """
    with fire.batch("outer") as outer:
        outer.add(load, 1)
        with ends_with(ZeroDivisionError), outer.batch("inner") as inner:
            lost = inner.add(load, 2)
            raise ZeroDivisionError
        with pytest.raises(ConfigurationError, match="because the block of its batch raised"):
            outer.add(load.using(after=inner), 3)
        with pytest.raises(ConfigurationError, match="No job can wait for it or be added to it"):
            inner.add(load, 3)

    assert [2] == [len(jobs) for jobs in storage.inserts]
    with pytest.raises(JobNotCommitted, match="the block of its batch raised"):
        lost.refresh()


def test_stored_inner_batch_is_cancelled_when_its_block_raises(fire, load, worker):
    """The outer batch continues after the cancellation of the inner one."""
    with fire.batch("outer") as outer:
        with ends_with(ZeroDivisionError), outer.batch("inner") as inner:
            inner.add_many(many(load, 600))
            raise ZeroDivisionError
        outer.add(load, 1)
    run_all(fire, worker)

    assert ["deleted", "succeeded"] == [one.refresh().state for one in (inner, outer)]
    assert (2, 1, 1) == (outer.counts().total, outer.counts().deleted, outer.counts().succeeded)


# ---- adding to a stored batch --------------------------------------------------------------------------


def test_members_can_be_added_to_a_stored_batch_until_it_ends(fire, load, worker):
    """Members are added with the original handle, a newly read handle or the id of the batch.

    A running member has only the id.
    """
    with fire.batch("import") as batch:
        batch.add(load, 1)
    one = batch.add(load, 2)
    two = fire.batches.get(batch.id).add_many(many(load, 2))
    three = Batch.of(fire.client, batch.id).add(load.using(after=one), 3)
    with batch.batch("late") as late:
        late.add(load, 4)
    total = batch.counts().total
    run_all(fire, worker)

    assert 6 == total
    assert {batch.id} == {job.batch_id for job in (one, *two, three, late)}
    assert (State.SUCCEEDED, State.SUCCEEDED) == (batch.refresh().state, three.refresh().state)
    with pytest.raises(BatchFinished):
        batch.add(load, 5)
    with pytest.raises(BatchFinished), batch.batch("too late"):
        pass


def test_batch_must_be_entered_once_before_members_are_added(fire, load):
    """A stored batch cannot be entered, but a new one must be."""
    batch = fire.batch("import")

    with pytest.raises(ConfigurationError, match="the block of its batch was not entered; use with"):
        batch.add(load, 1)
    with batch:
        batch.add(load, 1)
        with pytest.raises(ConfigurationError, match="a batch has only one block"), batch:
            pass
    with pytest.raises(ConfigurationError, match="a batch has only one block"), fire.batches.get(batch.id):
        pass
    batch.add(load, 2)
    assert 2 == batch.counts().total


# ---- dependencies of members ---------------------------------------------------------------------------


def test_member_can_depend_only_on_members_of_its_batch(fire, storage, load):
    """Only the batch itself can depend on a job outside of the batch or in another batch."""
    outside = load.enqueue(1)
    with fire.batch("import") as batch:
        one = batch.add(load, 1)
        inner = batch.batch("inner")
        for source in (outside, fire.jobs.get(outside.id), batch):
            with pytest.raises(
                ConfigurationError, match="a member can wait only for members of its own batch"
            ):
                batch.add(load.using(after=source), 2)
        with pytest.raises(ConfigurationError, match="only for members of its own batch"):
            inner.add(load.using(after=one), 2)
        with pytest.raises(ConfigurationError, match="only for members of its own batch"):
            batch.batch("other", after=outside)

    with fire.batch("next", after=outside, on="finished"):
        pass
    assert [(outside.id, On.FINISHED)] == [
        (edge.parent_id, edge.on) for edge in storage.inserts[-1][0].parents
    ]


def test_members_start_when_the_dependency_of_their_batch_has_ended(fire, load, report, worker):
    """If the dependency can no longer succeed, the batch is deleted."""
    first = load.enqueue(1)
    with fire.batch("next", after=first) as batch:
        member = batch.add(load, 2)
    before = (batch.counts().is_unopened, member.refresh().state)
    run_all(fire, worker)
    gone = load.enqueue(1)
    with fire.batch("never", after=[gone, first]) as never:
        never.add(load, 2)
    gone.delete()
    run_all(fire, worker)

    assert (True, State.AWAITING) == before
    assert ["succeeded", "succeeded", "deleted"] == [one.refresh().state for one in (batch, member, never)]


def test_job_outside_cannot_depend_on_an_unstored_member(fire, load, report):
    """A member is not stored before the block of its batch ends."""
    with fire.batch("import") as batch:
        job = batch.add(load, 1)
        with pytest.raises(JobNotCommitted, match="it is stored at the end of the block of its batch"):
            report.using(after=job).enqueue()
        with pytest.raises(JobNotCommitted, match="at the end of the block"):
            fire.batch("next", after=batch)
        callback = job.then(report, "later")

    assert (None, State.AWAITING) == (callback.refresh().batch_id, callback.state)
    assert State.AWAITING is report.using(after=[job, batch]).enqueue().refresh().state


def test_duplicate_is_not_a_member(fire, storage, load, report, worker):
    """For a duplicate, `add` returns the handle of the job that has the key.

    Members cannot depend on that job.
    """
    only = load.using(unique=Unique("rows"))
    holder = only.enqueue(1)
    with fire.batch("import") as batch:
        job = batch.add(only, 2)
        batch.add(load, 3)
    with (
        pytest.raises(DuplicateJob, match="another member waits for it") as caught,
        fire.batch("next") as other,
    ):
        other.add(report.using(after=other.add(only, 2)))
    twice = load.using(unique=Unique("twice"))
    with ends_with(DuplicateJob, match="Nothing was stored"), fire.batch("next") as other:
        other.add(twice, 1)
        other.add(report.using(after=other.add(twice, 2)))
    with ends_with(DuplicateJob, match="no member of the batch"), fire.batch("long") as long:
        job = long.add(only, 2)
        long.add_many(many(load, 600))
        long.add(report.using(after=job))

    assert (holder.id, False, 1) == (job.id, job.is_new, batch.counts().total)
    assert holder.id == caught.value.job_id == caught.value.job.id


def test_member_cannot_depend_on_a_debounced_member(fire, load, report):
    """A later call might replace the debounced member."""
    with fire.batch("import") as batch:
        job = batch.add(load.using(unique=Debounce("rows", wait=5)), 1)
        with pytest.raises(ConfigurationError, match="is debounced, so a later call can run"):
            batch.add(report.using(after=job))


# ---- async ---------------------------------------------------------------------------------------------


def test_async_block_stores_without_blocking_the_event_loop(fire, storage, load, report):
    """In an async block, `add` stores nothing.

    `aadd` stores a chunk when enough members were added, and the remaining members are stored when the block
    ends.
    """

    async def fill():
        async with fire.batch("import") as batch:
            batch.add_many(many(load, 700))
            before = len(storage.inserts)
            await asyncio.gather(*(batch.aadd(load, row) for row in range(20)))
            await batch.aadd_many(many(load, 20))
            callback = await batch.athen(report, "done")
            during = len(storage.inserts)
        late = await batch.aadd(load, 1)
        await batch.aadd_many(many(load, 2))
        return batch, callback, late, before, during

    batch, callback, late, before, during = asyncio.run(fill())

    assert (0, 1) == (before, during)
    assert 743 == batch.counts().total
    assert (State.AWAITING, batch.id) == (callback.refresh().state, late.batch_id)


def test_async_block_that_raises_stores_nothing(fire, storage, load):
    async def fill():
        async with fire.batch("import") as batch:
            await batch.aadd(load, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(fill())

    assert [] == storage.inserts


def test_batch_in_an_async_session_is_stored_in_its_greenlet(fire, storage, load):
    """Async sessions work in the same way as for single jobs."""

    class Session:
        def __init__(self):
            self.jobs = []

        async def run_sync(self, function):
            return function(self.jobs)

    async def fill(session):
        async with fire.batch("import", within=session) as batch:
            await batch.aadd_many(many(load, 501))
        return batch

    session = Session()
    batch = asyncio.run(fill(session))

    assert [batch.id, 502] == [session.jobs[0].id, len(session.jobs)]


# ---- reading and changing ------------------------------------------------------------------------------


@pytest.fixture
def mixed(fire, load, report, worker):
    """A batch with three succeeded members, a failed member, and a member that waits for the failed one.

    One of the succeeded members belongs to another task.
    """
    with fire.batch("mixed") as batch:
        batch.add(load, 1)
        bad = batch.add(load, -1)
        batch.add(load, 3)
        batch.add(report.using(after=bad), "last")
        batch.add(report, "x")
    run_all(fire, worker)
    return batch


def test_failed_batch_counts_its_failed_members(mixed, fire):
    """`counts()` does not raise. A member that waits for a failed member makes the batch fail too."""
    message = rf"Batch 'mixed' \({mixed.id}\) failed: 1 of 5 members failed, 1 cannot start\."
    with pytest.raises(JobFailed, match=message):
        mixed.result(1)

    assert BatchCounts(total=5, waiting=1, succeeded=3, failed=1) == mixed.counts()
    with pytest.raises(JobFailed):
        asyncio.run(mixed.aresult(1))


def test_members_are_paged_in_the_order_in_which_they_were_added(mixed):
    """The `state` parameter restricts the page to members in this state."""
    first = mixed.members(limit=3)
    second = mixed.members(limit=3, cursor=first.cursor)

    assert (["load", "load", "load"], ["report", "report"]) == (
        [job.task for job in first], [job.task for job in second],
    )  # fmt: skip
    assert ["load"] == [job.task for job in mixed.members(state="failed")]
    with pytest.raises(ConfigurationError, match="limit must be from 1 to 500 jobs per page, got 0"):
        mixed.members(limit=0)


def test_results_of_one_task_are_in_the_order_in_which_members_were_added(mixed, load, report):
    """Only results of succeeded members are returned. With `after`, they start after that member."""
    members = mixed.members()

    async def awaited():
        return [result async for result in mixed.aresults(load)]

    assert [1, 3] == list(mixed.results(load)) == asyncio.run(awaited())
    assert ["x"] == list(mixed.results(report))
    assert [3] == list(mixed.results(load, after=members.jobs[0].id))
    assert [] == list(mixed.results(load, after=members.jobs[2].id))
    with pytest.raises(JobNotFound, match="'nobody' is not a member of"):
        list(mixed.results(load, after="nobody"))


def test_requeue_runs_failed_members_and_reopens_the_batch(mixed, report):
    """Inner batches are included. Members that wait for the success of a failed member run afterwards.

    A batch has no steps of its own.
    """
    failed, callback = mixed.members(state="failed").jobs, mixed.then(report.using(on="finished"), "x")
    requeued = mixed.requeue()
    late = [mixed.then(report.using(on=on), "x") for on in ("failed", "finished", "succeeded")]

    assert (State.AWAITING, 1) == (requeued.state, mixed.refresh().counts().active)
    assert ["awaiting"] * 3 == [job.refresh().state for job in late]
    assert State.ENQUEUED is callback.refresh().state
    with pytest.raises(ResultTimeout):
        mixed.result(0)
    assert mixed.add(report, "y").batch_id == failed[0].batch_id
    with pytest.raises(JobConflict, match="has no failed member that could be requeued"):
        mixed.requeue()
    with pytest.raises(ConfigurationError, match="has no steps; use from_step='a' with a member"):
        mixed.requeue(from_step="a")


def test_requeue_includes_members_of_inner_batches(fire, load, worker):
    """Both the outer and the inner batch are open again."""
    with fire.batch("outer") as outer, outer.batch("inner") as inner:
        inner.add(load, -1)
    run_all(fire, worker)
    before = [one.refresh().state for one in (outer, inner)]
    outer.requeue()

    assert ["failed", "failed"] == before
    assert ["awaiting", "awaiting"] == [one.refresh().state for one in (outer, inner)]


def test_requeue_of_a_member_reopens_all_enclosing_batches(fire, load, report, worker, monkeypatch):
    """The batches are opened even if a single call of `release` does not process them."""
    monkeypatch.setattr("firelock.jobs.administration.RELEASE_LIMIT", 1)
    with fire.batch("outer") as outer, outer.batch("inner") as inner:
        job = inner.add(load, -1)
    run_all(fire, worker)
    others = [report.enqueue("other") for _ in range(5)]
    for other in others:
        other.then(report.using(on="finished"))
    fire.storage.apply([lifecycle.delete(one.id, at=1, reason="", expires_at=None) for one in others])

    job.requeue()

    assert ["awaiting", "awaiting"] == [one.refresh().state for one in (outer, inner)]


def test_delete_cancels_the_batch_permanently(fire, load, worker):
    """Unfinished members are deleted, and none of them runs again."""
    with fire.batch("import") as batch:
        job = batch.add(load, 1)
    batch.delete()
    fire.storage.release(100)

    assert (State.DELETED, State.DELETED) == (batch.refresh().state, job.refresh().state)
    with pytest.raises(JobDeleted, match="deleted by code"):
        batch.result(1)
    with pytest.raises(BatchFinished):
        batch.add(load, 1)
    with pytest.raises(JobConflict, match="was cancelled, which is permanent"):
        batch.requeue()
    with pytest.raises(JobConflict, match="its batch was cancelled, which is permanent"):
        job.requeue()
    with pytest.raises(JobConflict, match="its batch was cancelled, which is permanent"):
        job.restore()
    with pytest.raises(JobConflict, match="it is a batch, and a cancelled batch cannot be restored"):
        batch.restore()
    assert ["its batch was cancelled, which is permanent"] == fire.jobs.why_not_restored([job.id])


def test_found_batch_has_a_batch_handle(fire, load):
    """A batch can be found by id, in a list of jobs, among members and in a list of batches."""
    with fire.batch("outer") as outer, outer.batch("inner") as inner:
        job = inner.add(load, 1)

    assert [Batch, Batch, Job] == [type(fire.jobs.get(one.id)) for one in (outer, inner, job)]
    assert {Batch, Job} == {type(one) for one in fire.jobs.find()}
    assert ["inner"] == [one.name for one in outer.members()]
    assert ["inner", "outer"] == [one.name for one in fire.batches.list()]
    assert [] == list(fire.batches.list(state="failed"))
    assert f"<Batch {outer.id} 'outer' awaiting>" == repr(fire.batches.get(outer.id))
    assert {inner.id} == {one.batch_id for one in fire.jobs.find(batch=inner.id)}
    with pytest.raises(JobNotFound, match="is not a batch, but a job of task load"):
        fire.batches.get(job.id)
    with pytest.raises(JobNotFound, match="Batch 'x' is not stored"):
        fire.batches.get("x")
    with pytest.raises(JobNotFound, match="is not a batch"):
        Batch.of(fire.client, job.id).counts()


def test_result_waits_for_the_end_of_the_batch(fire, load, worker):
    """The wait ends after the given timeout. The output of a batch cannot be passed to a job."""
    with fire.batch("import") as batch:
        batch.add(load, 1)

    with pytest.raises(ResultTimeout):
        batch.result(0)
    with pytest.raises(ConfigurationError, match=r"has no output. Let the job wait for the batch"):
        load.enqueue(batch.output)
    run_all(fire, worker)
    assert 1 == asyncio.run(batch.aresult(1)).succeeded


def test_failed_jobs_and_their_batch_are_requeued_in_one_call(mixed, fire):
    """The search in the README also returns the failed batch, which is reopened with its member."""
    failed = fire.jobs.find(state="failed")

    answers = dict(
        zip([job.task for job in failed], fire.jobs.requeue([job.id for job in failed]), strict=True)
    )

    assert answers["firelock:batch"] is Applied.REFUSED
    assert [True] == [answer.is_applied for task, answer in answers.items() if task != "firelock:batch"]
    assert mixed.refresh().state == "awaiting"


def test_bulk_requeue_skips_a_batch_and_bulk_delete_cancels_it(mixed, fire):
    """A batch has no task that could run.

    Its members are requeued one by one, or with the handle of the batch.
    """
    ids = [mixed.id, *(job.id for job in mixed.members())]

    answers = fire.jobs.requeue(ids)
    operation = fire.operations.start("requeue", JobFilter(state=State.FAILED), by="ann")
    with pytest.raises(JobConflict, match="a batch itself does not run; requeue its members"):
        Job(fire.client, mixed.record()).requeue()

    assert Applied.REFUSED is answers[0]
    assert [
        "a batch itself does not run; requeue its members",
        "it was not found",
    ] == fire.jobs.why_not_requeued([mixed.id, "nobody"])
    assert 0 == fire.operations.run(operation.id, wait=lambda _: None).changed
    assert fire.jobs.delete([mixed.id])[0].is_applied
    assert mixed.counts().is_cancelled


def test_copy_of_a_member_is_outside_the_batch(mixed, fire):
    """A batch cannot be copied, because it has no arguments to run with."""
    member = mixed.members().jobs[0]

    assert None is fire.jobs.copy(member.id).batch_id
    with pytest.raises(JobConflict, match="is a batch, which cannot be copied"):
        fire.jobs.copy(mixed.id)


# ---- plugins -------------------------------------------------------------------------------------------


def test_plugins_choose_options_for_members_but_not_for_batches():
    """A batch has no task. Plugins are notified of new batches and members alike."""
    seen, calls = [], []
    observer = plugin(
        jobs_created=lambda jobs: seen.append([job.task for job in jobs]),
        job_options=lambda call: calls.append(call.task) or {"tags": ["chosen"]},
    )
    with Firelock("memory://", plugins=[observer]) as fire:
        load = fire.task(name="load")(lambda: None)
        with fire.batch("import") as batch:
            job = batch.add(load)
        batch.add(load)

    assert [[BATCH_TASK, "load"], ["load"]] == seen
    assert ["load", "load"] == calls
    assert ((), ("chosen",)) == (batch.tags, job.tags)


# ---- invalid options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "A batch name must have 1 to 200 printable characters, got ''"),
        ({"name": "a\nb"}, "printable characters"),
        ({"on_failure": "stop"}, "on_failure must be 'continue' or 'cancel', got 'stop'"),
        ({"on": "ended"}, "on must be one of .*, got 'ended'"),
        ({"after": "id"}, "after='id' must contain only handles of jobs, got 'id'"),
        ({"hold": timedelta()}, "hold must be a timedelta from 1 second to 366 days, got datetime"),
        ({"keep": -1}, "keep must be .*, got -1"),
        ({"tags": "eu"}, "tags must be a list of strings, got the string 'eu'"),
    ],
)
def test_invalid_option_raises(fire, storage, options, words):
    """The error is raised before any member is added."""
    with pytest.raises(ConfigurationError, match=words):
        fire.batch(**{"name": "import", **options})

    assert [] == storage.inserts
