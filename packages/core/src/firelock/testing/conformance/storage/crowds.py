"""Races of upkeep, definitions and records: what many do at once is done once."""

from __future__ import annotations

from collections import Counter
from functools import partial

from firelock.storage import DURATION_BUCKETS, Applied, ClaimRequest, Rollup, Storage
from firelock.testing.conformance.ends import deletes, fails, gives_up, requeues, succeeds
from firelock.testing.conformance.handles import BASE, HOUR, STAMP
from firelock.testing.conformance.race import ROUNDS, race, race_two, until_none_is_left
from firelock.testing.conformance.scene import Running, Scene
from firelock.testing.conformance.storage.recurring import due_once
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import Holder, RecordChange, State

__all__ = ["CrowdDuty"]


class CrowdDuty(StorageFixtures):
    """What the storage promises to servers that do the same upkeep at the same time."""

    def test_children_are_released_once_by_many(self, scene: Scene) -> None:
        """Four that release together enqueue each child once.

        If this fails: continuations run twice.
        """
        holder = scene.begin()
        running = scene.run(holder)
        children = [scene.continuation(running.id) for _ in range(60)]
        scene.settle(succeeds(running))
        handles = [scene.handles.open() for _ in range(4)]

        race([partial(until_none_is_left, partial(handle.release, 7)) for handle in handles])

        assert 0 == scene.release()
        assert sorted(children) == sorted(scene.claim_ids(holder))
        assert {2} == {len(scene.history(child)) for child in children}

    def test_due_jobs_are_promoted_once_by_many(self, scene: Scene) -> None:
        """Four that promote together enqueue each due job once.

        If this fails: delayed jobs run twice.
        """
        ids = scene.add_many(60, state=State.SCHEDULED, due_at=BASE + HOUR)
        scene.advance(7_200)
        handles = [scene.handles.open() for _ in range(4)]

        def promote(handle: Storage) -> int:
            return until_none_is_left(lambda: handle.promote(7).promoted)

        moved = race([partial(promote, handle) for handle in handles])

        assert 60 == sum(moved)
        assert {2} == {len(scene.history(job_id)) for job_id in ids}
        assert sorted(ids) == sorted(scene.claim_ids())

    def test_one_instant_fires_once_by_many(self, scene: Scene) -> None:
        """Eight servers that see one definition due make its job once.

        If this fails: a nightly report is sent eight times.
        """
        version = due_once(scene)
        handles = [scene.handles.open() for _ in range(8)]

        for hour in range(1, ROUNDS + 1):
            job = scene.new_job(recurring_id="nightly")
            moved = [
                RecordChange("recurring", "nightly", f"by {place}", version, BASE + hour * HOUR)
                for place in range(len(handles))
            ]
            fired = race(
                [
                    partial(handle.insert, [job], only_if=change)
                    for handle, change in zip(handles, moved, strict=True)
                ]
            )
            version += 1
            winner = [one.record for one in fired].index(Applied.APPLIED)
            assert {Applied.APPLIED: 1, Applied.REFUSED: 7} == Counter(one.record for one in fired)
            record = scene.storage.get_record("recurring", "nightly")
            assert record is not None
            assert (moved[winner].value, version) == (record.value, record.version)
            assert [job.id] == scene.claim_ids()

    def test_an_edit_races_a_firing(self, scene: Scene) -> None:
        """Of an edit and a firing that both read one definition, one does nothing.

        If this fails: a deploy at two o'clock makes the nightly job run twice, or not at all.
        """
        one, other = scene.handles.open(), scene.handles.open()
        version = due_once(scene)

        for hour in range(1, ROUNDS + 1):
            job = scene.new_job(recurring_id="nightly")
            moved = RecordChange("recurring", "nightly", "fired", version, BASE + hour * HOUR)
            fired, edited = race_two(
                partial(one.insert, [job], only_if=moved),
                partial(other.put_record, "recurring", "nightly", "edited", expected_version=version),
            )

            is_fired = fired.record is Applied.APPLIED
            version += 1
            record = scene.storage.get_record("recurring", "nightly")
            assert record is not None
            assert ("fired" if is_fired else "edited", version) == (record.value, record.version)
            assert [is_fired, is_fired] == [edited is None, scene.storage.get([job.id]) != [None]]

    def test_figures_of_many_add_up(self, scene: Scene) -> None:
        """Four servers that add to the same minute arrive at the sum.

        If this fails: statistics lose what another server counted at the same time.
        """
        histogram = (1, *(0 for _ in DURATION_BUCKETS))
        rollup = Rollup(STAMP, "task", "default", "succeeded", 1, 1, histogram)
        handles = [scene.handles.open() for _ in range(4)]

        def add(handle: Storage) -> None:
            for _ in range(ROUNDS):
                handle.record_metrics([rollup])

        race([partial(add, handle) for handle in handles])

        (total,) = scene.storage.timeline(STAMP, STAMP + 1)
        assert (4 * ROUNDS, 4 * ROUNDS) == (total.count, total.histogram[0])

    def test_counting_in_a_record_loses_nothing(self, scene: Scene) -> None:
        """Six that count in one record by compare-and-set arrive at the sum.

        If this fails: locks, recurring jobs and settings lose writes.
        """
        handles = [scene.handles.open() for _ in range(6)]

        def count(handle: Storage) -> int:
            record = handle.get_record("kind", "counter")
            value, version = (int(record.value), record.version) if record else (0, 0)
            if value >= 60:
                return 0
            return 1 + bool(handle.put_record("kind", "counter", str(value + 1), expected_version=version))

        race([partial(until_none_is_left, partial(count, handle)) for handle in handles])

        record = scene.storage.get_record("kind", "counter")
        assert record is not None
        assert ("60", 60) == (record.value, record.version)

    def test_a_requeue_races_the_pruning(self, scene: Scene) -> None:
        """A job requeued while it is pruned is either gone, and the operator told, or lives on whole.

        If this fails: a requeued job is half there.
        """
        one, other, holder = scene.handles.open(), scene.handles.open(), scene.begin()

        for _ in range(ROUNDS):
            job_id = scene.settle(fails(scene.run(holder), expires_at=BASE - HOUR))
            (result,), pruned = race_two(partial(one.apply, [requeues(job_id)]), partial(other.prune, 10))

            (record,) = scene.storage.get([job_id])
            expected = (Applied.APPLIED, 0, State.ENQUEUED) if record else (Applied.MISSING, 1, None)
            assert expected == (result, pruned, record and record.state)
            claimed = scene.claim_ids(holder)
            assert ([job_id] if record else []) == claimed
            scene.storage.apply([deletes(one_id) for one_id in claimed])

    def test_counts_are_exact_after_a_storm(self, scene: Scene) -> None:
        """After four sessions worked against operators and upkeep, counts equal the jobs, state by state.

        If this fails: counters lose an update where two come together.
        """
        ids = [*scene.add_many(120), *scene.add_many(40, state=State.SCHEDULED, due_at=BASE - HOUR)]
        workers = [(scene.handles.open(), scene.begin(str(number))) for number in range(3)]

        def work(handle: Storage, holder: Holder) -> int:
            jobs = handle.claim(ClaimRequest(["default"], 7, holder.session, 0)).jobs
            runs = [Running(job, holder) for job in jobs]
            handle.apply([(succeeds, fails, gives_up)[place % 3](run) for place, run in enumerate(runs)])
            return len(jobs)

        def operate(handle: Storage) -> int:
            results = handle.apply([deletes(job_id) for job_id in ids[::5]])
            results += handle.apply([requeues(job_id) for job_id in ids[::10]])
            return handle.promote(100).promoted + sum(result.is_applied for result in results)

        race(
            [partial(until_none_is_left, partial(work, *worker)) for worker in workers]
            + [partial(operate, scene.handles.open())]
        )

        recount = Counter(record.state for record in scene.storage.get(ids) if record)
        counts = scene.storage.counts()
        assert recount == {state: number for state, number in counts.by_state.items() if number}
        assert recount == {state: number for state, number in counts.by_queue["default"].items() if number}
