"""Races of batches, signals and calls: whatever the order, nothing hangs, and what was told is so."""

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
    """Tell whether the job was stored, or its batch was over."""
    try:
        storage.insert([job])
    except BatchFinished:
        return False
    return True


class FlowRaceDuty(StorageFixtures):
    """What batches, signals and calls promise to callers that come at the same time."""

    def _judge(self, flow: FlowScene, *batches: str) -> None:
        """What is told of the batches is what a recount says, and the ends are those of the members."""
        flow.settle_all()
        records = [
            job for batch in batches for job in flow.storage.find(JobFilter(batch_id=batch), limit=100).jobs
        ]
        for batch in batches:
            assert recount(flow.storage, batch, records) == flow.batch_counts(batch)

    def test_the_last_members_end_their_batch_once(self, flow: FlowScene) -> None:
        """Members that end together, with others that fold meanwhile, end the batch, and once.

        If this fails: a batch hangs when its last members end at one instant, or its callback runs twice.
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

    def test_a_requeue_races_the_fold(self, flow: FlowScene) -> None:
        """A member that is requeued while its end is counted leaves the batch open, ended meanwhile or not.

        If this fails: a batch is done while a member of it runs.
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

    def test_an_add_races_the_fold(self, flow: FlowScene) -> None:
        """Whoever adds to a batch at its end was in time, and it is open, or too late, and nothing is stored.

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

    def test_adds_race_a_cancel(self, flow: FlowScene) -> None:
        """What is added while a batch is cancelled is swept with it, or was refused.

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

    def test_a_requeue_races_the_sweep(self, flow: FlowScene) -> None:
        """A failed member is requeued while its failure stops the batch: it runs, whatever was swept.

        If this fails: what somebody has mended is deleted for what failed before.
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

    def test_ends_of_two_levels_race(self, flow: FlowScene) -> None:
        """Members of a batch and of one within it end together, while others fold: both batches end.

        If this fails: an outer batch misses the end of an inner one, and hangs.
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

    def test_an_opening_races_what_is_added(self, flow: FlowScene) -> None:
        """A member that is added while its batch is opened is enqueued with the others.

        If this fails: a member is shut out for ever of a batch that is open.
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

    def test_one_of_two_signals_is_first(self, flow: FlowScene) -> None:
        """Of four signals sent at once one is applied, the others learn that another was first.

        If this fails: two people both hear that their decision counts.
        """
        handles = flow.open(4)
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            flow.settle(suspends(running))
            memos = [signal(running.id, "approval", f'"{who}"', f"who {who}") for who in range(4)]

            answers = race([partial(one.remember, [memo]) for one, memo in zip(handles, memos, strict=True)])

            told = [answer.answer for (answer,) in answers]
            assert [Applied.APPLIED, *[Applied.TAKEN] * 3] == sorted(told)
            assert (
                memos[told.index(Applied.APPLIED)].memo.value
                == flow.recalled(running.id)[MemoKind.SIGNAL, "approval"]
            )
            assert [running.id] == flow.claim_ids(flow.begin(f"later-{number}"))

    def test_a_signal_races_the_suspension(self, flow: FlowScene) -> None:
        """A signal sent while its job comes to wait is there for it: the job is enqueued in any case.

        If this fails: now and then an answer is not heard, and its job waits for ever.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))

            (suspended,), (told,) = race_two(
                partial(sent, one, [suspends(running)]),
                partial(other.remember, [signal(running.id, "approval")]),
            )

            assert (True, Applied.APPLIED) == (suspended.is_applied, told.answer)
            flow.check(running.id, state=State.ENQUEUED, waits_for=None)
            assert [running.id] == flow.claim_ids(flow.begin(f"later-{number}"))

    def test_a_signal_races_the_time_out(self, flow: FlowScene) -> None:
        """A job that is woken by its signal and its time-out at once is enqueued once, and the signal stands.

        If this fails: a job runs twice, or a sender was told that it was heard and the time-out counted.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            flow.settle(suspends(running, due_at=flow.now() + HOUR))
            flow.advance(7_200)

            promotion, (told,) = race_two(
                partial(one.promote, 10), partial(other.remember, [signal(running.id, "approval")])
            )

            woken = [entry.state for entry in flow.history(running.id)]
            assert [State.ENQUEUED, State.AWAITING, State.ENQUEUED] == woken
            assert (Applied.APPLIED, True) == (told.answer, promotion.promoted in (0, 1))
            again = flow.run(flow.begin(f"later-{number}"), running.id)
            assert Applied.TAKEN is flow.time_out(again, "approval").answer
            flow.settle(succeeds(again))

    def test_a_time_out_races_the_signal(self, flow: FlowScene) -> None:
        """Of the memo of a time-out and a signal one is applied, and both are told the same answer.

        If this fails: a job goes on without an answer that was accepted.
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

    def test_a_child_ends_while_its_caller_comes_to_wait(self, flow: FlowScene) -> None:
        """A child's end races its caller's suspension: the caller goes on in any case.

        If this fails: now and then a caller waits for ever for a child that has ended.
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

    def test_a_memo_races_the_loss_of_its_run(self, flow: FlowScene) -> None:
        """What a run remembers while it is taken away is recalled by the next, or was refused.

        If this fails: a step is said to be remembered and is done again.
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
            flow.orphans()  # the end has skipped the job if the memo had locked it then

            again = flow.run(flow.begin(f"later-{number}"), running.id)
            recalled = flow.recall_of(again)
            assert recalled is not None
            assert (answer.answer is Applied.APPLIED, answer.answer is Applied.APPLIED) == (
                bool(recalled), again.job.has_memos,
            )  # fmt: skip
            flow.settle(succeeds(again))

    def test_forgetting_races_a_signal(self, flow: FlowScene) -> None:
        """A signal sent while a job is told to forget is gone with the rest, or stands behind the requeue.

        If this fails: an answer of another round is used, or one that was accepted is lost.
        """
        one, other = flow.open()
        for number in range(ROUNDS):
            running = flow.run(flow.begin(str(number)))
            flow.keep(running, "a")
            flow.keep(running, "b")
            flow.settle(fails(running))

            (result,), (told,) = race_two(
                partial(sent, one, [forgets(running.id, MemoKind.STEP, "b")]),
                partial(other.remember, [signal(running.id, "approval")]),
            )

            assert (True, Applied.APPLIED) == (result.is_applied, told.answer)
            left = list(flow.recalled(running.id))
            assert left[:1] == [(MemoKind.STEP, "a")]
            assert set(left[1:]) <= {(MemoKind.SIGNAL, "approval")}
            assert State.ENQUEUED is flow.state(running.id)
            flow.settle(deletes(running.id))

    def test_a_tree_is_cancelled_while_it_works(self, flow: FlowScene) -> None:
        """A tree of batches is cancelled while its members end, fail and add: all of it ends, nobody runs.

        If this fails: a cancelled tree hangs, or a branch of it lives on.
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
