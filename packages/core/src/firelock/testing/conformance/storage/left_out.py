"""Tests of claims that leave out tasks: a server whose coroutines are all busy finds jobs for its threads."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from firelock.limits import EXAMINED
from firelock.model.limit import LimitUse
from firelock.model.session import Claim, ClaimHolder
from firelock.storage import Feature
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import HOUR, Running, Scene, retries, succeeds
from firelock.testing.conformance.storage.subject import StorageFixtures

# With partitions the jobs of a test must be in one partition, that of a key, because the number of checked
# jobs is limited per partition.
A, B = "kit/a", "kit/b"
_OUT, _IN = "tasks.call", "tasks.report"


def _claim(
    scene: Scene, holder: ClaimHolder, limit: int = 100, queues: Sequence[str] | None = ("default",)
) -> Claim:
    """Return a claim that leaves out the task `_OUT`."""
    return scene.storage.claim(attrs.evolve(scene.request(holder, limit, queues), left_out=frozenset({_OUT})))


def _ids(claim: Claim) -> list[str]:
    return [job.id for job in claim.jobs]


class LeftOutTests(StorageFixtures):
    """Tests of tasks that a claim leaves out."""

    verbs = "claim left_out"

    @pytest.mark.parametrize("queues", [("default",), None], ids=["named", "every queue"])
    def test_claim_skips_jobs_of_left_out_tasks(self, scene: Scene, queues: Sequence[str] | None) -> None:
        """A claim takes no jobs of a task that it leaves out, and all others in their usual order.

        If this fails: claims return coroutine jobs, for which no worker is free, instead of jobs for idle
        threads, or priorities are lost.
        """
        ids: dict[str, list[str]] = {_OUT: [], _IN: []}
        tasks, priorities = [_OUT, _IN, _OUT, _IN, _IN, _OUT, _IN], [0, 0, 9, -5, 7, 7, 0]
        for task, priority in zip(tasks, priorities, strict=True):
            ids[task].append(scene.add(task=task, priority=priority, colocate_with=A))
        first, lowest, highest, last = ids[_IN]
        holder = scene.begin()

        claims = [_ids(_claim(scene, holder, 3, queues)), _ids(_claim(scene, holder, 3, queues))]

        assert [[highest, first, last], [lowest]] == claims
        first, highest, second = ids[_OUT]
        assert [highest, second, first] == scene.claim_ids(holder), "a skipped job keeps its place"

    def test_skipped_jobs_do_not_hide_jobs_of_other_queues(self, scene: Scene) -> None:
        """Jobs skipped in one queue do not hide jobs of the next queue; paused queues are not read.

        If this fails: separate queues, which the server recommends in this case, do not help.
        """
        scene.add_many(EXAMINED, task=_OUT, colocate_with=A)
        scene.storage.put_record("queue", "paused", '{"paused": true}')
        scene.add(task=_IN, queue="paused", colocate_with=A)
        wanted = [scene.add(task=_IN, queue=queue, colocate_with=A) for queue in ("one", "two")]
        holder = scene.begin()

        named = _ids(_claim(scene, holder, 1, ("default", "paused", "one")))
        every = _ids(_claim(scene, holder, 100, None))

        assert [[one] for one in wanted] == [named, every]

    def test_claim_examines_at_most_a_thousand_jobs(self, scene: Scene) -> None:
        """A claim checks at most 1,000 jobs: it finds a job after a few hundred others, but not after 1,000.

        If this fails: a claim reads a whole backlog, and all other claims wait for it.
        """
        scene.add_many(EXAMINED // 2, task=_OUT, colocate_with=A)
        near = scene.add(task=_IN, colocate_with=A)
        scene.add_many(EXAMINED // 2, task=_OUT, colocate_with=A)
        far = scene.add(task=_IN, colocate_with=A)
        holder = scene.begin()

        assert [near] == _ids(_claim(scene, holder))
        assert [] == _ids(_claim(scene, holder))

        taken = scene.claim_ids(holder, 1)
        assert taken != []
        assert [far] == _ids(_claim(scene, holder))

    def test_exchange_skips_jobs_of_left_out_tasks(self, scene: Scene) -> None:
        """An exchange settles jobs, and its claim skips the tasks that are left out.

        If this fails: a busy server claims jobs that it cannot run whenever it settles jobs.
        """
        scene.add(task=_OUT, colocate_with=A)
        running, next_one = scene.add_many(2, task=_IN, colocate_with=A)
        holder = scene.begin()
        (claimed,) = _claim(scene, holder, 1).jobs
        assert running == claimed.id
        request = attrs.evolve(scene.request(holder), left_out=frozenset({_OUT}))

        reply = scene.storage.exchange([succeeds(Running(claimed, holder))], request)

        assert (1, [next_one]) == (len(reply.results), _ids(reply.claim))
        assert reply.results[0].is_applied

    @requires(Feature.NOTIFY)
    def test_skipped_jobs_do_not_end_the_next_wait(self, scene: Scene) -> None:
        """Jobs that a claim has skipped do not end the following wait.

        If this fails: a server whose coroutines are all busy polls in a busy loop.
        """
        scene.add_many(3, task=_OUT, colocate_with=A)
        holder = scene.begin()
        scene.storage.wait(["default"], 0.0)  # jobs stored earlier end one wait
        assert [] == _ids(_claim(scene, holder))

        waits = [scene.storage.wait(["default"], 0.05) for _ in range(3)]  # a notification may arrive late
        assert not waits[-1]


class LeftOutInLanesTests(StorageFixtures):
    """Tests of tasks that a claim leaves out, if jobs wait for limit keys."""

    verbs = "claim left_out turns"
    needs = Feature.LIMITS

    @pytest.mark.parametrize("queues", [("default",), None], ids=["named", "every queue"])
    def test_claim_skips_left_out_jobs_in_lanes(self, scene: Scene, queues: Sequence[str] | None) -> None:
        """In a lane, the next job that is not left out starts; a skipped job does not hold a key.

        If this fails: threads starve because of the first coroutine job of a key, or waiting jobs use up
        keys.
        """
        scene.set_limit(A, concurrent=2)
        jobs = [(_OUT, 5), (_IN, 0), (_OUT, 0), (_IN, 3), (_IN, 0)]
        ids = [scene.add_limited(1, A, task=task, priority=priority)[0] for task, priority in jobs]
        excluded = scene.add(task=_OUT, colocate_with=A)
        holder = scene.begin()

        claimed = _ids(_claim(scene, holder, 10, queues))

        assert [ids[3], ids[1]] == claimed
        assert [] == _ids(_claim(scene, holder, 10, queues)), "the key is full"
        assert [excluded] == scene.claim_ids(holder, 10, queues)

    def test_claims_find_a_lane_after_many_left_out_lanes(self, scene: Scene) -> None:
        """Repeated small claims check all lanes; `next_claim_at` is None once they have found nothing.

        If this fails: an idle thread waits for polls because of lanes with coroutine jobs, or its server
        never stops claiming.
        """
        for number in range(40):
            scene.add_limited(1, f"kit/t:{number:02}", task=_OUT)
        (wanted,) = scene.add_limited(1, "kit/t:99", task=_IN)
        holder = scene.begin()

        assert [wanted] == self._claim_until_nothing_is_left(scene, holder)
        assert [] == self._claim_until_nothing_is_left(scene, holder)

    def test_next_claim_finds_a_lane_after_a_long_one(self, scene: Scene) -> None:
        """If one lane has as many jobs as a claim may check, the next claim checks another lane.

        If this fails: a backlog of coroutine jobs with one key keeps all threads idle.
        """
        scene.add_limited(EXAMINED, A, task=_OUT)
        (wanted,) = scene.add_limited(1, B, task=_IN)

        assert [wanted] == self._claim_until_nothing_is_left(scene, scene.begin(), 1)

    def test_left_out_strict_holder_keeps_its_key(self, scene: Scene) -> None:
        """A job that keeps its key between attempts is skipped like any other job, and keeps the key.

        If this fails: the next attempt of a coroutine job is claimed by a server that has no free worker for
        it.
        """
        scene.set_limit(A, concurrent=1)
        (job_id,) = scene.add_limited(1, LimitUse(A, is_strict=True), task=_OUT)
        scene.add_limited(1, A, task=_IN)
        holder = scene.begin()
        (running,) = scene.take(holder, 1)
        scene.settle(retries(running))

        assert [] == _ids(_claim(scene, holder))
        assert [job_id] == scene.claim_ids(holder)

    @staticmethod
    def _claim_until_nothing_is_left(scene: Scene, holder: ClaimHolder, limit: int = 2) -> list[str]:
        claimed: list[str] = []
        for _ in range(100):
            claim = _claim(scene, holder, limit)
            claimed += _ids(claim)
            if claim.next_claim_at is None:
                return claimed
            assert claim.next_claim_at <= scene.now()
        raise AssertionError("claims that leave out tasks keep returning a time in `next_claim_at`")

    def test_claim_examines_at_most_a_thousand_jobs_of_a_lane(self, scene: Scene) -> None:
        """A claim does not find a job after 1,000 skipped jobs of its lane.

        If this fails: a claim reads all jobs that wait for a key, and all other claims wait for it.
        """
        scene.add_limited(EXAMINED, A, task=_OUT)
        (far,) = scene.add_limited(1, A, task=_IN)
        holder = scene.begin()

        assert [] == self._claim_until_nothing_is_left(scene, holder)

        scene.claim_ids(holder, 1)
        assert [far] == self._claim_until_nothing_is_left(scene, holder)

    def test_claim_returns_the_time_at_which_a_rate_opens(self, scene: Scene) -> None:
        """`next_claim_at` is the time at which the rate allows the next start in a lane with jobs to claim.

        If this fails: jobs that were delayed by a rate start at the next poll, seconds late.
        """
        scene.set_limit(A, rate=1, per=HOUR)
        scene.add_limited(1, B, task=_OUT)
        scene.add_limited(2, A, task=_IN)
        holder = scene.begin()

        first = _claim(scene, holder)
        second = _claim(scene, holder)

        assert (1, 0) == (len(first.jobs), len(second.jobs))
        assert second.next_claim_at is not None
        assert scene.now() < second.next_claim_at
