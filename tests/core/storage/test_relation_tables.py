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

from .relations import SESSION, DictStorage, RelationScene

HOUR = 3_600_000_000


@pytest.fixture(params=[MemoryStorage, DictStorage], ids=["memory", "rows"])
def scene(request):
    """Return a storage of each kind."""
    return RelationScene(request.param())


# ---- batches ---------------------------------------------------------------------------------------------


def test_batch_ends_with_its_last_member(scene):
    """A batch succeeds in the first release after its last member has ended.

    The result of settling this member shows that a release is needed.
    """
    batch = scene.batch()
    scene.put(batch, scene.job(batch=batch.id), scene.job(batch=batch.id))
    scene.settle()
    one, other = scene.claim().values()

    answers = [scene.succeed(one), scene.settle(), scene.state(batch.id), scene.succeed(other)]

    assert [Applied.APPLIED, 0, State.AWAITING, Applied.RELEASE_NEEDED] == answers
    assert (1, State.SUCCEEDED) == (scene.settle(), scene.state(batch.id))
    assert (2, 2, 0) == (
        scene.batch_counts(batch.id).total,
        scene.batch_counts(batch.id).succeeded,
        scene.batch_counts(batch.id).active,
    )


def test_batch_fails_although_a_member_waits_for_the_failure(scene):
    """If the failed member is requeued, the batch opens again, and the waiting member can run."""
    batch = scene.batch()
    first = scene.job(batch=batch.id)
    second = scene.job(batch=batch.id, after=[first.id])
    scene.put(batch, first, second)
    scene.fail(scene.claim()[first.id])
    scene.settle()
    failed = scene.record(batch.id)
    assert (State.FAILED, "1 of 2 members failed, 1 cannot start") == (failed.state, failed.reason)

    scene.requeue(first.id)
    scene.settle()
    assert State.AWAITING is scene.state(batch.id)
    scene.succeed(scene.claim()[first.id])
    scene.settle()
    scene.succeed(scene.claim()[second.id])
    scene.settle()

    assert State.SUCCEEDED is scene.state(batch.id)


def test_history_of_a_batch_contains_its_reopening_without_a_release(scene):
    """Nothing was released while the member was requeued and ran, so the history adds the missing state."""
    batch = scene.batch()
    member = scene.job(batch=batch.id)
    scene.put(batch, member)
    scene.fail(scene.claim()[member.id])
    scene.settle()

    scene.requeue(member.id)
    scene.succeed(scene.claim()[member.id])
    scene.settle()

    states = [entry.state for entry in scene.storage.history(batch.id).entries]
    assert [State.AWAITING, State.FAILED, State.AWAITING, State.SUCCEEDED] == states


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_cancelled_batch_is_deleted_when_no_member_runs(scene, limit):
    """Each call deletes as many members as requested. A running member keeps the batch open."""
    batch = scene.batch()
    inner = scene.batch(batch=batch.id)
    members = [scene.job(batch=batch.id), scene.job(batch=batch.id), scene.job(batch=inner.id)]
    members += [scene.job(batch=batch.id, after=[inner.id])]
    scene.put(batch, inner, *members)
    (running,) = scene.claim(1).values()

    assert Applied.RELEASE_NEEDED is scene.delete(batch.id)
    scene.settle(limit)
    assert (State.AWAITING, State.DELETED) == (scene.state(batch.id), scene.state(inner.id))
    assert {State.DELETED} == {scene.state(member.id) for member in members}
    assert Applied.REFUSED is scene.succeed(running)
    scene.settle(limit)

    assert (State.DELETED, "deleted by ann") == (scene.state(batch.id), scene.record(batch.id).reason)
    assert Applied.REFUSED is scene.requeue(members[1].id)


@pytest.mark.parametrize("limit", [1, 100])
def test_members_of_an_awaiting_batch_wait(scene, limit):
    """The members of inner batches wait too. When the batch opens, a delayed member waits until it is due."""
    source = scene.job()
    batch = scene.batch(after=[source.id])
    inner = scene.batch(batch=batch.id)
    later = scene.storage.clock() + 10**9
    own, deep, delayed = (
        scene.job(batch=batch.id),
        scene.job(batch=inner.id),
        scene.job(batch=batch.id, at=later),
    )
    scene.put(source, batch, inner, own, deep, delayed)

    assert (3, True) == (scene.batch_counts(batch.id).active, scene.batch_counts(batch.id).is_unopened)
    assert {"runs when its batch opens"} == {scene.record(one.id).reason for one in (own, deep, delayed)}
    scene.succeed(scene.claim()[source.id])
    scene.settle(limit)

    assert {own.id, deep.id} == set(scene.claim())
    assert (State.SCHEDULED, later) == (scene.state(delayed.id), scene.record(delayed.id).due_at)


