"""Continuations: a child runs after the end it waits for, once, whatever the order in which things happen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from firelock.lifecycle import Moved, continuation_target, waiting_reason
from firelock.storage import Applied, JobFilter
from firelock.testing.conformance.ends import deletes, fails, requeues, succeeds
from firelock.testing.conformance.handles import BASE, HOUR
from firelock.testing.conformance.race import until_none_is_left
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import Edge, HistoryEntry, On, State, Transition

__all__ = ["ContinuationDuty"]

_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)
_TABLE = [(on, end) for on in On for end in _ENDS]
_table = pytest.mark.parametrize(("on", "end"), _TABLE, ids=[f"{on}-{end}" for on, end in _TABLE])


def _ended(scene: Scene, end: State, job_id: str | None = None, expires_at: int | None = None) -> str:
    """Bring a job, a new one unless given, to its end; return its id."""
    running = scene.run(job_id=job_id)
    match end:
        case State.SUCCEEDED:
            return scene.settle(succeeds(running, expires_at=expires_at))
        case State.FAILED:
            return scene.settle(fails(running, expires_at=expires_at))
        case _:
            scene.settle(deletes(running.id, at=scene.stamp(), expires_at=expires_at))
            scene.apply(succeeds(running))
            return running.id


def _expected_reason(on: On, end: State, target: State | None) -> str:
    return waiting_reason(on, end) if target is None else Moved.PARENT_ENDED.format(state=end)


class ContinuationDuty(StorageFixtures):
    """What `insert`, `apply` and `release` promise to jobs that wait for others."""

    verbs = "release"

    def test_a_child_waits_for_its_parent(self, scene: Scene) -> None:
        """A child of a job that has not ended is awaiting, names its parents and is not claimable.

        If this fails: continuations run before what they continue.
        """
        one, other = scene.schedule(3_600), scene.schedule(3_600)

        child = scene.continuation(one, other, on=On.FINISHED)

        scene.check(
            child,
            state=State.AWAITING,
            parents=(Edge(one, On.FINISHED), Edge(other, On.FINISHED)),
            enqueued_at=None,
        )
        assert [] == scene.claim(scene.begin(), queues=None)
        assert 0 == scene.release()

    @_table
    def test_the_end_of_the_parent_decides_the_child(self, scene: Scene, on: On, end: State) -> None:
        """Released children are enqueued, deleted or go on waiting as the table says, and say why.

        If this fails: children run after the wrong end, or wait without a word.
        """
        parent = scene.add()
        child = scene.continuation(parent, on=on)
        _ended(scene, end, parent)

        looked_at = scene.release()

        target = continuation_target(on, end)
        scene.check(child, state=target or State.AWAITING, reason=_expected_reason(on, end, target))
        assert 1 == looked_at
        assert 0 == scene.release()

    @_table
    def test_a_parent_that_has_ended_decides_at_once(self, scene: Scene, on: On, end: State) -> None:
        """A child of a parent that has already ended gets its state when it is stored: one history entry.

        If this fails: a child created a moment too late waits for ever.
        """
        parent = _ended(scene, end)

        child = scene.continuation(parent, on=on)

        target = continuation_target(on, end) or State.AWAITING
        record = scene.record(child)
        reason = _expected_reason(on, end, continuation_target(on, end))
        assert (target, reason, target is State.DELETED) == (
            record.state, record.reason, record.ended_at is not None,
        )  # fmt: skip
        assert [(target, record.created_at, reason)] == [
            (entry.state, entry.at, entry.reason) for entry in scene.history(child)
        ]
        claimable = [child] if target is State.ENQUEUED else []
        assert claimable == scene.claim_ids()

    def test_the_end_of_a_parent_is_told(self, scene: Scene) -> None:
        """The end of a job with waiting children answers `releasing`, its repeat `already`.

        If this fails: children wait for upkeep, or every settle pays for a look that finds nothing.
        """
        holder = scene.begin()
        parent = scene.run(holder)
        scene.continuation(parent.id)
        childless = scene.run(holder)

        results = [scene.apply(end) for end in (succeeds(parent), succeeds(parent), succeeds(childless))]

        assert [Applied.RELEASING, Applied.ALREADY, Applied.APPLIED] == results
        assert all(result.is_applied for result in results)

    def test_an_operators_delete_releases_too(self, scene: Scene) -> None:
        """A parent that was deleted has ended: its children are decided.

        If this fails: children of a deleted job wait for ever.
        """
        parent = scene.schedule(3_600)
        child = scene.continuation(parent, on=On.DELETED)

        result = scene.apply(deletes(parent))
        scene.release()

        assert (Applied.RELEASING, State.ENQUEUED) == (result, scene.state(child))

    def test_a_release_is_one_history_entry_and_a_place_in_the_queue(self, scene: Scene) -> None:
        """A released child is stamped by the storage's clock, says which end released it, and is claimable.

        If this fails: people cannot see why a job waited, or the child never runs.
        """
        parent = scene.add()
        child = scene.continuation(parent, priority=3)
        _ended(scene, State.SUCCEEDED, parent)
        before = scene.now()

        scene.release()

        record = scene.record(child)
        assert record.enqueued_at is not None
        assert before <= record.enqueued_at <= scene.now()
        entry = HistoryEntry(State.ENQUEUED, record.changed_at, "parent succeeded")
        assert entry == scene.last_entry(child)
        assert 2 == len(scene.history(child))
        assert [child] == scene.claim_ids()

    def test_a_child_is_released_once(self, scene: Scene) -> None:
        """A second end of the parent changes nothing for children that were decided.

        If this fails: a requeued parent runs its continuations again.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        _ended(scene, State.SUCCEEDED, parent)
        scene.release()
        _ended(scene, State.SUCCEEDED, child)

        scene.settle(requeues(parent))
        _ended(scene, State.SUCCEEDED, parent)
        scene.release()

        assert State.SUCCEEDED == scene.state(child)
        assert 3 == len(scene.history(child))

    def test_the_last_parent_releases(self, scene: Scene) -> None:
        """A child of several parents is enqueued with the last of them, whatever the order.

        If this fails: a job that joins others runs before they have ended, or never.
        """
        parents = scene.add_many(3)
        child = scene.continuation(*parents)
        holder = scene.begin()
        states = []

        for job in reversed(scene.claim(holder)):
            scene.settle(succeeds(Running(job, holder)))
            scene.release()
            states.append(scene.state(child))

        assert [State.AWAITING, State.AWAITING, State.ENQUEUED] == states

    def test_one_unwanted_end_deletes_the_child(self, scene: Scene) -> None:
        """A child of several parents is deleted by the first that did not end as wanted, and stays so.

        If this fails: a job runs although something it builds upon was given up.
        """
        first, second = scene.add_many(2)
        child = scene.continuation(first, second)
        scene.settle(deletes(first))
        scene.release()
        after_the_first = scene.state(child)

        _ended(scene, State.SUCCEEDED, second)
        scene.release()

        assert (State.DELETED, State.DELETED) == (after_the_first, scene.state(child))
        assert 2 == len(scene.history(child))

    def test_a_parent_that_has_ended_counts_among_several(self, scene: Scene) -> None:
        """Of several parents, those that ended before the child was stored are already counted.

        If this fails: a child of one finished and one running job waits for ever, or runs at once.
        """
        ended = _ended(scene, State.SUCCEEDED)
        running = scene.run()
        child = scene.continuation(ended, running.id)
        before = scene.state(child)

        scene.settle(succeeds(running))
        scene.release()

        assert (State.AWAITING, State.ENQUEUED) == (before, scene.state(child))

    def test_a_failed_parent_may_still_succeed(self, scene: Scene) -> None:
        """A child that waits for success outlives its parent's failure, and runs when it succeeds after all.

        If this fails: the operator who mends a failure has lost everything that was to follow.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        _ended(scene, State.FAILED, parent)
        scene.release()
        waiting = scene.record(child)
        scene.settle(requeues(parent))

        _ended(scene, State.SUCCEEDED, parent)
        scene.release()

        assert (State.AWAITING, waiting_reason(On.SUCCEEDED, State.FAILED)) == (waiting.state, waiting.reason)
        assert State.ENQUEUED == scene.state(child)

    def test_a_child_of_a_failed_parent_is_told_of_its_success(self, scene: Scene) -> None:
        """A child stored after the failure of its parent is released by the parent's later success.

        If this fails: the parent is not marked since it had ended, and the child waits for ever.
        """
        parent = _ended(scene, State.FAILED)
        child = scene.continuation(parent)
        scene.settle(requeues(parent))

        running = scene.run(job_id=parent)
        result = scene.apply(succeeds(running))
        scene.release()

        assert (Applied.RELEASING, State.ENQUEUED) == (result, scene.state(child))

    def test_a_child_that_is_gone_is_passed_over(self, scene: Scene) -> None:
        """A child that was deleted and pruned before its turn keeps nobody else from theirs.

        If this fails: one child too few stops the release of all that wait behind it.
        """
        parent = scene.add()
        gone, left = scene.continuation(parent), scene.continuation(parent)
        _ended(scene, State.SUCCEEDED, parent)
        scene.settle(deletes(gone, expires_at=BASE - HOUR))
        assert 1 == scene.prune()

        until_none_is_left(lambda: scene.release(1))

        assert ([None], State.ENQUEUED) == (scene.storage.get([gone]), scene.state(left))

    def test_a_parent_requeued_before_its_turn_releases_nothing(self, scene: Scene) -> None:
        """A parent that left its end before its children were looked at decides them by its next end.

        If this fails: children are released by an end that no longer holds, while their parent runs again.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        _ended(scene, State.SUCCEEDED, parent)
        scene.settle(requeues(parent))

        scene.release()
        while_running = scene.state(child)
        _ended(scene, State.DELETED, parent)
        scene.release()

        assert (State.AWAITING, State.DELETED) == (while_running, scene.state(child))

    def test_a_deleted_child_decides_its_own_children(self, scene: Scene) -> None:
        """A chain of continuations is deleted down to its end, each with its reason.

        If this fails: grandchildren wait for ever.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        grandchild = scene.continuation(child)
        wanted = scene.continuation(child, on=On.DELETED)
        scene.settle(deletes(parent))

        rounds = [scene.release() for _ in range(5)]

        assert (3, 0) == (sum(rounds), rounds[-1])
        assert [State.DELETED, State.DELETED, State.ENQUEUED] == [
            scene.state(job_id) for job_id in (child, grandchild, wanted)
        ]
        assert "parent deleted" == scene.record(grandchild).reason

    def test_a_deleted_child_stays_as_long_as_its_parent(self, scene: Scene) -> None:
        """A child deleted by the storage expires as long after its end as its parent after its own.

        If this fails: children that were given up stay for ever, or are gone before anybody saw them.
        """
        kept, expiring = scene.add_many(2)
        children = scene.continuation(kept), scene.continuation(expiring)
        at = scene.stamp()

        scene.storage.apply([deletes(kept), deletes(expiring, at=at, expires_at=at + 3 * HOUR)])
        scene.release()

        forever, bounded = (scene.record(child) for child in children)
        assert (State.DELETED, None) == (forever.state, forever.expires_at)
        assert bounded.ended_at is not None
        assert (bounded.changed_at, bounded.ended_at + 3 * HOUR) == (bounded.ended_at, bounded.expires_at)

    def test_children_are_released_in_bounded_steps(self, scene: Scene) -> None:
        """At most so many children are looked at by one call; all are by enough of them, each once.

        If this fails: the end of a job with 100,000 children stops everybody for a second.
        """
        parent = scene.add()
        children = [scene.continuation(parent) for _ in range(7)]
        _ended(scene, State.SUCCEEDED, parent)

        steps = [scene.release(3) for _ in range(3)]

        assert [3, 3, 1] == steps
        assert 0 == scene.release(3)
        assert [2] * 7 == [len(scene.history(child)) for child in children]
        assert sorted(children) == sorted(scene.claim_ids())

    @pytest.mark.parametrize("change", [deletes, requeues])
    def test_a_child_that_left_is_not_released(
        self, scene: Scene, change: Callable[[str], Transition]
    ) -> None:
        """A child that an operator deleted, or ran without waiting, is not moved by the end of its parent.

        If this fails: a deleted child runs, or one that was started by hand runs twice.
        """
        parent = scene.schedule(3_600)
        child = scene.continuation(parent)
        scene.settle(change(child))
        before = scene.record(child)

        scene.storage.apply([deletes(parent)])
        scene.release()

        assert before == scene.record(child)

    def test_continuations_are_found_by_parent(self, scene: Scene) -> None:
        """The jobs that wait, or waited, for a job are found by its id.

        If this fails: nobody sees what follows a job.
        """
        parent, other = scene.add_many(2)
        children = {scene.continuation(parent), scene.continuation(other, parent)}
        scene.continuation(other)
        scene.settle(deletes(parent))
        scene.release()

        found = scene.found(JobFilter(parent_id=parent))

        assert children == set(found)
