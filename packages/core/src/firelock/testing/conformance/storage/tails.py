"""Tails: a job deleted while it runs is not run again before its holder has let go of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from firelock.storage import Applied, Held
from firelock.testing.conformance.ends import ENDS, deletes, hands_back, requeues, succeeds
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import HistoryEntry, State, Transition

__all__ = ["TailDuty"]


def _deleted_while_running(scene: Scene, name: str = "a", timeout_seconds: float = 3_600.0) -> Running:
    running = scene.run(scene.begin(name, timeout_seconds))
    scene.settle(deletes(running.id))
    return running


def _is_claimable(scene: Scene, job_id: str) -> bool:
    return [job_id] == scene.claim_ids(scene.begin("claims"))


class TailDuty(StorageFixtures):
    """What the storage promises between a delete of a running job and the end of its holder."""

    verbs = "apply end_session"

    def test_a_delete_while_running_leaves_a_tail(self, scene: Scene) -> None:
        """The job is deleted at once; session and fence stay, and it is shown as stopping.

        If this fails: nobody can tell that a deleted job still runs somewhere.
        """
        running = _deleted_while_running(scene)

        record = scene.record(running.id)
        assert (State.DELETED, running.holder.session, running.job.fence, True) == (
            record.state, record.session, record.fence, record.is_stopping,
        )  # fmt: skip
        assert record.ended_at is not None

    def test_a_delete_while_running_tells_of_the_run(self, scene: Scene) -> None:
        """The entry of a delete of a running job has the attempt, its claim, its start and its server.

        If this fails: nobody can see that a cancelled job ran, since when and where.
        """
        running = scene.run()
        started_at = scene.stamp()
        held = Held(running.id, running.job.fence, started_at)
        scene.reconcile(running.holder, [held])
        at = scene.stamp()

        scene.settle(deletes(running.id, at=at))

        assert HistoryEntry(
            State.DELETED, at, "deleted by ada", 1, running.job.claimed_at, started_at, running.holder.server
        ) == scene.last_entry(running.id)  # fmt: skip

    def test_the_holder_learns_of_the_delete(self, scene: Scene) -> None:
        """To its holder a deleted job is lost, named or not: then it is unknown and can be let go.

        If this fails: a deleted job is never stopped, or its tail stays after a lost reply.
        """
        running = _deleted_while_running(scene)
        session, held = running.holder.session, Held(running.id, running.job.fence)

        named = scene.storage.reconcile(session, [held])
        unnamed = scene.storage.reconcile(session, [])

        assert ([held], []) == (named.lost, named.unknown)
        assert ([], [running.id]) == (unnamed.lost, [job.id for job in unnamed.unknown])
        scene.apply(hands_back(Running(unnamed.unknown[0], running.holder)))
        assert not scene.record(running.id).is_stopping

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_the_holders_end_is_refused_and_clears_the_tail(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """Whatever end the holder reports is refused, writes nothing, and takes the tail away.

        If this fails: a deleted job succeeds after all, or is shown as stopping for ever.
        """
        running = _deleted_while_running(scene)
        history = scene.history(running.id)

        result = scene.apply(end(running))

        scene.check(
            running.id,
            state=State.DELETED,
            session=None,
            is_stopping=False,
            result=None,
            retries=0,
            attempt=1,
        )
        assert Applied.REFUSED == result
        assert history == scene.history(running.id)

    def test_only_the_holder_clears_its_tail(self, scene: Scene) -> None:
        """The end of an earlier claim, or of another session, leaves the tail.

        If this fails: a job runs twice since a stale end was taken for the holder's.
        """
        holder = scene.begin()
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        fresh = scene.run(holder, stale.id)
        scene.settle(deletes(fresh.id))

        results = scene.storage.apply([succeeds(stale), succeeds(Running(fresh.job, scene.begin("b")))])

        assert [Applied.REFUSED, Applied.REFUSED] == results
        assert scene.record(fresh.id).is_stopping

    def test_a_requeue_under_a_tail_waits_for_it(self, scene: Scene) -> None:
        """A job deleted and requeued while it still runs is enqueued, but nobody claims it.

        If this fails: delete and requeue make two live runs.
        """
        running = _deleted_while_running(scene)

        result = scene.apply(requeues(running.id))

        scene.check(running.id, state=State.ENQUEUED, is_stopping=True)
        assert Applied.APPLIED == result
        assert not _is_claimable(scene, running.id)
        assert [] == scene.claim(running.holder, queues=None)

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_a_requeue_is_claimable_when_the_holder_lets_go(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """The holder's end, whatever it is, is refused; from then on the job is claimable, with a new fence.

        If this fails: a hand-back, whose target is `enqueued` as well, is taken for a repeat and the job
        waits for ever; or the old end is written to the new life of the job.
        """
        running = _deleted_while_running(scene)
        scene.settle(requeues(running.id))

        result = scene.apply(end(running))

        assert (Applied.REFUSED, State.ENQUEUED) == (result, scene.state(running.id))
        (job,) = scene.claim(scene.begin("b"))
        assert (running.id, 2) == (job.id, job.attempt)
        assert job.fence > running.job.fence

    def test_the_end_of_a_session_clears_its_tails(self, scene: Scene) -> None:
        """A dead session's tails are gone, without a crash or a trace; what was requeued is claimable.

        If this fails: a requeued job waits for a holder that is dead.
        """
        deleted, requeued = _deleted_while_running(scene, "a"), _deleted_while_running(scene, "a")
        scene.settle(requeues(requeued.id))
        histories = [scene.history(run.id) for run in (deleted, requeued)]

        taken = scene.lose(deleted.holder)

        assert ([], []) == (taken.crashed, taken.returned)
        assert [(State.DELETED, False, 0), (State.ENQUEUED, False, 0)] == [
            (record.state, record.is_stopping, record.crashes)
            for record in (scene.record(deleted.id), scene.record(requeued.id))
        ]
        assert histories == [scene.history(run.id) for run in (deleted, requeued)]
        assert _is_claimable(scene, requeued.id)

    def test_an_orphaned_session_loses_its_tails(self, scene: Scene) -> None:
        """A session that expired lets go of its tails like one that was ended.

        If this fails: the loss of a host blocks the jobs that were requeued under it.
        """
        running = _deleted_while_running(scene)
        scene.settle(requeues(running.id))
        scene.advance(7_200)

        scene.orphans()

        assert _is_claimable(scene, running.id)

    def test_a_job_deleted_twice_under_a_tail_keeps_it(self, scene: Scene) -> None:
        """Delete, requeue, delete: the tail of the first run stands until its holder lets go.

        If this fails: the second delete forgets the run that is still under way.
        """
        running = _deleted_while_running(scene)
        scene.settle(requeues(running.id))

        scene.settle(deletes(running.id))
        scene.settle(requeues(running.id))

        assert scene.record(running.id).is_stopping
        assert not _is_claimable(scene, running.id)
        scene.apply(succeeds(running))
        assert _is_claimable(scene, running.id)

    def test_a_job_under_a_tail_counts_by_its_state(self, scene: Scene) -> None:
        """Counts know the seven states; a tail is no state of its own.

        If this fails: counts and lists differ while something stops.
        """
        deleted, requeued = _deleted_while_running(scene, "a"), _deleted_while_running(scene, "b")
        scene.settle(requeues(requeued.id))

        counts = scene.storage.counts()

        expected = {State.DELETED: 1, State.ENQUEUED: 1}
        assert expected == {state: number for state, number in counts.by_state.items() if number}
        assert State.DELETED == scene.state(deleted.id)
