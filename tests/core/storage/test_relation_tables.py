"""Batches, waits and memos on tables, in memory and on rows: rules that the kit does not require.

The kit tests the rules for every storage.
"""

from __future__ import annotations

import pytest

from firelock.errors import BatchFinished, JobNotFound
from firelock.model.answers import Applied
from firelock.model.dependencies import On
from firelock.model.memo import MemoKind
from firelock.model.state import State
from firelock.storage.memory import MemoryStorage

from .relations import SESSION, DictStorage, Yard

HOUR = 3_600_000_000


@pytest.fixture(params=[MemoryStorage, DictStorage], ids=["memory", "rows"])
def yard(request):
    """Return a storage of each kind."""
    return Yard(request.param())


# ---- batches ---------------------------------------------------------------------------------------------


def test_batch_ends_with_its_last_member(yard):
    """A batch succeeds in the release after the last end of a member.

    The result of that end announces the release.
    """
    batch = yard.batch()
    yard.put(batch, yard.job(batch=batch.id), yard.job(batch=batch.id))
    yard.settle()
    one, other = yard.claim().values()

    answers = [yard.succeed(one), yard.settle(), yard.state(batch.id), yard.succeed(other)]

    assert [Applied.APPLIED, 0, State.AWAITING, Applied.RELEASE_NEEDED] == answers
    assert (1, State.SUCCEEDED) == (yard.settle(), yard.state(batch.id))
    assert (2, 2, 0) == (
        yard.batch_counts(batch.id).total,
        yard.batch_counts(batch.id).succeeded,
        yard.batch_counts(batch.id).active,
    )


def test_batch_fails_although_a_member_waits_for_the_failure(yard):
    """A requeue of the failed member opens the batch again, and the waiting member runs then."""
    batch = yard.batch()
    first = yard.job(batch=batch.id)
    second = yard.job(batch=batch.id, after=[first.id])
    yard.put(batch, first, second)
    yard.fail(yard.claim()[first.id])
    yard.settle()
    failed = yard.record(batch.id)
    assert (State.FAILED, "1 of 2 members failed, 1 cannot start") == (failed.state, failed.reason)

    yard.requeue(first.id)
    yard.settle()
    assert State.AWAITING is yard.state(batch.id)
    yard.succeed(yard.claim()[first.id])
    yard.settle()
    yard.succeed(yard.claim()[second.id])
    yard.settle()

    assert State.SUCCEEDED is yard.state(batch.id)


def test_history_of_a_batch_contains_its_reopening_without_a_release(yard):
    """Nothing was released while the member was requeued and ran, so the history adds the missing state."""
    batch = yard.batch()
    member = yard.job(batch=batch.id)
    yard.put(batch, member)
    yard.fail(yard.claim()[member.id])
    yard.settle()

    yard.requeue(member.id)
    yard.succeed(yard.claim()[member.id])
    yard.settle()

    states = [entry.state for entry in yard.storage.history(batch.id).entries]
    assert [State.AWAITING, State.FAILED, State.AWAITING, State.SUCCEEDED] == states


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_cancelled_batch_is_deleted_when_no_member_runs(yard, limit):
    """Each call deletes as many members as requested. A running member keeps the batch open."""
    batch = yard.batch()
    inner = yard.batch(batch=batch.id)
    members = [yard.job(batch=batch.id), yard.job(batch=batch.id), yard.job(batch=inner.id)]
    members += [yard.job(batch=batch.id, after=[inner.id])]
    yard.put(batch, inner, *members)
    (running,) = yard.claim(1).values()

    assert Applied.RELEASE_NEEDED is yard.delete(batch.id)
    yard.settle(limit)
    assert (State.AWAITING, State.DELETED) == (yard.state(batch.id), yard.state(inner.id))
    assert {State.DELETED} == {yard.state(member.id) for member in members}
    assert Applied.REFUSED is yard.succeed(running)
    yard.settle(limit)

    assert (State.DELETED, "deleted by ann") == (yard.state(batch.id), yard.record(batch.id).reason)
    assert Applied.REFUSED is yard.requeue(members[1].id)


@pytest.mark.parametrize("limit", [1, 100])
def test_members_of_an_awaiting_batch_wait(yard, limit):
    """The members of inner batches wait too. A delayed member then waits for its due time."""
    source = yard.job()
    batch = yard.batch(after=[source.id])
    inner = yard.batch(batch=batch.id)
    later = yard.storage.clock() + 10**9
    own, deep, delayed = (
        yard.job(batch=batch.id),
        yard.job(batch=inner.id),
        yard.job(batch=batch.id, at=later),
    )
    yard.put(source, batch, inner, own, deep, delayed)

    assert (3, True) == (yard.batch_counts(batch.id).active, yard.batch_counts(batch.id).is_unopened)
    assert {"runs when its batch opens"} == {yard.record(one.id).reason for one in (own, deep, delayed)}
    yard.succeed(yard.claim()[source.id])
    yard.settle(limit)

    assert {own.id, deep.id} == set(yard.claim())
    assert (State.SCHEDULED, later) == (yard.state(delayed.id), yard.record(delayed.id).due_at)


