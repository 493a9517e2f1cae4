"""Prune: what has had its time is gone without a trace, nothing else is, and nobody waits for it."""

from __future__ import annotations

import attrs

from firelock.lifecycle import Moved
from firelock.storage import DURATION_BUCKETS, JobFilter, Rollup
from firelock.testing.conformance.ends import deletes, fails, requeues, succeeds
from firelock.testing.conformance.handles import BASE, DAY, HOUR, SECOND
from firelock.testing.conformance.scene import Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import LogLine, On, Progress, State

__all__ = ["PruneDuty"]


class PruneDuty(StorageFixtures):
    """What `prune` promises."""

    verbs = "prune"

    def test_what_expired_is_gone_with_all_that_belongs_to_it(self, scene: Scene) -> None:
        """A pruned job leaves no record, history, errors, log, count or list entry.

        If this fails: a store fills up with what nobody can see.
        """
        running = scene.run(job_id=scene.add(tags=("eu",)))
        scene.storage.append_logs({running.id: [LogLine(0, 1, "INFO", "hello")]}, {})
        scene.settle(fails(running, expires_at=BASE + HOUR))
        scene.advance(7_200)

        pruned = scene.prune()

        storage = scene.storage
        assert 1 == pruned
        assert ([None], [], [], []) == (
            storage.get([running.id]), scene.history(running.id), scene.errors(running.id),
            storage.read_log(running.id),
        )  # fmt: skip
        assert [] == storage.find(JobFilter(), limit=10).jobs
        assert [] == scene.found(JobFilter(tag="eu"))
        assert [] == storage.failure_groups(10)
        assert 0 == sum(storage.counts().by_state.values())

    def test_what_has_not_expired_stays(self, scene: Scene) -> None:
        """Jobs that expire later, never, or have not ended stay.

        If this fails: results are gone before they were read, or jobs before they ran.
        """
        holder = scene.begin()
        later = scene.settle(succeeds(scene.run(holder), expires_at=BASE + 5 * HOUR))
        never = scene.settle(succeeds(scene.run(holder)))
        waiting = [scene.run(holder).id, scene.schedule(99 * 3_600)]
        waiting += [scene.continuation(waiting[1]), scene.add()]
        scene.advance(3_600)

        pruned = scene.prune()

        assert 0 == pruned
        assert None not in scene.storage.get([later, never, *waiting])

    def test_the_storages_clock_decides_what_expired(self, scene: Scene) -> None:
        """A job goes when its instant has passed, whatever stamps callers gave.

        If this fails: a client whose clock is wrong deletes results, or keeps them for ever.
        """
        kept = scene.settle(deletes(scene.add(), at=BASE - 900 * DAY, expires_at=BASE + HOUR))
        gone = scene.settle(deletes(scene.add(), at=BASE + 900 * DAY, expires_at=BASE - HOUR))

        pruned = scene.prune()

        assert (1, [gone]) == (pruned, [one for one in (kept, gone) if scene.storage.get([one]) == [None]])

    def test_pruning_is_bounded(self, scene: Scene) -> None:
        """At most so many jobs go with one call; the rest with the next.

        If this fails: a day's jobs are removed in one endless step.
        """
        ids = scene.add_many(25)
        scene.storage.apply([deletes(job_id, expires_at=BASE + HOUR) for job_id in ids])
        scene.advance(7_200)

        steps = [scene.prune() for _ in range(4)]

        assert [10, 10, 5, 0] == steps
        assert [None] * 25 == scene.storage.get(ids)

    def test_a_requeued_job_no_longer_expires(self, scene: Scene) -> None:
        """A job that was requeued before its expiry lives on.

        If this fails: a requeued job is pruned while it waits or runs.
        """
        job_id = scene.settle(deletes(scene.add(), expires_at=BASE + HOUR))
        scene.settle(requeues(job_id))
        scene.advance(7_200)

        pruned = scene.prune()

        assert (0, State.ENQUEUED) == (pruned, scene.state(job_id))

    def test_a_pruned_id_is_free(self, scene: Scene) -> None:
        """After its removal an id is new again, without a past, a log or a progress.

        If this fails: leftovers of a pruned job appear in another one.
        """
        job = scene.new_job()
        scene.storage.insert([job])
        running = scene.run(job_id=job.id)
        progress = Progress(1.0, 2.0, scene.stamp())
        scene.storage.append_logs({job.id: [LogLine(0, 1, "INFO", "hello")]}, {job.id: progress})
        scene.settle(fails(running, expires_at=BASE + HOUR))
        scene.advance(7_200)
        scene.prune()

        again = scene.storage.insert([attrs.evolve(job, arguments="[2]")]).is_new

        assert [True] == again
        assert ("[2]", 0, 1, []) == (
            scene.record(job.id).arguments, scene.record(job.id).attempt, len(scene.history(job.id)),
            scene.errors(job.id),
        )  # fmt: skip
        assert ([], None) == (scene.storage.read_log(job.id), scene.record(job.id).progress)

    def test_children_that_still_wait_are_deleted_first(self, scene: Scene) -> None:
        """A child that waits for a pruned parent is deleted with the reason, and decides its own children.

        If this fails: children of a failed job wait for ever for a parent that is gone.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        grandchild = scene.continuation(child, on=On.DELETED)
        running = scene.run(job_id=parent)
        end = fails(running)
        scene.settle(attrs.evolve(end, expires_at=end.at + 3 * HOUR))
        scene.release()
        assert State.AWAITING == scene.state(child)

        scene.prune()
        scene.release()

        record = scene.record(child)
        assert ([None], State.DELETED, Moved.PARENT_GONE) == (
            scene.storage.get([parent]), record.state, record.reason,
        )  # fmt: skip
        assert record.ended_at is not None
        assert record.ended_at + 3 * HOUR == record.expires_at
        assert (State.DELETED, Moved.PARENT_GONE) == (
            scene.last_entry(child).state, scene.last_entry(child).reason,
        )  # fmt: skip
        assert State.ENQUEUED == scene.state(grandchild)

    def test_every_child_that_still_waits_is_deleted(self, scene: Scene) -> None:
        """Of several children that wait for a pruned parent none is left, nor are their own children.

        If this fails: a failed parent takes one of its children with it, and the others wait for ever.
        """
        parent = scene.add()
        children = [scene.continuation(parent, queue=queue) for queue in ("default", "mail", "default")]
        grandchildren = [scene.continuation(child, on=On.DELETED) for child in children]
        scene.settle(fails(scene.run(job_id=parent), expires_at=BASE + HOUR))
        scene.release()
        scene.advance(7_200)

        pruned = scene.prune(1)
        scene.release()

        assert (1, [None]) == (pruned, scene.storage.get([parent]))
        assert [(State.DELETED, Moved.PARENT_GONE)] * 3 == [
            (scene.state(child), scene.record(child).reason) for child in children
        ]
        assert [State.ENQUEUED] * 3 == [scene.state(grandchild) for grandchild in grandchildren]

    def test_a_parent_stays_until_its_children_were_released(self, scene: Scene) -> None:
        """A parent that expired before its children were looked at is kept until they were.

        If this fails: children of a successful parent are deleted since upkeep came late.
        """
        parent = scene.add()
        child = scene.continuation(parent)
        scene.settle(succeeds(scene.run(job_id=parent), expires_at=BASE + HOUR))
        scene.advance(7_200)

        too_early = scene.prune()
        scene.release()
        after_the_release = scene.prune()

        assert (0, 1, State.ENQUEUED) == (too_early, after_the_release, scene.state(child))

    def test_a_child_outlives_its_parent(self, scene: Scene) -> None:
        """A child that was released runs and ends although its parent is gone.

        If this fails: removing a parent takes its children's rows with it.
        """
        holder = scene.begin()
        parent = scene.run(holder)
        child = scene.continuation(parent.id)
        scene.settle(succeeds(parent, expires_at=BASE + HOUR))
        scene.release()
        scene.advance(7_200)

        pruned = scene.prune()
        ended = scene.settle(succeeds(scene.run(holder, child)))

        assert (1, State.SUCCEEDED) == (pruned, scene.state(ended))

    def test_locks_that_ended_are_forgotten_after_a_day(self, scene: Scene) -> None:
        """Locks that were released, or ran out, a day ago leave no record; those that are held stay.

        A name that was forgotten goes on with a larger token than any that it had.

        If this fails: a lock for each order is kept for ever, or a late holder passes for the present one.
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
        """Rollups of minutes older than 30 days go, younger ones stay.

        If this fails: the timeline grows for ever, or forgets last week.
        """
        histogram = (0,) * (len(DURATION_BUCKETS) + 1)
        minutes = (BASE - 31 * DAY, BASE - 29 * DAY, BASE)
        scene.storage.record_metrics(
            [Rollup(minute, "tasks.run", "default", "succeeded", 1, SECOND, histogram) for minute in minutes]
        )

        scene.prune(100)

        assert [BASE - 29 * DAY, BASE] == [rollup.minute for rollup in scene.storage.timeline(0, BASE + DAY)]
