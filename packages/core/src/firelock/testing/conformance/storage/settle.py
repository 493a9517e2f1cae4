"""Tests of settling: each result writes the promised fields, and only the holder can settle a job."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from firelock.model import lifecycle
from firelock.model.clock import SECOND
from firelock.model.job import FailedAttempt, HistoryEntry, Transition
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, HeldClaim
from firelock.testing.conformance.scene import (
    BASE,
    ENDS,
    HOUR,
    Running,
    Scene,
    crashes,
    deletes,
    error_info,
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
from firelock.testing.conformance.storage.subject import StorageFixtures

# For each rule: a function that creates the transition, the effect of a failure, and the written fields.
_WRITTEN: dict[str, tuple[Callable[[Running], Transition], str, dict[str, object]]] = {
    "absent result has a reason": (
        lambda running: succeeds(running, None, absent="300 KiB is above the limit of 256 KiB"),
        "a result that was too large looks like None",
        {"result": None, "result_absent": "300 KiB is above the limit of 256 KiB"},
    ),
    "retry is scheduled": (
        lambda running: retries(running, due_at=BASE + HOUR),
        "retries run immediately, are not counted, or lose their queue",
        {
            "state": State.SCHEDULED, "due_at": BASE + HOUR, "retries": 1, "attempt": 1, "queue": "default",
            "ended_at": None, "session": None, "is_retrying": True,
        },
    ),
    "snooze does not count the attempt": (
        lambda running: snoozes(running, due_at=BASE + HOUR),
        "a snoozed job uses up its attempts",
        {
            "state": State.SCHEDULED, "due_at": BASE + HOUR, "attempt": 0, "retries": 0, "is_retrying": False,
            "reason": "snoozed",
        },
    ),
    "policy deletes a failed job": (
        lambda running: gives_up(running, expires_at=BASE + HOUR),
        "a job that its own holder deleted is shown as still running",
        {
            "state": State.DELETED, "session": None, "is_stopping": False, "reason": "retries exhausted",
            "error": error_info(traceback=None),
        },
    ),
}  # fmt: skip


class SettleTests(StorageFixtures):
    """Tests of the fields that `apply` writes if no guard refuses the transition."""

    verbs = "apply"

    def test_succeeded_job_has_all_its_fields(self, scene: Scene) -> None:
        """A succeeded job has its result, start, end and expiry, and no holder.

        If this fails: results are lost, or an ended job still appears to be held.
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

    @pytest.mark.parametrize(("end", "why", "written"), _WRITTEN.values(), ids=_WRITTEN)
    def test_each_end_writes_its_fields_and_reason(
        self, scene: Scene, end: Callable[[Running], Transition], why: str, written: dict[str, object]
    ) -> None:
        """Each kind of result writes the fields of its row in the table, and its reason.

        If this fails: the row states the cause.
        """
        running = scene.run()

        scene.settle(end(running))

        record = scene.record(running.id)
        assert written == {name: getattr(record, name) for name in written}, why

    def test_traceback_is_stored_apart_from_the_record(self, scene: Scene) -> None:
        """The record of a failed job has its error without traceback; `errors` has the traceback by attempt.

        The failure is one history entry with state, time and reason, and the number, claim, start and server
        of the attempt.

        If this fails: lists of jobs transfer megabytes of tracebacks, or the traceback is lost; or people
        cannot see what happened when, and where.
        """
        running = scene.run()
        error = error_info("f1", traceback="→ app.py line 7")
        end = fails(running, error, expires_at=BASE + HOUR)

        scene.settle(end)

        scene.check(
            running.id, state=State.FAILED, error=attrs.evolve(error, traceback=None), ended_at=end.at,
            expires_at=BASE + HOUR,
        )  # fmt: skip
        assert [FailedAttempt(1, end.at, error)] == scene.errors(running.id)
        assert HistoryEntry(
            State.FAILED, end.at, "no retries left", 1, running.job.claimed_at, end.started_at,
            running.holder.server,
        ) == scene.last_entry(running.id)  # fmt: skip
        assert 2 == len(scene.history(running.id))

    def test_retry_without_delay_goes_to_the_end_of_its_queue(self, scene: Scene) -> None:
        """A retry without a delay gets a new position in its queue, by the storage's clock.

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

    def test_next_attempt_has_new_counts_and_no_start(self, scene: Scene) -> None:
        """The next claim of a retried job has attempt 2, retries 1 and no start; the last error stays.

        If this fails: a retry shows the start of the previous attempt, or its counts start again.
        """
        holder = scene.begin()
        job_id = scene.settle(retries(scene.run(holder)))

        second = scene.run(holder, job_id)

        scene.check(job_id, started_at=None, error=error_info(traceback=None))
        assert (2, 1) == (second.job.attempt, second.job.retries)

    @pytest.mark.parametrize("has_started", [False, True])
    def test_handed_back_job_keeps_its_place(self, scene: Scene, has_started: bool) -> None:
        """A job that is handed back keeps its place, and its attempt does not count.

        It gets a history entry only if it had started.

        If this fails: a restart of a server moves its jobs to the end of the queue, or fills their histories.
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

    def test_handed_back_jobs_come_before_the_rest_of_their_batch(self, scene: Scene) -> None:
        """If some jobs of a batch are claimed and handed back, they still come before the rest of the batch.

        If this fails: jobs with equal `enqueued_at` are ordered by their last write instead of by their
        insert.
        """
        ids = scene.add_many(6)
        holder = scene.begin()
        taken = scene.claim(holder, 3)

        for job in reversed(taken):
            scene.settle(
                lifecycle.handed_back(job, holder, at=scene.stamp(), started_at=None, reason="too many")
            )

        assert ids == scene.claim_ids(holder)

    def test_repeated_wait_for_an_unknown_task_writes_no_history(self, scene: Scene) -> None:
        """A repeated wait for an unknown task schedules the job again without a history entry.

        If this fails: the history of a job whose task no server has grows without end.
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

    def test_last_allowed_crash_fails_the_job(self, scene: Scene) -> None:
        """The third crash fails the job with the reason of the crash, and the attempt counts.

        If this fails: a job that kills its process runs forever.
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

    def test_delete_by_an_operator_ends_a_waiting_job(self, scene: Scene) -> None:
        """A deleted job has an end time, a reason and the given expiry, and is not claimed.

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

    def test_requeue_resets_retries_crashes_and_result(self, scene: Scene) -> None:
        """A requeued job has no retries, crashes, end time, expiry or result; attempts and history continue.

        If this fails: a requeued job fails immediately, because its retries are used up, or is pruned while
        it waits.
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
    def test_requeued_job_is_in_its_queue_once(self, scene: Scene, state: str) -> None:
        """A job requeued from any state can be claimed once, is not due, and is in no other list.

        If this fails: a requeue leaves the old index entry in place, and the job runs twice.
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

    def test_history_keeps_the_previous_due_time_of_a_scheduled_job(self, scene: Scene) -> None:
        """When a scheduled job is deleted, requeued or rescheduled, its history keeps the previous due time.

        If this fails: a delete cannot be undone, because the due time is no longer stored anywhere.
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

    def test_restored_scheduled_job_has_its_old_due_time(self, scene: Scene) -> None:
        """A restored scheduled job is due at its old time, keeps its retries, and has no end time.

        If this fails: an undone delete runs a retry immediately, or never.
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

    def test_restored_enqueued_job_is_claimed_once(self, scene: Scene) -> None:
        """A restored enqueued job is at the end of its queue, once, and does not expire.

        If this fails: an undone delete leaves a job that no server runs, or that two servers run.
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

    def test_restored_failed_job_has_its_error(self, scene: Scene) -> None:
        """A restored failed job is failed again, with its error and traceback, and the given expiry.

        If this fails: undoing the delete of a failed job loses the reason for its failure.
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

    def test_only_deleted_jobs_can_be_restored(self, scene: Scene) -> None:
        """Restoring a job that is not deleted is refused and writes nothing.

        If this fails: an undo that arrives late changes a job that is already running or has succeeded.
        """
        holder = scene.begin()
        ids = [scene.settle(ENDS[name](scene.run(holder))) for name in ("succeeds", "fails")]
        ids += [scene.run(holder).id, scene.add(), scene.schedule(60)]
        before = [(scene.record(job_id), scene.history(job_id)) for job_id in ids]

        results = scene.storage.apply([restores(job_id, State.ENQUEUED) for job_id in ids])

        assert [Applied.REFUSED] * 5 == results
        assert before == [(scene.record(job_id), scene.history(job_id)) for job_id in ids]


class GuardTests(StorageFixtures):
    """Tests of transitions that a guard of `apply` refuses."""

    verbs = "apply"

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_only_the_holder_of_a_claim_can_settle_it(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """Results of an earlier claim, or from another session, are refused and write nothing.

        This also applies if the session has claimed the job again, or if the other session has the right
        fence.

        If this fails: a holder that was considered dead ends the attempt of another session, or sessions can
        end each other's jobs.
        """
        holder = scene.begin()
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        foreign = Running(scene.run(holder, stale.id).job, scene.begin("b"))
        before = scene.record(stale.id), scene.storage.history(stale.id)

        results = scene.storage.apply([end(stale), end(foreign)])

        assert [Applied.REFUSED] * 2 == results
        assert before == (scene.record(stale.id), scene.storage.history(stale.id))

    def test_transition_from_another_state_is_refused(self, scene: Scene) -> None:
        """A transition is refused, for any caller, if the job is in none of the states that it names.

        If this fails: an operator's requeue creates a second copy of a running job.
        """
        holder = scene.begin()
        running = scene.run(holder)
        waiting = scene.add()
        ended = scene.settle(deletes(scene.add()))
        before = scene.storage.get([running.id, waiting, ended])

        results = scene.storage.apply([requeues(running.id), requeues(waiting), deletes(ended)])

        assert [Applied.REFUSED] * 3 == results
        assert before == scene.storage.get([running.id, waiting, ended])

    def test_transition_of_an_unknown_job_is_missing(self, scene: Scene) -> None:
        """A transition of an id that is not stored returns `MISSING` and stores nothing.

        If this fails: settling a pruned job raises an error, or stores parts of the job again.
        """
        running = scene.run()
        ghost = Running(attrs.evolve(running.job, id=scene.new_id()), running.holder)

        results = scene.storage.apply([succeeds(ghost), deletes(ghost.id), requeues(ghost.id)])

        assert [Applied.MISSING] * 3 == results
        assert [None] == scene.storage.get([ghost.id])
        assert [] == scene.history(ghost.id)

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_repeated_settle_returns_already(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """A result that is sent again after it was applied returns `ALREADY` and writes nothing.

        If this fails: after a lost reply a server treats its success as a lost job, or counts a retry twice.
        """
        running = scene.run()
        first = scene.apply(end(running))
        before = scene.record(running.id), scene.history(running.id)

        second = scene.apply(end(running))

        assert (Applied.APPLIED, Applied.ALREADY) == (first, second)
        assert before == (scene.record(running.id), scene.history(running.id))
        assert len(scene.errors(running.id)) <= 1

    def test_repeated_settle_after_the_next_claim_is_refused(self, scene: Scene) -> None:
        """A repeated result is refused as stale if the job was claimed again in the meantime.

        If this fails: a late repeat ends an attempt to which it does not belong.
        """
        holder = scene.begin()
        first = scene.run(holder)
        scene.settle(retries(first))
        scene.run(holder, first.id)

        result = scene.apply(retries(first))

        assert Applied.REFUSED == result
        assert (State.PROCESSING, 1) == (scene.state(first.id), scene.record(first.id).retries)

    def test_different_end_of_the_same_claim_is_refused(self, scene: Scene) -> None:
        """The first result of a claim is final; a different result with the same fence is not a repeat.

        If this fails: a late time-out fails a job that has succeeded.
        """
        running = scene.run()
        scene.settle(succeeds(running))

        results = scene.storage.apply([fails(running), retries(running), gives_up(running)])

        assert [Applied.REFUSED] * 3 == results
        assert State.SUCCEEDED == scene.state(running.id)

    def test_repeated_delete_by_an_operator_is_refused(self, scene: Scene) -> None:
        """A second delete by an operator is refused, because without a fence no repeat can be recognized.

        If this fails: two people who delete the same job are both notified that they deleted it.
        """
        job_id = scene.add()

        results = [scene.apply(deletes(job_id)), scene.apply(deletes(job_id))]

        assert [Applied.APPLIED, Applied.REFUSED] == results
        assert 2 == len(scene.history(job_id))

    def test_refused_transition_does_not_affect_others(self, scene: Scene) -> None:
        """Each transition has its own result, in order, and counts change only by applied transitions.

        If this fails: one lost job makes a server lose the results of a whole batch, or counts follow the
        requested changes instead of those that were applied.
        """
        holder = scene.begin()
        scene.add_many(4)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        other = ClaimHolder("nobody", "nobody")

        results = scene.storage.apply(
            [
                succeeds(runs[0]),
                succeeds(Running(runs[1].job, other)),
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
        assert states == scene.states(*(run.id for run in runs))
        assert dict.fromkeys(states, 1) == scene.by_state()

    def test_transitions_of_a_job_are_applied_in_order(self, scene: Scene) -> None:
        """Later transitions in a call build on earlier ones of the same job, even with others in between.

        If this fails: a batch is applied job by job instead of in order, or only the last transition is
        stored.
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
        assert [State.DELETED, State.ENQUEUED] == scene.states(running.id, other)
        assert [State.ENQUEUED, State.SUCCEEDED, State.ENQUEUED, State.DELETED] == [
            entry.state for entry in scene.history(running.id)
        ]

    def test_one_call_settles_a_thousand_jobs(self, scene: Scene) -> None:
        """One call stores a thousand jobs, and another settles a thousand jobs, each with its own result.

        If this fails: the call exceeds a limit on the number of bound values of a statement or script.
        """
        ids = scene.add_many(1_000, tags=("bulk", "night"))
        holder = scene.begin()
        runs = [Running(job, holder) for job in scene.claim(holder, 1_000)]

        results = scene.storage.apply([succeeds(run, f'"{run.id}"') for run in runs])

        assert [Applied.APPLIED] * 1_000 == results
        assert [f'"{id}"' for id in ids] == [record.result for record in scene.storage.get(ids) if record]


