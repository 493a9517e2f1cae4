"""Tests of `claim`: each job is claimed by one living session, in the documented order."""

from __future__ import annotations

import json

import attrs
import pytest

from firelock.model.clock import SECOND
from firelock.model.job import ClaimedJob
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import ClaimRequest
from firelock.testing.conformance.scene import (
    BASE,
    HOUR,
    STAMP,
    Scene,
    deletes,
    hands_back,
    requeues,
    succeeds,
)
from firelock.testing.conformance.storage.recurring import due_once
from firelock.testing.conformance.storage.subject import StorageFixtures


class ClaimTests(StorageFixtures):
    """Tests of `claim`."""

    verbs = "claim"

    def test_claimed_job_has_its_stored_fields(self, scene: Scene) -> None:
        """A claimed job has its fields as stored, attempt 1, a fence, and the time of the claim.

        If this fails: a server runs a job with wrong arguments, limits or names.
        """
        job_id = scene.add(
            task="reports.create", arguments="[7]", serializer="other", queue="critical", priority=-3,
            nominal_at=STAMP + 5, tags=("b", "a"), timeout_seconds=2.5, retry="{}", recurring_id="nightly",
            meta_json='{"tenant":"acme"}',
        )  # fmt: skip
        stored = scene.record(job_id)

        (job,) = scene.storage.claim(ClaimRequest(["critical"], 1, scene.begin().session, STAMP + 77)).jobs

        expected = ClaimedJob(
            job_id, "reports.create", "[7]", "other", "critical", -3, 1, 0, 0, job.fence,
            stored.created_at, stored.enqueued_at or 0, STAMP + 77, STAMP + 5, ("b", "a"), 2.5, "{}",
            "nightly", '{"tenant":"acme"}',
        )  # fmt: skip
        assert expected == job
        assert job.fence > 0

    def test_claim_stores_session_server_fence_and_attempt(self, scene: Scene) -> None:
        """A claim writes session, server, fence, attempt and the caller's time to the record of the job.

        If this fails: nothing shows which server runs a job, and the result of a lost run cannot be refused.
        """
        job_id = scene.add(reason="enqueued by a test")
        before = scene.record(job_id)

        running = scene.run(job_id=job_id)

        assert attrs.evolve(
            before, state=State.PROCESSING, reason=None, attempt=1, fence=running.job.fence,
            session=running.holder.session, server=running.holder.server, claimed_at=running.job.claimed_at,
            changed_at=running.job.claimed_at,
        ) == scene.record(job_id)  # fmt: skip

    def test_job_is_claimed_once(self, scene: Scene) -> None:
        """A job that a session has claimed is not claimed again, by this or any other session.

        If this fails: jobs run twice at the same time.
        """
        ids = scene.add_many(3)
        one, other = scene.begin("a"), scene.begin("b")

        first = scene.claim(one)

        assert ids == [job.id for job in first]
        assert [] == scene.claim(other)
        assert [] == scene.claim(one)

    @pytest.mark.parametrize("limit", [0, 1, 3, 5, 8])
    def test_claim_takes_at_most_its_limit(self, scene: Scene, limit: int) -> None:
        """A claim takes at most `limit` jobs, and none for zero.

        If this fails: a server holds jobs for which it has no free worker.
        """
        ids = scene.add_many(5)

        claimed = scene.claim(scene.begin(), limit)

        assert ids[:limit] == [job.id for job in claimed]
        assert 5 - len(claimed) == scene.storage.counts().by_state.get(State.ENQUEUED, 0)

    def test_higher_priority_is_claimed_first(self, scene: Scene) -> None:
        """Jobs of a queue are claimed by descending priority, then in the order in which they were enqueued.

        If this fails: priorities are ignored or reversed, or break the order among equal jobs.
        """
        ids = [scene.add(priority=priority) for priority in (0, -5, 100, 0, -100, 7, 100)]

        claimed = scene.claim_ids()

        assert [ids[place] for place in (2, 6, 5, 0, 3, 1, 4)] == claimed

    def test_urgent_job_overtakes_older_jobs(self, scene: Scene) -> None:
        """A job with a higher priority is claimed next, even after other jobs were claimed one by one.

        If this fails: a claim begins where the last one ended, and misses jobs that were inserted before that
        position.
        """
        ids = scene.add_many(6)
        holder = scene.begin()
        first = [scene.claim_ids(holder, 1) for _ in range(3)]

        urgent = [scene.add(priority=priority) for priority in (3, 9)]
        second = [scene.claim_ids(holder, 1) for _ in range(5)]

        assert [[job] for job in ids[:3]] == first
        assert [[job] for job in (urgent[1], urgent[0], *ids[3:])] == second

    def test_named_queues_are_claimed_in_the_given_order(self, scene: Scene) -> None:
        """A queue is used only if all queues named before it are empty, regardless of job priorities.

        If this fails: strict priority among queues does not hold.
        """
        low = scene.add_many(3, queue="bulk", priority=100)
        high = scene.add_many(3, queue="urgent")
        holder = scene.begin()

        first = scene.claim(holder, 4, ["urgent", "bulk"])
        second = scene.claim(holder, 4, ["urgent", "bulk"])

        assert [*high, low[0]] == [job.id for job in first]
        assert low[1:] == [job.id for job in second]

    def test_claim_takes_jobs_only_from_named_queues(self, scene: Scene) -> None:
        """A claim takes jobs only from the named queues; with an empty list it takes none.

        If this fails: servers run jobs that are meant for other servers.
        """
        scene.add(queue="mail")
        holder = scene.begin()

        assert [] == scene.claim(holder, queues=["other", "mai", "mail2", "%"])
        assert [] == scene.claim(holder, queues=[])
        assert 1 == len(scene.claim(holder, queues=["other", "mail"]))

    @pytest.mark.parametrize(
        ("stored", "limit", "times"),
        [((20, 20, 1), 9, 1), ((40, 40, 40), 1, 30), ((7, 1, 2), 10, 1)],
        ids=["a share each", "in turn", "to the last job"],
    )
    def test_claim_without_a_list_serves_every_queue(
        self, scene: Scene, stored: tuple[int, int, int], limit: int, times: int
    ) -> None:
        """Without a list, claims take jobs from all queues in turn, regardless of job priorities.

        Each queue keeps its own order.

        If this fails: a busy queue starves all others, or servers are idle because work waits in a queue
        whose turn has not come.
        """
        kinds = zip("abc", stored, (100, 0, -100), strict=True)
        ids = {name: scene.add_many(number, queue=name, priority=one) for name, number, one in kinds}
        holder = scene.begin()

        claimed = [job for _ in range(times) for job in scene.claim(holder, limit, None)]

        assert limit * times == len(claimed)
        for name, stored_ids in ids.items():
            own = [job.id for job in claimed if job.queue == name]
            assert own
            assert stored_ids[: len(own)] == own

    def test_paused_queue_is_skipped(self, scene: Scene) -> None:
        """A queue whose record marks it as paused is skipped, named or not; other queues are not affected.

        If this fails: an operator cannot pause a queue.
        """
        scene.add(queue="paused")
        open_id = scene.add(queue="open")
        settings = json.dumps({"paused": True, "note": "while the printer is repaired"})
        scene.storage.put_record("queue", "paused", settings)
        holder = scene.begin()

        named = scene.claim(holder, queues=["paused"])
        unnamed = scene.claim(holder, queues=None)

        assert [] == named
        assert [open_id] == [job.id for job in unnamed]

    @pytest.mark.parametrize("how", ["false", "deleted", "omitted"])
    def test_resumed_queue_is_claimed_again(self, scene: Scene, how: str) -> None:
        """A queue is served again as soon as its record no longer marks it as paused.

        If this fails: a resumed queue stays paused, or any record of a queue pauses it.
        """
        job_id = scene.add(queue="mail")
        holder = scene.begin()
        scene.storage.put_record("queue", "mail", json.dumps({"paused": True}))
        assert [] == scene.claim(holder, queues=["mail"])

        if how == "deleted":
            scene.storage.delete_record("queue", "mail")
        else:
            settings = {"paused": False} if how == "false" else {"note": "paused: true"}
            scene.storage.put_record("queue", "mail", json.dumps(settings))

        assert [job_id] == scene.claim_ids(holder, queues=["mail"])

    def test_ended_session_claims_nothing(self, scene: Scene) -> None:
        """A session that has ended, or never began, claims nothing; only such sessions are reported as lost.

        The jobs that an ended session requested stay available: the next claim takes all of them.

        If this fails: a claim that was still on its way when its server was killed takes jobs that nothing
        will run. Or an idle server treats its session as lost, or a partitioned storage treats a partition as
        empty.
        """
        dead, well = scene.begin("dead"), scene.begin("well")
        scene.lose(dead)
        idle = scene.storage.claim(scene.request(well))
        added = {scene.add() for _ in range(200)}

        lost = [
            scene.storage.claim(scene.request(one, 300)) for one in (dead, ClaimHolder("never-begun", "x"))
        ]

        assert ([], False) == (idle.jobs, idle.is_session_lost)
        assert [([], True)] * 2 == [(claim.jobs, claim.is_session_lost) for claim in lost]
        assert added == set(scene.claim_ids(well, 300))

    def test_attempt_and_fence_grow_with_each_claim(self, scene: Scene) -> None:
        """Each claim adds 1 to a job's attempt and increases its fence; a hand-back undoes only the attempt.

        If this fails: an earlier holder cannot be distinguished from a later one.
        """
        job_id = scene.add()
        holder = scene.begin()
        first = scene.run(holder, job_id)
        scene.settle(hands_back(first))

        second = scene.run(holder, job_id)

        assert (1, 1) == (first.job.attempt, second.job.attempt)
        assert second.job.fence > first.job.fence

    def test_claim_writes_no_history(self, scene: Scene) -> None:
        """A claim does not change a job's history, even if the job was deleted and requeued before.

        If this fails: hand-backs fill the history, and each claim includes a write that is never read. Or a
        claim treats a job that was never claimed as one without any history.
        """
        job_id = scene.add()
        scene.storage.apply([deletes(job_id), requeues(job_id)])
        before = scene.history(job_id)

        running = scene.run(job_id=job_id)
        claimed = scene.history(job_id)
        scene.settle(succeeds(running))

        assert 3 == len(before)
        assert before == claimed == scene.history(job_id)[:-1]

    def test_only_enqueued_jobs_are_claimed(self, scene: Scene) -> None:
        """Jobs that wait for a time or a parent, and jobs that have ended, are never claimed.

        If this fails: the index of claimable jobs contains other jobs as well.
        """
        holder = scene.begin()
        ended = scene.settle(succeeds(scene.run(holder)))
        scene.schedule(3_600)
        parent = scene.schedule(3_600)
        scene.continuation(parent)

        assert [] == scene.claim(holder, queues=None)
        assert State.SUCCEEDED == scene.state(ended)

    def test_claim_returns_the_next_due_time(self, scene: Scene) -> None:
        """A claim returns the earliest due time of the scheduled and recurring jobs, or None without any.

        If this fails: idle servers sleep past the due time, or wake unnecessarily.
        """
        holder = scene.begin()

        def next_due_at() -> int | None:
            return scene.storage.claim(scene.request(holder, 1)).next_due_at

        scene.storage.put_record("other", "nightly", "{}", due_at=BASE)
        assert next_due_at() is None

        scene.add(state=State.SCHEDULED, due_at=BASE + 3 * HOUR)
        scene.add(state=State.SCHEDULED, due_at=BASE + 2 * HOUR, queue="other")
        assert BASE + 2 * HOUR == next_due_at()

        due_once(scene)
        assert BASE + HOUR == next_due_at()

        due_once(scene, due_at=None)
        assert BASE + 2 * HOUR == next_due_at()

    def test_claim_ignores_the_clock_of_the_caller(self, scene: Scene) -> None:
        """`now` of a claim is only a timestamp: it does not make jobs due. `created_at` does not order jobs.

        If this fails: a server whose clock is ahead runs jobs early, or a client whose clock is behind
        overtakes others.
        """
        scene.schedule(3_600)
        first, second = (scene.add(created_at=STAMP + late * SECOND) for late in (900, -900))

        claim = scene.storage.claim(ClaimRequest(["default"], 10, scene.begin().session, BASE + 1_000 * HOUR))

        assert [first, second] == [job.id for job in claim.jobs]
        assert 0 == scene.promote().promoted
