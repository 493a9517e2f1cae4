"""Tests of rates: how often jobs of a key may start."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from firelock.model.clock import SECOND
from firelock.model.limit import LimitUse
from firelock.storage import Feature
from firelock.testing.conformance.scene import (
    BASE,
    DAY,
    HOUR,
    Scene,
    hands_back,
    keys_held,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

# With partitions, lanes take turns only within a partition. All keys have the same prefix, so that the jobs
# of a test are in one partition.
A, B, X, Y = "kit/a", "kit/b", "kit/x", "kit/y"

_MINUTE = 60 * SECOND


class RateTests(StorageFixtures):
    """Tests of rates, and of `spend` and `block`, which change how much of a rate is used."""

    verbs = "rates spend block"
    needs = Feature.LIMITS

    def test_burst_starts_immediately_and_later_jobs_wait(self, scene: Scene) -> None:
        """Jobs of an unused key start immediately until its burst is used up; later jobs wait.

        If this fails: a rate is not enforced, or no job starts.
        """
        scene.set_limit(A, rate=1, per=HOUR, burst=5)
        ids = scene.add_limited(9, A)
        holder = scene.begin()

        claimed = [scene.claim_ids(holder, limit) for limit in (2, 9, 9)]

        assert [ids[:2], ids[2:5], []] == claimed

    def test_unused_rate_accumulates_at_most_one_burst(self, scene: Scene) -> None:
        """Even after a long time without starts, at most one burst of jobs starts together.

        If this fails: after a night without jobs, too many jobs start together.
        """
        scene.set_limit(A, rate=60, per=HOUR, burst=5)
        scene.add_limited(60, A)
        holder = scene.begin()

        started = []
        for seconds in (3_600, 86_400, 150, 3_600, 60):
            scene.advance(seconds + 2)
            started.append(len(scene.claim(holder)))

        assert [5, 5, 2, 5, 1] == started

    @pytest.mark.parametrize(
        ("rate", "per", "burst", "expected"), [(100, SECOND, None, 100), (1, DAY, None, 1), (7, HOUR, 3, 3)]
    )
    def test_default_burst_is_the_starts_of_one_second(
        self, scene: Scene, rate: int, per: int, burst: int | None, expected: int
    ) -> None:
        """The default burst is the number of starts that the rate allows per second, and at least one.

        If this fails: a slow rate allows no starts, or a fast one allows a whole hour's starts together.
        """
        scene.set_limit(A, rate=rate, per=per, burst=burst)
        scene.add_limited(2 * expected + 5, A)
        began = scene.now()
        started = len(scene.claim(scene.begin(), 1_000))

        most = expected + (scene.now() - began) * rate // per
        assert expected <= started <= most

    @pytest.mark.parametrize("seed", range(3))
    def test_starts_in_any_window_match_burst_and_rate(self, scene: Scene, seed: int) -> None:
        """In any window of duration W at most burst + W · rate jobs start, and no fewer if enough jobs wait.

        If this fails: the quota of an API is exceeded, or left unused while jobs wait.
        """
        random = Random(seed)  # noqa: S311 - it need not be unpredictable
        scene.set_limit(A, rate=60, per=HOUR, burst=5)
        scene.add_limited(300, A)
        holders = [scene.begin(name) for name in "ab"]

        claims = []
        for _ in range(25):
            scene.advance(random.choice((0, 7, 61, 130, 400, 900)))
            before = scene.now()
            started = len(scene.claim(random.choice(holders), random.choice((1, 2, 4, 50))))
            claims.append((before, scene.now(), started))

        for (first, (since, _, _)), (last, (_, until, _)) in combinations(enumerate(claims), 2):
            starts = sum(number for _, _, number in claims[first : last + 1])
            assert starts <= 5 + (until - since) / _MINUTE
        scene.claim(holders[0])
        scene.advance(120)
        assert 2 == len(scene.claim(holders[0]))

    def test_lanes_share_the_rate_of_a_common_key(self, scene: Scene) -> None:
        """A rate that several lanes share is used by each start in any of them, in one claim or in several.

        If this fails: each lane has the whole rate for itself.
        """
        scene.set_limit(A, rate=1, per=DAY, burst=3)
        for other in (X, Y, "kit/z", "kit/w"):
            scene.add_limited(3, A, other)
        holder = scene.begin()

        claimed = scene.claim(holder, 2) + scene.claim(holder) + scene.claim(holder)

        assert 3 == keys_held(claimed)[A]

    def test_job_waiting_for_another_key_uses_no_rate(self, scene: Scene) -> None:
        """A job that waits for another key does not use any of its rates.

        If this fails: jobs that wait for a slot use up the starts of jobs that could run.
        """
        scene.set_limit(A, concurrent=1)
        scene.set_limit(X, rate=1, per=DAY, burst=2)
        scene.add_limited(5, A, X)
        holder = scene.begin()
        (running,) = scene.take(holder)

        for _ in range(3):
            assert [] == scene.claim(holder)
        scene.settle(succeeds(running))

        assert 1 == len(scene.claim(holder))

    def test_each_claim_uses_the_rate(self, scene: Scene) -> None:
        """Every claim uses the rate, including a retry and a claim after a hand-back.

        Units used by a job that was handed back before it started are not returned, so the rate is never
        exceeded.

        If this fails: retries exceed the quota of an API.
        """
        scene.set_limit(A, rate=1, per=DAY, burst=3)
        scene.add_limited(1, A)
        holder = scene.begin()

        scene.settle(retries(scene.take(holder)[0]))
        scene.settle(hands_back(scene.take(holder)[0]))
        third = scene.take(holder)
        scene.settle(retries(third[0]))

        assert [] == scene.claim(holder)

    def test_claim_returns_the_time_when_a_rate_opens(self, scene: Scene) -> None:
        """If jobs wait for a rate, a claim returns the time at which one can start, otherwise None.

        If this fails: servers sleep past this time, or poll all the time.
        """
        scene.set_limit(A, rate=1, per=HOUR, burst=1)
        scene.set_limit(B, concurrent=0)
        scene.add_limited(1, B)
        holder = scene.begin()

        def next_claim_at() -> int | None:
            return scene.storage.claim(scene.request(holder)).next_claim_at

        nothing = next_claim_at()
        before = scene.now()
        scene.add_limited(1, A)
        alone = next_claim_at()
        scene.add_limited(2, A)
        closed = [next_claim_at(), next_claim_at()]
        after = scene.now()

        assert nothing is None
        assert alone is None or alone >= before + HOUR
        assert all(at is not None and before + HOUR <= at <= after + HOUR for at in closed)
        scene.advance((closed[0] or 0) / SECOND - after / SECOND + 1)
        assert 1 == len(scene.claim(holder))

    def test_claim_returns_the_earliest_opening_of_several_rates(self, scene: Scene) -> None:
        """A claim returns the time at which the first job can start; a job with several rates waits for all.

        If this fails: servers sleep too long, or poll unnecessarily.
        """
        for key, hours in ((A, 3), (B, 2), (X, 9)):
            scene.set_limit(key, rate=1, per=hours * HOUR, burst=1)
        scene.add_limited(2, A)
        scene.add_limited(2, B, X)
        scene.add_limited(1, B)
        holder = scene.begin()
        before = scene.now()

        scene.claim(holder)
        opens_at = scene.storage.claim(scene.request(holder)).next_claim_at

        assert opens_at is not None
        assert before + 2 * HOUR <= opens_at <= scene.now() + 3 * HOUR

    # ---- costs -------------------------------------------------------------------------------------------

    def test_start_uses_its_cost_of_the_rate(self, scene: Scene) -> None:
        """A start uses as many units of the rate as it costs; the first job of a lane waits for these units.

        If this fails: a job that uses many tokens counts as one call.
        """
        scene.set_limit(A, rate=10, per=HOUR, burst=10)
        costs = (3, 4, 4, 1)
        ids = [job_id for cost in costs for job_id in scene.add_limited(1, LimitUse(A, cost))]
        holder = scene.begin()

        first = scene.claim_ids(holder)
        scene.advance(360 - 60)
        early = scene.claim_ids(holder)
        scene.advance(120)

        assert (ids[:2], []) == (first, early)
        assert ids[2:3] == scene.claim_ids(holder)

    def test_start_above_the_burst_waits_and_delays_later_starts(self, scene: Scene) -> None:
        """A start that costs more than the burst waits until the key is unused.

        Later starts wait until enough of the used units are available again.

        If this fails: a large job waits forever, or does not use the rate.
        """
        scene.set_limit(A, rate=10, per=HOUR, burst=10)
        (first,) = scene.add_limited(1, A)
        (large,) = scene.add_limited(1, LimitUse(A, 25))
        scene.add_limited(30, A)
        holder = scene.begin()

        at_once = scene.claim_ids(holder)
        scene.advance(360 + 5)
        then = scene.claim_ids(holder)
        scene.advance(5_400)  # 2 h 30 min were used, of which 54 min may remain for the next start
        in_debt = scene.claim_ids(holder)
        scene.advance(360 + 5)

        assert ([first], [large], []) == (at_once, then, in_debt)
        assert 1 == len(scene.claim(holder))

    def test_start_of_cost_zero_uses_no_rate(self, scene: Scene) -> None:
        """A start with a cost of 0 does not use the rate of its key.

        If this fails: jobs that make no calls use up the calls of others.
        """
        scene.set_limit(A, rate=1, per=HOUR, burst=2)
        free = scene.add_limited(5, LimitUse(A, 0), X)
        holder = scene.begin()

        claimed = [scene.claim_ids(holder), scene.claim_ids(holder)]
        paid = scene.add_limited(3, A)
        claimed += [scene.claim_ids(holder), scene.claim_ids(holder)]

        assert [free, [], paid[:2], []] == claimed

    def test_late_job_uses_no_rate(self, scene: Scene) -> None:
        """A job that is claimed because it is late does not use the rate of its key.

        If this fails: jobs that are never run use up the quota of an API.
        """
        scene.set_limit(A, rate=1, per=DAY, burst=2)
        late = scene.add_limited(4, A, start_before=BASE - HOUR)
        others = scene.add_limited(4, A)
        holder = scene.begin()

        claimed = scene.claim_ids(holder) + scene.claim_ids(holder)

        assert {*late, *others[:2]} == set(claimed)

    # ---- settings of rates -------------------------------------------------------------------------------

    @pytest.mark.parametrize("how", ["set late", "raised", "zero", "paused"])
    def test_changed_rate_applies_to_the_next_claim(self, scene: Scene, how: str) -> None:
        """When a rate is set, raised, set to zero or paused, the change applies to the next claim.

        If this fails: a changed rate takes effect only after a restart.
        """
        if how != "set late":
            scene.set_limit(A, rate=1, per=DAY, burst=1)
        scene.add_limited(9, A)
        holder = scene.begin()
        first = len(scene.claim(holder, 2))
        match how:
            case "set late":
                scene.set_limit(A, rate=1, per=DAY, burst=3)
            case "raised":
                scene.set_limit(A, rate=24, per=DAY, burst=30)
            case "zero":
                scene.set_limit(A, rate=0, per=DAY, burst=1)
            case _:
                scene.set_limit(A, rate=24_000, per=DAY, burst=30_000, paused=True)

        second = len(scene.claim(holder))

        assert {
            "set late": (2, 3), "raised": (1, 6), "zero": (1, 0), "paused": (1, 0)
        }[how] == (first, second)  # fmt: skip

    def test_rate_of_zero_admits_no_start(self, scene: Scene) -> None:
        """No job starts while its key has a rate of zero, whether or not the key was used before.

        If this fails: a rate of zero allows all starts instead of none.
        """
        scene.set_limit(A, rate=0, per=DAY, burst=3)
        scene.add_limited(9, A)
        holder = scene.begin()

        blocked = scene.claim(holder)
        scene.set_limit(A, rate=24, per=DAY, burst=3)

        assert [] == blocked
        assert 3 == len(scene.claim(holder))

    @pytest.mark.parametrize("how", ["raised", "removed"])
    def test_negative_cost_returns_units_of_an_earlier_rate(self, scene: Scene, how: str) -> None:
        """A negative cost returns units that were used under an earlier rate, regardless of the current rate.

        If this fails: a rate that was raised or removed keeps its key blocked for as long as the old one.
        """
        scene.set_limit(A, rate=1, per=DAY, burst=1)
        scene.add_limited(9, A)
        holder = scene.begin()
        scene.claim(holder)
        if how == "raised":
            scene.set_limit(A, rate=100, per=HOUR, burst=4)
        else:
            scene.storage.delete_record("limit", A)

        result = scene.storage.spend(A, cost=-(10**12))

        assert result <= scene.now()
        assert (4 if how == "raised" else 8) == len(scene.claim(holder))

    # ---- use without a claim -----------------------------------------------------------------------------

    def test_spent_units_delay_later_starts(self, scene: Scene) -> None:
        """Spent units count as used, and `spend` returns the time from which a start is allowed again.

        If this fails: a job that makes more calls than its cost exceeds the quota.
        """
        scene.set_limit(A, rate=10, per=HOUR, burst=10)
        scene.add_limited(30, A)
        holder = scene.begin()
        before = scene.now()

        some = scene.storage.spend(A, cost=4)
        started = len(scene.claim(holder, 100))
        more = scene.storage.spend(A, cost=10)
        after = scene.now()

        assert some <= after
        assert 6 == started
        assert before + HOUR + 6 * _MINUTE <= more <= after + HOUR + 6 * _MINUTE
        scene.advance((more - after) / SECOND - 30)
        assert [] == scene.claim(holder)
        scene.advance(40)
        assert 1 == len(scene.claim(holder))

    def test_returned_units_can_be_used_again_up_to_the_burst(self, scene: Scene) -> None:
        """A negative cost corrects an estimate: the returned units can be used again, up to the burst.

        If this fails: units of an estimate that was too high are lost, or corrections accumulate.
        """
        scene.set_limit(A, rate=1, per=DAY, burst=4)
        scene.add_limited(30, A)
        holder = scene.begin()
        used = len(scene.claim(holder))

        back = scene.storage.spend(A, cost=-2)
        again = len(scene.claim(holder))
        scene.storage.spend(A, cost=-500)

        assert (4, 2) == (used, again)
        assert back <= scene.now()
        assert 4 == len(scene.claim(holder))

    @pytest.mark.parametrize("settings", [{}, {"concurrent": 9}, {"rate": 10, "per": HOUR, "burst": 4}])
    def test_blocked_key_admits_no_start_until_its_time(self, scene: Scene, settings: dict[str, int]) -> None:
        """No job of a key starts before the time until which the key is blocked, regardless of its settings.

        If this fails: other jobs still call an API that has requested a pause.
        """
        if settings:
            scene.set_limit(A, **settings)
        scene.add_limited(9, A)
        others = scene.add_limited(1, B)
        holder = scene.begin()
        until = scene.now() + HOUR

        result = scene.storage.spend(A, until=until)
        claim = scene.storage.claim(scene.request(holder))
        sooner = scene.storage.spend(A, until=until - HOUR // 2)
        scene.advance(3_540)
        early = scene.claim(holder)
        scene.advance(70)

        assert (until, until) == (result, sooner)
        assert others == [job.id for job in claim.jobs]
        assert until <= (claim.next_claim_at or 0) <= until + SECOND
        assert [] == early
        assert scene.claim(holder)

    def test_block_has_the_effect_of_spend_with_until(self, scene: Scene) -> None:
        """`block` has the same effect as `spend` with `until`, for a known key and for a new one.

        If this fails: other jobs call a service again that has requested a pause.
        """
        scene.set_limit(A, concurrent=9)
        for key in (A, B):
            scene.add_limited(2, key)
        until = scene.now() + HOUR

        are_blocked = [scene.storage.block(key, until=until) for key in (A, B)]

        assert [True, True] == are_blocked
        assert [until, until] == [scene.storage.spend(key) for key in (A, B)]
        assert [] == scene.claim(scene.begin())

    def test_cost_of_a_key_without_a_rate_changes_nothing(self, scene: Scene) -> None:
        """A cost for a key without a rate, or for an unknown key, changes nothing.

        If this fails: a call that reports its cost blocks a key forever.
        """
        scene.set_limit(B, concurrent=3)
        for key in (A, B):
            scene.add_limited(2, key)

        answers = [scene.storage.spend(key, cost=cost) for key in (A, B, "kit/never") for cost in (0, 7, -7)]

        assert all(at <= scene.now() for at in answers)
        assert 4 == len(scene.claim(scene.begin()))

    def test_clear_deletes_the_use_of_rates(self, scene: Scene) -> None:
        """`clear` also deletes the use of rates and keys.

        If this fails: the jobs of one test wait for those of another.
        """
        scene.set_limit(A, rate=1, per=DAY, burst=1)
        scene.storage.spend(A, cost=5, until=scene.now() + DAY)

        scene.storage.clear()
        scene.set_limit(A, rate=1, per=DAY, burst=1)
        scene.add_limited(2, A)

        assert 1 == len(scene.claim(scene.begin()))
