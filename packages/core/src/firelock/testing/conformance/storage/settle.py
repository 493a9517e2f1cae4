"""Apply, what is written: each end of an attempt leaves the job and the history that were promised."""

from __future__ import annotations

import attrs
import pytest

from firelock import lifecycle
from firelock.storage import Applied
from firelock.testing.conformance.ends import (
    ENDS,
    crashes,
    deletes,
    fails,
    gives_up,
    hands_back,
    requeues,
    reschedules,
    restores,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.handles import BASE, HOUR, SECOND
from firelock.testing.conformance.scene import Scene, error_info
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import Attempt, HistoryEntry, State

__all__ = ["SettleDuty"]


class SettleDuty(StorageFixtures):
    """What `apply` writes when every guard holds."""

    verbs = "apply"

    def test_a_success_is_written_whole(self, scene: Scene) -> None:
        """A succeeded job has its result, its end, its expiry and its start, and no holder.

        If this fails: results are lost, or a finished job still looks held.
        """
        running = scene.run()
        before = scene.record(running.id)
        end = succeeds(running, '{"pages": 3}', expires_at=BASE + 24 * HOUR)

        result = scene.apply(end)

        assert Applied.APPLIED == result
        assert attrs.evolve(
            before, state=State.SUCCEEDED, reason=None, session=None, server=running.holder.server,
            started_at=end.started_at, ended_at=end.at, changed_at=end.at, expires_at=BASE + 24 * HOUR,
            result='{"pages": 3}',
        ) == scene.record(running.id)  # fmt: skip
        assert running.job.fence == before.fence

    def test_the_end_of_an_attempt_is_one_history_entry(self, scene: Scene) -> None:
        """The entry tells state, end, reason, and of the attempt its number, claim, start and server.

        If this fails: people cannot see what happened when, and where.
        """
        running = scene.run()
        end = fails(running)

        scene.settle(end)

        assert HistoryEntry(
            State.FAILED, end.at, "no retries left", 1, running.job.claimed_at, end.started_at,
            running.holder.server,
        ) == scene.last_entry(running.id)  # fmt: skip
        assert 2 == len(scene.history(running.id))

    def test_an_absent_result_has_its_reason(self, scene: Scene) -> None:
        """A success without a result says why there is none.

        If this fails: a result that was too large looks like None.
        """
        running = scene.run()

        scene.settle(succeeds(running, None, absent="300 KiB is above the limit of 256 KiB"))

        scene.check(running.id, result=None, result_absent="300 KiB is above the limit of 256 KiB")

    def test_a_failure_keeps_its_traceback_apart(self, scene: Scene) -> None:
        """A failed job carries its error without the traceback; `errors` has the traceback, by attempt.

        If this fails: lists of jobs move megabytes of tracebacks, or the traceback is lost.
        """
        running = scene.run()
        error = error_info("f1", traceback="→ app.py line 7")
        end = fails(running, error, expires_at=BASE + HOUR)

        scene.settle(end)

        scene.check(
            running.id,
            state=State.FAILED,
            error=attrs.evolve(error, traceback=None),
            ended_at=end.at,
            expires_at=BASE + HOUR,
        )
        assert [Attempt(1, end.at, error)] == scene.errors(running.id)

    def test_a_retry_waits_in_scheduled(self, scene: Scene) -> None:
        """A retried job is scheduled, counts the retry, keeps the attempt and queue, and has not ended.

        If this fails: retries run at once, are not counted, or lose their queue.
        """
        running = scene.run()

        scene.settle(retries(running, due_at=BASE + HOUR))

        scene.check(
            running.id,
            state=State.SCHEDULED,
            due_at=BASE + HOUR,
            retries=1,
            attempt=1,
            queue="default",
            ended_at=None,
            session=None,
            is_retrying=True,
        )
        assert [1] == [attempt.attempt for attempt in scene.errors(running.id)]

    def test_a_retry_without_wait_is_enqueued_behind_the_others(self, scene: Scene) -> None:
        """A retry at once gets a new place in its queue, by the storage's clock.

        If this fails: a job that always fails is always first.
        """
        holder = scene.begin()
        running = scene.run(holder)
        other = scene.add()
        scene.advance(60)

        scene.settle(retries(running))

        record = scene.record(running.id)
        assert (State.ENQUEUED, None) == (record.state, record.due_at)
        assert record.enqueued_at is not None
        assert record.enqueued_at >= BASE + 60 * SECOND
        assert [other, running.id] == scene.claim_ids(holder)

    def test_a_new_attempt_starts_afresh(self, scene: Scene) -> None:
        """The next claim of a retried job has attempt 2, retries 1 and no start; the last error stays.

        If this fails: a retry shows the start of the attempt before, or begins its counts again.
        """
        holder = scene.begin()
        job_id = scene.settle(retries(scene.run(holder)))

        second = scene.run(holder, job_id)

        scene.check(job_id, started_at=None, error=error_info(traceback=None))
        assert (2, 1) == (second.job.attempt, second.job.retries)

    def test_a_snooze_gives_the_attempt_back(self, scene: Scene) -> None:
        """A snoozed job is scheduled with the attempt it had before, and counts no retry.

        If this fails: a job that waits politely runs out of attempts.
        """
        running = scene.run()

        scene.settle(snoozes(running, due_at=BASE + HOUR))

        scene.check(
            running.id, state=State.SCHEDULED, due_at=BASE + HOUR, attempt=0, retries=0, is_retrying=False
        )
        assert (State.SCHEDULED, "snoozed", 1) == (
            scene.last_entry(running.id).state,
            scene.last_entry(running.id).reason,
            scene.last_entry(running.id).attempt,
        )

    @pytest.mark.parametrize("has_started", [False, True])
    def test_a_job_handed_back_keeps_its_place(self, scene: Scene, has_started: bool) -> None:
        """A job handed back stands where it stood, attempt given back, without a trace unless it had started.

        If this fails: a restart of a server sends its jobs to the end of the queue, or fills histories.
        """
        holder = scene.begin()
        running = scene.run(holder)
        before = scene.record(running.id)
        other = scene.add()
        scene.advance(60)

        scene.settle(hands_back(running, has_started=has_started))

        scene.check(running.id, state=State.ENQUEUED, enqueued_at=before.enqueued_at, attempt=0, session=None)
        assert (2 if has_started else 1) == len(scene.history(running.id))
        assert [running.id, other] == scene.claim_ids(holder)

    def test_jobs_handed_back_stand_before_equals_that_came_with_them(self, scene: Scene) -> None:
        """Of a batch that was claimed in part, what is handed back is still before the rest.

        If this fails: equal `enqueued_at` is ordered by the last write instead of by the insert.
        """
        ids = scene.add_many(6)
        holder = scene.begin()
        taken = scene.claim(holder, 3)

        for job in reversed(taken):
            scene.settle(
                lifecycle.handed_back(job, holder, at=scene.stamp(), started_at=None, reason="too many")
            )

        assert ids == scene.claim_ids(holder)

    def test_a_silent_wait_changes_the_job_alone(self, scene: Scene) -> None:
        """A repeated wait for an unknown task is scheduled anew without an entry in the history.

        If this fails: a job whose task no server knows grows a history without end.
        """
        holder = scene.begin()
        running = scene.run(holder)
        wait = lifecycle.unknown_task(running.job, holder, at=running.job.created_at + HOUR)

        scene.settle(wait)

        scene.check(
            running.id,
            state=State.SCHEDULED,
            due_at=wait.due_at,
            reason=wait.reason,
            attempt=0,
            changed_at=wait.at,
        )
        assert wait.is_silent
        assert 1 == len(scene.history(running.id))

    def test_a_crash_alone_is_counted_apart(self, scene: Scene) -> None:
        """A job whose process died is enqueued, one crash more, attempt given back, the error kept.

        If this fails: crashes use up the retries, or a poisonous job is never found.
        """
        holder = scene.begin()
        running = scene.run(holder)

        scene.settle(crashes(running))

        scene.check(running.id, state=State.ENQUEUED, crashes=1, attempt=0, retries=0)
        assert 1 == scene.run(holder, running.id).job.crashes
        assert ["crash"] == [attempt.error.fingerprint for attempt in scene.errors(running.id)]

    def test_the_last_crash_fails_the_job(self, scene: Scene) -> None:
        """The third crash fails the job with its reason, the attempt counted.

        If this fails: a job that kills its process runs for ever.
        """
        holder = scene.begin()
        running = scene.run(holder)
        for _ in range(lifecycle.CRASH_LIMIT - 1):
            running = scene.run(holder, scene.settle(crashes(running)))

        scene.settle(crashes(running, expires_at=BASE + HOUR))

        scene.check(
            running.id,
            state=State.FAILED,
            crashes=3,
            attempt=1,
            reason="killed by signal 9",
            expires_at=BASE + HOUR,
        )

    def test_a_policy_may_delete_what_failed(self, scene: Scene) -> None:
        """A job deleted by its policy has ended, keeps its error and leaves no tail.

        If this fails: a job deleted by its own holder looks as if somebody still ran it.
        """
        running = scene.run()

        scene.settle(gives_up(running, expires_at=BASE + HOUR))

        scene.check(
            running.id,
            state=State.DELETED,
            session=None,
            is_stopping=False,
            reason="retries exhausted",
            error=error_info(traceback=None),
        )

    def test_an_operators_delete_ends_a_waiting_job(self, scene: Scene) -> None:
        """A deleted job has ended for a reason, expires as told and is not claimed.

        If this fails: deleted jobs run.
        """
        job_id = scene.add()
        at = scene.stamp()

        result = scene.apply(deletes(job_id, at=at, expires_at=BASE + HOUR))

        scene.check(
            job_id,
            state=State.DELETED,
            ended_at=at,
            changed_at=at,
            expires_at=BASE + HOUR,
            reason="deleted by ada",
            session=None,
        )
        assert Applied.APPLIED == result
        assert HistoryEntry(State.DELETED, at, "deleted by ada") == scene.last_entry(job_id)
        assert [] == scene.claim(scene.begin())

    def test_a_requeue_gives_everything_back(self, scene: Scene) -> None:
        """A requeued job has no retries, crashes, end, expiry or result; attempts and history go on.

        If this fails: a requeued job fails at once, its retries being used up, or is pruned while it waits.
        """
        holder = scene.begin()
        job_id = scene.settle(retries(scene.run(holder)))
        scene.settle(crashes(scene.run(holder, job_id)))
        scene.settle(succeeds(scene.run(holder, job_id), expires_at=BASE + HOUR))
        at = scene.stamp()

        scene.settle(requeues(job_id, at=at))

        scene.check(
            job_id,
            state=State.ENQUEUED,
            retries=0,
            crashes=0,
            attempt=2,
            ended_at=None,
            expires_at=None,
            result=None,
            result_absent=None,
            changed_at=at,
        )
        assert 5 == len(scene.history(job_id))
        assert 3 == scene.run(holder, job_id).job.attempt

    @pytest.mark.parametrize("state", ["scheduled", "failed", "deleted", "succeeded"])
    def test_a_requeued_job_stands_in_its_queue_once(self, scene: Scene, state: str) -> None:
        """A job requeued from any state is claimable, once, and no longer due or in its former list.

        If this fails: a requeue leaves the former index entry behind, and the job runs twice.
        """
        holder = scene.begin()
        match state:
            case "scheduled":
                job_id = scene.schedule(3_600)
            case "failed":
                job_id = scene.settle(fails(scene.run(holder)))
            case "succeeded":
                job_id = scene.settle(succeeds(scene.run(holder)))
            case _:
                job_id = scene.settle(deletes(scene.add()))

        scene.settle(requeues(job_id))

        assert [job_id] == scene.claim_ids(holder)
        scene.advance(7_200)
        assert 0 == scene.promote().promoted
        assert [] == scene.claim(holder)
        assert {State.PROCESSING: 1} == scene.by_state()

    def test_taking_a_scheduled_job_away_keeps_its_instant(self, scene: Scene) -> None:
        """The entry of a delete, a requeue or a move of a scheduled job says when it would have been due.

        If this fails: nobody can take the delete back, since the instant is nowhere any more.
        """
        due_at = BASE + HOUR
        scheduled = {"state": State.SCHEDULED, "due_at": due_at, "nominal_at": due_at}
        deleted, requeued, moved = (scene.add(**scheduled) for _ in range(3))

        scene.settle(deletes(deleted))
        scene.settle(requeues(requeued))
        scene.settle(reschedules(moved, due_at=BASE + 2 * HOUR))

        entries = [scene.last_entry(job_id) for job_id in (deleted, requeued, moved)]
        assert [due_at] * 3 == [entry.due_at for entry in entries]
        assert [None, None, BASE + 2 * HOUR] == [
            scene.record(job_id).due_at for job_id in (deleted, requeued, moved)
        ]

    def test_a_restored_scheduled_job_waits_again(self, scene: Scene) -> None:
        """A restored job is due when it was due before, its retries counted, and has not ended.

        If this fails: undoing a delete runs a retry at once, or never.
        """
        job_id = scene.settle(retries(scene.run(), due_at=BASE + HOUR))
        scene.settle(deletes(job_id, expires_at=BASE + 9 * HOUR))
        at = scene.stamp()

        result = scene.apply(restores(job_id, State.SCHEDULED, due_at=BASE + HOUR, at=at))

        scene.check(
            job_id,
            state=State.SCHEDULED,
            due_at=BASE + HOUR,
            retries=1,
            attempt=1,
            ended_at=None,
            expires_at=None,
            changed_at=at,
            reason="restored by ada",
            is_retrying=True,
        )
        assert Applied.APPLIED == result
        assert HistoryEntry(State.SCHEDULED, at, "restored by ada") == scene.last_entry(job_id)
        scene.advance(3_700)
        assert 1 == scene.promote().promoted

    def test_a_restored_enqueued_job_is_claimed_once(self, scene: Scene) -> None:
        """A restored job stands at the end of its queue, once, and does not expire.

        If this fails: undoing a delete leaves a job that nobody runs, or that two run.
        """
        holder = scene.begin()
        job_id, other = scene.add(), scene.add()
        scene.settle(deletes(job_id, expires_at=BASE + HOUR))
        scene.advance(60)

        scene.settle(restores(job_id, State.ENQUEUED))

        assert [other, job_id] == scene.claim_ids(holder)
        assert [] == scene.claim(holder)
        scene.advance(7_200)
        assert 0 == scene.prune()

    def test_a_restored_failed_job_has_its_error(self, scene: Scene) -> None:
        """A restored job has failed as before, with its error and traceback, and expires as told.

        If this fails: undoing a delete of a failed job loses why it failed.
        """
        error = error_info("f1")
        job_id = scene.settle(fails(scene.run(), error))
        errors = scene.errors(job_id)
        scene.settle(deletes(job_id))
        at = scene.stamp()

        scene.settle(restores(job_id, State.FAILED, at=at, expires_at=BASE + HOUR))

        scene.check(
            job_id,
            state=State.FAILED,
            error=attrs.evolve(error, traceback=None),
            expires_at=BASE + HOUR,
            ended_at=at,
        )
        assert errors == scene.errors(job_id)
        assert {State.FAILED: 1} == scene.by_state()
        assert ["f1"] == [group.fingerprint for group in scene.storage.failure_groups(10)]

    def test_only_a_deleted_job_is_restored(self, scene: Scene) -> None:
        """A restore of a job in any other state is refused and writes nothing.

        If this fails: a late undo takes a job back that runs or has succeeded meanwhile.
        """
        holder = scene.begin()
        ids = [scene.settle(ENDS[name](scene.run(holder))) for name in ("succeeds", "fails")]
        ids += [scene.run(holder).id, scene.add(), scene.schedule(60)]
        before = [(scene.record(job_id), scene.history(job_id)) for job_id in ids]

        results = scene.storage.apply([restores(job_id, State.ENQUEUED) for job_id in ids])

        assert [Applied.REFUSED] * 5 == results
        assert before == [(scene.record(job_id), scene.history(job_id)) for job_id in ids]
