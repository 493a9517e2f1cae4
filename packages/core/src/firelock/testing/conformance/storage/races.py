"""Tests of races: with any interleaving, the results of two callers and the stored data are consistent."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from firelock.model.dependencies import Edge
from firelock.model.job import ClaimedJob
from firelock.model.record import RecordChange
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import DURATION_BUCKETS, Applied, ClaimRequest, Renewal, Rollup, Storage
from firelock.testing.conformance.race import ROUNDS, race, race_two, sent, until_none_is_left
from firelock.testing.conformance.scene import (
    BASE,
    HOUR,
    STAMP,
    Running,
    Scene,
    deletes,
    fails,
    gives_up,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.recurring import due_once
from firelock.testing.conformance.storage.subject import StorageFixtures


def _claim_all(storage: Storage, holder: ClaimHolder, limit: int) -> list[str]:
    """Claim until nothing is left; return the ids in order."""
    ids: list[str] = []

    def claim() -> int:
        jobs = storage.claim(ClaimRequest(["default"], limit, holder.session, 0)).jobs
        ids.extend(job.id for job in jobs)
        return len(jobs)

    until_none_is_left(claim)
    return ids


class RaceTests(StorageFixtures):
    """Tests of callers that act at the same time, each with its own handle."""

    def test_concurrent_claims_return_each_job_once(self, scene: Scene) -> None:
        """Eight sessions that empty a queue together claim all of its jobs, and each job once.

        If this fails: jobs run twice, or are skipped.
        """
        ids = scene.add_many(400)
        calls = [
            partial(_claim_all, scene.handles.open(), scene.begin(str(number)), limit)
            for number, limit in enumerate((1, 2, 3, 5, 7, 11, 13, 50))
        ]

        claimed = race(calls)

        assert Counter(ids) == Counter(job_id for one in claimed for job_id in one)
        order = {job_id: place for place, job_id in enumerate(ids)}
        assert all(sorted(one, key=order.__getitem__) == one for one in claimed)
        assert {State.PROCESSING: 400} == scene.by_state()

    def test_one_of_eight_concurrent_inserts_is_new(self, scene: Scene) -> None:
        """If eight clients insert the same id concurrently, the id is new for exactly one of them.

        If this fails: a client that repeats an insert too early creates the job twice.
        """
        handles = scene.open(8)
        ids = []

        for _ in range(ROUNDS):
            jobs = [scene.new_job(), scene.new_job()]
            ids += [job.id for job in jobs]
            orders = [jobs if place % 2 else jobs[::-1] for place in range(8)]
            answers = race(
                [partial(handle.insert, order) for handle, order in zip(handles, orders, strict=True)]
            )
            assert 2 == sum(sum(map(bool, answer.is_new)) for answer in answers)

        assert sorted(ids) == sorted(scene.claim_ids())

    def test_concurrent_ends_of_a_claim_are_applied_once(self, scene: Scene) -> None:
        """Of two concurrent results of one claim, one is applied; the other is a repeat or is refused.

        If this fails: a result that is sent again before it was stored counts twice.
        """
        (one, other), holder = scene.open(), scene.begin()

        for is_repeat in [True, False] * (ROUNDS // 2):
            running = scene.run(holder)
            first, second = retries(running), retries(running) if is_repeat else succeeds(running)
            results = race([partial(sent, one, [first]), partial(sent, other, [second])])

            answers = sorted(result for (result,) in results)
            other_answer = Applied.ALREADY if is_repeat else Applied.REFUSED
            assert sorted([Applied.APPLIED, other_answer]) == answers
            record = scene.record(running.id)
            assert (2, record.state is State.ENQUEUED) == (
                len(scene.history(running.id)),
                record.retries == 1,
            )
            scene.settle(deletes(running.id))  # leaves the queue empty for the next round

    def test_settle_races_the_end_of_its_session(self, scene: Scene) -> None:
        """Either the result is stored and the job stays, or the job is taken and the result is refused.

        If this fails: a job that has succeeded runs again, with its success in the history, or is lost.
        """
        one, other = scene.open()

        for number in range(ROUNDS):
            running = scene.run(scene.begin(str(number)))
            (result,), taken = race_two(
                partial(sent, one, [succeeds(running)]),
                partial(other.end_session, running.holder.session, None, reason="killed"),
            )

            expected = (
                (Applied.APPLIED, [], State.SUCCEEDED, 0)
                if result is Applied.APPLIED
                else (Applied.REFUSED, [running.id], State.ENQUEUED, 1)
            )
            record = scene.record(running.id)
            assert expected == (result, taken.crashed, record.state, record.crashes)
            assert record.session is None
            scene.storage.apply([deletes(running.id)])

    def test_settle_races_a_delete(self, scene: Scene) -> None:
        """The delete is always applied; the result is applied before it, or is refused and leaves no tail.

        If this fails: a deleted job returns, or is shown as stopping forever.
        """
        (one, other), holder = scene.open(), scene.begin()

        for _ in range(ROUNDS):
            running = scene.run(holder)
            (settled,), (deleted,) = race(
                [partial(sent, one, [succeeds(running)]), partial(sent, other, [deletes(running.id)])]
            )

            record = scene.record(running.id)
            assert (Applied.APPLIED, State.DELETED, None) == (deleted, record.state, record.session)
            states = [entry.state for entry in scene.history(running.id)]
            assert {
                Applied.APPLIED: [State.ENQUEUED, State.SUCCEEDED, State.DELETED],
                Applied.REFUSED: [State.ENQUEUED, State.DELETED],
            }[settled] == states

    def test_claim_races_a_delete(self, scene: Scene) -> None:
        """A job that is deleted during a claim is either not claimed, or leaves a tail with its holder.

        If this fails: a deleted job runs, and nothing shows this.
        """
        (one, other), holder = scene.open(), scene.begin()

        for _ in range(ROUNDS):
            job_id = scene.add()
            claim, _ = race_two(
                partial(one.claim, scene.request(holder, 1)),
                partial(sent, other, [deletes(job_id)]),
            )

            record = scene.record(job_id)
            assert (State.DELETED, bool(claim.jobs)) == (record.state, record.is_stopping)
            assert [] == scene.claim(holder)

    def test_claim_races_the_end_of_its_session(self, scene: Scene) -> None:
        """Jobs that a session claims while it is ended are taken from it; it holds nothing afterwards.

        If this fails: ended sessions hold jobs that never run again.
        """
        one, other = scene.open()

        for number in range(ROUNDS):
            ids = scene.add_many(5)
            holder = scene.begin(str(number))
            claim, taken = race_two(
                partial(one.claim, scene.request(holder, 5)),
                partial(other.end_session, holder.session, None, reason="killed"),
            )

            assert sorted(job.id for job in claim.jobs) == sorted(taken.crashed)
            assert claim.is_session_lost == (not claim.jobs)
            assert [State.ENQUEUED] * 5 == scene.states(*ids)
            scene.storage.apply([deletes(job_id) for job_id in ids])

    def test_concurrent_ends_of_a_session_take_its_jobs_once(self, scene: Scene) -> None:
        """If several callers end a session concurrently, its jobs are taken once, with one crash each.

        If this fails: one death counts as two crashes.
        """
        handles = scene.open(4)

        for number in range(ROUNDS):
            holder = scene.begin(str(number), 3_600.0)
            running = scene.run(holder)
            scene.advance(7_200)
            ends = [partial(one.end_session, holder.session, None, reason="killed") for one in handles[:2]]
            race_two(partial(race, ends), partial(race, [partial(one.orphans, 10) for one in handles[2:]]))

            record = scene.record(running.id)
            assert (State.ENQUEUED, 1, 0) == (record.state, record.crashes, record.attempt)
            assert 2 == len(scene.history(running.id))
            scene.settle(deletes(running.id))

    def test_renewal_races_the_end_of_an_expired_session(self, scene: Scene) -> None:
        """An expired session is either renewed and keeps its jobs, or is ended and its renewal is refused.

        If this fails: a server continues with jobs that were given to another.
        """
        one, other = scene.open()

        for number in range(ROUNDS):
            holder = scene.begin(str(number), 3_600.0)
            running = scene.run(holder)
            scene.advance(7_200)
            (is_alive,), taken = race_two(
                partial(one.renew, [Renewal(holder.session)]), partial(other.orphans, 10)
            )

            jobs = [job_id for orphan in taken for job_id in orphan.crashed]
            expected = ([], State.PROCESSING) if is_alive else ([running.id], State.ENQUEUED)
            assert expected == (jobs, scene.state(running.id))
            scene.lose(holder, reason="over")
            scene.settle(deletes(running.id))

    def test_insert_of_a_child_races_the_end_of_its_parent(self, scene: Scene) -> None:
        """A child inserted while its parent ends is enqueued once, whichever of the two comes first.

        If this fails: the continuation waits forever, or runs twice.
        """
        (one, other), holder = scene.open(), scene.begin()

        for _ in range(ROUNDS):
            running = scene.run(holder)
            child = scene.new_job(state=State.AWAITING, parents=(Edge(running.id),))

            def end(running: Running) -> object:
                return sent(one, [succeeds(running)]), one.release(10)

            race_two(partial(other.insert, [child]), partial(end, running))
            scene.release()

            assert State.ENQUEUED == scene.state(child.id)
            assert [child.id] == scene.claim_ids(holder)
            entries = [entry.state for entry in scene.history(child.id)]
            assert entries in ([State.ENQUEUED], [State.AWAITING, State.ENQUEUED])

    def test_concurrent_ends_of_two_parents_release_their_child_once(self, scene: Scene) -> None:
        """Two parents that end concurrently release their common child once.

        If this fails: each call treats the other parent as unfinished, and the child waits forever.
        """
        (one, other), holder = scene.open(), scene.begin()

        for _ in range(ROUNDS):
            scene.add_many(2)
            first, second = scene.claim(holder)
            child = scene.continuation(first.id, second.id)

            def end(handle: Storage, job: ClaimedJob) -> int:
                sent(handle, [succeeds(Running(job, holder))])
                return handle.release(10)

            race([partial(end, one, first), partial(end, other, second)])
            scene.release()

            assert [child] == scene.claim_ids(holder)
            assert 2 == len(scene.history(child))


class CrowdTests(StorageFixtures):
    """Tests of servers that do the same upkeep at the same time."""

    @pytest.mark.parametrize("is_due", [True, False], ids=["promote", "release"])
    def test_concurrent_upkeep_enqueues_each_job_once(self, scene: Scene, is_due: bool) -> None:
        """If four servers promote or release concurrently, each due job or child is enqueued once.

        If this fails: delayed jobs and continuations run twice.
        """
        holder = scene.begin()
        if is_due:
            ids = scene.add_many(60, state=State.SCHEDULED, due_at=BASE + HOUR)
            scene.advance(7_200)
        else:
            running = scene.run(holder)
            ids = [scene.continuation(running.id) for _ in range(60)]
            scene.settle(succeeds(running))

        def work(handle: Storage) -> int:
            move = (lambda: handle.promote(7).promoted) if is_due else (lambda: handle.release(7))
            return until_none_is_left(move)

        moved = race([partial(work, handle) for handle in scene.open(4)])

        assert 60 == sum(moved) or not is_due
        assert 0 == scene.release()
        assert {2} == {len(scene.history(job_id)) for job_id in ids}
        assert sorted(ids) == sorted(scene.claim_ids(holder))

    def test_concurrent_servers_create_a_recurring_job_once(self, scene: Scene) -> None:
        """If eight servers find that the same definition is due, its job is created once.

        If this fails: a nightly report is sent eight times.
        """
        version = due_once(scene)
        handles = scene.open(8)

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
            assert (moved[winner].value, version) == scene.kept("recurring", "nightly")
            assert [job.id] == scene.claim_ids()

    def test_edit_of_a_definition_races_its_due_time(self, scene: Scene) -> None:
        """If an edit and an insert have read the same version of a definition, one of them does nothing.

        If this fails: because of a deploy at two o'clock, the nightly job runs twice or not at all.
        """
        one, other = scene.open()
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
            assert ("fired" if is_fired else "edited", version) == scene.kept("recurring", "nightly")
            assert [is_fired, is_fired] == [edited is None, scene.storage.get([job.id]) != [None]]

    def test_concurrent_metrics_of_a_minute_are_all_counted(self, scene: Scene) -> None:
        """Metrics that four servers add to the same minute concurrently are all counted.

        If this fails: the numbers of one server are lost when another server adds its own at the same time.
        """
        histogram = (1, *(0 for _ in DURATION_BUCKETS))
        rollup = Rollup(STAMP, "task", "default", "succeeded", 1, 1, histogram)
        handles = scene.open(4)

        def add(handle: Storage) -> None:
            for _ in range(ROUNDS):
                handle.record_metrics([rollup])

        race([partial(add, handle) for handle in handles])

        (total,) = scene.storage.timeline(STAMP, STAMP + 1)
        assert (4 * ROUNDS, 4 * ROUNDS) == (total.count, total.histogram[0])

    def test_concurrent_compare_and_set_loses_no_update(self, scene: Scene) -> None:
        """If six callers increment a number in one record with compare-and-set, the sum is exact.

        If this fails: locks, recurring jobs and settings lose writes.
        """
        handles = scene.open(6)

        def count(handle: Storage) -> int:
            record = handle.get_record("kind", "counter")
            value, version = (int(record.value), record.version) if record else (0, 0)
            if value >= 60:
                return 0
            return 1 + bool(handle.put_record("kind", "counter", str(value + 1), expected_version=version))

        race([partial(until_none_is_left, partial(count, handle)) for handle in handles])

        assert ("60", 60) == scene.kept("kind", "counter")

    def test_requeue_races_a_prune(self, scene: Scene) -> None:
        """A requeue during pruning returns `MISSING` if the job was deleted; otherwise the whole job is kept.

        If this fails: a requeued job is stored only in part.
        """
        (one, other), holder = scene.open(), scene.begin()

        for _ in range(ROUNDS):
            job_id = scene.settle(fails(scene.run(holder), expires_at=BASE - HOUR))
            (result,), pruned = race_two(partial(sent, one, [requeues(job_id)]), partial(other.prune, 10))

            (record,) = scene.storage.get([job_id])
            expected = (Applied.APPLIED, 0, State.ENQUEUED) if record else (Applied.MISSING, 1, None)
            assert expected == (result, pruned, record and record.state)
            claimed = scene.claim_ids(holder)
            assert ([job_id] if record else []) == claimed
            scene.storage.apply([deletes(one_id) for one_id in claimed])

    def test_counts_are_exact_after_concurrent_work(self, scene: Scene) -> None:
        """After concurrent work by three sessions, an operator and upkeep, counts match the jobs' states.

        If this fails: counters lose an update if two updates are concurrent.
        """
        ids = [*scene.add_many(120), *scene.add_many(40, state=State.SCHEDULED, due_at=BASE - HOUR)]
        workers = [(scene.handles.open(), scene.begin(str(number))) for number in range(3)]

        def work(handle: Storage, holder: ClaimHolder) -> int:
            jobs = handle.claim(ClaimRequest(["default"], 7, holder.session, 0)).jobs
            runs = [Running(job, holder) for job in jobs]
            sent(handle, [(succeeds, fails, gives_up)[place % 3](run) for place, run in enumerate(runs)])
            return len(jobs)

        def operate(handle: Storage) -> int:
            results = sent(handle, [deletes(job_id) for job_id in ids[::5]])
            results += sent(handle, [requeues(job_id) for job_id in ids[::10]])
            return handle.promote(100).promoted + sum(result.is_applied for result in results)

        race(
            [partial(until_none_is_left, partial(work, *worker)) for worker in workers]
            + [partial(operate, scene.handles.open())]
        )

        recount = Counter(record.state for record in scene.storage.get(ids) if record)
        counts = scene.storage.counts()
        assert recount == {state: number for state, number in counts.by_state.items() if number}
        assert recount == {state: number for state, number in counts.by_queue["default"].items() if number}
