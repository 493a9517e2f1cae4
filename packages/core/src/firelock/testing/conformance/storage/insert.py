"""Tests of `insert`: an accepted job is stored once and completely, and can be claimed when it is due."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import attrs
import pytest

from firelock.errors import JobNotFound
from firelock.model.batch import BATCH_TASK
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, Relations
from firelock.model.job import HistoryEntry, JobRecord
from firelock.model.state import State
from firelock.storage import Feature
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.scene import (
    BASE,
    STAMP,
    Running,
    Scene,
    asks,
    deletes,
    fails,
    requeues,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

FIELD_VALUES: Mapping[str, object] = {
    "nominal_at": STAMP + 3, "reason": "enqueued by a test", "tags": ("eu", "user:7"),
    "timeout_seconds": 12.5, "retry": '{"attempts": 3}', "recurring_id": "nightly",
    "meta_json": '{"tenant":"acme"}',
}  # fmt: skip
"""A value for each field of a new job, without `PLAIN_FIELDS` and the fields in `TESTED_SEPARATELY`."""

TESTED_SEPARATELY = frozenset({"state", "due_at", "admission_json", "parents", "relations_json"})


class InsertTests(StorageFixtures):
    """Tests of `insert` and `new_ids`."""

    verbs = "insert new_ids"

    def test_new_job_is_stored_as_given(self, scene: Scene) -> None:
        """A new job is stored with every field as given; fields that only a run fills are empty.

        If this fails: a column is missing or truncated, or an initial value is not the record's default.
        """
        job = scene.new_job(
            task="reports.create", arguments='{"day": "monday"}', queue="critical", priority=7,
            nominal_at=STAMP + 3, reason="enqueued by a test", tags=("eu", "user:7"), timeout_seconds=12.5,
            retry='{"attempts": 3}', recurring_id="nightly", meta_json='{"tenant":"acme"}',
        )  # fmt: skip

        scene.storage.insert([job])

        stored = scene.record(job.id)
        expected = JobRecord(
            job.id, "reports.create", '{"day": "monday"}', "json", State.ENQUEUED, "critical", 7,
            job.created_at, ("eu", "user:7"), None, STAMP + 3, "enqueued by a test", stored.enqueued_at,
            changed_at=job.created_at, timeout_seconds=12.5, retry='{"attempts": 3}', recurring_id="nightly",
            meta_json='{"tenant":"acme"}',
        )  # fmt: skip
        assert expected == stored

    @pytest.mark.parametrize("field", list(FIELD_VALUES))
    def test_field_is_stored_with_every_kind_of_insert(self, flow: FlowScene, field: str) -> None:
        """A field is stored whether its job is inserted alone or with others, is in a batch or has a limit.

        If this fails: a fast path of the storage drops a field.
        """
        wanted = FIELD_VALUES[field]
        value = {field: wanted}
        calls = [[flow.new_job(**value)], [flow.new_job(**value) for _ in range(3)]]
        if field != "recurring_id":  # the id of such a job may be in another partition than the batch or key
            open_batch, new = flow.batch(), flow.new_batch()
            calls.append([flow.new_tied(Relations(open_batch), value) for _ in range(3)])
            calls.append([new, *(flow.new_tied(Relations(new.id), value) for _ in range(3))])
            if Feature.LIMITS in flow.storage.features:
                calls.append([flow.new_job(admission=asks("kit/a"), **value) for _ in range(3)])

        for jobs in calls:
            flow.storage.insert(jobs)

        ids = [job.id for jobs in calls for job in jobs if job.task != BATCH_TASK]
        stored = {id: getattr(flow.record(id), field) for id in ids}
        assert dict.fromkeys(ids, wanted) == stored

    def test_meta_stays_with_its_job_in_every_state(self, scene: Scene) -> None:
        """A job has its complete `meta_json` in its record and in every run; a job without one has None.

        If this fails: a trace, a request id or a tenant is lost after a delay, a wait for a parent, a retry
        or an undone delete. Or a job runs with the metadata of another.
        """
        metas = [None, '{"tenant":"%s"}' % ("é" * 1_000), None, '{"traceparent":"00-1-2-01"}', "{}"]
        jobs = [scene.new_job(meta_json=meta) for meta in metas]
        wanted = {job.id: job.meta_json for job in jobs}
        scene.storage.insert(jobs)
        delayed = {scene.schedule(60, meta_json=metas[3]): metas[3]}
        waiting = {scene.continuation(jobs[0].id, meta_json=metas[1]): metas[1]}

        holder = scene.begin()
        first, *others = claimed = scene.claim(holder)
        held = scene.reconcile(holder, []).unknown
        scene.settle(succeeds(Running(first, holder)))
        for job in others:
            scene.settle(requeues(scene.settle(fails(Running(job, holder)))))
        scene.settle(requeues(scene.settle(deletes(jobs[1].id))))
        scene.release()
        scene.advance(61)
        scene.promote()
        again = scene.exchange(scene.begin("b"), [], limit=100).claim.jobs

        assert wanted == {job.id: job.meta_json for job in claimed}
        assert wanted == {job.id: job.meta_json for job in held}
        assert first.id == jobs[0].id
        del wanted[first.id]
        assert {**wanted, **delayed, **waiting} == {job.id: job.meta_json for job in again}
        assert [job.meta_json for job in again] == [scene.record(job.id).meta_json for job in again]

    def test_enqueued_at_is_the_time_of_the_storage(self, scene: Scene) -> None:
        """`enqueued_at` is the storage's time; `created_at` and the first history entry have the caller's.

        If this fails: the jobs of a client with a wrong clock run before or after all others, or people
        cannot see when and why a job was created.
        """
        before = scene.now()
        job = scene.new_job(reason="by a test")

        scene.storage.insert([job])

        enqueued_at = scene.record(job.id).enqueued_at
        assert enqueued_at is not None
        assert before <= enqueued_at <= scene.now()
        assert [HistoryEntry(State.ENQUEUED, job.created_at, "by a test")] == scene.history(job.id)

    def test_scheduled_job_cannot_be_claimed(self, scene: Scene) -> None:
        """A scheduled job keeps its due time and cannot be claimed.

        If this fails: delayed jobs run immediately.
        """
        due_at = BASE + 500 * SECOND
        job_id = scene.add(state=State.SCHEDULED, due_at=due_at, nominal_at=due_at)

        claimed = scene.claim(scene.begin())

        assert [] == claimed
        scene.check(job_id, state=State.SCHEDULED, due_at=due_at, nominal_at=due_at, enqueued_at=None)

    def test_repeated_insert_changes_nothing(self, scene: Scene) -> None:
        """A second insert of an id returns False and changes nothing, regardless of the job's state.

        If this fails: a client that repeats an insert after a lost reply creates the job twice or resets it.
        """
        job = scene.new_job()
        again = attrs.evolve(job, arguments="[2]", queue="other", tags=("x",))
        scene.storage.insert([job])

        def is_passed_over() -> bool:
            before = scene.record(job.id), scene.history(job.id)
            answer = scene.storage.insert([again]).is_new
            return (answer, before) == ([False], (scene.record(job.id), scene.history(job.id)))

        assert is_passed_over()
        running = scene.run(job_id=job.id)
        assert is_passed_over()
        scene.settle(succeeds(running))
        assert is_passed_over()
        assert {State.SUCCEEDED: 1} == scene.by_state()
        assert [] == scene.claim(running.holder, queues=None)

    def test_insert_returns_whether_each_job_is_new(self, scene: Scene) -> None:
        """`insert` returns in order whether each job is new; if an id is repeated, only the first job is new.

        If this fails: a client cannot see which of its jobs already existed; or a call with a repeated id
        fails as a whole, or its job is claimed twice.
        """
        old, new, other = (scene.new_job() for _ in range(3))
        scene.storage.insert([old])

        answers = scene.storage.insert([new, old, other, attrs.evolve(new, arguments="[2]")]).is_new

        assert [True, False, True, False] == answers
        assert ["[]"] * 3 == [claimed.arguments for claimed in scene.claim(scene.begin())]

    def test_empty_call_returns_an_empty_result(self, scene: Scene) -> None:
        """A call without jobs, transitions, ids or renewals returns an empty result and raises no error.

        If this fails: callers must check for empty lists before each call.
        """
        storage = scene.storage

        assert ([], [], [], []) == (
            storage.insert([]).is_new,
            storage.apply([]),
            storage.get([]),
            storage.renew([]),
        )

    def test_insert_stores_all_jobs_or_none(self, scene: Scene) -> None:
        """If one job has an unknown parent, the whole call is refused.

        If this fails: a refused call leaves half of its jobs stored, and they run twice when the call is
        repeated.
        """
        first, last = scene.new_job(), scene.new_job()
        orphan = scene.new_job(state=State.AWAITING, parents=(Edge(scene.new_id()),))

        with pytest.raises(JobNotFound):
            scene.storage.insert([first, orphan, last])

        assert [None, None, None] == scene.storage.get([first.id, orphan.id, last.id])
        assert {} == scene.by_state()
        assert [True] == scene.storage.insert([first]).is_new

    def test_parent_and_child_can_be_inserted_together(self, scene: Scene) -> None:
        """A parent that comes before its child in the same call counts as stored.

        If this fails: a chain cannot be stored in one operation, and a crash between two operations leaves
        half of it.
        """
        parent = scene.new_job()
        child = scene.new_job(state=State.AWAITING, parents=(Edge(parent.id),))

        answers = scene.storage.insert([parent, child]).is_new

        assert [True, True] == answers
        assert State.AWAITING == scene.state(child.id)

    def test_jobs_of_one_insert_are_claimed_in_its_order(self, scene: Scene) -> None:
        """Jobs of one call are claimed in the order of the call, after the jobs of earlier calls.

        If this fails: jobs that were enqueued first run last. The jobs of a call share `enqueued_at`, so the
        order needs another number.
        """
        first = [scene.new_job() for _ in range(30)]
        first = [*first[1::2], *first[0::2]]  # different from the order of their ids
        scene.storage.insert(first)
        second = scene.add_many(5)

        claimed = scene.claim(scene.begin())

        assert [*(job.id for job in first), *second] == [job.id for job in claimed]

    def test_new_ids_are_unique_and_insertable(self, scene: Scene) -> None:
        """`new_ids` returns short strings, each of them unique, with and without a parent.

        If this fails: two jobs share an id, and one of them is treated as a repeat.
        """
        parent = scene.add()
        ids = [scene.storage.new_ids(1, parent_id)[0] for parent_id in (None, parent) for _ in range(1_000)]
        batches = [scene.storage.new_ids(1_000, parent_id) for parent_id in (None, parent)]
        ids += chain.from_iterable(batches)

        assert 4_000 == len(set(ids))
        assert all(sorted(batch, key=lambda one: one[:13]) == batch for batch in batches)
        assert all(0 < len(one) <= 64 for one in ids)
        scene.continuation(parent, id=ids[-1])
        assert ids[-1] == scene.record(ids[-1]).id
