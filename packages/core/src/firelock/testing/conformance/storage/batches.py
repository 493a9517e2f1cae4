"""Tests of batches: counts of members, completion, reopening, cancellation and failing fast."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from firelock.errors import BatchFinished, JobNotFound
from firelock.model.answers import Duplicate
from firelock.model.batch import BatchCounts
from firelock.model.dependencies import Edge, On, Relations
from firelock.model.job import Transition
from firelock.model.lifecycle import Moved
from firelock.model.limit import UniqueUse
from firelock.model.state import State
from firelock.storage import Applied, Feature, JobFilter
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    HOUR,
    Running,
    asks,
    deletes,
    fails,
    gives_up,
    requeues,
    restores,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

_OPEN, _DONE, _BAD, _GONE = State.AWAITING, State.SUCCEEDED, State.FAILED, State.DELETED


class BatchCountsTests(StorageFixtures):
    """Tests of `batch_counts`, and of how batches end."""

    verbs = "batch_counts"

    # ---- counts ------------------------------------------------------------------------------------------

    def test_batch_counts_follow_the_states_of_members(self, flow: FlowScene) -> None:
        """As soon as a batch is stored, its counts match the current states of its members.

        Scheduled, enqueued and running members are active, including those that wait for a retry or are
        snoozed.

        If this fails: people see progress that was not made, and batches end too early or never.
        """
        batch, (a, b, c, d) = flow.batch_of(4)
        seen = [flow.counts(batch)]
        one, two, three, four = flow.running(flow.begin(), a, b, c, d)
        seen.append(flow.counts(batch))

        flow.settle(succeeds(one))
        seen.append(flow.counts(batch))
        flow.settle(fails(two))
        seen.append(flow.counts(batch))
        flow.settle(retries(three, due_at=BASE + HOUR))
        flow.settle(snoozes(four, due_at=BASE + HOUR))
        seen.append(flow.counts(batch))
        flow.settle(deletes(c))
        seen.append(flow.counts(batch))

        assert [
            (4, 4, 0, 0, 0, 0), (4, 4, 0, 0, 0, 0), (4, 3, 0, 1, 0, 0), (4, 2, 0, 1, 1, 0),
            (4, 2, 0, 1, 1, 0), (4, 1, 0, 1, 1, 1),
        ] == seen  # fmt: skip
        assert 0.75 == flow.batch_counts(batch).progress
        flow.settle_all()
        assert seen[-1] == flow.counts(batch)
        assert _OPEN is flow.state(batch)

    def test_batch_counts_are_in_the_order_of_ids(self, flow: FlowScene) -> None:
        """The counts are in the order of the ids, with None for an unknown id or a job that is not a batch.

        If this fails: a page shows the progress of one batch next to the name of another.
        """
        one, (member,) = flow.batch_of(1)
        two = flow.batch()

        found = flow.storage.batch_counts([two, member, flow.new_id(), one, two])

        assert [BatchCounts(), None, None, BatchCounts(total=1, active=1), BatchCounts()] == found
        assert [] == flow.storage.batch_counts([])

    def test_inner_batches_are_counted_in_their_outer_batch(self, flow: FlowScene) -> None:
        """An inner batch is one member of its outer batch, and is counted in `batches` when it is stored.

        This includes a cancelled inner batch and one that waits for another member. Members of an inner batch
        are counted only in the inner batch.

        If this fails: a caller cannot see that a total excludes the members of inner batches.
        """
        outer, (a,) = flow.batch_of(1, name="outer")
        alone = flow.batch_counts(outer)
        inner = flow.batch("inner", within=outer)
        innermost = flow.batch("innermost", within=inner)
        one, two = flow.member(inner), flow.member(innermost)
        later = flow.batch("later", within=outer, after=[one])
        stored = [flow.batch_counts(batch).batches for batch in (outer, inner, innermost, later)]

        for job in flow.running(flow.begin(), a, one, two):
            flow.settle(succeeds(job))
        flow.settle_all()

        assert alone == BatchCounts(total=1, active=1)
        assert stored == [2, 1, 0, 0]
        assert flow.batch_counts(outer) == BatchCounts(total=3, succeeded=3, batches=2)
        assert flow.batch_counts(inner) == BatchCounts(total=2, succeeded=2, batches=1)
        assert flow.batch_counts(innermost) == BatchCounts(total=1, succeeded=1)

    def test_inner_batch_stored_with_its_outer_batch_is_counted(self, flow: FlowScene) -> None:
        """An inner batch is also counted if the same call stores its outer batch.

        If this fails: a batch that is filled in one block does not count the batches within it.
        """
        outer = flow.new_batch("outer")
        inner = flow.new_batch("inner", within=outer.id)

        flow.storage.insert([outer, inner, flow.new_member(inner.id)])

        assert flow.batch_counts(outer.id) == BatchCounts(total=1, active=1, batches=1)
        assert flow.batch_counts(inner.id) == BatchCounts(total=1, active=1)

    def test_repeated_insert_counts_a_member_once(self, flow: FlowScene) -> None:
        """A repeated insert does not change the counts, but a new member in it is counted.

        If this fails: after a lost reply a batch waits forever for members that do not exist.
        """
        batch = flow.new_batch()
        jobs = [batch, *(flow.new_member(batch.id) for _ in range(2))]
        flow.storage.insert(jobs)
        flow.settle_all()

        flow.storage.insert(jobs)
        flow.storage.insert([*jobs, flow.new_member(batch.id)])

        flow.settle_all()
        assert (3, 3, 0, 0, 0, 0) == flow.counts(batch.id)

    def test_crashed_member_stays_active_in_its_batch(self, flow: FlowScene) -> None:
        """A member whose server is lost stays active, and a late result from that server changes nothing.

        If this fails: a batch ends although a member is about to run again.
        """
        batch, (a,) = flow.batch_of(1)
        lost = flow.running(flow.begin("lost"), a)[0]

        flow.lose(lost.holder)
        late = flow.apply(succeeds(lost))

        flow.settle_all()
        assert (Applied.REFUSED, (1, 1, 0, 0, 0, 0), _OPEN) == (late, flow.counts(batch), flow.state(batch))
        flow.settle(succeeds(flow.run(flow.begin("next"), a)))
        flow.settle_all()
        assert ((1, 0, 0, 1, 0, 0), _DONE) == (flow.counts(batch), flow.state(batch))

    def test_repeated_end_of_a_member_is_counted_once(self, flow: FlowScene) -> None:
        """A result that is sent again, for example after a lost reply, does not change the counts.

        If this fails: progress exceeds one hundred per cent, or a batch ends too early.
        """
        batch, (a, _) = flow.batch_of(2)
        one = flow.take(flow.begin())[0]

        flow.settle(succeeds(one))
        again = flow.apply(succeeds(one))

        assert one.id == a
        assert Applied.ALREADY is again
        flow.settle_all()
        assert (2, 1, 0, 1, 0, 0) == flow.counts(batch)

    def test_ends_in_one_call_count_in_their_own_batches(self, flow: FlowScene) -> None:
        """If a call ends members of several batches, each applied result is counted in its member's batch.

        If this fails: the members of one batch end another batch.
        """
        first, (a, b) = flow.batch_of(2)
        second, (c, d) = flow.batch_of(2)
        alone = flow.add()
        running = flow.running(flow.begin(), a, b, c, d, alone)
        flow.settle(deletes(a))

        results = flow.storage.apply([succeeds(one) for one in running])
        flow.settle_all()

        assert [False, True, True, True, True] == [one.is_applied for one in results]
        assert [(2, 0, 0, 1, 0, 1), (2, 0, 0, 2, 0, 0)] == [flow.counts(first), flow.counts(second)]
        assert [_DONE] * 3 == flow.states(first, second, alone)

    def test_ended_member_is_active_until_its_children_are_released(self, flow: FlowScene) -> None:
        """A member that has ended is active until `release` has handled the jobs that wait for it.

        Therefore the batch does not end after one member has ended and before the next one starts.

        If this fails: the callbacks of a flow run after its first stage.
        """
        batch, (a,) = flow.batch_of(1)
        b = flow.member(batch, a)
        before = flow.counts(batch)
        one = flow.run(flow.begin(), a)

        result = flow.apply(succeeds(one))
        between = flow.counts(batch)
        flow.settle_all()

        assert Applied.RELEASE_NEEDED is result
        assert [(2, 1, 1, 0, 0, 0), (2, 1, 1, 1, 0, 0)] == [before, between]
        assert ((2, 1, 0, 1, 0, 0), _OPEN) == (flow.counts(batch), flow.state(batch))
        flow.settle(succeeds(flow.run(flow.begin("b"), b)))
        flow.settle_all()
        assert ((2, 0, 0, 2, 0, 0), _DONE) == (flow.counts(batch), flow.state(batch))

    @requires(Feature.UNIQUE)
    def test_duplicate_is_not_counted_as_a_member(self, flow: FlowScene) -> None:
        """A duplicate call is not counted as a member, and neither is a requeue that returns `TAKEN`.

        If this fails: a batch waits for a job that is not in it.
        """
        unique = asks(unique=UniqueUse("tasks.run kit/batch", raises=False))
        batch = flow.batch(colocate_with="tasks.run kit/batch")
        first = flow.member(batch, admission=unique)
        (answer,) = flow.storage.insert([flow.new_member(batch, admission=unique)]).is_new
        flow.settle(succeeds(flow.run(flow.begin(), first)))
        other = flow.add(admission=unique)

        taken = flow.apply(requeues(first))

        flow.settle_all()
        assert (Duplicate(first), Applied.TAKEN, State.ENQUEUED) == (answer, taken, flow.state(other))
        assert ((1, 0, 0, 1, 0, 0), _DONE) == (flow.counts(batch), flow.state(batch))

    # ---- ends --------------------------------------------------------------------------------------------

    def test_batch_is_never_claimed(self, flow: FlowScene) -> None:
        """An open batch is awaiting and keeps its meta, and it can be neither claimed nor requeued.

        If this fails: a server tries to run a task that does not exist.
        """
        batch, members = flow.batch_of(2, meta_json='{"tenant":"acme"}')
        member = flow.record(members[0])

        assert sorted(members) == sorted(flow.claim_ids(queues=None))
        flow.check(batch, state=_OPEN, is_batch=True, due_at=None, attempt=0, meta={"tenant": "acme"})
        assert Relations(batch) == member.relations
        assert Applied.REFUSED is flow.apply(requeues(batch))
        assert {State.AWAITING: 1, State.PROCESSING: 2} == flow.by_state()

    def test_empty_batch_succeeds(self, flow: FlowScene) -> None:
        """A batch without members ends with the next `release`, and its callbacks are enqueued.

        If this fails: a flow stops at a stage that has nothing to do.
        """
        batch = flow.batch()
        then = flow.continuation(batch)

        flow.settle_all()

        assert [_DONE, State.ENQUEUED] == flow.states(batch, then)

    @pytest.mark.parametrize(
        ("how", "end"),
        [("succeeds", _DONE), ("fails", _BAD), ("gives up", _DONE), ("deleted", _DONE)],
    )
    def test_end_of_the_last_member_ends_the_batch(self, flow: FlowScene, how: str, end: State) -> None:
        """A batch fails if a member has failed, and otherwise succeeds; deleted members do not matter.

        The batch ends at the storage's time, with a history entry, and its retention begins at that time.

        If this fails: a batch reports success although a member failed, or stays open although all members
        have ended.
        """
        batch, (a, b) = flow.batch_of(2, keeps=(DAY, 2 * DAY, 3 * DAY))
        one, two = flow.running(flow.begin(), a, b)
        flow.settle(succeeds(one))
        flow.settle_all()
        assert _OPEN is flow.state(batch)
        before = flow.now()

        ends: dict[str, Callable[[Running], Transition]]
        ends = {"succeeds": succeeds, "fails": fails, "gives up": gives_up}
        flow.settle(ends[how](two) if how in ends else deletes(b))
        # its run continues until its holder is notified
        if how == "deleted":
            flow.settle_all()
            assert _OPEN is flow.state(batch)
            flow.apply(succeeds(two))
        flow.settle_all()

        record = flow.record(batch)
        assert end is record.state
        assert record.ended_at is not None
        assert before <= record.ended_at <= flow.now()
        assert record.ended_at + {_DONE: DAY, _BAD: 2 * DAY}[end] == record.expires_at
        assert [_OPEN, end] == [entry.state for entry in flow.history(batch)]
        assert record.ended_at == flow.last_entry(batch).at
        if end is _BAD:
            assert record.reason == "1 of 2 members failed"

    def test_batch_fails_although_children_of_a_failed_member_wait(self, flow: FlowScene) -> None:
        """Members that wait for a failed member keep waiting; the batch fails when no other can continue.

        If this fails: a batch never ends after its first failure.
        """
        batch, (a, b) = flow.batch_of(2)
        c = flow.member(batch, a)
        d = flow.member(batch, c)
        one, two = flow.running(flow.begin(), a, b)

        flow.settle(fails(one))
        flow.settle_all()
        assert ((4, 1, 2, 0, 1, 0), _OPEN) == (flow.counts(batch), flow.state(batch))
        flow.settle(succeeds(two))
        flow.settle_all()

        assert ((4, 0, 2, 1, 1, 0), _BAD) == (flow.counts(batch), flow.state(batch))
        assert [State.AWAITING] * 2 == flow.states(c, d)
        assert flow.record(batch).reason == "1 of 4 members failed, 2 cannot start"

    def test_requeued_member_reopens_its_batch(self, flow: FlowScene) -> None:
        """A requeued member no longer counts as ended, and its batch is open until the member ends again.

        If this fails: a fixed flow never reports its success, or reports it too early.
        """
        batch, (a,) = flow.batch_of(1, keeps=(None, DAY, None))
        b = flow.member(batch, a)
        flow.settle(fails(flow.run(flow.begin(), a)))
        flow.settle_all()

        flow.settle(requeues(a, at=flow.stamp()))
        counts = flow.counts(batch)
        flow.settle_all()

        assert [(2, 1, 1, 0, 0, 0)] * 2 == [counts, flow.counts(batch)]
        flow.check(batch, state=_OPEN, reason=Moved.REOPENED, ended_at=None, expires_at=None)
        flow.settle(succeeds(flow.run(flow.begin("b"), a)))
        flow.settle_all()
        assert _OPEN is flow.state(batch)
        flow.settle(succeeds(flow.run(flow.begin("c"), b)))
        flow.settle_all()
        assert ((2, 0, 0, 2, 0, 0), _DONE) == (flow.counts(batch), flow.state(batch))
        assert [_OPEN, _BAD, _OPEN, _DONE] == [entry.state for entry in flow.history(batch)]

    def test_one_release_ends_nested_batches_and_enqueues_continuations(self, flow: FlowScene) -> None:
        """One call of `release` ends a batch and its outer batch, and enqueues the jobs that follow them.

        If this fails: a callback waits for a later call, seconds after its batch has ended.
        """
        outer = flow.batch("outer")
        inner = flow.new_batch("inner", within=outer)
        member = flow.new_member(inner.id)
        flow.storage.insert([inner, member])
        then, last = flow.continuation(outer), flow.continuation(inner.id, on=On.FINISHED)
        flow.settle(succeeds(flow.run(flow.begin(), member.id)))

        flow.storage.release(100)

        assert [_DONE, _DONE] == flow.states(inner.id, outer)
        assert [State.ENQUEUED] * 2 == flow.states(then, last)
        assert 0 == flow.storage.release(100)

    def test_member_requeued_before_release_leaves_the_batch_open(self, flow: FlowScene) -> None:
        """A member that ends and is requeued before the next `release` leaves the batch open.

        If this fails: a callback runs while a member runs.
        """
        batch, (a,) = flow.batch_of(1)
        then = flow.continuation(batch, on=On.FINISHED)
        flow.settle(fails(flow.run(flow.begin(), a)))

        flow.settle(requeues(a))
        flow.settle_all()

        assert [_OPEN, State.AWAITING] == flow.states(batch, then)
        assert (1, 1, 0, 0, 0, 0) == flow.counts(batch)
        assert [_OPEN] == [entry.state for entry in flow.history(batch)]

    def test_restored_member_reopens_its_batch(self, flow: FlowScene) -> None:
        """Restoring a deleted member is counted like any other change.

        If this fails: a job that was deleted by mistake and restored runs outside its batch.
        """
        batch, (a,) = flow.batch_of(1)
        flow.settle(deletes(a))
        flow.settle_all()
        ended = flow.counts(batch), flow.state(batch)

        flow.settle(restores(a, State.ENQUEUED))
        flow.settle_all()

        assert ((1, 0, 0, 0, 0, 1), _DONE) == ended
        assert ((1, 1, 0, 0, 0, 0), _OPEN) == (flow.counts(batch), flow.state(batch))

    def test_history_shows_a_reopening_before_a_different_end(self, flow: FlowScene) -> None:
        """If a failed batch has succeeded by the next `release`, its history shows that it was reopened.

        If this fails: people cannot see why a failed batch has succeeded.
        """
        batch, (a,) = flow.batch_of(1)
        flow.settle(fails(flow.run(flow.begin(), a)))
        flow.settle_all()
        flow.settle(requeues(a))
        flow.settle(succeeds(flow.run(flow.begin("b"), a)))

        flow.settle_all()

        assert [_OPEN, _BAD, _OPEN, _DONE] == [entry.state for entry in flow.history(batch)]
        assert Moved.REOPENED == flow.history(batch)[2].reason
        assert None is flow.record(batch).reason

    def test_each_continuation_of_a_batch_is_decided_once(self, flow: FlowScene) -> None:
        """Each continuation of a batch is enqueued or deleted only once, however often the batch ends.

        If this fails: after a failure is fixed, customers get a message twice, or never.
        """
        batch, (a,) = flow.batch_of(1)
        finished, succeeded, deleted = (
            flow.continuation(batch, on=on) for on in (On.FINISHED, On.SUCCEEDED, On.DELETED)
        )
        flow.settle(fails(flow.run(flow.begin(), a)))
        flow.settle_all()
        assert [State.ENQUEUED, State.AWAITING, State.AWAITING] == flow.states(finished, succeeded, deleted)
        flow.settle(succeeds(flow.run(flow.begin("b"), finished)))

        flow.settle(requeues(a))
        flow.settle_all()
        assert [_DONE, State.AWAITING, State.AWAITING] == flow.states(finished, succeeded, deleted)
        flow.settle(succeeds(flow.run(flow.begin("c"), a)))
        flow.settle_all()

        assert [_DONE, State.ENQUEUED, _GONE] == flow.states(finished, succeeded, deleted)
        flow.settle(succeeds(flow.run(flow.begin("d"), succeeded)))
        flow.settle(requeues(a))
        flow.settle(succeeds(flow.run(flow.begin("e"), a)))
        flow.settle_all()
        assert [_DONE, _DONE, _GONE] == flow.states(finished, succeeded, deleted)
        assert [] == flow.claim_ids(flow.begin("f"))

    # ---- batches within batches --------------------------------------------------------------------------

    def test_inner_batch_is_one_member_of_its_outer_batch(self, flow: FlowScene) -> None:
        """An inner batch is counted as one member, and keeps its outer batch open until the inner batch ends.

        If this fails: an outer batch ends before its inner batches.
        """
        outer = flow.batch("outer")
        inner = flow.batch("inner", within=outer)
        a, b = flow.member(inner), flow.member(inner)
        one, two = flow.running(flow.begin(), a, b)
        flow.settle_all()
        before = flow.counts(outer)

        flow.settle(succeeds(one))
        flow.settle_all()
        between = flow.counts(outer)
        flow.settle(fails(two))
        flow.settle_all()

        assert [(1, 1, 0, 0, 0, 0)] * 2 == [before, between]
        assert [(1, 0, 0, 0, 1, 0), (2, 0, 0, 1, 1, 0)] == [flow.counts(outer), flow.counts(inner)]
        assert [_BAD, _BAD] == flow.states(outer, inner)

    def test_requeued_member_reopens_all_outer_batches(self, flow: FlowScene) -> None:
        """A requeued member reopens all three batches around it, and they end again when the member ends.

        If this fails: after a failure was fixed, the outermost batch stays failed, or it ends too early.
        """
        top = flow.batch("top")
        middle = flow.batch("middle", within=top)
        bottom = flow.batch("bottom", within=middle)
        a = flow.member(bottom)
        flow.settle(fails(flow.run(flow.begin(), a)))
        flow.settle_all()
        failed = flow.states(top, middle, bottom)

        flow.settle(requeues(a))
        flow.settle_all()
        reopened = flow.states(top, middle, bottom)
        flow.settle(succeeds(flow.run(flow.begin("b"), a)))
        flow.settle_all()

        assert ([_BAD] * 3, [_OPEN] * 3, [_DONE] * 3) == (
            failed, reopened, flow.states(top, middle, bottom),
        )  # fmt: skip
        assert [(1, 0, 0, 1, 0, 0)] * 3 == [flow.counts(one) for one in (top, middle, bottom)]

    # ---- batches after other jobs ------------------------------------------------------------------------

    def test_members_wait_until_their_batch_opens(self, flow: FlowScene) -> None:
        """Members of a batch wait until the jobs in its `after` have ended as required and the batch opens.

        Then they are enqueued. Members that are not due yet become scheduled, and members that wait for
        another member keep waiting.

        If this fails: the second stage of a pipeline starts with the first.
        """
        source = flow.add()
        batch = flow.batch(after=[source])
        a = flow.member(batch)
        b = flow.member(batch, a)
        later = flow.member(batch, state=State.SCHEDULED, due_at=BASE + 5 * HOUR, nominal_at=BASE + 5 * HOUR)
        before, reasons = flow.batch_counts(batch), [flow.record(one).reason for one in (a, later)]
        assert [State.AWAITING] * 3 == flow.states(a, b, later)
        flow.settle_all()
        assert [_OPEN, State.AWAITING] == flow.states(batch, a)

        flow.settle(succeeds(flow.run(flow.begin(), source)))
        flow.settle_all()

        assert BatchCounts(total=3, active=2, waiting=1, is_unopened=True) == before
        assert [Moved.WAITS_FOR_BATCH] * 2 == reasons
        assert [State.ENQUEUED, State.AWAITING, State.SCHEDULED] == flow.states(a, b, later)
        assert (Moved.BATCH_OPENED, BASE + 5 * HOUR) == (flow.record(a).reason, flow.record(later).due_at)
        assert BatchCounts(total=3, active=2, waiting=1) == flow.batch_counts(batch)
        assert [a] == flow.claim_ids(flow.begin("b"))

    def test_empty_batch_does_not_end_before_it_opens(self, flow: FlowScene) -> None:
        """A batch without members does not end before it has opened.

        If this fails: the stage after an empty stage runs before the stage that precedes it.
        """
        source = flow.add()
        batch = flow.batch(after=[source])
        flow.settle_all()
        before = flow.state(batch)

        flow.settle(succeeds(flow.run(flow.begin(), source)))
        flow.settle_all()

        assert [_OPEN, _DONE] == [before, flow.state(batch)]

    def test_batch_after_ended_jobs_opens_immediately(self, flow: FlowScene) -> None:
        """If the jobs in a batch's `after` have ended as required, its members are enqueued immediately.

        If this fails: a batch that is created late never starts.
        """
        source = flow.add()
        flow.settle(succeeds(flow.run(flow.begin(), source)))

        batch = flow.batch(after=[source])
        a = flow.member(batch)

        assert (BatchCounts(total=1, active=1), State.ENQUEUED) == (flow.batch_counts(batch), flow.state(a))

    def test_batch_opens_after_the_last_of_several_jobs(self, flow: FlowScene) -> None:
        """A batch that follows several jobs and batches opens when all of them have ended as required.

        If this fails: a fan-in starts after its first job.
        """
        source = flow.batch("source")
        member, other = flow.member(source), flow.add(colocate_with=source)
        batch = flow.batch(after=[source, other])
        a = flow.member(batch)
        one, two = flow.running(flow.begin(), member, other)

        flow.settle(succeeds(two))
        flow.settle_all()
        between = flow.state(a)
        flow.settle(succeeds(one))
        flow.settle_all()

        assert [State.AWAITING, State.ENQUEUED] == [between, flow.state(a)]
        assert not flow.batch_counts(batch).is_unopened

    def test_batch_waits_after_a_failure_and_is_cancelled_after_a_delete(self, flow: FlowScene) -> None:
        """A batch that follows a failed job stays unopened; one that follows a deleted job is cancelled.

        If this fails: work that should follow a success runs after a failure.
        """
        failed, deleted = flow.add(), flow.add()
        waits, gone = flow.batch(after=[failed]), flow.batch(after=[deleted])
        a, b = flow.member(waits), flow.member(gone)
        one, two = flow.running(flow.begin(), failed, deleted)

        flow.settle(fails(one))
        flow.settle(gives_up(two))
        flow.settle_all()

        assert [_OPEN, State.AWAITING, _GONE, _GONE] == flow.states(waits, a, gone, b)
        assert flow.batch_counts(waits).is_unopened
        assert flow.batch_counts(gone).is_cancelled
        assert Moved.SWEPT == flow.record(b).reason

    def test_batch_after_an_already_deleted_job_is_cancelled(self, flow: FlowScene) -> None:
        """A batch that follows an already deleted job is stored, and cancelled with its members.

        So the result is the same whether the job is deleted just before the insert or just after it.

        If this fails: it depends on timing whether storing a flow raises an error.
        """
        source = flow.add()
        flow.settle(deletes(source))
        batch = flow.new_batch(after=[source])
        members = [flow.new_member(batch.id) for _ in range(2)]
        then = flow.new_job(state=State.AWAITING, parents=(Edge(batch.id, On.DELETED),))

        flow.storage.insert([batch, *members, then])
        flow.settle_all()

        assert [_GONE, _GONE, _GONE, State.ENQUEUED] == flow.states(
            batch.id, *(one.id for one in members), then.id
        )
        assert BatchCounts(total=2, deleted=2, is_cancelled=True) == flow.batch_counts(batch.id)

    def test_released_member_waits_while_its_batch_is_unopened(self, flow: FlowScene) -> None:
        """While a batch is unopened, a member that ends does not start another member that waits for it.

        A waiting member that an operator has requeued runs, and is no longer affected by the other member.

        If this fails: a deletion in an unopened batch starts some of its members, or changes a running job.
        """
        source = flow.add()
        batch = flow.batch(after=[source])
        a = flow.member(batch)
        b, c = (flow.member(batch, a, on=On.DELETED) for _ in range(2))
        flow.settle(deletes(a))
        flow.settle(requeues(c))
        running = {one.id: one for one in flow.take(flow.begin())}[c]

        flow.settle_all()

        assert (State.AWAITING, Moved.WAITS_FOR_BATCH, State.PROCESSING) == (
            flow.state(b), flow.record(b).reason, flow.state(c),
        )  # fmt: skip
        assert (3, 2, 0, 0, 0, 1) == flow.counts(batch)
        flow.settle(succeeds(running))
        flow.settle_all()
        assert ((3, 1, 0, 1, 0, 1), _OPEN) == (flow.counts(batch), flow.state(batch))

    def test_inner_batch_of_an_unopened_batch_is_unopened(self, flow: FlowScene) -> None:
        """A batch within an unopened batch is unopened too. The members of both wait and count as active.

        If this fails: an inner batch starts before its outer batch.
        """
        source = flow.add()
        outer = flow.batch("outer", after=[source])
        inner = flow.batch("inner", within=outer)
        a = flow.member(inner)
        before = flow.batch_counts(inner).is_unopened, flow.state(a), flow.counts(outer)
        assert [Moved.WAITS_FOR_BATCH] * 2 == [flow.record(one).reason for one in (inner, a)]
        flow.settle_all()
        assert [_OPEN, _OPEN, State.AWAITING] == flow.states(outer, inner, a)

        flow.settle(succeeds(flow.run(flow.begin(), source)))
        flow.settle_all()

        assert (True, State.AWAITING, (1, 1, 0, 0, 0, 0)) == before
        assert (State.ENQUEUED, False) == (flow.state(a), flow.batch_counts(inner).is_unopened)
        flow.settle(succeeds(flow.run(flow.begin("b"), a)))
        flow.settle_all()
        assert [_DONE, _DONE] == flow.states(outer, inner)

    def test_inner_batch_after_another_member_counts_as_waiting(self, flow: FlowScene) -> None:
        """An inner batch that follows a member waits like a job, and does not keep the outer batch open.

        If this fails: nested batches never end after a failure.
        """
        outer = flow.batch("outer")
        source = flow.member(outer)
        inner = flow.batch("inner", within=outer, after=[source])
        a = flow.member(inner)
        before = flow.counts(outer)

        flow.settle(fails(flow.run(flow.begin(), source)))
        flow.settle_all()
        failed = flow.counts(outer), flow.states(outer, inner, a)
        flow.settle(requeues(source))
        flow.settle(succeeds(flow.run(flow.begin("b"), source)))
        flow.settle_all()

        assert (2, 1, 1, 0, 0, 0) == before
        assert ((2, 0, 1, 0, 1, 0), [_BAD, _OPEN, State.AWAITING]) == failed
        assert ((2, 1, 0, 1, 0, 0), [_OPEN, _OPEN, State.ENQUEUED]) == (
            flow.counts(outer), flow.states(outer, inner, a),
        )  # fmt: skip
        flow.settle(succeeds(flow.run(flow.begin("c"), a)))
        flow.settle_all()
        assert [_DONE, _DONE] == flow.states(outer, inner)

    def test_cancelled_inner_batch_is_active_until_its_members_are_deleted(self, flow: FlowScene) -> None:
        """An inner batch that is cancelled while it waits is active until its members are deleted.

        If this fails: an outer batch ends although jobs in its inner batches must still be deleted.
        """
        outer, (source,) = flow.batch_of(1)
        inner = flow.batch("inner", within=outer, after=[source])
        a = flow.member(inner)
        flow.settle(fails(flow.run(flow.begin(), source)))
        flow.settle_all()

        flow.settle(deletes(inner))
        counts = flow.counts(outer)
        flow.settle_all()

        assert [(2, 1, 0, 0, 1, 0), (2, 0, 0, 0, 1, 1)] == [counts, flow.counts(outer)]
        assert [_BAD, _GONE, _GONE] == flow.states(outer, inner, a)

    # ---- added members -----------------------------------------------------------------------------------

    def test_added_member_keeps_its_batch_open(self, flow: FlowScene) -> None:
        """A member added to an open batch keeps it open, even if the other members have just ended.

        If this fails: a member that a running member adds is not counted in the batch.
        """
        batch, (a,) = flow.batch_of(1)
        one = flow.run(flow.begin(), a)
        b = flow.member(batch)
        flow.settle(succeeds(one))

        flow.settle_all()

        assert ((2, 1, 0, 1, 0, 0), _OPEN) == (flow.counts(batch), flow.state(batch))
        flow.settle(succeeds(flow.run(flow.begin("b"), b)))
        flow.settle_all()
        assert _DONE is flow.state(batch)

    @pytest.mark.parametrize("tasks", [("mail.send",), ("mail.send", "report.build")], ids=["one", "two"])
    def test_members_of_different_tasks_are_added_in_one_insert(
        self, flow: FlowScene, tasks: tuple[str, ...]
    ) -> None:
        """Members without other relations are stored by one insert, even if their tasks differ.

        If this fails: the second chunk of a large batch is refused, or its members are not counted.
        """
        batch = flow.batch()
        members = [flow.new_member(batch, task=task) for task in tasks for _ in range(2)]

        answers = flow.storage.insert(members).is_new

        number = len(members)
        assert [True] * number == list(answers)
        assert (number, number, 0, 0, 0, 0) == flow.counts(batch)
        assert {State.ENQUEUED} == {flow.state(member.id) for member in members}

    @pytest.mark.parametrize("how", ["ended", "failed", "cancelled"])
    def test_adding_to_an_ended_or_cancelled_batch_is_refused(self, flow: FlowScene, how: str) -> None:
        """Adding to a batch that has ended or is cancelled raises `BatchFinished`; nothing is stored.

        If this fails: a job is added after the callback that sums up the batch, and is counted nowhere.
        """
        batch, (a,) = flow.batch_of(1)
        one = flow.run(flow.begin(), a)
        if how == "cancelled":
            flow.settle(deletes(batch))
        else:
            flow.settle(succeeds(one) if how == "ended" else fails(one))
            flow.settle_all()
        before = flow.counts(batch)

        with pytest.raises(BatchFinished):
            flow.storage.insert([flow.new_job(colocate_with=batch), flow.new_member(batch)])

        assert before == flow.counts(batch)
        assert [] == flow.claim_ids(flow.begin("b"))

    def test_member_of_an_unknown_batch_raises_job_not_found(self, flow: FlowScene) -> None:
        """Inserting a member of an unknown batch raises `JobNotFound`, and nothing of the call is stored.

        If this fails: a job is counted nowhere.
        """
        with pytest.raises(JobNotFound):
            flow.storage.insert([flow.new_job(), flow.new_member(flow.new_id())])

        assert {} == flow.by_state()

    def test_members_are_found_by_batch_id(self, flow: FlowScene) -> None:
        """`JobFilter.batch_id` finds a batch's members, including inner batches, in all states or in one.

        If this fails: the page of a batch shows jobs of another batch.
        """
        batch, (a, b) = flow.batch_of(2)
        inner = flow.batch("inner", within=batch)
        flow.batch_of(2)
        flow.member(inner)
        flow.settle(deletes(b))

        assert {a, b, inner} == set(flow.found(JobFilter(batch_id=batch)))
        assert [b] == flow.found(JobFilter(batch_id=batch, state=_GONE))
        assert [] == flow.found(JobFilter(batch_id=flow.new_id()))

    def test_large_batch_is_stored_in_chunks_and_read_in_pages(self, flow: FlowScene) -> None:
        """If 1,001 members are added to a held batch in chunks, pages return each once, and the batch ends.

        If this fails: large batches lose members between chunks or pages.
        """
        batch = flow.batch(due_at=BASE + HOUR)
        ids: list[str] = []
        for number in (500, 500, 1):
            members = [flow.new_member(batch) for _ in range(number)]
            flow.storage.insert(members)
            ids += [one.id for one in members]
        assert BatchCounts(total=1_001, active=1_001, is_held=True) == flow.batch_counts(batch)
        flow.hold(batch, None)

        holder = flow.begin()
        for _ in range(11):
            taken = flow.take(holder)
            flow.storage.apply([succeeds(one) for one in taken])
        flow.settle_all(500)

        assert sorted(ids) == sorted(flow.found(JobFilter(batch_id=batch), limit=250))
        assert (BatchCounts(total=1_001, succeeded=1_001), _DONE) == (
            flow.batch_counts(batch),
            flow.state(batch),
        )

    # ---- holds -------------------------------------------------------------------------------------------

    def test_held_batch_does_not_end(self, flow: FlowScene) -> None:
        """Members of a held batch run and end, but the batch does not end until the hold is removed.

        If this fails: a batch that is created in chunks ends after the first chunk.
        """
        batch, (a,) = flow.batch_of(1, due_at=BASE + HOUR)
        flow.settle(succeeds(flow.run(flow.begin(), a)))
        flow.settle_all()
        held = flow.batch_counts(batch), flow.state(batch), flow.record(batch).due_at

        result = flow.hold(batch, None)
        flow.settle_all()

        assert (BatchCounts(total=1, succeeded=1, is_held=True), _OPEN, BASE + HOUR) == held
        assert result.is_applied
        assert (_DONE, None) == (flow.state(batch), flow.record(batch).due_at)
        assert [_OPEN, _DONE] == [entry.state for entry in flow.history(batch)]
        assert Applied.REFUSED is flow.hold(batch, BASE + 2 * HOUR)

    def test_due_hold_cancels_its_batch(self, flow: FlowScene) -> None:
        """A batch whose creator has died is cancelled when its hold is due; each chunk extends the hold.

        If this fails: half of a batch is treated as the whole batch, or stays open forever.
        """
        batch, (a,) = flow.batch_of(1, due_at=BASE + HOUR)
        flow.hold(batch, BASE + 5 * HOUR)
        flow.advance(2 * 3_600)
        early = flow.promote()
        flow.settle_all()
        assert (0, BASE + 5 * HOUR) == (early.promoted, early.next_due_at or BASE + 5 * HOUR)
        assert [_OPEN, State.ENQUEUED] == flow.states(batch, a)
        flow.advance(4 * 3_600)

        late = flow.promote()
        reason = flow.record(batch).reason
        flow.settle_all()

        assert (1, Moved.HOLD_EXPIRED) == (late.promoted, reason)
        assert [_GONE, _GONE] == flow.states(batch, a)
        assert flow.batch_counts(batch).is_cancelled
        assert not flow.batch_counts(batch).is_held
        with pytest.raises(BatchFinished):
            flow.member(batch)

    # ---- cancellation ------------------------------------------------------------------------------------

    def test_delete_cancels_a_batch(self, flow: FlowScene) -> None:
        """Deleting a batch deletes all unfinished members; the batch ends when none of them is running.

        Running members are stopping until then.

        If this fails: a cancelled batch continues, or its clean-up starts while members still run.
        """
        batch, (a, b) = flow.batch_of(2, keeps=(None, None, DAY))
        waits = flow.member(batch, a)
        later = flow.member(batch, state=State.SCHEDULED, due_at=BASE + HOUR)
        then = flow.continuation(batch, on=On.DELETED)
        one, other = flow.take(flow.begin(), 2)
        flow.settle(succeeds(other))
        assert [a, b] == [one.id, other.id]

        result = flow.apply(deletes(batch, at=flow.stamp(), expires_at=BASE + 9 * DAY))
        at_once = flow.state(batch), flow.batch_counts(batch).is_cancelled
        flow.settle_all()
        assert (True, _OPEN, True) == (result.is_applied, *at_once)
        assert [_GONE, _DONE, _GONE, _GONE] == flow.states(a, b, waits, later)
        assert {Moved.SWEPT} == {flow.record(member).reason for member in (a, waits, later)}
        assert (True, (4, 1, 0, 1, 0, 3)) == (flow.record(a).is_stopping, flow.counts(batch))
        assert [_OPEN, State.AWAITING] == flow.states(batch, then)

        late = flow.apply(succeeds(one))
        flow.settle_all()

        assert Applied.REFUSED is late
        assert [_GONE, State.ENQUEUED] == flow.states(batch, then)
        record = flow.record(batch)
        assert record.ended_at is not None
        assert record.ended_at + DAY == record.expires_at
        assert [then] == flow.claim_ids(flow.begin("b"))

    def test_cancelled_batch_ends_after_the_session_of_its_last_running_member(self, flow: FlowScene) -> None:
        """When a session ends, the deleted member that it was running stops; `release` then ends the batch.

        If this fails: a cancelled batch whose server dies never ends, and its clean-up never starts.
        """
        batch, members = flow.batch_of(2)
        then = flow.continuation(batch, on=On.DELETED)
        holder = flow.begin()
        flow.running(holder, *members)
        flow.apply(deletes(batch, at=flow.stamp()))
        flow.settle_all()
        before = flow.state(batch), flow.counts(batch)

        taken = flow.storage.end_session(holder.session, members, reason="server lost")
        flow.settle_all()

        assert (_OPEN, (2, 2, 0, 0, 0, 2)) == before
        assert ([], []) == (taken.crashed, taken.returned)
        assert [_GONE, State.ENQUEUED] == flow.states(batch, then)

    def test_cancellation_includes_inner_batches(self, flow: FlowScene) -> None:
        """Batches within a cancelled batch are cancelled too, including unopened ones.

        If this fails: the inner batches of a cancelled batch continue.
        """
        outer, (source,) = flow.batch_of(1)
        inner = flow.batch("inner", within=outer)
        unopened = flow.batch("unopened", within=outer, after=[source])
        a, b = flow.member(inner), flow.member(unopened)

        flow.settle(deletes(outer))
        flow.settle_all()

        assert [_GONE] * 6 == flow.states(outer, source, inner, unopened, a, b)
        assert {Moved.SWEPT} == {flow.record(one).reason for one in (source, a, b)}
        assert [True] * 3 == [flow.batch_counts(one).is_cancelled for one in (outer, inner, unopened)]
        assert [(3, 0, 0, 0, 0, 3), (1, 0, 0, 0, 0, 1)] == [flow.counts(outer), flow.counts(inner)]

    def test_cancelled_batch_keeps_its_reason_and_history(self, flow: FlowScene) -> None:
        """A cancelled batch keeps its reason and history when its outer batch is cancelled later.

        If this fails: people cannot see who cancelled a batch.
        """
        outer = flow.batch("outer")
        inner = flow.batch("inner", within=outer)
        one = flow.run(flow.begin(), flow.member(inner))
        flow.settle(deletes(inner))
        flow.settle_all()
        entries = flow.history(inner)

        flow.settle(deletes(outer))
        flow.settle_all()

        assert entries == flow.history(inner)
        flow.apply(succeeds(one))
        flow.settle_all()
        assert ([_GONE] * 2, "deleted by ada") == (flow.states(outer, inner), flow.record(inner).reason)

    def test_release_moves_at_most_limit_members(self, flow: FlowScene) -> None:
        """A call of `release` moves at most `limit` members of a batch that was cancelled or is opening.

        If this fails: cancelling a large batch is one long operation that blocks all other work.
        """
        source = flow.add()
        gone, many = flow.batch_of(10)
        opened = flow.batch(after=[source])
        waiting = [flow.member(opened) for _ in range(10)]
        flow.settle(deletes(gone))
        left = [self._left(flow, many, _GONE)]
        while left[-1]:
            flow.release(3)
            left.append(self._left(flow, many, _GONE))
        flow.settle(succeeds(flow.run(flow.begin(), source)))
        left.append(10)

        while left[-1]:
            flow.release(3)
            left.append(self._left(flow, waiting, State.ENQUEUED))
            assert len(left) < 50, "members of an open batch are not enqueued"

        assert all(before - after <= 3 for before, after in pairwise(left))
        flow.settle_all(3)
        assert [_GONE, _OPEN] == flow.states(gone, opened)

    @staticmethod
    def _left(flow: FlowScene, ids: list[str], wanted: State) -> int:
        return sum(state is not wanted for state in flow.states(*ids))

    def test_ended_batch_can_be_cancelled(self, flow: FlowScene) -> None:
        """Deleting an ended batch cancels it like an open one; deleting a deleted batch is refused.

        If this fails: a failed batch cannot be removed, or the jobs that wait in it stay forever.
        """
        batch, (a,) = flow.batch_of(1)
        b = flow.member(batch, a)
        flow.settle(fails(flow.run(flow.begin(), a)))
        flow.settle_all()

        result = flow.apply(deletes(batch))
        flow.settle_all()

        assert result.is_applied
        assert [_GONE, _BAD, _GONE] == flow.states(batch, a, b)
        assert Applied.REFUSED is flow.apply(deletes(batch))

    def test_cancelled_batch_refuses_holds_and_restores(self, flow: FlowScene) -> None:
        """A cancelled batch cannot be held, its members cannot be restored, and a second delete does nothing.

        When the batch ends, it keeps the reason for its cancellation, and its retention applies to its
        members.

        If this fails: a cancelled batch is held open, or loses the name of the person who cancelled it.
        """
        batch, (a, b) = flow.batch_of(2, keeps=(None, None, DAY), due_at=BASE + HOUR)
        one = flow.running(flow.begin(), a, b)[0]
        flow.settle(deletes(batch))
        entries = flow.history(batch)
        assert (None, False) == (flow.record(batch).due_at, flow.batch_counts(batch).is_held)

        assert flow.apply(deletes(batch, at=flow.stamp())).is_applied
        assert entries == flow.history(batch)
        assert [Applied.REFUSED] * 2 == [flow.hold(batch, BASE + 9 * HOUR), flow.hold(a, BASE + HOUR)]
        flow.settle_all()
        flow.apply(succeeds(one))
        assert Applied.REFUSED is flow.apply(restores(a, State.ENQUEUED))
        flow.lose(one.holder)
        flow.settle_all()

        assert ([_GONE] * 3, "deleted by ada") == (flow.states(batch, a, b), flow.record(batch).reason)
        record = flow.record(a)
        assert record.ended_at is not None
        assert record.ended_at + DAY == record.expires_at

    def test_member_of_a_cancelled_batch_cannot_be_requeued(self, flow: FlowScene) -> None:
        """Members of a cancelled batch cannot be requeued, whether the batch has ended or not.

        If this fails: half of a cancelled batch runs again.
        """
        batch, (a, b) = flow.batch_of(2)
        one = flow.take(flow.begin(), 1)[0]
        flow.settle(deletes(b))
        flow.settle(deletes(batch))

        early = flow.apply(requeues(b))
        flow.settle_all()
        flow.apply(succeeds(one))
        flow.settle_all()
        late = flow.apply(requeues(a))

        assert ([Applied.REFUSED] * 2, _GONE) == ([early, late], flow.state(batch))
        assert [_GONE, _GONE] == flow.states(a, b)

    # ---- batches that fail fast --------------------------------------------------------------------------

    def test_failure_deletes_other_members_of_a_fail_fast_batch(self, flow: FlowScene) -> None:
        """In a fail-fast batch, a failure deletes unfinished members; the batch fails when none is running.

        If this fails: a batch continues work that is no longer wanted, or counts as cancelled.
        """
        batch, (a, b, c) = flow.batch_of(3, fails_fast=True)
        waits = flow.member(batch, c)
        one, two = flow.take(flow.begin(), 2)
        assert [a, b] == [one.id, two.id]

        flow.settle(fails(one))
        flow.settle_all()
        stopping = flow.batch_counts(batch)
        flow.apply(succeeds(two))
        flow.settle_all()

        assert BatchCounts(total=4, active=1, failed=1, deleted=3, is_stopping=True) == stopping
        assert [_BAD, _GONE, _GONE, _GONE] == flow.states(a, b, c, waits)
        assert {Moved.STOPPED} == {flow.record(one).reason for one in (b, c, waits)}
        assert (BatchCounts(total=4, failed=1, deleted=3), _BAD) == (
            flow.batch_counts(batch),
            flow.state(batch),
        )

    def test_failure_deletes_waiting_members_of_a_fail_fast_batch(self, flow: FlowScene) -> None:
        """A batch that a failure has stopped does not end before its waiting members are deleted.

        If this fails: a job waits forever in a batch that should stop.
        """
        batch, (a,) = flow.batch_of(1, fails_fast=True)
        b = flow.member(batch, a)
        flow.settle(fails(flow.run(flow.begin(), a)))

        flow.settle_all()

        assert ([_BAD, _GONE], Moved.STOPPED) == (flow.states(batch, b), flow.record(b).reason)
        assert BatchCounts(total=2, failed=1, deleted=1) == flow.batch_counts(batch)

    def test_requeued_member_reopens_a_stopped_batch(self, flow: FlowScene) -> None:
        """The failed member of a stopped batch can run again, and the other members stay deleted.

        A new failure stops the batch again.

        If this fails: a fixed member is deleted because of an earlier failure.
        """
        batch, (a, b) = flow.batch_of(2, fails_fast=True)
        one, two = flow.running(flow.begin(), a, b)
        flow.settle(succeeds(two))
        flow.settle(fails(one))
        flow.settle_all()
        assert _BAD is flow.state(batch)

        flow.settle(requeues(a))
        flow.settle_all()
        opened = flow.batch_counts(batch), flow.states(batch, a)
        c = flow.member(batch)
        one, _ = flow.running(flow.begin("b"), a, c)
        flow.settle(fails(one))
        flow.settle_all()

        assert (BatchCounts(total=2, active=1, succeeded=1), [_OPEN, State.ENQUEUED]) == opened
        assert flow.batch_counts(batch).is_stopping
        assert [_BAD, _GONE] == flow.states(a, c)

    def test_old_failure_does_not_stop_a_reopened_batch(self, flow: FlowScene) -> None:
        """After a stopped batch has ended, another member that is requeued runs despite the old failure.

        If this fails: nothing can be fixed in a batch that fails fast while any member has failed.
        """
        batch, (a, b) = flow.batch_of(2, fails_fast=True)
        one, two = flow.running(flow.begin(), a, b)
        flow.settle(succeeds(one))
        flow.settle(fails(two))
        flow.settle_all()

        flow.settle(requeues(a))
        flow.settle_all()

        assert [_OPEN, State.ENQUEUED, _BAD] == flow.states(batch, a, b)
        flow.settle(succeeds(flow.run(flow.begin("b"), a)))
        flow.settle_all()
        assert _BAD is flow.state(batch)
        assert not flow.batch_counts(batch).is_stopping

    def test_failed_member_requeued_before_release_stops_no_member(self, flow: FlowScene) -> None:
        """A failed member that is requeued before the next `release` is kept and does not stop its batch.

        If this fails: a job that is fixed immediately is deleted.
        """
        batch, (a, b) = flow.batch_of(2, fails_fast=True)
        one = flow.take(flow.begin(), 1)[0]
        flow.settle(fails(one))

        flow.settle(requeues(a))
        flow.settle_all()

        assert [_OPEN, State.ENQUEUED, State.ENQUEUED] == flow.states(batch, a, b)
        assert BatchCounts(total=2, active=2) == flow.batch_counts(batch)

    def test_requeue_of_one_failed_member_prevents_the_stop(self, flow: FlowScene) -> None:
        """If one of two failed members is requeued before the next `release`, no other member is stopped.

        This includes members that wait for the other failed member, and later decisions that depend on these
        failures.

        If this fails: after one of several failures is fixed, the rest of the batch is deleted.
        """
        batch, (a, b, c) = flow.batch_of(3, fails_fast=True)
        waits = flow.member(batch, a)
        one, two, _ = flow.running(flow.begin(), a, b, c)
        flow.settle(fails(one))
        flow.settle(fails(two))

        flow.settle(requeues(b))
        flow.settle_all()

        assert [_OPEN, _BAD, State.ENQUEUED, State.PROCESSING] == flow.states(batch, a, b, c)
        assert State.AWAITING is flow.state(waits)
        assert not flow.batch_counts(batch).is_stopping

    def test_failed_inner_batch_stops_its_outer_batch(self, flow: FlowScene) -> None:
        """In a batch that fails fast, an inner batch that fails counts as a failed member.

        If this fails: an outer batch continues after a failure that should stop it.
        """
        outer = flow.batch("outer", fails_fast=True)
        inner = flow.batch("inner", within=outer)
        a, b = flow.member(inner), flow.member(outer)
        one = flow.take(flow.begin(), 1)[0]
        assert a == one.id

        flow.settle(fails(one))
        flow.settle_all()

        assert [_BAD, _BAD, _GONE] == flow.states(outer, inner, b)
        flow.settle(requeues(a))
        flow.settle_all()
        assert [_OPEN, _OPEN, _GONE, State.ENQUEUED] == flow.states(outer, inner, b, a)

    # ---- retention, limits and transactions --------------------------------------------------------------

    def test_expired_member_is_kept_as_long_as_its_batch(self, flow: FlowScene) -> None:
        """An expired member is kept while its batch is open, and afterwards as long as the batch is kept.

        If this fails: the results of a batch's first members are deleted before its callback reads them.
        """
        batch, (a, b) = flow.batch_of(2, keeps=(2 * DAY, None, None))
        one, two = flow.running(flow.begin(), a, b)
        flow.settle(succeeds(one, expires_at=BASE - DAY))
        open_ = flow.prune()
        flow.settle(succeeds(two, expires_at=BASE - DAY))
        flow.settle_all()
        flow.advance(26 * 3_600)

        ended = flow.prune()
        kept = [record is not None for record in flow.storage.get([batch, a, b])]
        flow.advance(48 * 3_600)
        pruned = flow.prune() + flow.prune() + flow.prune()

        assert (0, 0, [True] * 3) == (open_, ended, kept)
        assert 3 == pruned
        assert [None] * 3 == flow.storage.get([batch, a, b])
        assert [None] == flow.storage.batch_counts([batch])

    def test_expired_member_is_kept_as_long_as_outer_batches(self, flow: FlowScene) -> None:
        """Members of inner batches are kept while an outer batch is open, and as long as that batch is kept.

        If this fails: the results of inner batches are incomplete, and no error is reported.
        """
        outer, (last,) = flow.batch_of(1, name="outer", keeps=(3 * DAY, None, None))
        middle = flow.batch("middle", within=outer, keeps=(0, None, None))
        inner = flow.batch("inner", within=middle, keeps=(0, None, None))
        early, late = flow.member(inner), flow.member(inner)
        jobs = [outer, middle, inner, last, early, late]
        first, second, third = flow.running(flow.begin(), last, early, late)
        flow.settle(succeeds(second, expires_at=BASE - DAY))
        flow.settle(succeeds(third, expires_at=BASE - DAY))
        flow.settle_all()
        open_ = [flow.prune(), flow.prune()]
        flow.settle(succeeds(first, expires_at=BASE - DAY))
        flow.settle_all()
        flow.advance(26 * 3_600)

        ended = [flow.prune(), flow.prune()]
        kept = [record is not None for record in flow.storage.get(jobs)]
        flow.advance(48 * 3_600)
        pruned = sum(flow.prune() for _ in jobs)

        assert ([0, 0], [0, 0], [True] * 6) == (open_, ended, kept)
        assert 6 == pruned
        assert [None] * 6 == flow.storage.get(jobs)

    def test_prune_of_a_failed_batch_deletes_waiting_members(self, flow: FlowScene) -> None:
        """Pruning a failed batch deletes the members and continuations that still wait.

        If this fails: jobs wait forever in a batch that cannot be found.
        """
        batch, (a,) = flow.batch_of(1, keeps=(None, HOUR, None))
        b = flow.member(batch, a)
        then = flow.continuation(batch)
        flow.settle(fails(flow.run(flow.begin(), a)))
        flow.settle_all()
        flow.advance(2 * 3_600)

        flow.prune()

        gone = [flow.storage.get([one])[0] for one in (b, then)]
        assert all(one is None or one.state is _GONE for one in gone)
        assert [Moved.PARENT_GONE] * len([one for one in gone if one]) == [one.reason for one in gone if one]
        flow.settle_all()
        assert [] == flow.claim_ids(flow.begin("b"))

    @requires(Feature.LIMITS)
    def test_batch_of_members_with_limits_ends(self, flow: FlowScene) -> None:
        """Members that need the same limit key run one after another, and their batch ends with the last.

        If this fails: limits do not work in batches.
        """
        flow.set_limit("kit-batch", concurrent=1)
        batch = flow.new_batch(colocate_with="kit-batch")
        members = [flow.new_member(batch.id, admission=asks("kit-batch")) for _ in range(3)]
        flow.storage.insert([batch, *members])
        holder, seen = flow.begin(), []

        for _ in members:
            (one,) = flow.take(holder)
            seen.append(flow.counts(batch.id)[:2])
            flow.settle(succeeds(one))
            flow.settle_all()

        assert [(3, 3), (3, 2), (3, 1)] == seen
        assert _DONE is flow.state(batch.id)

    @requires(Feature.TRANSACTIONAL_ENQUEUE)
    @pytest.mark.parametrize("commits", [True, False])
    def test_batch_follows_the_callers_transaction(
        self, flow: FlowScene, open_transaction: object, commits: bool
    ) -> None:
        """A batch inserted within a transaction is stored and counted after the commit, or not at all.

        If this fails: after a rollback a batch exists without its members, or its members exist without the
        batch.
        """
        assert callable(open_transaction)
        batch = flow.new_batch()
        members = [flow.new_member(batch.id) for _ in range(2)]

        with open_transaction(commits) as within:
            flow.storage.insert([batch, *members], within=within)

        flow.settle_all()
        assert ([BatchCounts(total=2, active=2)] if commits else [None]) == flow.storage.batch_counts(
            [batch.id]
        )
        assert (2 if commits else 0) == len(flow.claim_ids())