def test_failure_stops_the_other_members_if_requested(yard):
    """A running member is cancelled and waiting members are deleted.

    A requeued member is not stopped again.
    """
    batch = yard.batch(fails_fast=True)
    members = [yard.job(batch=batch.id), yard.job(batch=batch.id)]
    members += [yard.job(batch=batch.id, after=[members[0].id])]
    yard.put(batch, *members)
    first, second = yard.claim().values()
    yard.fail(first)
    assert yard.batch_counts(batch.id).is_stopping
    yard.settle()
    assert ["another member of its batch failed"] * 2 == [yard.record(one.id).reason for one in members[1:]]
    yard.succeed(second)
    yard.settle()
    assert (State.FAILED, False) == (yard.state(batch.id), yard.batch_counts(batch.id).is_stopping)

    yard.requeue(first.id)
    yard.settle()
    yard.succeed(yard.claim()[first.id])
    yard.settle()

    assert State.SUCCEEDED is yard.state(batch.id)


def test_requeue_before_the_sweep_keeps_the_members(yard):
    """After the requeue, the earlier failure no longer stops any members."""
    batch = yard.batch(fails_fast=True)
    failing, other = yard.job(batch=batch.id), yard.job(batch=batch.id)
    yard.put(batch, failing, other)
    yard.fail(yard.claim()[failing.id])

    yard.requeue(failing.id)
    yard.settle()

    assert [State.ENQUEUED, State.PROCESSING] == [yard.state(failing.id), yard.state(other.id)]


def test_hold_keeps_a_batch_open(yard):
    """A held batch stays open although no member can run. If the hold expires, the batch is cancelled."""
    now = yard.storage.clock()
    kept, lost = yard.batch(hold=now + 10**9), yard.batch(hold=now + 10**9)
    yard.put(kept, lost)
    assert 0 == yard.settle()
    assert yard.batch_counts(kept.id).is_held

    assert Applied.APPLIED is yard.hold(kept.id, now + 2 * 10**9)
    assert Applied.RELEASE_NEEDED is yard.hold(kept.id, None)
    yard.storage.clock_offset = 10**9 + 10**6
    yard.storage.promote(100)
    yard.settle()

    assert (State.SUCCEEDED, State.DELETED) == (yard.state(kept.id), yard.state(lost.id))
    assert "its creator stopped before adding all members" == yard.record(lost.id).reason
    assert Applied.REFUSED is yard.hold(lost.id, None)


def test_adding_jobs_to_an_ended_batch_is_refused(yard):
    """Nothing can be added to a cancelled batch or a job that is not a batch.

    Either all or no jobs are stored.
    """
    plain, batch, other = yard.job(), yard.batch(), yard.batch()
    yard.put(plain, batch, other, yard.job(batch=other.id))
    yard.settle()
    yard.delete(other.id)
    stray = yard.job()

    for into, error in ((batch.id, BatchFinished), (other.id, BatchFinished), (plain.id, JobNotFound)):
        with pytest.raises(error, match="Nothing was stored"):
            yard.storage.insert([stray, yard.job(batch=into)])

    assert yard.record(stray.id) is None


def test_batch_that_depends_on_a_deleted_job_is_deleted(yard):
    """The call that creates such a batch gets no error, its members are swept, and no member can be added."""
    source = yard.job()
    yard.put(source)
    yard.delete(source.id)
    batch = yard.batch(after=[source.id])
    member = yard.job(batch=batch.id)
    yard.put(batch, member)

    yard.settle()

    assert [State.DELETED, State.DELETED] == [yard.state(batch.id), yard.state(member.id)]
    with pytest.raises(BatchFinished):
        yard.put(yard.job(batch=batch.id))


def test_job_requeued_before_the_release_is_not_changed(yard):
    """The list of jobs to examine was created before the requeue."""
    source = yard.job()
    batch = yard.batch(after=[source.id])
    parent = yard.job(batch=batch.id)
    child = yard.job(batch=batch.id, after=[parent.id], on=On.DELETED)
    yard.put(source, batch, parent, child)
    yard.delete(parent.id)
    yard.requeue(child.id)

    yard.settle()

    assert State.ENQUEUED is yard.state(child.id)


def test_member_released_in_an_awaiting_batch_waits_for_the_batch(yard):
    """The released member waits, like all members that do not depend on another member."""
    source = yard.job()
    batch = yard.batch(after=[source.id])
    parent = yard.job(batch=batch.id)
    child = yard.job(batch=batch.id, after=[parent.id], on=On.DELETED)
    yard.put(source, batch, parent, child)
    yard.delete(parent.id)
    yard.settle()
    assert (State.AWAITING, "runs when its batch opens") == (
        yard.state(child.id),
        yard.record(child.id).reason,
    )

    yard.succeed(yard.claim()[source.id])
    yard.settle()

    assert State.ENQUEUED is yard.state(child.id)


