"""Tests of turns: which job is next if jobs wait for limit keys."""

from __future__ import annotations

from collections import Counter

import pytest

from firelock.storage import Feature
from firelock.testing.conformance.scene import (
    DAY,
    Running,
    Scene,
    asks,
    hands_back,
    keys_held,
    retries,
    snoozes,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

# With partitions, lanes take turns only within a partition. All keys have the same prefix, so that the jobs
# of a test are in one partition.
A, B, X, Y = "kit/a", "kit/b", "kit/x", "kit/y"

_WALK = 256  # number of lanes that one claim checks


class TurnTests(StorageFixtures):
    """Tests of lanes: their order, their turns, and the half of a claim for jobs without keys."""

    verbs = "turns"
    needs = Feature.LIMITS

    def test_lane_is_ordered_by_priority_then_age(self, scene: Scene) -> None:
        """Jobs of a lane are ordered by descending priority, then in the order in which they were enqueued.

        If this fails: limits break priorities, or the order among equal jobs.
        """
        ids = [
            job_id
            for priority in (0, -5, 100, 0, -100, 7, 100)
            for job_id in scene.add_limited(1, A, priority=priority)
        ]
        holder = scene.begin()

        claimed = [job_id for _ in range(7) for job_id in scene.claim_ids(holder, 1)]

        assert [ids[place] for place in (2, 6, 5, 0, 3, 1, 4)] == claimed

    @pytest.mark.parametrize("end", ["retries", "snoozes"])
    def test_retried_job_goes_to_the_end_of_its_lane(self, scene: Scene, end: str) -> None:
        """A job enqueued again by a retry or a snooze comes after the other jobs of its priority.

        If this fails: a job that always fails is always before all others of its key.
        """
        scene.set_limit(A, concurrent=1)
        ids = scene.add_limited(3, A)
        holder = scene.begin()

        claimed = []
        for _ in range(6):
            (running,) = scene.take(holder)
            claimed.append(running.id)
            if end == "retries":
                scene.settle(retries(running))
            else:
                scene.settle(snoozes(running, due_at=scene.now()))
                scene.advance(1)
                scene.promote()

        assert ids * 2 == claimed

    @pytest.mark.parametrize("how", ["hand-back", "crash", "end of its session"])
    def test_returned_job_keeps_its_place_in_its_lane(self, scene: Scene, how: str) -> None:
        """A job that is handed back, or taken from an ended session, keeps its place.

        If this fails: every restart of a server moves the oldest jobs to the end.
        """
        ids = scene.add_limited(3, A)
        holder = scene.begin()
        (running,) = scene.take(holder, 1)
        match how:
            case "hand-back":
                scene.settle(hands_back(running))
            case "crash":
                scene.lose(holder)
            case _:
                scene.lose(holder, running=[])

        assert ids == scene.claim_ids(scene.begin("b"))

    @pytest.mark.parametrize(("limit", "times"), [(1, 20), (2, 10), (4, 5), (7, 3), (20, 1)])
    def test_lanes_take_turns(self, scene: Scene, limit: int, times: int) -> None:
        """The lanes of a queue take turns, one job each, regardless of their priorities and numbers of jobs.

        If this fails: a hundred thousand jobs of one tenant come before ten jobs of another.
        """
        scene.add_limited(60, "kit/t:big", priority=100)
        for tenant in range(4):
            scene.add_limited(4, f"kit/t:{tenant}", priority=-tenant)
        holder = scene.begin()

        claims = [keys_held(scene.claim(holder, limit)) for _ in range(times)]

        total = sum(claims, Counter[str]())
        assert limit * times == total.total()
        assert all(max(one.values()) - min(one.values(), default=0) <= 1 for one in claims if limit <= 5)
        assert [4] * 4 == [total[f"kit/t:{tenant}"] for tenant in range(4)] or limit * times > 20

    def test_lanes_differ_by_at_most_one_job_in_a_claim(self, scene: Scene) -> None:
        """Within a claim, lanes with work differ by at most one job; they share what a short lane leaves.

        If this fails: one tenant gets all of a large claim.
        """
        for tenant, number in enumerate((30, 1, 30, 2, 30)):
            scene.add_limited(number, f"kit/t:{tenant}")

        got = keys_held(scene.claim(scene.begin(), 20))

        assert (20, 1, 2) == (got.total(), got["kit/t:1"], got["kit/t:3"])
        assert {5, 6} == {got[f"kit/t:{tenant}"] for tenant in (0, 2, 4)}

    def test_lanes_with_a_shared_key_take_turns_in_a_claim(self, scene: Scene) -> None:
        """Within a claim, lanes that share a key and are not blocked also differ by at most one job.

        If this fails: lanes take turns only if every job has a single key.
        """
        scene.set_limit(A, concurrent=9)
        scene.set_limit(X, concurrent=2)
        for lane in ((A, X), (A, Y), (A,), (B, Y)):
            scene.add_limited(20, *lane)

        claimed = scene.claim(scene.begin(), 14)

        lanes = Counter("+".join(keys_held([job])) for job in claimed)
        assert 14 == len(claimed)
        assert (2, 5) == (lanes[f"{A}+{X}"], lanes[f"{B}+{Y}"])
        assert {3, 4} == {lanes[f"{A}+{Y}"], lanes[A]}

    @pytest.mark.parametrize("lanes", [5, 300])
    def test_every_lane_is_served_before_any_lane_twice(self, scene: Scene, lanes: int) -> None:
        """For any number of lanes and size of claims, every lane is served once before any is served twice.

        If this fails: jobs whose keys are late in the alphabet never run.
        """
        jobs = [scene.new_job(admission=asks(f"kit/t:{place % lanes:03}")) for place in range(2 * lanes)]
        scene.storage.insert(jobs)
        holder = scene.begin()
        size = 1 if lanes < 9 else 37

        claimed = [job for _ in range(-(-lanes // size)) for job in scene.claim(holder, size)]
        while len(claimed) < lanes and (more := scene.claim(holder, lanes - len(claimed))):
            claimed += more

        assert {1} <= set(keys_held(claimed[:lanes]).values()) <= {1, 2}
        assert lanes - len(keys_held(claimed)) <= lanes // 8

    def test_new_lane_is_served_within_one_round(self, scene: Scene) -> None:
        """A new lane is served within one round, wherever it is in the order of lanes.

        If this fails: a search through the lanes that never starts again starves lanes that were added before
        its position.
        """
        holder = scene.begin()
        for name in "fgh":
            scene.add_limited(20, f"kit/{name}")
        scene.claim(holder, 2)

        for name in "az":
            (new,) = scene.add_limited(1, f"kit/{name}")
            claimed = [job_id for _ in range(6) for job_id in scene.claim_ids(holder, 1)]
            assert new in claimed

    def test_open_lane_is_found_among_many_closed_lanes(self, scene: Scene) -> None:
        """A lane that is not blocked is found after at most one claim per 256 lanes, plus one more claim.

        A claim that did not check all lanes returns the current time as `next_claim_at`.

        If this fails: a free key among thousands of full ones is never found, or only by polling.
        """
        scene.set_limit("kit/full", concurrent=0)
        jobs = [scene.new_job(admission=asks(f"kit/full:{number:03}")) for number in range(600)]
        scene.storage.insert(jobs)
        holder = scene.begin()

        for name in ("kit/a", "kit/full:299/x", "kit/z"):
            (wanted,) = scene.add_limited(1, name)
            claims = [scene.storage.claim(scene.request(holder, 5)) for _ in range(600 // _WALK + 2)]
            assert [wanted] == [job.id for claim in claims for job in claim.jobs]
            open_times = [claim.next_claim_at for claim in claims]
            assert all(at is None or at <= scene.now() for at in open_times)
            assert any(at is not None for at in open_times)

        open_times = [
            scene.storage.claim(scene.request(holder, 5)).next_claim_at for _ in range(600 // _WALK + 2)
        ]
        assert None in open_times, "a claim that examined all lanes without a job requests another claim"

    def test_exchange_claims_from_the_lane_whose_turn_it_is(self, scene: Scene) -> None:
        """After a server has ended a job of a lane, it claims its next job from the lane whose turn it is.

        If this fails: a busy key keeps a worker for itself, and the others starve.
        """
        for name in (A, B, X):
            scene.set_limit(name, concurrent=1)
            scene.add_limited(9, name)
        holder = scene.begin()
        running = scene.take(holder, 1)

        served: list[str] = []
        for _ in range(9):
            claim = scene.exchange(holder, [succeeds(running[0])], 1).claim
            running = [Running(job, holder) for job in claim.jobs]
            served += keys_held(claim.jobs)

        assert {A: 3, B: 3, X: 3} == Counter(served)

    @pytest.mark.parametrize(
        ("stored", "expected"), [((20, 20), (5, 5)), ((3, 20), (3, 7)), ((20, 2), (8, 2)), ((0, 20), (0, 10))]
    )
    def test_jobs_without_keys_get_half_of_a_claim(
        self, scene: Scene, stored: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        """Jobs with and without keys each get half of a claim; one kind gets what the other does not need.

        If this fails: limits starve jobs without keys, or the other way round.
        """
        plain, keyed = stored
        scene.add_many(plain, colocate_with=A, priority=100)
        for number in range(keyed):
            scene.add_limited(1, f"kit/t:{number % 3}")

        got = keys_held(scene.claim(scene.begin(), 10))

        assert expected == (got[""], got.total() - got[""])

    def test_claims_of_one_job_serve_both_kinds(self, scene: Scene) -> None:
        """A server with one worker runs both jobs with keys and jobs without keys.

        If this fails: on a small server one kind starves the other.
        """
        scene.add_many(20, colocate_with=A)
        scene.add_limited(20, A)
        holder = scene.begin()

        got = keys_held([job for _ in range(12) for job in scene.claim(holder, 1)])

        assert (12, True) == (got.total(), min(got[""], got[A]) >= 3)

    def test_jobs_without_keys_get_the_share_of_closed_lanes(self, scene: Scene) -> None:
        """If lanes are blocked, jobs without keys get the share of these lanes in the same claim.

        If this fails: servers stay half empty while a key is full.
        """
        scene.set_limit(A, concurrent=1)
        scene.add_limited(20, A)
        scene.add_many(20, colocate_with=A)
        holder = scene.begin()

        got = [keys_held(scene.claim(holder, 8)) for _ in range(2)]

        assert [{"": 7, A: 1}, {"": 8}] == got

    def test_short_lane_uses_capacity_only_for_its_jobs(self, scene: Scene) -> None:
        """A lane with fewer jobs than may start uses slots and rate units only for the jobs that it has.

        If this fails: unused capacity counts as used, and a limit shrinks.
        """
        scene.set_limit(A, concurrent=5, rate=1, per=DAY, burst=5)
        scene.set_limit(X, concurrent=6)
        scene.add_limited(1, A, X)
        scene.add_limited(9, X)
        holder = scene.begin()

        first = keys_held(scene.claim(holder))
        scene.add_limited(9, A)

        assert {A: 1, X: 6} == first
        assert {A: 4} == keys_held(scene.claim(holder))

    def test_lanes_of_earlier_queues_are_served_first(self, scene: Scene) -> None:
        """Lanes of a later queue are used only if earlier queues have no job that can start.

        If this fails: strict priority among queues does not hold for jobs with limits.
        """
        scene.set_limit(A, concurrent=2)
        low = scene.add_limited(3, B, queue="bulk", priority=100)
        high = scene.add_limited(3, A, queue="urgent")
        holder = scene.begin()

        first = scene.claim_ids(holder, 2, ["urgent", "bulk"])
        second = scene.claim_ids(holder, 2, ["urgent", "bulk"])

        assert (high[:2], low[:2]) == (first, second)