def test_failure_stops_the_other_members_if_requested(scene):
    """A running member is cancelled and waiting members are deleted.

    A requeued member is not stopped again.
    """
    batch = scene.batch(fails_fast=True)
    members = [scene.job(batch=batch.id), scene.job(batch=batch.id)]
    members += [scene.job(batch=batch.id, after=[members[0].id])]
    scene.put(batch, *members)
    first, second = scene.claim().values()
    scene.fail(first)
    assert scene.batch_counts(batch.id).is_stopping
    scene.settle()
    assert ["another member of its batch failed"] * 2 == [scene.record(one.id).reason for one in members[1:]]
    scene.succeed(second)
    scene.settle()
    assert (State.FAILED, False) == (scene.state(batch.id), scene.batch_counts(batch.id).is_stopping)

    scene.requeue(first.id)
    scene.settle()
    scene.succeed(scene.claim()[first.id])
    scene.settle()

    assert State.SUCCEEDED is scene.state(batch.id)


def test_requeue_before_the_sweep_keeps_the_members(scene):
    """After the requeue, the earlier failure no longer stops any members."""
    batch = scene.batch(fails_fast=True)
    failing, other = scene.job(batch=batch.id), scene.job(batch=batch.id)
    scene.put(batch, failing, other)
    scene.fail(scene.claim()[failing.id])

    scene.requeue(failing.id)
    scene.settle()

    assert [State.ENQUEUED, State.PROCESSING] == [scene.state(failing.id), scene.state(other.id)]


def test_hold_keeps_a_batch_open(scene):
    """A held batch stays open although no member can run. If the hold expires, the batch is cancelled."""
    now = scene.storage.clock()
    kept, lost = scene.batch(hold=now + 10**9), scene.batch(hold=now + 10**9)
    scene.put(kept, lost)
    assert 0 == scene.settle()
    assert scene.batch_counts(kept.id).is_held

    assert Applied.APPLIED is scene.hold(kept.id, now + 2 * 10**9)
    assert Applied.RELEASE_NEEDED is scene.hold(kept.id, None)
    scene.storage.clock_offset = 10**9 + 10**6
    scene.storage.promote(100)
    scene.settle()

    assert (State.SUCCEEDED, State.DELETED) == (scene.state(kept.id), scene.state(lost.id))
    assert "its creator stopped before adding all members" == scene.record(lost.id).reason
    assert Applied.REFUSED is scene.hold(lost.id, None)


def test_adding_jobs_to_an_ended_batch_is_refused(scene):
    """Nothing can be added to a cancelled batch or a job that is not a batch.

    Either all or no jobs are stored.
    """
    plain, batch, other = scene.job(), scene.batch(), scene.batch()
    scene.put(plain, batch, other, scene.job(batch=other.id))
    scene.settle()
    scene.delete(other.id)
    stray = scene.job()

    for into, error in ((batch.id, BatchFinished), (other.id, BatchFinished), (plain.id, JobNotFound)):
        with pytest.raises(error, match="Nothing was stored"):
            scene.storage.insert([stray, scene.job(batch=into)])

    assert scene.record(stray.id) is None


def test_batch_that_depends_on_a_deleted_job_is_deleted(scene):
    """The call that creates such a batch gets no error.

    A sweep deletes its members, and no member can be added.
    """
    source = scene.job()
    scene.put(source)
    scene.delete(source.id)
    batch = scene.batch(after=[source.id])
    member = scene.job(batch=batch.id)
    scene.put(batch, member)

    scene.settle()

    assert [State.DELETED, State.DELETED] == [scene.state(batch.id), scene.state(member.id)]
    with pytest.raises(BatchFinished):
        scene.put(scene.job(batch=batch.id))


def test_job_requeued_before_the_release_is_not_changed(scene):
    """The list of jobs to check was created before the requeue."""
    source = scene.job()
    batch = scene.batch(after=[source.id])
    parent = scene.job(batch=batch.id)
    child = scene.job(batch=batch.id, after=[parent.id], on=On.DELETED)
    scene.put(source, batch, parent, child)
    scene.delete(parent.id)
    scene.requeue(child.id)

    scene.settle()

    assert State.ENQUEUED is scene.state(child.id)


def test_member_released_in_an_awaiting_batch_waits_for_the_batch(scene):
    """The released member waits, like all members that do not depend on another member."""
    source = scene.job()
    batch = scene.batch(after=[source.id])
    parent = scene.job(batch=batch.id)
    child = scene.job(batch=batch.id, after=[parent.id], on=On.DELETED)
    scene.put(source, batch, parent, child)
    scene.delete(parent.id)
    scene.settle()
    assert (State.AWAITING, "runs when its batch opens") == (
        scene.state(child.id),
        scene.record(child.id).reason,
    )

    scene.succeed(scene.claim()[source.id])
    scene.settle()

    assert State.ENQUEUED is scene.state(child.id)


