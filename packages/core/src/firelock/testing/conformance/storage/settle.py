"""Settle: each end of an attempt leaves what was promised, and nobody but its holder ends it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from firelock.model import lifecycle
from firelock.model.clock import SECOND
from firelock.model.job import Attempt, HistoryEntry, Transition
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

# Ends by the rule that each proves: the end, what is the matter where it fails, and what is written.
_WRITTEN: dict[str, tuple[Callable[[Running], Transition], str, dict[str, object]]] = {
    "an absent result has its reason": (
        lambda running: succeeds(running, None, absent="300 KiB is above the limit of 256 KiB"),
        "a result that was too large looks like None",
        {"result": None, "result_absent": "300 KiB is above the limit of 256 KiB"},
    ),
    "a retry waits in scheduled": (
        lambda running: retries(running, due_at=BASE + HOUR),
        "retries run at once, are not counted, or lose their queue",
        {
            "state": State.SCHEDULED, "due_at": BASE + HOUR, "retries": 1, "attempt": 1, "queue": "default",
            "ended_at": None, "session": None, "is_retrying": True,
        },
    ),
    "a snooze gives the attempt back": (
        lambda running: snoozes(running, due_at=BASE + HOUR),
        "a job that waits politely runs out of attempts",
        {
            "state": State.SCHEDULED, "due_at": BASE + HOUR, "attempt": 0, "retries": 0, "is_retrying": False,
            "reason": "snoozed",
        },
    ),
    "a policy may delete what failed": (
        lambda running: gives_up(running, expires_at=BASE + HOUR),
        "a job deleted by its own holder looks as if somebody still ran it",
        {
            "state": State.DELETED, "session": None, "is_stopping": False, "reason": "retries exhausted",
            "error": error_info(traceback=None),
        },
    ),
}  # fmt: skip


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

    @pytest.mark.parametrize(("end", "why", "written"), _WRITTEN.values(), ids=_WRITTEN)
    def test_an_end_writes_what_it_means(
        self, scene: Scene, end: Callable[[Running], Transition], why: str, written: dict[str, object]
    ) -> None:
        """Each end leaves the fields of its row in the table, and its reason.

        If this fails: the row says what is the matter.
        """
        running = scene.run()

        scene.settle(end(running))

        record = scene.record(running.id)
        assert written == {name: getattr(record, name) for name in written}, why

    def test_a_failure_keeps_its_traceback_apart(self, scene: Scene) -> None:
        """A failed job carries its error without the traceback; `errors` has the traceback, by attempt.

        The end is one entry of the history: state, instant, reason; of the attempt number, claim, start.

        If this fails: lists of jobs move megabytes of tracebacks, or the traceback is lost; or people cannot
        see what happened when, and where.
        """
        running = scene.run()
        error = error_info("f1", traceback="→ app.py line 7")
        end = fails(running, error, expires_at=BASE + HOUR)

        scene.settle(end)

        scene.check(
            running.id, state=State.FAILED, error=attrs.evolve(error, traceback=None), ended_at=end.at,
            expires_at=BASE + HOUR,
        )  # fmt: skip
        assert [Attempt(1, end.at, error)] == scene.errors(running.id)
        assert HistoryEntry(
            State.FAILED, end.at, "no retries left", 1, running.job.claimed_at, end.started_at,
            running.holder.server,
        ) == scene.last_entry(running.id)  # fmt: skip
        assert 2 == len(scene.history(running.id))

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


class GuardDuty(StorageFixtures):
    """What `apply` does when a guard does not hold."""

    verbs = "apply"

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_only_the_holder_of_the_claim_settles(
        self, scene: Scene, end: Callable[[Running], Transition]
    ) -> None:
        """The end of an earlier claim, and one by another session, are refused and write nothing.

        Also where the session holds the job anew, or the other one has the right fence.

        If this fails: a holder that was thought dead finishes somebody else's attempt, or sessions can end
        each other's jobs.
        """
        holder = scene.begin()
        stale = scene.run(holder)
        scene.settle(hands_back(stale))
        strange = Running(scene.run(holder, stale.id).job, scene.begin("b"))
        before = scene.record(stale.id), scene.storage.history(stale.id)

        results = scene.storage.apply([end(stale), end(strange)])

        assert [Applied.REFUSED] * 2 == results
        assert before == (scene.record(stale.id), scene.storage.history(stale.id))

    def test_a_settle_needs_its_states(self, scene: Scene) -> None:
        """A transition from states the job is not in is refused, whoever asks.

        If this fails: an operator's requeue makes a second copy of a job that runs.
        """
        holder = scene.begin()
        running = scene.run(holder)
        waiting = scene.add()
        ended = scene.settle(deletes(scene.add()))
        before = scene.storage.get([running.id, waiting, ended])

        results = scene.storage.apply([requeues(running.id), requeues(waiting), deletes(ended)])

        assert [Applied.REFUSED] * 3 == results
        assert before == scene.storage.get([running.id, waiting, ended])

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
        stranger = ClaimHolder("nobody", "nobody")

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
        assert states == scene.states(*(run.id for run in runs))
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
        assert [State.DELETED, State.ENQUEUED] == scene.states(running.id, other)
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


class ExchangeDuty(StorageFixtures):
    """What `exchange` promises beside `apply` and `claim`."""

    verbs = "exchange"

    def test_an_exchange_settles_and_claims(self, scene: Scene) -> None:
        """Ends are applied and told in order, whoever's they are, and new work is taken behind them.

        If this fails: a server that works by exchange alone loses ends or starves; or an exchange ties its
        transitions to the claiming session.
        """
        holder, other = scene.begin("a"), scene.begin("b")
        scene.add_many(2)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        strange = scene.run(other)
        given_up, waiting = scene.add_many(2)
        ends = [succeeds(runs[0]), fails(runs[1]), deletes(given_up), succeeds(strange)]

        exchange = scene.exchange(holder, ends)

        assert [Applied.APPLIED] * 4 == exchange.results
        assert [waiting] == [job.id for job in exchange.claim.jobs]
        assert [State.SUCCEEDED, State.FAILED] == scene.states(*(run.id for run in runs))

    @pytest.mark.parametrize("queues", [["default"], None], ids=["named", "every queue"])
    def test_what_an_exchange_gives_back_it_may_take(self, scene: Scene, queues: list[str] | None) -> None:
        """The claim sees what the ends of the same exchange enqueued.

        If this fails: a job handed back is claimed with its old fence, or waits one exchange for nothing.
        """
        holder = scene.begin()
        first = scene.run(holder)

        exchange = scene.exchange(holder, [hands_back(first)], 1, queues)

        (job,) = exchange.claim.jobs
        assert ([Applied.APPLIED], first.id, 1) == (exchange.results, job.id, job.attempt)
        assert job.fence > first.job.fence
        assert Applied.REFUSED == scene.apply(succeeds(first))

    def test_a_batch_of_ends_moves_each_job_once(self, scene: Scene) -> None:
        """The counts equal the jobs after ends of several kinds, one of a job with a child since its claim.

        If this fails: what a batch writes is written again for a part of it, and counts stay wrong for ever;
        or continuations wait for the next round of upkeep.
        """
        holder = scene.begin()
        scene.add_many(3)
        runs = [Running(job, holder) for job in scene.claim(holder)]
        child = scene.continuation(runs[0].id)

        exchange = scene.exchange(holder, [succeeds(runs[0]), fails(runs[1]), succeeds(runs[2])], 0)

        assert [Applied.RELEASING, Applied.APPLIED, Applied.APPLIED] == exchange.results
        assert {State.SUCCEEDED: 2, State.FAILED: 1, State.AWAITING: 1} == scene.by_state()
        assert (1, State.ENQUEUED) == (scene.release(), scene.state(child))

    def test_an_exchange_may_only_settle_or_only_claim(self, scene: Scene) -> None:
        """No ends, or a limit of zero, are ordinary.

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

    def test_a_dead_session_settles_nothing_and_learns_of_its_death(self, scene: Scene) -> None:
        """Ends of a dead session are refused, its claim takes nothing, and the exchange says that it is lost.

        If this fails: a server that was given up goes on working.
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
        held = HeldClaim(running.id, running.job.fence, started_at)
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
        session, held = running.holder.session, HeldClaim(running.id, running.job.fence)

        named = scene.storage.reconcile(session, [held])
        unnamed = scene.storage.reconcile(session, [])

        assert ([held], []) == ([one.held for one in named.lost], named.unknown)
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

    @pytest.mark.parametrize("is_orphan", [False, True], ids=["ended", "expired"])
    def test_the_end_of_a_session_clears_its_tails(self, scene: Scene, is_orphan: bool) -> None:
        """A dead session's tails are gone, without a crash or a trace; what was requeued is claimable.

        If this fails: a requeued job waits for a holder that is dead, or for a host that was lost.
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