def test_inner_batch_is_a_member_like_any_other(yard):
    """A continuation of the inner batch waits for all of its members.

    Requeues also open the outer batches again.
    """
    outer = yard.batch()
    inner = yard.batch(batch=outer.id)
    deep, then = yard.job(batch=inner.id), yard.job(batch=outer.id, after=[inner.id])
    yard.put(outer, inner, deep, then)
    assert (1, 1) == (yard.batch_counts(outer.id).active, yard.batch_counts(outer.id).waiting)
    yard.fail(yard.claim()[deep.id])
    yard.settle()
    assert [State.FAILED, State.FAILED] == [yard.state(inner.id), yard.state(outer.id)]

    yard.requeue(deep.id)
    yard.settle()
    assert [State.AWAITING, State.AWAITING] == [yard.state(inner.id), yard.state(outer.id)]
    yard.succeed(yard.claim()[deep.id])
    yard.settle()
    yard.succeed(yard.claim()[then.id])
    yard.settle()

    assert [State.SUCCEEDED, State.SUCCEEDED] == [yard.state(inner.id), yard.state(outer.id)]


# ---- waits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_early", [True, False])
def test_signal_wakes_the_waiting_job(yard, is_early):
    """An early signal is stored, and the suspension checks for it."""
    job = yard.job()
    yard.put(job)
    run = yard.claim()[job.id]
    if is_early:
        assert Applied.APPLIED is yard.signal(job.id).answer
    assert Applied.APPLIED is yard.suspend(run, due_at=10**18)
    if not is_early:
        assert (State.AWAITING, "signal approval") == (yard.state(job.id), yard.record(job.id).waits_for)
        assert Applied.APPLIED is yard.signal(job.id).answer

    record = yard.record(job.id)
    assert (State.ENQUEUED, "signal approval", None, 0) == (
        record.state, record.reason, record.due_at, record.attempt,
    )  # fmt: skip
    assert Applied.TAKEN is yard.signal(job.id, value='"no"').answer
    assert [('"yes"', "ann")] == [(memo.value, memo.author) for memo in yard.storage.recall(job.id)]


def test_end_of_the_last_called_job_wakes_the_caller(yard):
    """The last of the called jobs to end wakes the caller.

    The caller does not wait for a job that had already ended.
    """
    caller, *children = yard.job(), yard.job(), yard.job(), yard.job()
    yard.put(caller, *children)
    runs = yard.claim()
    yard.fail(runs[children[0].id])
    yard.suspend(runs[caller.id], "call pages", [child.id for child in children])

    for child in children[1:]:
        assert State.AWAITING is yard.state(caller.id)
        assert Applied.RELEASE_NEEDED is yard.succeed(runs[child.id])
        yard.settle()

    assert State.ENQUEUED is yard.state(caller.id)
    assert () == yard.record(caller.id).parents


def test_waiting_job_continues_after_its_timeout(yard):
    """The job continues at its due time, and no longer waits."""
    job = yard.job()
    yard.put(job)
    due_at = yard.storage.clock() + HOUR
    yard.suspend(yard.claim()[job.id], due_at=due_at)
    assert due_at == yard.storage.promote(100).next_due_at

    yard.storage.clock_offset = 2 * HOUR
    assert 1 == yard.storage.promote(100).promoted

    assert (State.ENQUEUED, None) == (yard.state(job.id), yard.record(job.id).waits_for)


# ---- memos -----------------------------------------------------------------------------------------------


def test_memos_are_ordered_and_removed_from_a_position(yard):
    """A started memo keeps its place when it is completed.

    The places of removed memos are not reused.
    """
    job = yard.job()
    yard.put(job)
    run = yard.claim()[job.id]
    assert not run.has_memos
    yard.step(run, "b", None, is_done=False)
    yard.step(run, "a")
    yard.step(run, "b", "2")
    yard.step(run, "a", "3", kind=MemoKind.SLEEP)
    assert Applied.REFUSED is yard.requeue(job.id, (MemoKind.STEP, "a"))
    yard.fail(run)

    kept = [("b", "2", 0), ("a", "1", 1), ("a", "3", 2)]
    assert kept == [(memo.name, memo.value, memo.place) for memo in yard.storage.recall(job.id)]
    assert Applied.REFUSED is yard.requeue(job.id, (MemoKind.STEP, "c"))
    assert Applied.APPLIED is yard.requeue(job.id, (MemoKind.STEP, "a"))
    assert kept[:1] == [(memo.name, memo.value, memo.place) for memo in yard.storage.recall(job.id)]
    again = yard.claim()[job.id]
    assert again.has_memos
    assert 3 == yard.step(again, "a").memo.place


def test_memos_of_an_old_run_are_refused(yard):
    """The fence of an old run is refused."""
    job = yard.job()
    yard.put(job)
    old = yard.claim()[job.id]
    yard.fail(old)
    yard.requeue(job.id)
    new = yard.claim()[job.id]

    assert Applied.REFUSED is yard.step(old, "a").answer
    assert yard.storage.recall(job.id, session=SESSION, fence=old.fence) is None
    assert [] == yard.storage.recall(job.id, session=SESSION, fence=new.fence)
