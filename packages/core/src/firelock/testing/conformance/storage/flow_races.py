"""Tests of concurrent calls with batches, signals and called jobs: no call hangs or has a wrong result."""

from __future__ import annotations

from functools import partial

from firelock.errors import BatchFinished
from firelock.model.dependencies import On, Relations
from firelock.model.job import NewJob
from firelock.model.memo import Memo, MemoKind, NewMemo
from firelock.model.state import FINAL_STATES, State
from firelock.storage import Applied, JobFilter, Storage
from firelock.testing.conformance.flow_scene import FlowScene, forgets, recount, signal, suspends
from firelock.testing.conformance.race import ROUNDS, race, race_all, race_two, sent, until_none_is_left
from firelock.testing.conformance.scene import (
    BASE,
    HOUR,
    Running,
    deletes,
    fails,
    requeues,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures


def _release_all(storage: Storage) -> int:
    return until_none_is_left(lambda: storage.release(100))


def _insert(storage: Storage, job: NewJob) -> bool:
    """Return whether the job was stored; False if its batch has ended or is cancelled."""
    try:
        storage.insert([job])
    except BatchFinished:
        return False
    return True


class FlowRaceTests(StorageFixtures):
    """Tests of batches, signals and called jobs with callers that act at the same time."""

    def _judge(self, flow: FlowScene, *batches: str) -> None:
        """Release everything, then assert that the counts of the batches equal a recount of their members."""
        flow.settle_all()
        records = [
            job for batch in batches for job in flow.storage.find(JobFilter(batch_id=batch), limit=100).jobs
        ]
        for batch in batches:
            assert recount(flow.storage, batch, records) == flow.batch_counts(batch)

    def test_concurrent_ends_of_last_members_end_their_batch_once(self, flow: FlowScene) -> None:
        """Members that end concurrently, while others call `release`, end their batch exactly once.

        If this fails: a batch never ends if its last members end at the same time, or its callback runs
        twice.
        """
        handles, holder = flow.open(6), flow.begin()
        for _ in range(ROUNDS):
            batch, members = flow.batch_of(4)
            then = flow.continuation(batch, on=On.FINISHED)
            running = flow.running(holder, *members)
            ends = [succeeds(one) if number else fails(one) for number, one in enumerate(running)]

            race_all(
                *(partial(sent, one, [end]) for one, end in zip(handles, ends, strict=False)),
                *(partial(_release_all, one) for one in handles[4:]),
            )  # fmt: skip

            self._judge(flow, batch)
            assert [State.FAILED, State.ENQUEUED] == flow.states(batch, then)
            assert [State.AWAITING, State.FAILED] == [entry.state for entry in flow.history(batch)]
            flow.settle(deletes(then))

    def test_requeue_concurrent_with_release_leaves_the_batch_open(self, flow: FlowScene) -> None:
        """A member requeued while its end is counted leaves the batch open, even if the batch had just ended.

        If this fails: a batch has ended while a member of it runs.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            batch, (a,) = flow.batch_of(1, fails_fast=number % 2 == 1)
            flow.settle(fails(flow.run(flow.begin(str(number)), a)))

            (result,), _ = race_two(partial(sent, one, [requeues(a)]), partial(_release_all, other))

            self._judge(flow, batch)
            assert result.is_applied
            assert [State.AWAITING, State.ENQUEUED] == flow.states(batch, a)
            flow.settle(deletes(batch))
            flow.settle_all()

    def test_member_added_while_its_batch_ends_is_stored_or_refused(self, flow: FlowScene) -> None:
        """A member added while its batch ends is either stored, so that the batch stays open, or refused.

        If this fails: a job is in a batch that has ended without it.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            batch, (a,) = flow.batch_of(1)
            flow.settle(succeeds(flow.run(flow.begin(str(number)), a)))
            more = flow.new_member(batch)

            was_in_time, _ = race_two(partial(_insert, one, more), partial(_release_all, other))

            self._judge(flow, batch)
            expected = State.AWAITING if was_in_time else State.SUCCEEDED
            assert expected is flow.state(batch)
            assert was_in_time == (flow.storage.get([more.id])[0] is not None)
            flow.settle(deletes(batch))
            flow.settle_all()

    def test_members_added_during_a_cancellation_are_deleted_or_refused(self, flow: FlowScene) -> None:
        """Members added while their batch is cancelled are deleted with it, or are refused.

        If this fails: a job of a cancelled batch runs.
        """
        handles = flow.open(4)
        for _ in range(ROUNDS):
            batch, _members = flow.batch_of(1)
            more = [flow.new_member(batch) for _ in range(2)]

            race_all(
                partial(_insert, handles[0], more[0]), partial(_insert, handles[1], more[1]),
                partial(sent, handles[2], [deletes(batch)]), partial(_release_all, handles[3]),
            )  # fmt: skip

            self._judge(flow, batch)
            assert State.DELETED is flow.state(batch)
            members = flow.storage.find(JobFilter(batch_id=batch), limit=10).jobs
            assert {State.DELETED} == {job.state for job in members}

    def test_member_requeued_while_its_batch_is_stopped_runs(self, flow: FlowScene) -> None:
        """If a failed member is requeued while its failure stops the batch, the member runs in any case.

        If this fails: a fixed member is deleted because of its earlier failure.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            batch, (a, b) = flow.batch_of(2, fails_fast=True)
            flow.settle(fails(flow.take(flow.begin(str(number)), 1)[0]))

            (result,), _ = race_two(partial(sent, one, [requeues(a)]), partial(_release_all, other))

            self._judge(flow, batch)
            assert result.is_applied
            assert [State.AWAITING, State.ENQUEUED] == flow.states(batch, a)
            assert flow.state(b) in (State.ENQUEUED, State.DELETED)
            flow.settle(deletes(batch))
            flow.settle_all()

    def test_concurrent_ends_in_nested_batches_end_both(self, flow: FlowScene) -> None:
        """If members of a batch and of an inner batch end while others call `release`, both batches end.

        If this fails: the end of an inner batch is not counted in its outer batch, which never ends.
        """
        handles, holder = flow.open(4), flow.begin()
        for _ in range(ROUNDS):
            outer = flow.batch("outer")
            inner = flow.batch("inner", within=outer)
            a, b = flow.member(outer), flow.member(inner)
            one, two = flow.running(holder, a, b)

            race_all(
                partial(sent, handles[0], [succeeds(one)]), partial(sent, handles[1], [succeeds(two)]),
                partial(_release_all, handles[2]), partial(_release_all, handles[3]),
            )  # fmt: skip

            self._judge(flow, outer, inner)
            assert [State.SUCCEEDED] * 2 == flow.states(outer, inner)

    def test_member_added_while_its_batch_opens_is_enqueued(self, flow: FlowScene) -> None:
        """A member added while its batch opens is enqueued with the other members.

        If this fails: a member of an open batch waits forever for the batch to open.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            source = flow.add()
            batch = flow.batch(after=[source])
            a, more = flow.member(batch), flow.new_member(batch)
            flow.settle(succeeds(flow.run(flow.begin(str(number)), source)))

            race_two(partial(_insert, one, more), partial(_release_all, other))

            self._judge(flow, batch)
            assert [State.ENQUEUED] * 2 == flow.states(a, more.id)
            flow.settle(deletes(batch))
            flow.settle_all()

    # ---- signals and calls -------------------------------------------------------------------------------

    def test_one_of_four_concurrent_signals_is_applied(self, flow: FlowScene) -> None:
        """Of four concurrent signals one is applied, and the others return `TAKEN`.

        If this fails: two people are both notified that their decision was accepted.
        """
        handles = flow.open(4)
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            flow.settle(suspends(running))
            memos = [signal(running.id, "approval", f'"{who}"', f"who {who}") for who in range(4)]

            answers = race([partial(one.remember, [memo]) for one, memo in zip(handles, memos, strict=True)])

            results = [answer.answer for (answer,) in answers]
            assert [Applied.APPLIED, *[Applied.TAKEN] * 3] == sorted(results)
            assert (
                memos[results.index(Applied.APPLIED)].memo.value
                == flow.recalled(running.id)[MemoKind.SIGNAL, "approval"]
            )
            assert [running.id] == flow.claim_ids(flow.begin(f"later-{number}"))

    def test_signal_during_the_suspension_enqueues_the_job(self, flow: FlowScene) -> None:
        """A signal sent while its job suspends is found, and the job is enqueued in any case.

        If this fails: sometimes an answer is not found, and its job waits forever.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))

            (suspended,), (sent_result,) = race_two(
                partial(sent, one, [suspends(running)]),
                partial(other.remember, [signal(running.id, "approval")]),
            )

            assert (True, Applied.APPLIED) == (suspended.is_applied, sent_result.answer)
            flow.check(running.id, state=State.ENQUEUED, waits_for=None)
            assert [running.id] == flow.claim_ids(flow.begin(f"later-{number}"))

    def test_job_woken_by_signal_and_timeout_is_enqueued_once(self, flow: FlowScene) -> None:
        """If a signal and a time-out wake a job concurrently, it is enqueued once, and the signal counts.

        If this fails: a job runs twice, or the time-out counts although the sender of the signal was notified
        that it was accepted.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            flow.settle(suspends(running, due_at=flow.now() + HOUR))
            flow.advance(7_200)

            promotion, (sent_result,) = race_two(
                partial(one.promote, 10), partial(other.remember, [signal(running.id, "approval")])
            )

            woken = [entry.state for entry in flow.history(running.id)]
            assert [State.ENQUEUED, State.AWAITING, State.ENQUEUED] == woken
            assert (Applied.APPLIED, True) == (sent_result.answer, promotion.promoted in (0, 1))
            again = flow.run(flow.begin(f"later-{number}"), running.id)
            assert Applied.TAKEN is flow.time_out(again, "approval").answer
            flow.settle(succeeds(again))

    def test_concurrent_timeout_and_signal_store_one_memo(self, flow: FlowScene) -> None:
        """If a time-out and a signal are concurrent, one is applied, and both calls return the same memo.

        If this fails: a job continues without an answer that was accepted.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            late = NewMemo(
                running.id, Memo(MemoKind.SIGNAL, "approval", None, True, BASE, None, 1, "timeout"),
                running.holder.session, running.job.fence,
            )  # fmt: skip

            (mine,), (theirs,) = race_two(
                partial(one.remember, [late]), partial(other.remember, [signal(running.id, "approval")])
            )

            assert [Applied.APPLIED, Applied.TAKEN] == sorted([mine.answer, theirs.answer])
            assert mine.memo == theirs.memo
            flow.settle(succeeds(running))

    def test_child_that_ends_during_the_suspension_wakes_its_caller(self, flow: FlowScene) -> None:
        """If a child ends while its caller suspends, the caller continues in any case.

        If this fails: sometimes a caller waits forever for a child that has ended.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            caller = flow.run(flow.begin(str(number)))
            child = flow.new_tied(Relations(caller_id=caller.id))
            flow.storage.insert([child])
            running = flow.run(flow.begin(f"child-{number}"), child.id)
            waits = suspends(caller, "child", kind=MemoKind.CALL, children=[child.id])

            race_two(partial(self._ends, one, running), partial(sent, other, [waits]))

            flow.settle_all()
            assert State.ENQUEUED is flow.state(caller.id)
            assert [caller.id] == flow.claim_ids(flow.begin(f"later-{number}"))

    @staticmethod
    def _ends(storage: Storage, running: Running) -> int:
        sent(storage, [succeeds(running)])
        return storage.release(10)

    def test_memo_of_a_lost_run_is_recalled_or_refused(self, flow: FlowScene) -> None:
        """A memo that is sent while its run loses the job is either refused or recalled by the next run.

        If this fails: a step whose memo was accepted is done again.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            memo = NewMemo(
                running.id, Memo(MemoKind.STEP, "a", "1", True, BASE), running.holder.session,
                running.job.fence,
            )  # fmt: skip

            (answer,), _ = race_two(
                partial(one.remember, [memo]),
                partial(other.end_session, running.holder.session, None, reason="killed"),
            )
            # `end_session` has skipped the job if the memo had locked it at that moment
            flow.orphans()

            again = flow.run(flow.begin(f"later-{number}"), running.id)
            recalled = flow.recall_of(again)
            assert recalled is not None
            assert (answer.answer is Applied.APPLIED, answer.answer is Applied.APPLIED) == (
                bool(recalled), again.job.has_memos,
            )  # fmt: skip
            flow.settle(succeeds(again))

    def test_signal_during_a_forgetting_requeue_is_forgotten_or_kept(self, flow: FlowScene) -> None:
        """A signal sent during a requeue that forgets memos is forgotten too, or stored after the requeue.

        If this fails: an answer from an earlier round is used, or an accepted one is lost.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            flow.keep(running, "a")
            flow.keep(running, "b")
            flow.settle(fails(running))

            (result,), (sent_result,) = race_two(
                partial(sent, one, [forgets(running.id, MemoKind.STEP, "b")]),
                partial(other.remember, [signal(running.id, "approval")]),
            )

            assert (True, Applied.APPLIED) == (result.is_applied, sent_result.answer)
            left = list(flow.recalled(running.id))
            assert left[:1] == [(MemoKind.STEP, "a")]
            assert set(left[1:]) <= {(MemoKind.SIGNAL, "approval")}
            assert State.ENQUEUED is flow.state(running.id)
            flow.settle(deletes(running.id))

    def test_nested_batches_cancelled_during_work_end_completely(self, flow: FlowScene) -> None:
        """If nested batches are cancelled while members end, fail or are added, they end and no member runs.

        If this fails: a cancelled batch never ends, or one of its inner batches continues.
        """
        handles, holder = flow.open(5), flow.begin()
        for _ in range(ROUNDS):
            outer = flow.batch("outer")
            inner = flow.batch("inner", within=outer)
            ids = [flow.member(outer), flow.member(inner), flow.member(inner)]
            one, two, three = flow.running(holder, *ids)
            more = flow.new_member(inner)

            race_all(
                partial(sent, handles[0], [deletes(outer)]), partial(sent, handles[1], [succeeds(one)]),
                partial(sent, handles[2], [fails(two)]), partial(_insert, handles[3], more),
                partial(_release_all, handles[4]),
            )  # fmt: skip
            flow.settle_all()
            flow.apply(succeeds(three))

            self._judge(flow, outer, inner)
            assert [State.DELETED] * 2 == flow.states(outer, inner)
            members = flow.storage.find(JobFilter(batch_id=inner), limit=10).jobs
            assert {job.state for job in members} <= FINAL_STATES
            assert [] == flow.take(holder)
