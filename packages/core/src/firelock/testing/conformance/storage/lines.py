"""Tests of lines: which jobs wait for a limit key, in which order, and the position of a job."""

from __future__ import annotations

from firelock.limits import LINE_LANES, LINE_LENGTH
from firelock.model.limit import LimitUse, WaitingJobs
from firelock.model.state import State
from firelock.storage import Feature
from firelock.testing.conformance.scene import (
    DAY,
    HOUR,
    Scene,
    asks,
    deletes,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

# All keys have the same prefix, so that with partitions the jobs of a test are in one partition.
A, B, X, Y = "kit/a", "kit/b", "kit/x", "kit/y"


class LineTests(StorageFixtures):
    """Tests of `find_waiting`."""

    verbs = "find_waiting"
    needs = Feature.LIMITS

    def test_line_of_one_lane_has_the_order_of_claims(self, scene: Scene) -> None:
        """A line that consists of one lane has the order in which claims take its jobs.

        If this fails: a page shows jobs as next in line, but others overtake them.
        """
        ids = [
            job_id
            for priority in (0, -5, 100, 0, -100, 7, 100)
            for job_id in scene.add_limited(1, LimitUse(A, 2), priority=priority)
        ]

        line = scene.storage.find_waiting(A)

        assert WaitingJobs(tuple(ids[place] for place in (2, 6, 5, 0, 3, 1, 4))) == line
        holder = scene.begin()
        assert list(line.ids) == [job_id for _ in ids for job_id in scene.claim_ids(holder, 1)]

    def test_lanes_of_a_key_take_turns_in_its_line(self, scene: Scene) -> None:
        """A line has the first job of each lane, then the second job of each, and so on, across all queues.

        If this fails: a tenant with many jobs seems to be in front of all others, or the line of a key
        contains jobs that do not have the key.
        """
        lanes = [
            scene.add_limited(3, A, X), scene.add_limited(1, A, Y), scene.add_limited(2, B, A),
            scene.add_limited(2, A, X, queue="other"),
        ]  # fmt: skip
        scene.add_limited(2, B, X)
        scene.add_limited(1, f"{A}a")
        scene.add_many(2)

        line = scene.storage.find_waiting(A).ids

        turns = [{ids[rank] for ids in lanes if len(ids) > rank} for rank in range(3)]
        assert turns == [set(line[:4]), set(line[4:7]), set(line[7:])]
        assert sum(map(len, lanes)) == len(line)
        assert line == scene.storage.find_waiting(A).ids

    def test_line_can_be_read_in_pages(self, scene: Scene) -> None:
        """`after` skips that many jobs, `limit` bounds the result, and all parts together form the line.

        If this fails: pages of waiting jobs skip or repeat jobs.
        """
        scene.add_limited(5, A, X)
        scene.add_limited(2, A, Y)
        scene.add_limited(3, A)
        whole = scene.storage.find_waiting(A).ids

        parts = [scene.storage.find_waiting(A, after=after, limit=3).ids for after in (0, 3, 6, 9, 12)]

        assert 10 == len(whole)
        assert [whole[:3], whole[3:6], whole[6:9], whole[9:], ()] == parts
        assert () == scene.storage.find_waiting(A, limit=0).ids
        assert () == scene.storage.find_waiting("kit/never").ids

    def test_find_waiting_returns_the_place_of_a_job(self, scene: Scene) -> None:
        """The position of a job is the number of jobs before it in the line of the given key.

        If this fails: the page of a job shows that the job is next, although it is not.
        """
        scene.add_limited(4, A, X)
        scene.add_limited(2, A, Y, priority=9)
        scene.add_limited(3, LimitUse(A, is_strict=True), queue="other")
        other = scene.add_limited(1, B)[0]
        line = scene.storage.find_waiting(A).ids

        places = [scene.storage.find_waiting(A, limit=0, job_id=job_id) for job_id in line]

        assert [WaitingJobs((), place) for place in range(9)] == places
        assert [None, None] == [
            scene.storage.find_waiting(A, limit=0, job_id=job_id).place for job_id in (other, "unknown")
        ]

    def test_line_contains_only_enqueued_jobs_without_a_tail(self, scene: Scene) -> None:
        """A line contains only enqueued jobs without a tail: no running, deleted or scheduled job.

        If this fails: a page shows jobs in a line although they no longer wait.
        """
        ids = scene.add_limited(6, A)
        scene.schedule(HOUR, admission=asks(A))
        holder = scene.begin()
        runs, retried, tailed = scene.take(holder, 3)
        scene.settle(retries(retried, due_at=scene.now() + DAY))
        scene.settle(deletes(tailed.id))
        scene.settle(requeues(tailed.id))
        scene.settle(deletes(ids[4]))

        line = scene.storage.find_waiting(A, job_id=tailed.id)

        assert State.ENQUEUED is scene.record(tailed.id).state
        assert WaitingJobs((ids[3], ids[5])) == line
        scene.apply(succeeds(tailed))
        assert WaitingJobs((ids[3], ids[5], tailed.id), 2) == scene.storage.find_waiting(A, job_id=tailed.id)
        scene.settle(succeeds(runs))
        assert 3 == len(scene.storage.find_waiting(A).ids)

    def test_find_keys_returns_the_other_keys_of_waiting_jobs(self, scene: Scene) -> None:
        """`find_keys` returns, for each key, up to ten other keys of its waiting jobs, in order.

        If this fails: a key is shown as free although its jobs wait for another key.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(2, A, X)
        scene.claim(scene.begin(), 1)
        scene.add_limited(1, A, Y, B)

        others = {state.key: state.others for state in scene.storage.find_keys("kit/")}

        assert (B, X, Y) == others[A]
        assert {A, B} >= {*others[Y]}
        for number in range(12):
            scene.add_limited(1, A, f"kit/many-{number:02d}")
        (state,) = scene.storage.find_keys(A, limit=1)
        assert [B, *(f"kit/many-{number:02d}" for number in range(9))] == list(state.others)

    def test_line_has_a_maximum_length(self, scene: Scene) -> None:
        """A line covers a thousand lanes and the lane of the given job, and has at most 10,000 jobs.

        If this fails: the time to show the page of a key grows with the number of jobs.
        """
        lanes = LINE_LANES + 2
        jobs = [scene.new_job(admission=asks(A, f"kit/lane-{number:04d}")) for number in range(lanes)]
        scene.storage.insert(jobs)

        line = scene.storage.find_waiting(A, limit=lanes)

        left_out = {job.id for job in jobs} - {*line.ids}
        assert (LINE_LANES, 2, True) == (len(line.ids), len(left_out), line.is_cut)
        for job_id, place in [(line.ids[700], 700), *((one, LINE_LANES) for one in left_out)]:
            assert WaitingJobs((), place, is_cut=True) == scene.storage.find_waiting(
                A, limit=0, job_id=job_id
            )
        assert () == scene.storage.find_waiting(A, after=LINE_LENGTH).ids
