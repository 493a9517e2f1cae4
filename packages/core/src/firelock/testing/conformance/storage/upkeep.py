"""Tests of upkeep: it enqueues due jobs, releases the children of ended jobs, and prunes expired jobs."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On
from firelock.model.job import HistoryEntry, LogLine, Progress, Transition
from firelock.model.lifecycle import Moved, continuation_target, waiting_reason
from firelock.model.state import State
from firelock.storage import DURATION_BUCKETS, Applied, JobFilter, Promotion, Rollup
from firelock.testing.conformance.race import until_none_is_left
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    HOUR,
    Running,
    Scene,
    deletes,
    fails,
    requeues,
    reschedules,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.storage.recurring import due_once
from firelock.testing.conformance.storage.subject import StorageFixtures


class PromoteTests(StorageFixtures):
    """Tests of `promote`."""

    verbs = "promote"

    def test_due_job_is_enqueued_once(self, scene: Scene) -> None:
        """A due job is enqueued once, with the storage's time as `enqueued_at`; its nominal time is kept.

        The history shows that it was due, and when it was enqueued.

        If this fails: delayed jobs never run, run repeatedly, or lose their nominal time; or people cannot
        see why a job waited.
        """
        job_id = scene.schedule(3_600)
        nominal_at = scene.record(job_id).nominal_at
        scene.advance(7_200)
        before = scene.now()

        promotion = scene.promote()

        record = scene.record(job_id)
        assert Promotion(1, None) == promotion
        assert (State.ENQUEUED, None, nominal_at, Moved.DUE, None) == (
            record.state, record.due_at, record.nominal_at, record.reason, record.ended_at,
        )  # fmt: skip
        assert record.enqueued_at is not None
        assert before <= record.enqueued_at <= scene.now()
        assert before <= record.changed_at <= scene.now()
        creation, entry = scene.history(job_id)
        assert State.SCHEDULED == creation.state
        assert HistoryEntry(State.ENQUEUED, record.changed_at, Moved.DUE) == entry
        assert [job_id] == scene.claim_ids()
        assert Promotion(0, None) == scene.promote()
        assert {State.PROCESSING: 1} == scene.by_state()

    def test_job_that_is_not_due_stays_scheduled(self, scene: Scene) -> None:
        """Jobs that are due later stay scheduled; the earliest due time, or None, is returned.

        If this fails: delayed jobs run early, or idle servers sleep past the next due time or wake up
        unnecessarily.
        """
        scene.add()
        assert Promotion(0, None) == scene.promote()
        later = scene.add(state=State.SCHEDULED, due_at=BASE + 5 * HOUR)
        scene.add(state=State.SCHEDULED, due_at=BASE + 9 * HOUR)
        due = scene.add(state=State.SCHEDULED, due_at=BASE + 2 * HOUR)
        scene.advance(3 * 3_600)

        promotion = scene.promote()

        assert Promotion(1, BASE + 5 * HOUR) == promotion
        assert [State.SCHEDULED, State.ENQUEUED] == scene.states(later, due)

    def test_jobs_with_the_earliest_due_times_are_promoted_first(self, scene: Scene) -> None:
        """Within the limit, jobs with the earliest due times are enqueued first; the others are still due.

        If this fails: after a long pause, new jobs overtake those that have waited longest.
        """
        hours = (4, 1, 3, 2)
        ids = {hour: scene.add(state=State.SCHEDULED, due_at=BASE + hour * HOUR) for hour in hours}
        scene.advance(9 * 3_600)

        first = scene.promote(2)
        moved = {hour for hour in hours if scene.state(ids[hour]) is State.ENQUEUED}
        rest = scene.promote()

        assert (Promotion(2, BASE + 3 * HOUR), {1, 2}) == (first, moved)
        assert Promotion(2, None) == rest

    def test_promoted_jobs_are_ordered_by_time_of_promotion(self, scene: Scene) -> None:
        """Promoted jobs come after jobs that were enqueued earlier, and before jobs enqueued later.

        If this fails: a job that was due long ago is moved to the end of its queue repeatedly.
        """
        first = scene.schedule(3_600)
        second = scene.schedule(2 * 3_600)
        scene.advance(5_400)
        scene.promote()
        scene.advance(5_400)
        scene.promote()
        third = scene.add()

        assert [first, second, third] == scene.claim_ids()

    def test_deleted_or_requeued_scheduled_job_is_not_due(self, scene: Scene) -> None:
        """A scheduled job that was deleted or requeued is no longer due.

        If this fails: a deleted job runs at its due time, and a requeued one runs twice.
        """
        deleted, requeued = scene.schedule(3_600), scene.schedule(3_600)
        scene.storage.apply([deletes(deleted), requeues(requeued)])
        scene.advance(7_200)

        promotion = scene.promote()

        assert Promotion(0, None) == promotion
        assert [State.DELETED, State.ENQUEUED] == scene.states(deleted, requeued)
        assert [requeued] == scene.claim_ids()

    def test_rescheduled_job_is_due_at_its_new_time(self, scene: Scene) -> None:
        """Rescheduling changes the due time of a job, and adds one entry to its history.

        If this fails: a job runs at its previous due time, or people cannot see that it was rescheduled.
        """
        later = scene.add(state=State.SCHEDULED, due_at=BASE + HOUR, nominal_at=BASE + HOUR)
        sooner = scene.add(state=State.SCHEDULED, due_at=BASE + 9 * HOUR)
        move = reschedules(later, due_at=BASE + 5 * HOUR, at=scene.stamp())

        results = scene.storage.apply([move, reschedules(sooner, due_at=BASE + 2 * HOUR)])

        assert [Applied.APPLIED, Applied.APPLIED] == results
        scene.check(
            later,
            state=State.SCHEDULED,
            due_at=BASE + 5 * HOUR,
            nominal_at=BASE + HOUR,
            reason="rescheduled by ada",
            changed_at=move.at,
        )
        assert [State.SCHEDULED] == [entry.state for entry in scene.history(later)[:-1]]
        moved = HistoryEntry(State.SCHEDULED, move.at, "rescheduled by ada", due_at=BASE + HOUR)
        assert moved == scene.last_entry(later)
        assert 2 == scene.storage.counts().by_state[State.SCHEDULED]
        scene.advance(3 * 3_600)
        assert Promotion(1, BASE + 5 * HOUR) == scene.promote()
        assert [sooner] == scene.claim_ids()

    def test_job_rescheduled_into_the_past_is_promoted_next(self, scene: Scene) -> None:
        """A job rescheduled into the past is promoted next; a job rescheduled twice is due at the last time.

        If this fails: "run it now" does nothing, or a job runs at a previous due time.
        """
        past = scene.add(state=State.SCHEDULED, due_at=BASE + HOUR)
        twice = scene.add(state=State.SCHEDULED, due_at=BASE + HOUR)

        scene.storage.apply(
            [
                reschedules(past, due_at=0),
                reschedules(twice, due_at=0),
                reschedules(twice, due_at=BASE + 3 * HOUR),
            ]
        )

        assert Promotion(1, BASE + 3 * HOUR) == scene.promote()
        assert [State.ENQUEUED, State.SCHEDULED] == scene.states(past, twice)
        assert 3 == len(scene.history(twice))

    def test_rescheduled_retry_keeps_its_retries_and_error(self, scene: Scene) -> None:
        """A rescheduled retry keeps its number of retries and its error.

        If this fails: rescheduling a retry resets the job's number of retries, so the job is retried forever.
        """
        job_id = scene.settle(retries(scene.run(), due_at=BASE + HOUR))
        before = scene.record(job_id)

        scene.settle(reschedules(job_id, due_at=BASE + 2 * HOUR))

        scene.check(
            job_id,
            retries=1,
            attempt=1,
            is_retrying=True,
            error=before.error,
            fence=before.fence,
            server=before.server,
        )

    def test_only_scheduled_jobs_can_be_rescheduled(self, scene: Scene) -> None:
        """Rescheduling a job that is not scheduled is refused, and the job stays as it is.

        If this fails: a job that is running or has ended runs again later.
        """
        holder = scene.begin()
        deleted = scene.settle(deletes(scene.add()))
        running = scene.run(holder).id
        ended = scene.settle(succeeds(scene.run(holder)))
        enqueued, waiting = scene.add(), scene.continuation(running)
        ids = [deleted, running, ended, enqueued, waiting]
        before = scene.storage.get(ids)

        results = scene.storage.apply([reschedules(id, due_at=BASE + HOUR) for id in [*ids, scene.new_id()]])

        assert [Applied.REFUSED] * 5 + [Applied.MISSING] == results
        assert before == scene.storage.get(ids)
        assert Promotion(0, None) == scene.promote()

    def test_due_retries_and_snoozes_are_promoted(self, scene: Scene) -> None:
        """A job that waits for its retry, or was snoozed, returns to its own queue.

        If this fails: retries are lost, or return to the wrong queue.
        """
        holder = scene.begin()
        ids = []
        for end in (retries, snoozes):
            scene.add(queue="critical", priority=9)
            (job,) = scene.claim(holder, queues=["critical"])
            ids.append(scene.settle(end(Running(job, holder), due_at=BASE + HOUR)))
        scene.advance(7_200)

        promotion = scene.promote()

        assert Promotion(2, None) == promotion
        assert sorted(ids) == sorted(scene.claim_ids(holder, queues=["critical"]))

    def test_next_due_time_includes_recurring_jobs(self, scene: Scene) -> None:
        """The next due time is the earliest of all scheduled and recurring jobs.

        If this fails: idle servers sleep past the due time of a recurring job.
        """
        scene.storage.put_record("other", "nightly", "{}", due_at=BASE)
        due_once(scene)
        scene.add(state=State.SCHEDULED, due_at=BASE + 2 * HOUR)

        assert Promotion(0, BASE + HOUR) == scene.promote()

    def test_promote_enqueues_at_most_its_limit_of_jobs(self, scene: Scene) -> None:
        """Repeated calls enqueue a thousand due jobs, at most `limit` jobs per call and each job once.

        If this fails: after a pause, upkeep is one endless operation.
        """
        scene.add_many(1_000, state=State.SCHEDULED, due_at=BASE + SECOND)
        scene.advance(60)

        moved = [scene.promote(400).promoted for _ in range(4)]

        assert [400, 400, 200, 0] == moved
        assert 1_000 == scene.storage.counts().by_state[State.ENQUEUED]


_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)
_TABLE = [(on, end) for on in On for end in _ENDS]
_table = pytest.mark.parametrize(("on", "end"), _TABLE, ids=[f"{on}-{end}" for on, end in _TABLE])


def _ended(scene: Scene, end: State, job_id: str | None = None, expires_at: int | None = None) -> str:
    """Run a job, by default a new one, until it ends in this state; return its id."""
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


class ContinuationTests(StorageFixtures):
    """Tests of `insert`, `apply` and `release` for jobs that wait for other jobs."""

    verbs = "release"

    def test_child_of_an_unfinished_parent_is_awaiting(self, scene: Scene) -> None:
        """A child of unfinished jobs is awaiting, stores its parents, and cannot be claimed.

        If this fails: continuations run before the jobs that they continue.
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
    def test_end_of_a_parent_decides_its_children(self, scene: Scene, on: On, end: State) -> None:
        """Depending on its parent's state, a child is enqueued, deleted or keeps waiting, with a reason.

        If this fails: children run after an unwanted result of their parent, or wait without a visible
        reason.
        """
        parent = scene.add()
        child = scene.continuation(parent, on=on)
        _ended(scene, end, parent)

        checked = scene.release()

        target = continuation_target(on, end)
        scene.check(child, state=target or State.AWAITING, reason=_expected_reason(on, end, target))
        assert 1 == checked
        assert 0 == scene.release()

    @_table
    def test_child_of_an_ended_parent_is_decided_when_stored(self, scene: Scene, on: On, end: State) -> None:
        """A new child of an ended parent is stored in its resulting state, with one history entry.

        If this fails: a child that is created a moment too late waits forever.
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

    def test_end_of_a_parent_with_children_needs_a_release(self, scene: Scene) -> None:
        """Ending a job that has waiting children returns `RELEASE_NEEDED`; a repeated call returns `ALREADY`.

        Deleting a waiting parent also returns `RELEASE_NEEDED`.

        If this fails: children wait for upkeep, and those of a deleted job wait forever; or the storage
        searches for children after every job, even if it has none.
        """
        holder = scene.begin()
        parent = scene.run(holder)
        scene.continuation(parent.id)
        childless, scheduled = scene.run(holder), scene.schedule(3_600)
        child = scene.continuation(scheduled, on=On.DELETED)
        ends = (succeeds(parent), succeeds(parent), succeeds(childless), deletes(scheduled))

        results = [scene.apply(end) for end in ends]
        scene.release()

        assert [Applied.RELEASE_NEEDED, Applied.ALREADY, Applied.APPLIED, Applied.RELEASE_NEEDED] == results
        assert all(result.is_applied for result in results)
        assert State.ENQUEUED == scene.state(child)

    def test_child_is_released_once(self, scene: Scene) -> None:
        """If a requeued parent ends again, children that were already enqueued or deleted do not change.

        If this fails: requeuing a parent runs its continuations again.
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

    def test_end_of_the_last_parent_releases_the_child(self, scene: Scene) -> None:
        """A child of several parents is enqueued when the last parent ends, whichever parent that is.

        If this fails: a job that waits for several others runs before all of them have ended, or never.
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

    def test_first_unwanted_end_of_a_parent_deletes_the_child(self, scene: Scene) -> None:
        """A child of several parents is deleted when one parent has an unwanted result, and stays deleted.

        If this fails: a job runs although a job on which it depends was deleted.
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

    def test_parents_that_ended_before_the_insert_are_counted(self, scene: Scene) -> None:
        """A parent that ended before its child was stored is counted when the child is stored.

        If this fails: a child of one ended and one running job waits forever, or runs immediately.
        """
        ended = _ended(scene, State.SUCCEEDED)
        running = scene.run()
        child = scene.continuation(ended, running.id)
        before = scene.state(child)

        scene.settle(succeeds(running))
        scene.release()

        assert (State.AWAITING, State.ENQUEUED) == (before, scene.state(child))

    @pytest.mark.parametrize("is_late", [False, True])
    def test_child_runs_when_its_failed_parent_succeeds_later(self, scene: Scene, is_late: bool) -> None:
        """A child that waits for success runs when its failed parent is requeued and succeeds.

        This holds for children that were created before the failure and after it.

        If this fails: after an operator has fixed a failure, the jobs that should follow never run. Or the
        parent is not marked as having children because it had ended, and the child waits forever.
        """
        parent = scene.add()
        child = "" if is_late else scene.continuation(parent)
        _ended(scene, State.FAILED, parent)
        scene.release()
        child = child or scene.continuation(parent)
        waiting = scene.record(child)
        scene.settle(requeues(parent))

        result = scene.apply(succeeds(scene.run(job_id=parent)))
        scene.release()

        assert (State.AWAITING, waiting_reason(On.SUCCEEDED, State.FAILED)) == (waiting.state, waiting.reason)
        assert (Applied.RELEASE_NEEDED, State.ENQUEUED) == (result, scene.state(child))

    def test_pruned_child_does_not_stop_the_release_of_others(self, scene: Scene) -> None:
        """A child that was deleted and pruned before its release does not stop the release of others.

        If this fails: one missing child blocks all children after it.
        """
        parent = scene.add()
        gone, left = scene.continuation(parent), scene.continuation(parent)
        _ended(scene, State.SUCCEEDED, parent)
        scene.settle(deletes(gone, expires_at=BASE - HOUR))
        assert 1 == scene.prune()

        until_none_is_left(lambda: scene.release(1))

        assert ([None], State.ENQUEUED) == (scene.storage.get([gone]), scene.state(left))

    def test_parent_requeued_before_the_release_releases_no_children(self, scene: Scene) -> None:
        """If a parent is requeued before its children are released, only its next result affects them.

        If this fails: children are released by a result that is no longer valid, while their parent runs
        again.
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

    def test_deleted_child_decides_its_own_children(self, scene: Scene) -> None:
        """When a child is deleted, its own children are enqueued or deleted too, each with a reason.

        If this fails: grandchildren wait forever.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        grandchild = scene.continuation(child)
        wanted = scene.continuation(child, on=On.DELETED)
        scene.settle(deletes(parent))

        rounds = [scene.release() for _ in range(5)]

        assert (3, 0) == (sum(rounds), rounds[-1])
        assert [State.DELETED, State.DELETED, State.ENQUEUED] == scene.states(child, grandchild, wanted)
        assert "parent deleted" == scene.record(grandchild).reason

    def test_deleted_child_is_kept_as_long_as_its_parent(self, scene: Scene) -> None:
        """A child that the storage deletes has the same retention as its parent.

        If this fails: deleted children stay forever, or are pruned before people have seen them.
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

    def test_release_checks_at_most_its_limit_of_children(self, scene: Scene) -> None:
        """One call of `release` checks at most `limit` children; repeated calls release each child once.

        If this fails: releasing the 100,000 children of a job delays all servers for a second.
        """
        parent = scene.add()
        children = [scene.continuation(parent) for _ in range(7)]
        _ended(scene, State.SUCCEEDED, parent)

        numbers = [scene.release(3) for _ in range(3)]

        assert [3, 3, 1] == numbers
        assert 0 == scene.release(3)
        assert [2] * 7 == [len(scene.history(child)) for child in children]
        assert sorted(children) == sorted(scene.claim_ids())

    @pytest.mark.parametrize("change", [deletes, requeues])
    def test_deleted_or_requeued_child_is_not_released(
        self, scene: Scene, change: Callable[[str], Transition]
    ) -> None:
        """A child that an operator has deleted or requeued does not change when its parent ends.

        If this fails: a deleted child runs, or one that was started manually runs twice.
        """
        parent = scene.schedule(3_600)
        child = scene.continuation(parent)
        scene.settle(change(child))
        before = scene.record(child)

        scene.storage.apply([deletes(parent)])
        scene.release()

        assert before == scene.record(child)

    def test_continuations_are_found_by_parent(self, scene: Scene) -> None:
        """A search by a parent's id finds all jobs that wait or waited for this parent.

        If this fails: people cannot see which jobs follow a job.
        """
        parent, other = scene.add_many(2)
        children = {scene.continuation(parent), scene.continuation(other, parent)}
        scene.continuation(other)
        scene.settle(deletes(parent))
        scene.release()

        found = scene.found(JobFilter(parent_id=parent))

        assert children == set(found)


class PruneTests(StorageFixtures):
    """Tests of `prune`."""

    verbs = "prune"

    def test_prune_deletes_all_data_of_an_expired_job(self, scene: Scene) -> None:
        """A pruned job leaves no record, history, errors, log, progress, count or list entry; its id is free.

        If this fails: the store fills up with data that nobody can see, or the data appears in another job.
        """
        job = scene.new_job(tags=("eu",))
        scene.storage.insert([job])
        running = scene.run(job_id=job.id)
        progress = Progress(1.0, 2.0, scene.stamp())
        scene.storage.append_logs({job.id: [LogLine(0, 1, "INFO", "hello")]}, {job.id: progress})
        scene.settle(fails(running, expires_at=BASE + HOUR))
        scene.advance(7_200)

        pruned = scene.prune()

        storage = scene.storage
        assert (1, [None], {}) == (pruned, storage.get([job.id]), scene.by_state())
        assert [] == storage.find(JobFilter(), limit=10).jobs
        assert [] == scene.found(JobFilter(tag="eu"))
        assert [] == storage.failure_groups(10)
        assert ([], [], []) == (scene.history(job.id), scene.errors(job.id), storage.read_log(job.id))
        assert [True] == storage.insert([attrs.evolve(job, arguments="[2]")]).is_new
        scene.check(job.id, arguments="[2]", attempt=0, progress=None)
        assert (1, [], []) == (
            len(scene.history(job.id)), scene.errors(job.id), storage.read_log(job.id),
        )  # fmt: skip

    def test_jobs_that_have_not_expired_are_kept(self, scene: Scene) -> None:
        """Jobs that expire later or never, were requeued before their expiry, or have not ended are kept.

        If this fails: results are deleted before they are read, or jobs before they run.
        """
        holder = scene.begin()
        kept = [scene.settle(succeeds(scene.run(holder), expires_at=BASE + 5 * HOUR))]
        kept += [scene.settle(succeeds(scene.run(holder))), scene.run(holder).id, scene.schedule(99 * 3_600)]
        kept += [scene.continuation(kept[3]), scene.settle(deletes(scene.add(), expires_at=BASE + HOUR))]
        scene.settle(requeues(kept[-1]))
        scene.advance(7_200)

        pruned = scene.prune()

        assert 0 == pruned
        assert None not in scene.storage.get(kept)
        assert State.ENQUEUED == scene.state(kept[-1])

    def test_prune_uses_the_clock_of_the_storage(self, scene: Scene) -> None:
        """A job is pruned when the storage's clock has passed its expiry, regardless of callers' timestamps.

        If this fails: a client with a wrong clock deletes results, or keeps them forever.
        """
        kept = scene.settle(deletes(scene.add(), at=BASE - 900 * DAY, expires_at=BASE + HOUR))
        gone = scene.settle(deletes(scene.add(), at=BASE + 900 * DAY, expires_at=BASE - HOUR))

        pruned = scene.prune()

        assert (1, [gone]) == (pruned, [one for one in (kept, gone) if scene.storage.get([one]) == [None]])

    def test_prune_result_below_the_limit_means_no_expired_jobs(self, scene: Scene) -> None:
        """Jobs whose expiry is earlier than that of already pruned jobs are pruned together with the others.

        So a result below the limit means that no expired job is left.

        If this fails: servers stop pruning until their next round, although some jobs have expired.
        """
        ids = scene.add_many(6)
        for number, job_id in enumerate(ids[:4]):
            scene.settle(deletes(job_id, expires_at=BASE + (number + 2) * HOUR))
        scene.advance(8 * 3_600)
        first = scene.prune(2)
        for number, job_id in enumerate(ids[4:]):
            scene.settle(deletes(job_id, expires_at=BASE + number * HOUR))

        rest = scene.prune(10)

        assert (2, 4, [None] * 6) == (first, rest, scene.storage.get(ids))

    def test_prune_deletes_at_most_its_limit_of_jobs(self, scene: Scene) -> None:
        """One call of `prune` deletes at most `limit` jobs; the next calls delete the rest.

        If this fails: a day's jobs are deleted in one endless operation.
        """
        ids = scene.add_many(25)
        scene.storage.apply([deletes(job_id, expires_at=BASE + HOUR) for job_id in ids])
        scene.advance(7_200)

        numbers = [scene.prune() for _ in range(4)]

        assert [10, 10, 5, 0] == numbers
        assert [None] * 25 == scene.storage.get(ids)

    def test_waiting_children_of_a_pruned_parent_are_deleted(self, scene: Scene) -> None:
        """Waiting children of a pruned parent are deleted with a reason, and their own children are released.

        Each deleted child has the same retention as its parent.

        If this fails: children of a failed job, or all but one of them, wait forever for a job that no longer
        exists.
        """
        parent = scene.add()
        children = [scene.continuation(parent, queue=queue) for queue in ("default", "mail", "default")]
        grandchildren = [scene.continuation(child, on=On.DELETED) for child in children]
        end = fails(scene.run(job_id=parent))
        scene.settle(attrs.evolve(end, expires_at=end.at + 3 * HOUR))
        scene.release()
        assert [State.AWAITING] * 3 == scene.states(*children)

        pruned = scene.prune(1)
        scene.release()

        assert (1, [None]) == (pruned, scene.storage.get([parent]))
        for child in children:
            record, entry = scene.record(child), scene.last_entry(child)
            assert [(State.DELETED, Moved.PARENT_GONE)] * 2 == [
                (record.state, record.reason), (entry.state, entry.reason),
            ]  # fmt: skip
            assert record.ended_at is not None
            assert record.ended_at + 3 * HOUR == record.expires_at
        assert [State.ENQUEUED] * 3 == scene.states(*grandchildren)

    def test_parent_is_not_pruned_before_its_children_are_released(self, scene: Scene) -> None:
        """An expired parent is not pruned until its children have been released; the children are kept.

        If this fails: children of a successful parent are deleted because upkeep was late, or their rows are
        deleted with those of the parent.
        """
        holder = scene.begin()
        parent = scene.run(holder)
        child = scene.continuation(parent.id)
        scene.settle(succeeds(parent, expires_at=BASE + HOUR))
        scene.advance(7_200)

        too_early = scene.prune()
        scene.release()
        after_the_release = scene.prune()

        assert (0, 1, State.ENQUEUED) == (too_early, after_the_release, scene.state(child))
        assert State.SUCCEEDED == scene.state(scene.settle(succeeds(scene.run(holder, child))))

    def test_ended_locks_are_deleted_after_a_day(self, scene: Scene) -> None:
        """Records of locks that were released or expired a day ago are deleted; held locks are kept.

        The next token of a deleted name is larger than all earlier tokens of this name.

        If this fails: the locks of all past orders are kept forever, or a late holder is treated as the
        current one.
        """
        storage = scene.storage
        names = [f"order:{number}" for number in range(12)]
        tokens: dict[str, int] = {}
        for _ in range(3):
            tokens = {name: storage.acquire_lock(name, "ada", 60.0) or 0 for name in names}
            for name in names[:6]:
                storage.release_lock(name, "ada", tokens[name])
        held = storage.acquire_lock("held", "ada", 9 * 86_400.0) or 0
        scene.advance(4 * 3_600)
        storage.prune(100)
        scene.advance(86_400)

        storage.prune(100)

        assert {"held"} >= {record.key for record in storage.list_records("lock")}
        assert storage.renew_lock("held", "ada", held, 60.0)
        again = {name: storage.acquire_lock(name, "bob", 60.0) or 0 for name in names}
        assert [] == [name for name in names if again[name] <= tokens[name]]
        assert [False] * 12 == [storage.renew_lock(name, "ada", tokens[name], 60.0) for name in names]

    def test_rollups_are_kept_for_thirty_days(self, scene: Scene) -> None:
        """One-minute rollups are kept for 30 days and then deleted.

        If this fails: the timeline grows forever, or loses last week's data.
        """
        histogram = (0,) * (len(DURATION_BUCKETS) + 1)
        minutes = (BASE - 31 * DAY, BASE - 29 * DAY, BASE)
        scene.storage.record_metrics(
            [Rollup(minute, "tasks.run", "default", "succeeded", 1, SECOND, histogram) for minute in minutes]
        )

        scene.prune(100)

        assert [BASE - 29 * DAY, BASE] == [rollup.minute for rollup in scene.storage.timeline(0, BASE + DAY)]