def test_inner_batch_is_a_member_like_any_other(scene):
    """A continuation of the inner batch waits for all of its members.

    Requeues also open the outer batches again.
    """
    outer = scene.batch()
    inner = scene.batch(batch=outer.id)
    deep, then = scene.job(batch=inner.id), scene.job(batch=outer.id, after=[inner.id])
    scene.put(outer, inner, deep, then)
    assert (1, 1) == (scene.batch_counts(outer.id).active, scene.batch_counts(outer.id).waiting)
    scene.fail(scene.claim()[deep.id])
    scene.settle()
    assert [State.FAILED, State.FAILED] == [scene.state(inner.id), scene.state(outer.id)]

    scene.requeue(deep.id)
    scene.settle()
    assert [State.AWAITING, State.AWAITING] == [scene.state(inner.id), scene.state(outer.id)]
    scene.succeed(scene.claim()[deep.id])
    scene.settle()
    scene.succeed(scene.claim()[then.id])
    scene.settle()

    assert [State.SUCCEEDED, State.SUCCEEDED] == [scene.state(inner.id), scene.state(outer.id)]


# ---- waits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_early", [True, False])
def test_signal_wakes_the_waiting_job(scene, is_early):
    """An early signal is stored, and the suspension checks for it."""
    job = scene.job()
    scene.put(job)
    run = scene.claim()[job.id]
    if is_early:
        assert Applied.APPLIED is scene.signal(job.id).answer
    assert Applied.APPLIED is scene.suspend(run, due_at=10**18)
    if not is_early:
        assert (State.AWAITING, "signal approval") == (scene.state(job.id), scene.record(job.id).waits_for)
        assert Applied.APPLIED is scene.signal(job.id).answer

    record = scene.record(job.id)
    assert (State.ENQUEUED, "signal approval", None, 0) == (
        record.state, record.reason, record.due_at, record.attempt,
    )  # fmt: skip
    assert Applied.TAKEN is scene.signal(job.id, value='"no"').answer
    assert [('"yes"', "ann")] == [(memo.value, memo.author) for memo in scene.storage.recall(job.id)]


def test_last_called_job_that_ends_wakes_the_caller(scene):
    """The caller does not wait for a called job that had already ended."""
    caller, *children = scene.job(), scene.job(), scene.job(), scene.job()
    scene.put(caller, *children)
    runs = scene.claim()
    scene.fail(runs[children[0].id])
    scene.suspend(runs[caller.id], "call pages", [child.id for child in children])

    for child in children[1:]:
        assert State.AWAITING is scene.state(caller.id)
        assert Applied.RELEASE_NEEDED is scene.succeed(runs[child.id])
        scene.settle()

    assert State.ENQUEUED is scene.state(caller.id)
    assert () == scene.record(caller.id).parents


def test_waiting_job_continues_after_its_timeout(scene):
    """The job continues at its due time and no longer waits for an event."""
    job = scene.job()
    scene.put(job)
    due_at = scene.storage.clock() + HOUR
    scene.suspend(scene.claim()[job.id], due_at=due_at)
    assert due_at == scene.storage.promote(100).next_due_at

    scene.storage.clock_offset = 2 * HOUR
    assert 1 == scene.storage.promote(100).promoted

    assert (State.ENQUEUED, None) == (scene.state(job.id), scene.record(job.id).waits_for)


# ---- memos -----------------------------------------------------------------------------------------------


def test_memos_are_ordered_and_removed_from_a_position(scene):
    """A started memo keeps its place when it is completed.

    The places of removed memos are not reused.
    """
    job = scene.job()
    scene.put(job)
    run = scene.claim()[job.id]
    assert not run.has_memos
    scene.step(run, "b", None, is_done=False)
    scene.step(run, "a")
    scene.step(run, "b", "2")
    scene.step(run, "a", "3", kind=MemoKind.SLEEP)
    assert Applied.REFUSED is scene.requeue(job.id, (MemoKind.STEP, "a"))
    scene.fail(run)

    kept = [("b", "2", 0), ("a", "1", 1), ("a", "3", 2)]
    assert kept == [(memo.name, memo.value, memo.place) for memo in scene.storage.recall(job.id)]
    assert Applied.REFUSED is scene.requeue(job.id, (MemoKind.STEP, "c"))
    assert Applied.APPLIED is scene.requeue(job.id, (MemoKind.STEP, "a"))
    assert kept[:1] == [(memo.name, memo.value, memo.place) for memo in scene.storage.recall(job.id)]
    again = scene.claim()[job.id]
    assert again.has_memos
    assert 3 == scene.step(again, "a").memo.place


def test_memos_of_an_old_run_are_refused(scene):
    """Memos are refused if they are sent with the fence of an earlier run."""
    job = scene.job()
    scene.put(job)
    old = scene.claim()[job.id]
    scene.fail(old)
    scene.requeue(job.id)
    new = scene.claim()[job.id]

    assert Applied.REFUSED is scene.step(old, "a").answer
    assert scene.storage.recall(job.id, session=SESSION, fence=old.fence) is None
    assert [] == scene.storage.recall(job.id, session=SESSION, fence=new.fence)
