"""Apply, what is refused: an old holder never wins, a repeat is told apart, a refusal hinders nobody."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from firelock.storage import Applied
from firelock.testing.conformance.ends import (
    ENDS,
    deletes,
    fails,
    gives_up,
    hands_back,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.handles import BASE, HOUR
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import Holder, State, Transition

__all__ = ["GuardDuty"]


class GuardDuty(StorageFixtures):
    """What `apply` does when a guard does not hold."""

    verbs = "apply"

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_a_stale_fence_never_settles(self, scene: Scene, end: Callable[[Running], Transition]) -> None:
        """The end of an earlier claim is refused and writes nothing, also if the session holds the job anew.

        If this fails: a holder that was thought dead finishes somebody else's attempt.
        """
        holder = scene.begin()
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        scene.run(holder, stale.id)
        before = scene.record(stale.id), scene.history(stale.id)

        result = scene.apply(end(stale))

        assert Applied.REFUSED == result
        assert before == (scene.record(stale.id), scene.history(stale.id))
        assert [] == scene.errors(stale.id)

    def test_another_session_never_settles(self, scene: Scene) -> None:
        """The right fence in the hands of another session is refused.

        If this fails: sessions can end each other's jobs.
        """
        running = scene.run(scene.begin("a"))
        stranger = scene.begin("b")
        before = scene.record(running.id)

        result = scene.apply(succeeds(Running(running.job, stranger)))

        assert Applied.REFUSED == result
        assert before == scene.record(running.id)

    def test_a_settle_needs_its_states(self, scene: Scene) -> None:
        """A transition from states the job is not in is refused, whoever asks.

        If this fails: an operator's requeue makes a second copy of a job that runs.
        """
        holder = scene.begin()
        running = scene.run(holder)
        waiting = scene.add()
        ended = scene.settle(deletes(scene.add()))
        before = [scene.record(job_id) for job_id in (running.id, waiting, ended)]

        results = scene.storage.apply([requeues(running.id), requeues(waiting), deletes(ended)])

        assert [Applied.REFUSED] * 3 == results
        assert before == [scene.record(job_id) for job_id in (running.id, waiting, ended)]

    def test_an_unknown_job_is_missing(self, scene: Scene) -> None:
        """A transition of an id that is not stored answers so and stores nothing.

        If this fails: the end of a pruned job raises, or brings half a job back.
        """
        running = scene.run()
        ghost = Running(attrs.evolve(running.job, id=scene.new_id()), running.holder)

        results = scene.storage.apply([succeeds(ghost), deletes(ghost.id), requeues(ghost.id)])

        assert [Applied.MISSING] * 3 == results
        assert [None] == scene.storage.get([ghost.id])
        assert [] == scene.history(ghost.id)

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_a_repeat_is_already_applied(self, scene: Scene, end: Callable[[Running], Transition]) -> None:
        """A settle that is sent again after it was applied answers so and writes nothing twice.

        If this fails: after a lost reply a server takes its success for a lost job, or counts a retry twice.
        """
        running = scene.run()
        first = scene.apply(end(running))
        before = scene.record(running.id), scene.history(running.id)

        second = scene.apply(end(running))

        assert (Applied.APPLIED, Applied.ALREADY) == (first, second)
        assert before == (scene.record(running.id), scene.history(running.id))
        assert len(scene.errors(running.id)) <= 1

    def test_a_repeat_after_the_next_claim_is_refused(self, scene: Scene) -> None:
        """Once the job has moved on to another claim, the repeat is as stale as any other.

        If this fails: a repeat arrives late and ends an attempt it knows nothing of.
        """
        holder = scene.begin()
        first = scene.run(holder)
        scene.settle(retries(first))
        scene.run(holder, first.id)

        result = scene.apply(retries(first))

        assert Applied.REFUSED == result
        assert (State.PROCESSING, 1) == (scene.state(first.id), scene.record(first.id).retries)

    def test_another_end_of_the_same_claim_is_refused(self, scene: Scene) -> None:
        """The first end of a claim stands; a different one with the same fence is no repeat.

        If this fails: a job that succeeded is failed by a late time-out.
        """
        running = scene.run()
        scene.settle(succeeds(running))

        results = scene.storage.apply([fails(running), retries(running), gives_up(running)])

        assert [Applied.REFUSED] * 3 == results
        assert State.SUCCEEDED == scene.state(running.id)

    def test_an_operators_repeat_is_refused(self, scene: Scene) -> None:
        """A second delete finds nothing to delete: without a fence there is no telling a repeat.

        If this fails: two people who delete one job are both told that they did it.
        """
        job_id = scene.add()

        results = [scene.apply(deletes(job_id)), scene.apply(deletes(job_id))]

        assert [Applied.APPLIED, Applied.REFUSED] == results
        assert 2 == len(scene.history(job_id))

    def test_one_refusal_hinders_no_other(self, scene: Scene) -> None:
        """Results come in the order of the transitions, each stands for itself; counts move by what was done.

        If this fails: one lost job makes a server lose the ends of a whole batch, or counters move with what
        was asked instead of with what was done.
        """
        holder = scene.begin()
        scene.add_many(4)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        stranger = Holder("nobody", "nobody")

        results = scene.storage.apply(
            [
                succeeds(runs[0]),
                succeeds(Running(runs[1].job, stranger)),
                deletes(scene.new_id()),
                fails(runs[2]),
                requeues(runs[1].id),
                retries(runs[3], due_at=BASE + HOUR),
            ]
        )

        assert [
            Applied.APPLIED, Applied.REFUSED, Applied.MISSING, Applied.APPLIED, Applied.REFUSED,
            Applied.APPLIED,
        ] == results  # fmt: skip
        states = [State.SUCCEEDED, State.PROCESSING, State.FAILED, State.SCHEDULED]
        assert states == [scene.state(run.id) for run in runs]
        assert dict.fromkeys(states, 1) == scene.by_state()

    def test_transitions_of_one_job_are_applied_in_order(self, scene: Scene) -> None:
        """Later transitions of a batch see what the earlier ones did, to other jobs in between as well.

        If this fails: a batch is applied by job instead of by order, or only the last transition is kept.
        """
        running = scene.run()
        other = scene.add()

        results = scene.storage.apply(
            [
                succeeds(running),
                deletes(other),
                succeeds(running),
                requeues(running.id),
                deletes(running.id),
                requeues(other),
                succeeds(running),
            ]
        )

        applied, already, refused = Applied.APPLIED, Applied.ALREADY, Applied.REFUSED
        assert [applied, applied, already, applied, applied, applied, refused] == results
        assert (State.DELETED, State.ENQUEUED) == (scene.state(running.id), scene.state(other))
        assert [State.ENQUEUED, State.SUCCEEDED, State.ENQUEUED, State.DELETED] == [
            entry.state for entry in scene.history(running.id)
        ]

    def test_a_batch_of_a_thousand_is_one_call(self, scene: Scene) -> None:
        """A thousand jobs are stored by one call, a thousand ends applied by another, each with its result.

        If this fails: a limit on the number of bound values of a statement or script is hit.
        """
        ids = scene.add_many(1_000, tags=("bulk", "night"))
        holder = scene.begin()
        runs = [Running(job, holder) for job in scene.claim(holder, 1_000)]

        results = scene.storage.apply([succeeds(run, f'"{run.id}"') for run in runs])

        assert [Applied.APPLIED] * 1_000 == results
        assert [f'"{id}"' for id in ids] == [record.result for record in scene.storage.get(ids) if record]
