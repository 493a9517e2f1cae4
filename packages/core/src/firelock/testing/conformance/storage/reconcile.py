"""Reconcile: a child and the storage find where they differ about what it holds; nothing is moved."""

from __future__ import annotations

from firelock.storage import Applied, Held
from firelock.testing.conformance.ends import deletes, hands_back, succeeds
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import State

__all__ = ["ReconcileDuty"]


def _held(running: Running, started_at: int | None = None) -> Held:
    return Held(running.id, running.job.fence, started_at)


class ReconcileDuty(StorageFixtures):
    """What `reconcile` promises."""

    verbs = "reconcile"

    def test_agreement_is_silent(self, scene: Scene) -> None:
        """What both sides know is neither lost nor unknown.

        If this fails: servers stop jobs that are rightly theirs, or hand back what they run.
        """
        running = scene.run()

        found = scene.reconcile(running.holder, [_held(running)])

        assert (False, [], []) == (found.is_session_lost, found.lost, found.unknown)

    def test_what_the_child_does_not_name_is_unknown(self, scene: Scene) -> None:
        """Jobs that the storage holds for a session and the child did not name come back whole, unmoved.

        If this fails: the reply to a claim that was lost on its way leaves its jobs with nobody, for ever.
        """
        holder = scene.begin()
        scene.add_many(3)
        claimed = scene.claim(holder)
        named = Running(claimed[1], holder)

        found = scene.reconcile(holder, [_held(named)])

        unknown = sorted(found.unknown, key=lambda job: job.id)
        assert sorted([claimed[0], claimed[2]], key=lambda job: job.id) == unknown
        assert [State.PROCESSING] * 3 == [scene.state(job.id) for job in claimed]

    def test_the_unknown_can_be_handed_back(self, scene: Scene) -> None:
        """What reconcile returns is enough to hand the job back.

        If this fails: a fence or attempt in it is not the stored one, and the hand-back is refused.
        """
        holder = scene.begin()
        lost_reply = scene.run(holder)
        (job,) = scene.reconcile(holder, []).unknown

        result = scene.apply(hands_back(Running(job, holder)))

        assert (Applied.APPLIED, lost_reply.job) == (result, job)
        assert (State.ENQUEUED, 0) == (scene.state(job.id), scene.record(job.id).attempt)

    def test_what_is_no_longer_held_is_lost(self, scene: Scene) -> None:
        """Jobs that ended, were deleted, are held by others or do not exist are lost, in the order given.

        If this fails: a child goes on running what somebody else runs, or what an operator deleted.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        ended, deleted, kept = scene.run(holder), scene.run(holder), scene.run(holder)
        scene.settle(succeeds(ended))
        scene.settle(deletes(deleted.id))
        strange = scene.run(other)
        held = [_held(ended), _held(deleted), _held(kept), _held(strange), Held("unknown", 1)]

        found = scene.reconcile(holder, held)

        assert [held[0], held[1], held[3], held[4]] == found.lost

    def test_a_stale_fence_is_lost_and_the_new_one_unknown(self, scene: Scene) -> None:
        """Job and fence together name a claim: with the old fence the child has not named the new one.

        If this fails: a job claimed anew, its reply lost, hides behind the child's memory of the old claim.
        """
        holder = scene.begin()
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        fresh = scene.run(holder, stale.id)

        found = scene.reconcile(holder, [_held(stale)])

        assert ([_held(stale)], [fresh.job]) == (found.lost, found.unknown)

    def test_a_start_is_written(self, scene: Scene) -> None:
        """`started_at` of a held job is written to it; without one nothing is.

        If this fails: jobs that run for hours are shown as claimed and never started.
        """
        holder = scene.begin()
        scene.add_many(2)
        started, waiting = (Running(job, holder) for job in scene.claim(holder))
        at = scene.stamp()

        scene.reconcile(holder, [_held(started, at), _held(waiting)])
        scene.reconcile(holder, [_held(started), _held(waiting)])

        assert (at, None) == (scene.record(started.id).started_at, scene.record(waiting.id).started_at)
        assert [1, 1] == [len(scene.history(run.id)) for run in (started, waiting)]

    def test_a_lost_job_is_not_marked_as_started(self, scene: Scene) -> None:
        """A start reported by a former holder is passed over.

        If this fails: a child that lost a job writes into the attempt of another.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        fresh = scene.run(other, stale.id)

        found = scene.reconcile(holder, [_held(stale, scene.stamp())])

        assert ([stale.id], None) == ([one.job_id for one in found.lost], scene.record(fresh.id).started_at)

    def test_a_dead_session_learns_of_its_death(self, scene: Scene) -> None:
        """A dead or unknown session is told so, and holds nothing.

        If this fails: a child that was given up never learns it.
        """
        holder = scene.begin()
        running = scene.run(holder)
        scene.lose(holder)

        dead = scene.reconcile(holder, [_held(running)])
        unknown = scene.storage.reconcile("never-begun", [])

        assert (True, [_held(running)], []) == (dead.is_session_lost, dead.lost, dead.unknown)
        assert (True, [], []) == (unknown.is_session_lost, unknown.lost, unknown.unknown)

    def test_others_are_not_mentioned(self, scene: Scene) -> None:
        """Only the session's own jobs are unknown to it.

        If this fails: a child hands back what another one runs.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        scene.run(other)
        scene.add()

        found = scene.reconcile(holder, [])

        assert ([], []) == (found.lost, found.unknown)
