"""Insert: a job that was accepted is stored once, whole, and no earlier or later than it should be seen."""

from __future__ import annotations

from itertools import chain

import attrs
import pytest

from firelock.errors import JobNotFound
from firelock.testing.conformance.ends import succeeds
from firelock.testing.conformance.handles import BASE, SECOND, STAMP
from firelock.testing.conformance.scene import Scene
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import Edge, HistoryEntry, JobRecord, State

__all__ = ["InsertDuty"]


class InsertDuty(StorageFixtures):
    """What `insert` promises."""

    verbs = "insert new_id new_ids"

    def test_a_new_job_is_stored_as_given(self, scene: Scene) -> None:
        """A new job has every field as given, and nothing that only running it would bring.

        If this fails: a column is missing or cut, or a start value is not the record's default.
        """
        job = scene.new_job(
            task="reports.create", arguments='{"day": "monday"}', queue="critical", priority=7,
            nominal_at=STAMP + 3, reason="enqueued by a test", tags=("eu", "user:7"), timeout_seconds=12.5,
            retry='{"attempts": 3}', recurring_id="nightly",
        )  # fmt: skip

        scene.storage.insert([job])

        stored = scene.record(job.id)
        expected = JobRecord(
            job.id, "reports.create", '{"day": "monday"}', "json", State.ENQUEUED, "critical", 7,
            job.created_at, ("eu", "user:7"), None, STAMP + 3, "enqueued by a test", stored.enqueued_at,
            changed_at=job.created_at, timeout_seconds=12.5, retry='{"attempts": 3}', recurring_id="nightly",
        )  # fmt: skip
        assert expected == stored

    def test_an_enqueued_job_is_stamped_by_the_storage(self, scene: Scene) -> None:
        """`enqueued_at` is the storage's clock, `created_at` is the caller's.

        If this fails: a client with a wrong clock gets its jobs run before or after everybody else's.
        """
        before = scene.now()

        job_id = scene.add()

        enqueued_at = scene.record(job_id).enqueued_at
        assert enqueued_at is not None
        assert before <= enqueued_at <= scene.now()

    def test_a_scheduled_job_waits_outside_its_queue(self, scene: Scene) -> None:
        """A scheduled job keeps its instant and is not claimable.

        If this fails: delayed jobs run at once.
        """
        due_at = BASE + 500 * SECOND
        job_id = scene.add(state=State.SCHEDULED, due_at=due_at, nominal_at=due_at)

        claimed = scene.claim(scene.begin())

        assert [] == claimed
        scene.check(job_id, state=State.SCHEDULED, due_at=due_at, nominal_at=due_at, enqueued_at=None)

    def test_inserting_again_changes_nothing(self, scene: Scene) -> None:
        """A second insert of an id answers False and leaves the job as it was.

        If this fails: a client that sends again after a lost reply makes the job twice or resets it.
        """
        job = scene.new_job()
        scene.storage.insert([job])
        before = scene.record(job.id)

        repeated = scene.storage.insert([attrs.evolve(job, arguments="[2]", queue="other", tags=("x",))])

        assert [False] == repeated
        assert before == scene.record(job.id)
        assert 1 == len(scene.history(job.id))
        assert {State.ENQUEUED: 1} == scene.by_state()

    def test_inserting_again_does_not_touch_a_running_job(self, scene: Scene) -> None:
        """A repeat that arrives while the job runs, or after its end, changes nothing.

        If this fails: a late repeat puts a job that is running, or done, back into its queue.
        """
        job = scene.new_job()
        scene.storage.insert([job])
        running = scene.run(job_id=job.id)

        while_running = scene.storage.insert([job])
        scene.settle(succeeds(running))
        after_its_end = scene.storage.insert([job])

        assert ([False], [False]) == (while_running, after_its_end)
        assert State.SUCCEEDED == scene.state(job.id)
        assert [] == scene.claim(running.holder)

    def test_a_batch_tells_of_each_job_whether_it_is_new(self, scene: Scene) -> None:
        """Insert answers per job, in order.

        If this fails: a client cannot tell which of its jobs were there already.
        """
        old, new, other = (scene.new_job() for _ in range(3))
        scene.storage.insert([old])

        answers = scene.storage.insert([new, old, other])

        assert [True, False, True] == answers

    def test_one_id_twice_in_a_batch_is_one_job(self, scene: Scene) -> None:
        """The first of two equal ids in a batch counts.

        If this fails: a batch with a repeat fails as a whole, or is claimed twice.
        """
        job = scene.new_job()

        answers = scene.storage.insert([job, attrs.evolve(job, arguments="[2]")])

        assert [True, False] == answers
        assert ["[]"] == [claimed.arguments for claimed in scene.claim(scene.begin())]

    def test_an_empty_batch_is_nothing(self, scene: Scene) -> None:
        """No jobs, no answers, no error.

        If this fails: callers need a condition before each call.
        """
        assert [] == scene.storage.insert([])

    def test_a_batch_is_stored_whole_or_not_at_all(self, scene: Scene) -> None:
        """One unknown parent refuses the whole batch.

        If this fails: a refused call leaves half of its jobs behind, and its repeat makes them run twice.
        """
        first, last = scene.new_job(), scene.new_job()
        orphan = scene.new_job(state=State.AWAITING, parents=(Edge(scene.new_id()),))

        with pytest.raises(JobNotFound):
            scene.storage.insert([first, orphan, last])

        assert [None, None, None] == scene.storage.get([first.id, orphan.id, last.id])
        assert {} == scene.by_state()
        assert [True] == scene.storage.insert([first])

    def test_a_parent_may_stand_earlier_in_the_batch(self, scene: Scene) -> None:
        """A parent in the same batch, before its child, counts as stored.

        If this fails: a chain cannot be stored in one step, and a crash between two leaves half of it.
        """
        parent = scene.new_job()
        child = scene.new_job(state=State.AWAITING, parents=(Edge(parent.id),))

        answers = scene.storage.insert([parent, child])

        assert [True, True] == answers
        assert State.AWAITING == scene.state(child.id)

    def test_the_order_of_a_batch_is_the_order_of_the_queue(self, scene: Scene) -> None:
        """Jobs of one batch are claimed in the order of the batch, batches in the order they came.

        If this fails: jobs enqueued first run last; jobs of a batch share `enqueued_at`, order needs more.
        """
        first = [scene.new_job() for _ in range(30)]
        first = [*first[1::2], *first[0::2]]  # not the order of their ids
        scene.storage.insert(first)
        second = scene.add_many(5)

        claimed = scene.claim(scene.begin())

        assert [*(job.id for job in first), *second] == [job.id for job in claimed]

    def test_a_large_batch_is_one_call(self, scene: Scene) -> None:
        """A thousand jobs are stored by one call.

        If this fails: a limit on the number of bound values of a statement or script is hit.
        """
        ids = scene.add_many(1_000, tags=("bulk", "night"))

        assert {State.ENQUEUED: 1_000} == scene.by_state()
        assert ids == [record.id for record in scene.storage.get(ids) if record]

    def test_the_creation_is_the_first_entry_of_the_history(self, scene: Scene) -> None:
        """A new job's history holds its creation: state, the caller's instant, reason.

        If this fails: people cannot see when and why a job came to be.
        """
        job = scene.new_job(state=State.SCHEDULED, due_at=BASE + 9, reason="in an hour")

        scene.storage.insert([job])

        assert [HistoryEntry(State.SCHEDULED, job.created_at, "in an hour")] == scene.history(job.id)

    def test_new_ids_are_unique_and_insertable(self, scene: Scene) -> None:
        """`new_ids` gives short texts that no two jobs share, also where a parent is named.

        If this fails: two jobs share an id and one of them is taken for a repeat.
        """
        parent = scene.add()
        ids = [scene.storage.new_ids(1, beside)[0] for beside in (None, parent) for _ in range(1_000)]
        batches = [scene.storage.new_ids(1_000, beside) for beside in (None, parent)]
        ids += chain.from_iterable(batches)

        assert 4_000 == len(set(ids))
        assert all(sorted(batch, key=lambda one: one[:13]) == batch for batch in batches)
        assert all(0 < len(one) <= 64 for one in ids)
        scene.continuation(parent, id=ids[-1])
        assert ids[-1] == scene.record(ids[-1]).id
