"""Promote: a job runs once its instant has come by the storage's clock, and nobody sleeps through it."""

from __future__ import annotations

from firelock.lifecycle import Moved
from firelock.storage import Applied, Promotion
from firelock.testing.conformance.ends import deletes, requeues, reschedules, retries, snoozes, succeeds
from firelock.testing.conformance.handles import BASE, HOUR, SECOND
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.recurring import due_once
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import HistoryEntry, State

__all__ = ["PromoteDuty"]


class PromoteDuty(StorageFixtures):
    """What `promote` promises."""

    verbs = "promote"

    def test_what_is_due_is_enqueued(self, scene: Scene) -> None:
        """A due job is enqueued, stamped by the storage's clock; its nominal instant stays.

        If this fails: delayed jobs never run, or forget which instant they run for.
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
        assert [job_id] == scene.claim_ids()

    def test_a_promotion_is_one_history_entry(self, scene: Scene) -> None:
        """The history of a promoted job tells that it was due, and when it was moved.

        If this fails: people cannot see why a job waited.
        """
        job_id = scene.schedule(3_600)
        scene.advance(7_200)

        scene.promote()

        creation, entry = scene.history(job_id)
        assert State.SCHEDULED == creation.state
        assert HistoryEntry(State.ENQUEUED, scene.record(job_id).changed_at, Moved.DUE) == entry

    def test_what_is_not_due_stays(self, scene: Scene) -> None:
        """A job that is due later is left alone, and its instant is told.

        If this fails: delayed jobs run early, or idle servers oversleep them.
        """
        later = scene.add(state=State.SCHEDULED, due_at=BASE + 5 * HOUR)
        scene.add(state=State.SCHEDULED, due_at=BASE + 9 * HOUR)
        due = scene.add(state=State.SCHEDULED, due_at=BASE + 2 * HOUR)
        scene.advance(3 * 3_600)

        promotion = scene.promote()

        assert Promotion(1, BASE + 5 * HOUR) == promotion
        assert (State.SCHEDULED, State.ENQUEUED) == (scene.state(later), scene.state(due))

    def test_nothing_due_is_nothing_moved(self, scene: Scene) -> None:
        """Without scheduled jobs nothing is moved and no instant is known.

        If this fails: idle servers wake for nothing.
        """
        scene.add()

        assert Promotion(0, None) == scene.promote()

    def test_the_longest_due_are_first(self, scene: Scene) -> None:
        """Within the limit the oldest due instants are moved first; the rest is due at once.

        If this fails: after a long pause new jobs overtake those that waited longest.
        """
        hours = (4, 1, 3, 2)
        ids = {hour: scene.add(state=State.SCHEDULED, due_at=BASE + hour * HOUR) for hour in hours}
        scene.advance(9 * 3_600)

        first = scene.promote(2)
        moved = {hour for hour in hours if scene.state(ids[hour]) is State.ENQUEUED}
        rest = scene.promote()

        assert (Promotion(2, BASE + 3 * HOUR), {1, 2}) == (first, moved)
        assert Promotion(2, None) == rest

    def test_jobs_promoted_earlier_run_earlier(self, scene: Scene) -> None:
        """Jobs moved by one promotion stand behind those moved before, and before those enqueued afterwards.

        If this fails: a job that was due long ago goes to the end of its queue again and again.
        """
        first = scene.schedule(3_600)
        second = scene.schedule(2 * 3_600)
        scene.advance(5_400)
        scene.promote()
        scene.advance(5_400)
        scene.promote()
        third = scene.add()

        assert [first, second, third] == scene.claim_ids()

    def test_a_job_is_promoted_once(self, scene: Scene) -> None:
        """What was promoted is no longer due, also after it was claimed.

        If this fails: delayed jobs run again and again.
        """
        scene.schedule(3_600)
        scene.advance(7_200)
        scene.promote()
        scene.claim(scene.begin())

        assert Promotion(0, None) == scene.promote()
        assert 1 == scene.storage.counts().by_state[State.PROCESSING]

    def test_what_left_scheduled_is_not_due(self, scene: Scene) -> None:
        """A scheduled job that was deleted or requeued is forgotten by the clock.

        If this fails: a deleted job runs at its instant, a requeued one twice.
        """
        deleted, requeued = scene.schedule(3_600), scene.schedule(3_600)
        scene.storage.apply([deletes(deleted), requeues(requeued)])
        scene.advance(7_200)

        promotion = scene.promote()

        assert Promotion(0, None) == promotion
        assert (State.DELETED, State.ENQUEUED) == (scene.state(deleted), scene.state(requeued))
        assert [requeued] == scene.claim_ids()

    def test_a_rescheduled_job_is_due_at_its_new_instant(self, scene: Scene) -> None:
        """Of a rescheduled job the due instant changes, and the history has one entry more.

        If this fails: a job runs at the instant it was moved away from, or nobody can see that it was moved.
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

    def test_a_job_rescheduled_into_the_past_is_due_at_once(self, scene: Scene) -> None:
        """The next promotion takes it, and one that is moved twice counts once, at its last instant.

        If this fails: "run it now" does nothing, or a job is due at instants it was moved away from.
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
        assert (State.ENQUEUED, State.SCHEDULED) == (scene.state(past), scene.state(twice))
        assert 3 == len(scene.history(twice))

    def test_a_rescheduled_retry_is_still_a_retry(self, scene: Scene) -> None:
        """Its retries stay counted and its error stays.

        If this fails: a job whose retry is moved begins to count anew, and is tried for ever.
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

    def test_only_what_is_scheduled_is_rescheduled(self, scene: Scene) -> None:
        """Jobs in other states are left alone, and told so.

        If this fails: a job that runs, or has ended, is run again at some instant.
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

    def test_retries_and_snoozes_are_promoted_too(self, scene: Scene) -> None:
        """A job that waits for its retry, or was snoozed, comes back to its own queue.

        If this fails: retries are lost, or lose their queue.
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

    def test_a_recurring_instant_counts_as_the_next(self, scene: Scene) -> None:
        """The next due instant is the earliest of scheduled and recurring jobs.

        If this fails: idle servers sleep through a recurring job.
        """
        scene.storage.put_record("other", "nightly", "{}", due_at=BASE)
        due_once(scene)
        scene.add(state=State.SCHEDULED, due_at=BASE + 2 * HOUR)

        assert Promotion(0, BASE + HOUR) == scene.promote()

    def test_promotion_is_bounded_by_its_limit(self, scene: Scene) -> None:
        """A thousand due jobs are moved in bounded steps, each job once.

        If this fails: upkeep after a pause is one endless step.
        """
        scene.add_many(1_000, state=State.SCHEDULED, due_at=BASE + SECOND)
        scene.advance(60)

        moved = [scene.promote(400).promoted for _ in range(4)]

        assert [400, 400, 200, 0] == moved
        assert 1_000 == scene.storage.counts().by_state[State.ENQUEUED]