class ExchangeTests(StorageFixtures):
    """Tests of `exchange`, in addition to the tests of `apply` and `claim`."""

    verbs = "exchange"

    def test_exchange_settles_and_claims(self, scene: Scene) -> None:
        """An exchange settles jobs of any session, returns the results in order, and then claims jobs.

        If this fails: a server that uses only `exchange` loses results or starves; or the transitions of an
        exchange must belong to the claiming session.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        scene.add_many(2)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        foreign = scene.run(other)
        given_up, waiting = scene.add_many(2)
        ends = [succeeds(runs[0]), fails(runs[1]), deletes(given_up), succeeds(foreign)]

        exchange = scene.exchange(holder, ends)

        assert [Applied.APPLIED] * 4 == exchange.results
        assert [waiting] == [job.id for job in exchange.claim.jobs]
        assert [State.SUCCEEDED, State.FAILED] == scene.states(*(run.id for run in runs))

    @pytest.mark.parametrize("queues", [["default"], None], ids=["named", "every queue"])
    def test_exchange_can_claim_jobs_that_it_enqueues(self, scene: Scene, queues: list[str] | None) -> None:
        """The claim of an exchange can return jobs that the same exchange has enqueued.

        If this fails: a job that was handed back is claimed with its old fence, or waits for the next
        exchange without a reason.
        """
        holder = scene.begin()
        first = scene.run(holder)

        exchange = scene.exchange(holder, [hands_back(first)], 1, queues)

        (job,) = exchange.claim.jobs
        assert ([Applied.APPLIED], first.id, 1) == (exchange.results, job.id, job.attempt)
        assert job.fence > first.job.fence
        assert Applied.REFUSED == scene.apply(succeeds(first))

    def test_counts_match_after_many_ends_in_one_call(self, scene: Scene) -> None:
        """After results of several kinds, the counts match the jobs, even if one got a child after its claim.

        If this fails: some writes of a batch are repeated, and counts stay wrong forever; or continuations
        wait for the next round of upkeep.
        """
        holder = scene.begin()
        scene.add_many(3)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        child = scene.continuation(runs[0].id)

        exchange = scene.exchange(holder, [succeeds(runs[0]), fails(runs[1]), succeeds(runs[2])], 0)

        assert [Applied.RELEASE_NEEDED, Applied.APPLIED, Applied.APPLIED] == exchange.results
        assert {State.SUCCEEDED: 2, State.FAILED: 1, State.AWAITING: 1} == scene.by_state()
        assert (1, State.ENQUEUED) == (scene.release(), scene.state(child))

    def test_exchange_can_only_settle_or_only_claim(self, scene: Scene) -> None:
        """An exchange without transitions only claims jobs, and one with a limit of zero only settles jobs.

        If this fails: a full server cannot settle, or an idle one cannot claim.
        """
        holder = scene.begin()
        job_id = scene.add()
        scene.add()

        claims = scene.exchange(holder, [], 1)
        (job,) = claims.claim.jobs
        settles = scene.exchange(holder, [succeeds(Running(job, holder))], 0)

        assert ([], job_id) == (claims.results, job.id)
        assert ([Applied.APPLIED], [], False) == (
            settles.results, settles.claim.jobs, settles.claim.is_session_lost,
        )  # fmt: skip

    def test_exchange_of_an_ended_session_reports_it_as_lost(self, scene: Scene) -> None:
        """An exchange of an ended session refuses results, claims nothing and reports the session as lost.

        If this fails: a server whose session was ended continues to work.
        """
        holder = scene.begin("dead")
        running = scene.run(holder)
        scene.lose(holder)

        exchange = scene.exchange(holder, [succeeds(running), retries(running)])

        assert Applied.REFUSED == exchange.results[0]
        assert ([], True) == (exchange.claim.jobs, exchange.claim.is_session_lost)
        assert (State.ENQUEUED, 0) == (scene.state(running.id), scene.record(running.id).retries)


def _deleted_while_running(scene: Scene, name: str = "a", timeout_seconds: float = 3_600.0) -> Running:
    running = scene.run(scene.begin(name, timeout_seconds))
    scene.settle(deletes(running.id))
    return running


def _is_claimable(scene: Scene, job_id: str) -> bool:
    return [job_id] == scene.claim_ids(scene.begin("claims"))


class TailTests(StorageFixtures):
    """Tests of tails, which exist from the deletion of a running job until its run has stopped."""

    verbs = "apply end_session"

    def test_delete_of_a_running_job_leaves_a_tail(self, scene: Scene) -> None:
        """A running job is deleted immediately; its session and fence stay, and it is shown as stopping.

        If this fails: nothing shows that a deleted job still runs somewhere.
        """
        running = _deleted_while_running(scene)

        record = scene.record(running.id)
        assert (State.DELETED, running.holder.session, running.job.fence, True) == (
            record.state, record.session, record.fence, record.is_stopping,
        )  # fmt: skip
        assert record.ended_at is not None

    def test_history_of_a_deleted_running_job_has_its_attempt(self, scene: Scene) -> None:
        """The history entry for the deletion of a running job has its attempt, claim, start and server.

        If this fails: people cannot see that a cancelled job ran, when it started and where it ran.
        """
        running = scene.run()
        started_at = scene.stamp()
        held = HeldClaim(running.id, running.job.fence, started_at)
        scene.reconcile(running.holder, [held])
        at = scene.stamp()

        scene.settle(deletes(running.id, at=at))

        assert HistoryEntry(
            State.DELETED, at, "deleted by ada", 1, running.job.claimed_at, started_at, running.holder.server
        ) == scene.last_entry(running.id)  # fmt: skip

    def test_reconcile_returns_a_deleted_job_to_its_holder(self, scene: Scene) -> None:
        """`reconcile` returns a deleted job as lost if its holder names the job, and otherwise as unknown.

        An unknown job can be handed back.

        If this fails: a deleted job is never stopped, or its tail stays after a lost reply.
        """
        running = _deleted_while_running(scene)
        session, held = running.holder.session, HeldClaim(running.id, running.job.fence)

        named = scene.storage.reconcile(session, [held])
        unnamed = scene.storage.reconcile(session, [])

        assert ([held], []) == ([one.held for one in named.lost], named.unknown)
        assert ([], [running.id]) == (unnamed.lost, [job.id for job in unnamed.unknown])
        scene.apply(hands_back(Running(unnamed.unknown[0], running.holder)))
        assert not scene.record(running.id).is_stopping

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_end_by_the_holder_is_refused_and_removes_the_tail(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """Any result from the holder is refused, writes nothing, and removes the tail.

        If this fails: a deleted job still succeeds, or is shown as stopping forever.
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

    def test_only_the_holder_can_remove_its_tail(self, scene: Scene) -> None:
        """A result of an earlier claim, or from another session, does not remove the tail.

        If this fails: a job runs twice, because a stale result was treated as the holder's.
        """
        holder = scene.begin()
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        fresh = scene.run(holder, stale.id)
        scene.settle(deletes(fresh.id))

        results = scene.storage.apply([succeeds(stale), succeeds(Running(fresh.job, scene.begin("b")))])

        assert [Applied.REFUSED, Applied.REFUSED] == results
        assert scene.record(fresh.id).is_stopping

    def test_requeued_job_with_a_tail_is_not_claimed(self, scene: Scene) -> None:
        """A job that was deleted and requeued while it was running is enqueued, but cannot be claimed.

        If this fails: after a delete and a requeue two runs of the job overlap.
        """
        running = _deleted_while_running(scene)

        result = scene.apply(requeues(running.id))

        scene.check(running.id, state=State.ENQUEUED, is_stopping=True)
        assert Applied.APPLIED == result
        assert not _is_claimable(scene, running.id)
        assert [] == scene.claim(running.holder, queues=None)

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_requeued_job_is_claimed_after_the_end_of_its_tail(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """Any result from the holder is refused; after that, the job can be claimed with a new fence.

        If this fails: a hand-back, whose target is also `enqueued`, is treated as a repeat, and the job waits
        forever; or the old result is written to the requeued job.
        """
        running = _deleted_while_running(scene)
        scene.settle(requeues(running.id))

        result = scene.apply(end(running))

        assert (Applied.REFUSED, State.ENQUEUED) == (result, scene.state(running.id))
        (job,) = scene.claim(scene.begin("b"))
        assert (running.id, 2) == (job.id, job.attempt)
        assert job.fence > running.job.fence

    @pytest.mark.parametrize("is_orphan", [False, True], ids=["ended", "expired"])
    def test_end_of_a_session_removes_its_tails(self, scene: Scene, is_orphan: bool) -> None:
        """When a session ends, its tails are removed without crash or history; requeued jobs can be claimed.

        If this fails: a requeued job waits for a holder that has died, or for a host that was lost.
        """
        deleted, requeued = _deleted_while_running(scene, "a"), _deleted_while_running(scene, "a")
        scene.settle(requeues(requeued.id))
        histories = [scene.history(run.id) for run in (deleted, requeued)]
        scene.advance(7_200 * is_orphan)

        (taken,) = scene.orphans() if is_orphan else [scene.lose(deleted.holder)]

        assert ([], []) == (taken.crashed, taken.returned)
        for run, state in ((deleted, State.DELETED), (requeued, State.ENQUEUED)):
            scene.check(run.id, state=state, is_stopping=False, crashes=0)
        assert histories == [scene.history(run.id) for run in (deleted, requeued)]
        assert _is_claimable(scene, requeued.id)

    def test_second_delete_keeps_the_tail(self, scene: Scene) -> None:
        """After a delete, a requeue and a second delete, the tail stays until the holder ends its run.

        If this fails: the second delete discards the tail of a run that has not stopped yet.
        """
        running = _deleted_while_running(scene)
        scene.settle(requeues(running.id))

        scene.settle(deletes(running.id))
        scene.settle(requeues(running.id))

        assert scene.record(running.id).is_stopping
        assert not _is_claimable(scene, running.id)
        scene.apply(succeeds(running))
        assert _is_claimable(scene, running.id)

    def test_job_with_a_tail_is_counted_by_its_state(self, scene: Scene) -> None:
        """Counts include the seven states, and a job with a tail is counted by its state.

        If this fails: counts and lists differ while a job is stopping.
        """
        deleted, requeued = _deleted_while_running(scene, "a"), _deleted_while_running(scene, "b")
        scene.settle(requeues(requeued.id))

        counts = scene.storage.counts()

        expected = {State.DELETED: 1, State.ENQUEUED: 1}
        assert expected == {state: number for state, number in counts.by_state.items() if number}
        assert State.DELETED == scene.state(deleted.id)
