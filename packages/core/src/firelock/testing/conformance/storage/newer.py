"""Tests of jobs that the next release stores, with fields and values that this release does not know."""

from __future__ import annotations

import json

import pytest

from firelock.model import lifecycle
from firelock.model.dependencies import Relations, write_relations
from firelock.model.limit import Admission, UniqueUse, write_admission
from firelock.model.state import State
from firelock.storage import Feature, JobFilter
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import HOUR, Scene, asks, deletes, requeues, succeeds
from firelock.testing.conformance.storage.subject import StorageFixtures

ADDED = {"since": "next release"}
"""The value of each field that the next release has added."""

UNKNOWN = {
    "relations": {"relations_json": '[null,null,[{"any_of":["a","b"]}],null]'},
    "kind of relations": {"relations_json": '{"after":["a","b"]}'},
    "admission": {"admission_json": '{"when":"dry"}'},
    "limit": {"admission_json": '[[["gpu",{"of":2}]],null,null,null]'},
    "retry": {"retry": '{"kind":"adaptive"}'},
}
"""Parts of a job that only the next release can read, by name."""


def added(admission: Admission) -> str:
    """Return an admission as the next release would store it, with added fields in each part."""
    limits, unique, *others = json.loads(write_admission(admission) or "")
    grown = None if unique is None else [*unique, ADDED]
    return json.dumps([[[*use, ADDED] for use in limits], grown, *others, ADDED], separators=(",", ":"))


class NewerTests(StorageFixtures):
    """Tests of jobs that a newer release has stored during a rolling deploy."""

    @requires(Feature.LIMITS)
    def test_added_fields_of_limits_are_kept_and_ignored(self, scene: Scene) -> None:
        """A job whose admission has added fields observes its limit; the string is returned as stored.

        If this fails: a job of a newer client starts without its limit, or blocks other jobs.
        """
        scene.set_limit("gpu", concurrent=1)
        text = added(asks("gpu"))
        first, second = scene.add_many(2, admission_json=text, colocate_with="gpu")
        holder = scene.begin()

        (running,) = scene.take(holder)

        assert (first, text) == (running.id, running.job.admission_json)
        assert ("gpu",) == tuple(use.key for use in running.job.admission.limits)  # type: ignore[union-attr]
        scene.settle(succeeds(running))
        assert [second] == scene.claim_ids(holder)
        scene.check(first, admission_json=text, state=State.SUCCEEDED)

    @requires(Feature.UNIQUE)
    def test_added_fields_stay_when_a_call_replaces_a_waiting_job(self, scene: Scene) -> None:
        """`keeps_last` replaces the limits of the waiting job; all other fields stay as they were stored.

        If this fails: an older client removes data that a newer one has stored, and a newer server misses it.
        """
        admission = Admission(unique=UniqueUse("tasks.run a", keeps_last=True))
        text, plain = added(admission), write_admission(admission)
        job_id = scene.add(admission_json=text, colocate_with="a")

        scene.storage.insert([scene.new_job(admission_json=plain, arguments='["new"]', colocate_with="a")])

        record = scene.record(job_id)
        assert '["new"]' == record.arguments
        assert text == record.admission_json

    def test_added_fields_of_relations_are_ignored(self, flow: FlowScene) -> None:
        """A member whose relations have an added field is counted in its batch like any other member.

        If this fails: a batch of a newer client never ends.
        """
        batch = flow.batch()
        text = json.dumps([*json.loads(write_relations(Relations(batch)) or ""), ADDED])
        member = flow.new_member(batch, relations_json=text)
        flow.storage.insert([member])
        plain = flow.member(batch)

        running = flow.running(flow.begin(), member.id, plain)

        assert text == running[0].job.relations_json
        for one in running:
            flow.settle(succeeds(one))
        assert (2, 0, 0, 2, 0, 0) == flow.counts(batch)

    @pytest.mark.parametrize("part", UNKNOWN.values(), ids=UNKNOWN)
    def test_job_with_an_unknown_part_does_not_stop_other_jobs(
        self, scene: Scene, part: dict[str, str]
    ) -> None:
        """A job with a part that only a newer release can read is claimed like any other job.

        Its server then schedules it for later. Every verb returns the job with the string as it was stored.

        If this fails: one job of a newer client stops a queue, a page or the retention of an older release.
        """
        before = scene.add()
        newer = scene.add(**part)
        behind = scene.add()
        holder = scene.begin()

        claimed = {one.id: one for one in scene.take(holder)}

        assert [before, newer, behind] == list(claimed)
        scene.check(newer, state=State.PROCESSING, **part)
        for one in (before, behind):
            scene.settle(succeeds(claimed[one]))
        wait = lifecycle.unread_part(claimed[newer].job, holder, at=scene.stamp(), what="its relations")
        scene.settle(wait)
        scene.check(newer, state=State.SCHEDULED, attempt=0, reason=wait.reason, **part)
        assert [newer] == scene.found(JobFilter(state=State.SCHEDULED))
        assert {State.SUCCEEDED: 2, State.SCHEDULED: 1} == scene.by_state()

    @pytest.mark.parametrize("part", UNKNOWN.values(), ids=UNKNOWN)
    def test_job_with_an_unknown_part_can_be_deleted_and_requeued(
        self, scene: Scene, part: dict[str, str]
    ) -> None:
        """A job with an unknown part can be deleted, requeued and pruned like any other job.

        If this fails: an operator of an older release cannot remove a job of a newer one.
        """
        newer = scene.add(**part)

        scene.settle(deletes(newer))
        scene.settle(requeues(newer))
        scene.check(newer, state=State.ENQUEUED, **part)
        scene.settle(deletes(newer, expires_at=scene.now() - HOUR))

        assert 1 == scene.storage.prune(10)
        assert [None] == scene.storage.get([newer])

    @pytest.mark.parametrize("part", ["relations_json", "retry"])
    def test_job_with_a_damaged_part_does_not_stop_other_jobs(self, scene: Scene, part: str) -> None:
        """A job with a part that is not JSON is claimed like any other job; its server then fails it.

        If this fails: one damaged job stops a queue.
        """
        ids = [scene.add(), scene.add(**{part: "not JSON"}), scene.add()]

        claimed = scene.claim_ids(scene.begin())

        assert ids == claimed
        scene.check(ids[1], state=State.PROCESSING, **{part: "not JSON"})
