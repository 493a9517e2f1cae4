"""Tests of called jobs: runs that wait for other jobs, inputs, and the retention of results."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from firelock.model.batch import BatchCounts
from firelock.model.dependencies import Edge, Input, On, Relations, write_relations
from firelock.model.job import Transition
from firelock.model.lifecycle import Moved
from firelock.model.memo import MemoKind
from firelock.model.state import State
from firelock.storage import Applied, JobFilter
from firelock.testing.conformance.flow_scene import FlowScene, call_memo, suspends
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    HOUR,
    Running,
    deletes,
    fails,
    gives_up,
    requeues,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures


def _waits(running: Running, *children: str, due_at: int | None = None) -> Transition:
    return suspends(running, "child", kind=MemoKind.CALL, children=children, due_at=due_at)


class CallTests(StorageFixtures):
    """Tests of `apply`, `release` and `prune` for jobs that wait for the jobs that they have called."""

    # ---- waits -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", ["succeeds", "fails", "gives up", "deleted"])
    def test_end_of_a_child_enqueues_its_waiting_caller(self, flow: FlowScene, end: str) -> None:
        """A caller that waits for its child is enqueued, and stops waiting, when the child ends in any way.

        If this fails: a caller waits forever for a child that has failed.
        """
        caller = flow.run()
        child = self._called(flow, caller)
        assert Applied.APPLIED is flow.apply(_waits(caller, child))
        record = flow.record(caller.id)
        assert (State.AWAITING, "call child", 0, None) == (
            record.state, record.waits_for, record.attempt, record.session,
        )  # fmt: skip
        flow.settle_all()
        running = flow.run(flow.begin("child"), child)

        ends: dict[str, Callable[[Running], Transition]]
        ends = {"succeeds": succeeds, "fails": fails, "gives up": gives_up}
        result = flow.apply(ends[end](running) if end in ends else deletes(child))
        between = flow.state(caller.id)
        flow.settle_all()

        assert (Applied.RELEASE_NEEDED, State.AWAITING) == (result, between)
        flow.check(caller.id, state=State.ENQUEUED, waits_for=None)
        wanted = {"succeeds": State.SUCCEEDED, "fails": State.FAILED}.get(end, State.DELETED)
        assert Moved.PARENT_ENDED.format(state=wanted) == flow.record(caller.id).reason
        again = flow.run(flow.begin("b"), caller.id)
        assert 1 == again.job.attempt

    @staticmethod
    def _called(flow: FlowScene, caller: Running, **fields: object) -> str:
        """Store a child of the run, after a memo of the call; return the child's id."""
        job = flow.new_tied(Relations(caller_id=caller.id), fields)
        assert Applied.APPLIED is flow.remember(call_memo(caller, "child", job.id)).answer
        flow.storage.insert([job])
        return job.id

    def test_suspended_caller_is_enqueued_if_the_child_has_ended(self, flow: FlowScene) -> None:
        """If the child has ended before its caller suspends, the caller is enqueued immediately.

        If this fails: a caller whose child was fast waits forever.
        """
        caller = flow.run()
        child = self._called(flow, caller)
        flow.settle(fails(flow.run(flow.begin("child"), child)))
        flow.settle_all()

        result = flow.apply(_waits(caller, child))

        assert result.is_applied
        reason = Moved.PARENT_ENDED.format(state=State.FAILED)
        flow.check(caller.id, state=State.ENQUEUED, waits_for=None, reason=reason)
        assert [State.ENQUEUED, State.ENQUEUED] == [entry.state for entry in flow.history(caller.id)]
        flow.settle_all()
        assert [caller.id] == flow.claim_ids(flow.begin("b"))

    def test_last_of_several_children_enqueues_the_caller(self, flow: FlowScene) -> None:
        """A caller of several children is enqueued when all have ended, even if they ended before the wait.

        If this fails: `gather` returns while results are missing.
        """
        caller = flow.run()
        jobs = [flow.new_tied(Relations(caller_id=caller.id)) for _ in range(3)]
        flow.remember(call_memo(caller, "child", *(job.id for job in jobs)))
        flow.storage.insert(jobs)
        one, two, three = flow.running(flow.begin("child"), *(job.id for job in jobs))
        flow.settle(succeeds(one))

        flow.settle(_waits(caller, *(job.id for job in jobs)))
        states = [flow.state(caller.id)]
        for running in (three, two):
            flow.settle(fails(running) if running is three else succeeds(running))
            flow.settle_all()
            states.append(flow.state(caller.id))

        assert [State.AWAITING, State.AWAITING, State.ENQUEUED] == states

    def test_caller_that_waits_for_an_unknown_job_is_enqueued(self, flow: FlowScene) -> None:
        """A caller that waits for an unknown job is enqueued, and its run finds that the job is missing.

        If this fails: a caller waits forever for a job that was pruned.
        """
        caller = flow.run()

        assert flow.apply(_waits(caller, flow.storage.new_ids(1, caller.id)[0])).is_applied

        assert State.ENQUEUED is flow.state(caller.id)

    def test_called_jobs_are_not_parents_of_the_caller(self, flow: FlowScene) -> None:
        """Jobs for which a run waits are not parents of its job, in the record or in a search by parent.

        If this fails: a page shows a caller as the child of a job that it has called.
        """
        caller = flow.run()
        child = self._called(flow, caller)
        then = flow.continuation(child)

        flow.settle(_waits(caller, child))

        assert () == flow.record(caller.id).parents
        assert [then] == flow.found(JobFilter(parent_id=child))
        assert Relations(caller_id=caller.id) == flow.record(child).relations

    def test_waiting_continuation_keeps_its_parents(self, flow: FlowScene) -> None:
        """A continuation that waits for a child still lists its parents, but is no longer affected by them.

        If this fails: a wait changes the relations of a job.
        """
        parent = flow.add()
        job_id = flow.continuation(parent)
        flow.settle(succeeds(flow.run(flow.begin(), parent)))
        flow.settle_all()
        caller = flow.run(flow.begin("b"), job_id)
        child = self._called(flow, caller)
        flow.settle(_waits(caller, child))

        flow.settle(requeues(parent))
        taken = {running.id: running for running in flow.take(flow.begin("c"))}
        flow.settle(succeeds(taken[parent]))
        flow.settle_all()

        assert (Edge(parent),) == flow.record(job_id).parents
        assert [job_id] == flow.found(JobFilter(parent_id=parent))
        flow.check(job_id, state=State.AWAITING, waits_for="call child")

    def test_previous_child_does_not_wake_a_requeued_caller(self, flow: FlowScene) -> None:
        """A requeued caller that now waits for another child is not woken by its previous child.

        If this fails: a job continues without the result for which it waits.
        """
        caller = flow.run()
        first = self._called(flow, caller)
        flow.settle(_waits(caller, first))
        flow.settle(requeues(caller.id))
        taken = {running.id: running for running in flow.take(flow.begin("b"))}
        again = taken[caller.id]
        second = flow.new_tied(Relations(caller_id=caller.id))
        flow.storage.insert([second])
        flow.settle(_waits(again, second.id))

        flow.settle(succeeds(taken[first]))
        flow.settle_all()
        between = flow.state(caller.id)
        flow.settle(succeeds(flow.run(flow.begin("c"), second.id)))
        flow.settle_all()

        assert [State.AWAITING, State.ENQUEUED] == [between, flow.state(caller.id)]

    def test_wait_for_a_child_ends_at_its_due_time(self, flow: FlowScene) -> None:
        """A wait for a child ends at its due time; if the child ends later, nothing changes.

        If this fails: a wait with a time-out lasts forever, or starts its job twice.
        """
        caller = flow.run()
        child = self._called(flow, caller, state=State.SCHEDULED, due_at=BASE + 30 * DAY)
        flow.settle(_waits(caller, child, due_at=BASE + HOUR))
        flow.advance(7_200)

        assert 1 == flow.promote().promoted
        flow.settle(succeeds(flow.run(flow.begin("b"), caller.id)))
        flow.settle(deletes(child))
        flow.settle_all()

        assert [State.SUCCEEDED, State.DELETED] == flow.states(caller.id, child)

    def test_waiting_caller_is_active_in_its_batch(self, flow: FlowScene) -> None:
        """A member that waits for its child, or for a signal, counts as active: its batch does not end.

        If this fails: a batch ends while one of its members waits for an approval.
        """
        batch, (a, b) = flow.batch_of(2)
        one, two = flow.running(flow.begin(), a, b)
        child = flow.new_tied(Relations(caller_id=a))
        flow.storage.insert([child])

        flow.settle(_waits(one, child.id))
        flow.settle(suspends(two))
        flow.settle_all()
        waiting = flow.batch_counts(batch), flow.state(batch)
        flow.send(b, "approval")
        flow.settle(succeeds(flow.take(flow.begin("b"), 1)[0]))
        flow.settle_all()

        assert (BatchCounts(total=2, active=2), State.AWAITING) == waiting
        assert BatchCounts(total=2, active=2) == flow.batch_counts(batch)
        for name in ("c", "d", "e"):
            flow.storage.apply([succeeds(running) for running in flow.take(flow.begin(name))])
            flow.settle_all()
        assert (BatchCounts(total=2, succeeded=2), State.SUCCEEDED) == (
            flow.batch_counts(batch),
            flow.state(batch),
        )

    def test_run_can_wait_for_a_batch(self, flow: FlowScene) -> None:
        """A run can wait for a batch as for any job, and continues when the batch has ended.

        If this fails: `join` of a batch never returns.
        """
        caller = flow.run()
        made = flow.new_batch(colocate_with=caller.id)
        batch, member = made.id, flow.new_member(made.id)
        flow.storage.insert([made, member])

        flow.settle(_waits(caller, batch))
        flow.settle_all()
        between = flow.state(caller.id)
        flow.settle(fails(flow.run(flow.begin("b"), member.id)))
        flow.settle_all()

        assert [State.AWAITING, State.ENQUEUED] == [between, flow.state(caller.id)]

    # ---- inputs and retention of results -----------------------------------------------------------------

    def test_inputs_are_stored_and_claimed_unchanged(self, flow: FlowScene) -> None:
        """A claim returns the stored positions of other jobs' results in the job's arguments.

        If this fails: a job runs without the results that it should get.
        """
        source = flow.add()
        relations = Relations(inputs=(Input(source, ("text",)), Input(source, ("rows", 0, "é"))))
        job_id = flow.add(
            state=State.AWAITING, parents=(Edge(source, carries=True),),
            relations_json=write_relations(relations), arguments='{"text": null, "rows": [{"é": null}]}',
        )  # fmt: skip
        flow.settle(succeeds(flow.run(flow.begin(), source), '"result"'))
        flow.settle_all()

        running = flow.run(flow.begin("b"), job_id)

        assert relations == flow.record(job_id).relations == running.job.relations
        assert (Edge(source, On.SUCCEEDED, carries=True),) == flow.record(job_id).parents
        assert '{"text": null, "rows": [{"é": null}]}' == running.job.arguments
        assert '"result"' == flow.record(source).result

    def test_job_without_its_input_cannot_be_requeued(self, flow: FlowScene) -> None:
        """A job that takes the result of another job cannot be requeued until that job has succeeded.

        If this fails: a job runs although an argument is missing.
        """
        source = flow.add()
        relations = write_relations(Relations(inputs=(Input(source, ("text",)),)))
        job_id = flow.add(
            state=State.AWAITING, parents=(Edge(source, carries=True),), relations_json=relations
        )
        waits_alone = flow.continuation(source)
        flow.settle(fails(flow.run(flow.begin(), source)))
        flow.settle_all()

        results = [flow.apply(requeues(one)) for one in (job_id, waits_alone)]

        assert [Applied.REFUSED, Applied.APPLIED] == results
        assert [State.AWAITING, State.ENQUEUED] == flow.states(job_id, waits_alone)

    def test_expired_source_is_kept_while_its_result_is_needed(self, flow: FlowScene) -> None:
        """An expired source is kept while a job that takes its result as an argument has not ended.

        If this fails: the last stage of a flow fails, because the job of its first stage was pruned.
        """
        source = flow.add()
        relations = write_relations(Relations(inputs=(Input(source, ("text",)),)))
        job_id = flow.add(
            state=State.AWAITING, parents=(Edge(source, carries=True),), relations_json=relations
        )
        flow.settle(succeeds(flow.run(flow.begin(), source), expires_at=BASE - DAY))
        flow.settle_all()

        early = [flow.prune(), flow.prune()]
        moved_on = flow.record(source).expires_at
        flow.settle(succeeds(flow.run(flow.begin("b"), job_id)))
        flow.advance(DAY // 1_000_000)

        assert ([0, 0], True) == (early, moved_on is not None and moved_on > flow.now() - DAY)
        assert 1 == flow.prune()
        assert [None] == flow.storage.get([source])

    @pytest.mark.parametrize("state", ["running", "waiting", "failed"])
    def test_expired_child_is_kept_until_its_caller_has_ended(self, flow: FlowScene, state: str) -> None:
        """An expired child is kept while its caller has not ended, because its result may still be read.

        If this fails: a caller does not find the result of its child, and calls it again.
        """
        caller = flow.run()
        child = self._called(flow, caller)
        flow.settle(succeeds(flow.run(flow.begin("child"), child), expires_at=BASE - DAY))
        if state == "waiting":
            flow.settle(suspends(caller))
        if state == "failed":
            flow.settle(fails(caller))
        flow.settle_all()

        early = flow.prune()
        kept = flow.storage.get([child])[0] is not None
        if state != "failed":
            flow.settle(deletes(caller.id))
        flow.advance(7_200)
        flow.prune()

        assert ((1, False) if state == "failed" else (0, True)) == (early, kept)
        assert [None] == flow.storage.get([child])

    def test_child_ends_and_is_pruned_after_its_caller(self, flow: FlowScene) -> None:
        """A called job whose caller was already pruned ends and is pruned like any other job.

        If this fails: a job whose caller was pruned long ago never ends, or is never pruned.
        """
        caller = flow.run()
        child = self._called(flow, caller)
        flow.settle(succeeds(caller, expires_at=BASE - DAY))
        assert 1 == flow.prune()

        flow.settle(succeeds(flow.run(flow.begin("child"), child), expires_at=BASE - DAY))
        flow.settle_all()

        assert [1, 0] == [flow.prune(), flow.prune()]
        assert [None] == flow.storage.get([child])
