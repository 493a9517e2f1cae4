"""Claim: one session at a time holds a job, in the promised order, and a dead one takes nothing."""

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


class ClaimDuty(StorageFixtures):
    """What `claim` promises."""

    verbs = "claim"

    def test_a_claimed_job_carries_what_running_it_needs(self, scene: Scene) -> None:
        """A claimed job has its fields as stored, attempt 1, a fence, and the claim's instant.

        If this fails: a server runs a job with the wrong arguments, limits or names.
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

    def test_a_claim_writes_the_holder(self, scene: Scene) -> None:
        """The record of a claimed job names session, server, fence, attempt and the caller's instant.

        If this fails: nobody can tell who runs a job, and a settle cannot be guarded.
        """
        job_id = scene.add(reason="enqueued by a test")
        before = scene.record(job_id)

        running = scene.run(job_id=job_id)

        assert attrs.evolve(
            before, state=State.PROCESSING, reason=None, attempt=1, fence=running.job.fence,
            session=running.holder.session, server=running.holder.server, claimed_at=running.job.claimed_at,
            changed_at=running.job.claimed_at,
        ) == scene.record(job_id)  # fmt: skip

    def test_a_job_is_claimed_once(self, scene: Scene) -> None:
        """What one session has claimed, no session claims again, itself included.

        If this fails: jobs run twice at the same time.
        """
        ids = scene.add_many(3)
        one, other = scene.begin("a"), scene.begin("b")

        first = scene.claim(one)

        assert ids == [job.id for job in first]
        assert [] == scene.claim(other)
        assert [] == scene.claim(one)

    @pytest.mark.parametrize("limit", [0, 1, 3, 5, 8])
    def test_a_claim_takes_no_more_than_its_limit(self, scene: Scene, limit: int) -> None:
        """At most `limit` jobs are taken; none for zero.

        If this fails: a server holds jobs it has no free worker for.
        """
        ids = scene.add_many(5)

        claimed = scene.claim(scene.begin(), limit)

        assert ids[:limit] == [job.id for job in claimed]
        assert 5 - len(claimed) == scene.storage.counts().by_state.get(State.ENQUEUED, 0)

    def test_higher_priority_comes_first(self, scene: Scene) -> None:
        """Within a queue a higher priority is taken first, equals in the order they were enqueued.

        If this fails: priorities are ignored, upside down, or break the order among equals.
        """
        ids = [scene.add(priority=priority) for priority in (0, -5, 100, 0, -100, 7, 100)]

        claimed = scene.claim_ids()

        assert [ids[place] for place in (2, 6, 5, 0, 3, 1, 4)] == claimed

    def test_an_urgent_job_overtakes_jobs_that_waited_longer(self, scene: Scene) -> None:
        """A job with a higher priority is claimed next, also after other jobs were claimed one by one.

        If this fails: a claim begins where the last one ended, and leaves out what was enqueued before that.
        """
        ids = scene.add_many(6)
        holder = scene.begin()
        first = [scene.claim_ids(holder, 1) for _ in range(3)]

        urgent = [scene.add(priority=priority) for priority in (3, 9)]
        second = [scene.claim_ids(holder, 1) for _ in range(5)]

        assert [[job] for job in ids[:3]] == first
        assert [[job] for job in (urgent[1], urgent[0], *ids[3:])] == second

    def test_queues_are_taken_in_the_order_given(self, scene: Scene) -> None:
        """A later queue is touched only when the former ones are empty, whatever its priorities.

        If this fails: strict priority among queues does not hold.
        """
        low = scene.add_many(3, queue="bulk", priority=100)
        high = scene.add_many(3, queue="urgent")
        holder = scene.begin()

        first = scene.claim(holder, 4, ["urgent", "bulk"])
        second = scene.claim(holder, 4, ["urgent", "bulk"])

        assert [*high, low[0]] == [job.id for job in first]
        assert low[1:] == [job.id for job in second]

    def test_only_the_named_queues_are_touched(self, scene: Scene) -> None:
        """A queue that is not named, or does not exist, gives nothing; no queue at all gives nothing.

        If this fails: servers run jobs that were meant for others.
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
    def test_every_queue_is_served_without_a_list(
        self, scene: Scene, stored: tuple[int, int, int], limit: int, times: int
    ) -> None:
        """Without a list claims are filled from all queues with work, whatever priorities jobs have, in turn.

        Each queue keeps its own order.

        If this fails: a busy queue starves all others, or servers idle while work waits in a queue whose turn
        it is not.
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

    def test_a_paused_queue_gives_nothing(self, scene: Scene) -> None:
        """A queue whose record says that it is paused is skipped, named or not; the others are not.

        If this fails: an operator cannot stop a queue.
        """
        scene.add(queue="paused")
        open_id = scene.add(queue="open")
        settings = json.dumps({"paused": True, "note": "while the printer is mended"})
        scene.storage.put_record("queue", "paused", settings)
        holder = scene.begin()

        named = scene.claim(holder, queues=["paused"])
        unnamed = scene.claim(holder, queues=None)

        assert [] == named
        assert [open_id] == [job.id for job in unnamed]

    @pytest.mark.parametrize("how", ["false", "deleted", "unsaid"])
    def test_a_resumed_queue_gives_its_jobs(self, scene: Scene, how: str) -> None:
        """A queue is open again as soon as its record does not say that it is paused.

        If this fails: a resumed queue stays shut, or any record of a queue shuts it.
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

    def test_only_a_living_session_claims(self, scene: Scene) -> None:
        """A session that was ended, or never began, takes nothing and is told that it is lost, no other is.

        What a dead one asked for is there for the next that asks, all of it and at once.

        If this fails: a claim that was on its way when its sender was killed takes jobs that nobody will run,
        an idle server believes itself dead, or a storage in parts believes that a part is empty.
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
        """Each claim of a job has attempt + 1 and a larger fence; a hand-back returns only the attempt.

        If this fails: an old holder cannot be told from a new one.
        """
        job_id = scene.add()
        holder = scene.begin()
        first = scene.run(holder, job_id)
        scene.settle(hands_back(first))

        second = scene.run(holder, job_id)

        assert (1, 1) == (first.job.attempt, second.job.attempt)
        assert second.job.fence > first.job.fence

    def test_a_claim_writes_no_history(self, scene: Scene) -> None:
        """A job has the history after its claim that it had before, also one deleted and requeued meanwhile.

        If this fails: hand-backs fill the history, and the hot path pays for a write nobody reads; or a claim
        takes a job that was never claimed for one to which nothing has happened.
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
        """Jobs that wait for time or a parent, and jobs that have ended, are never claimed.

        If this fails: the index of what is ready holds more than what is enqueued.
        """
        holder = scene.begin()
        ended = scene.settle(succeeds(scene.run(holder)))
        scene.schedule(3_600)
        parent = scene.schedule(3_600)
        scene.continuation(parent)

        assert [] == scene.claim(holder, queues=None)
        assert State.SUCCEEDED == scene.state(ended)

    def test_a_claim_tells_the_next_due_instant(self, scene: Scene) -> None:
        """A claim tells the earliest instant at which a scheduled or recurring job is due, None without one.

        If this fails: idle servers sleep through the instant, or wake for nothing.
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

    def test_the_callers_clock_decides_nothing(self, scene: Scene) -> None:
        """`now` stamps the claim; a job that is due by it alone stays scheduled. Nor does `created_at` order.

        If this fails: a server whose clock runs ahead runs jobs early, or a client whose clock is behind
        overtakes the others.
        """
        scene.schedule(3_600)
        first, second = (scene.add(created_at=STAMP + late * SECOND) for late in (900, -900))

        claim = scene.storage.claim(ClaimRequest(["default"], 10, scene.begin().session, BASE + 1_000 * HOUR))

        assert [first, second] == [job.id for job in claim.jobs]
        assert 0 == scene.promote().promoted
