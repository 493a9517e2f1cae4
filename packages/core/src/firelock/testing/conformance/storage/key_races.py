"""Tests of concurrent calls with limits and unique keys: no key ever has more jobs than allowed."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from firelock.errors import DuplicateJob
from firelock.model.answers import Duplicate
from firelock.model.job import NewJob
from firelock.model.limit import LimitUse, UniqueUse, Until
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, ClaimRequest, Feature, Storage
from firelock.testing.conformance.race import ROUNDS, race, race_two, sent
from firelock.testing.conformance.scene import (
    DAY,
    HOUR,
    Running,
    Scene,
    asks,
    fails,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

_EXCHANGES_LIMIT = 3_000


class _Ledger:
    """The jobs that certainly hold a key, from the reply to their claim until their result is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holds: defaultdict[str, set[str]] = defaultdict(set)
        self._gone: set[str] = set()
        self.most: Counter[str] = Counter()

    def begin(self, job_id: str, keys: list[str]) -> None:
        """Record that the job holds these keys."""
        with self._lock:
            if job_id in self._gone:
                return
            for key in keys:
                self._holds[key].add(job_id)
                self.most[key] = max(self.most[key], len(self._holds[key]))

    def end(self, job_id: str) -> None:
        """Record that the job may end from now on."""
        with self._lock:
            self._gone.add(job_id)
            for ids in self._holds.values():
                ids.discard(job_id)


def _work(
    storage: Storage, holder: ClaimHolder, ledger: _Ledger, left: list[int], queue: str, *, tries: int
) -> int:
    """Claim and settle jobs until all are done; return how many jobs have ended.

    Each job is tried `tries` times.
    """
    held: list[Running] = []
    done = 0
    for _ in range(_EXCHANGES_LIMIT):
        for one in held:
            if one.job.attempt >= tries:
                ledger.end(one.id)
        changes = [(succeeds if one.job.attempt >= tries else retries)(one) for one in held]
        request = ClaimRequest([queue], 2, holder.session, 0)
        answer = storage.exchange(changes, request)
        assert all(result.is_applied for result in answer.results)
        ended = sum(one.job.attempt >= tries for one in held)
        done += ended
        for _ in range(ended):
            left.pop()
        held = [Running(job, holder) for job in answer.claim.jobs]
        for one in held:
            uses = one.job.admission.limits if one.job.admission is not None else ()
            ledger.begin(one.id, [use.key for use in uses])
        if not left and not held:
            return done
        if not held:
            storage.wait([queue], 0.01)  # as a server does
    raise AssertionError(f"after {_EXCHANGES_LIMIT} exchanges {len(left)} jobs have not run")


class LimitRaceTests(StorageFixtures):
    """Tests of limits with servers that claim at the same time."""

    needs = Feature.LIMITS

    def _run_all(self, scene: Scene, queues: list[str], *, jobs: int, tries: int = 1) -> Counter[str]:
        """Run all jobs with eight servers; return the largest number of concurrent holders of each key."""
        ledger, left = _Ledger(), [0] * jobs
        calls = [
            partial(
                _work, scene.handles.open(), scene.begin(str(place)), ledger, left,
                queues[place % len(queues)], tries=tries,
            )
            for place in range(8)
        ]  # fmt: skip
        done = race(calls)
        assert jobs == sum(done)
        return ledger.most

    def test_concurrent_claims_of_crossing_lanes_exceed_no_limit(self, scene: Scene) -> None:
        """Eight servers run jobs with pairs of keys, in all combinations, without exceeding a limit.

        If this fails: each server's count was correct when it was made, but together the counts are wrong.
        """
        keys = ("kit/a", "kit/b"), ("kit/x", "kit/y")
        for key in (*keys[0], *keys[1]):
            scene.set_limit(key, concurrent=2)
        for one in keys[0]:
            for other in keys[1]:
                scene.add_limited(20, one, other)

        most = self._run_all(scene, ["default"], jobs=80)

        assert max(most.values()) <= 2

    def test_concurrent_claims_from_several_queues_exceed_no_limit(self, scene: Scene) -> None:
        """Servers of different queues whose jobs share a key do not exceed its limit.

        If this fails: the storage locks the queue instead of the key.
        """
        queues = ["mail", "bulk", "urgent", "default"]
        scene.set_limit("kit/a", concurrent=3)
        for queue in queues:
            scene.add_limited(15, "kit/a", queue=queue)

        most = self._run_all(scene, queues, jobs=60)

        assert {"kit/a"} == set(most)
        assert most["kit/a"] <= 3

    def test_strict_jobs_never_overlap(self, scene: Scene) -> None:
        """Strict jobs of a key, each tried twice, run one after another, including their retries.

        If this fails: the second job starts while the first waits for its retry.
        """
        scene.set_limit("kit/a", concurrent=1)
        scene.add_limited(20, LimitUse("kit/a", is_strict=True))

        most = self._run_all(scene, ["default"], jobs=20, tries=2)

        assert {"kit/a": 1} == most

    def test_concurrent_claims_start_no_more_jobs_than_the_burst(self, scene: Scene) -> None:
        """Eight servers that claim concurrently start no more jobs than the burst of a key allows.

        If this fails: each server has the whole rate for itself.
        """
        handles, holders = scene.open(8), [scene.begin(str(place)) for place in range(8)]

        for number in range(ROUNDS):
            key = f"kit/a{number}"
            scene.set_limit(key, rate=1, per=DAY, burst=5)
            scene.add_limited(20, key)
            requests = [scene.request(holder, 3) for holder in holders]
            calls = [partial(one.claim, request) for one, request in zip(handles, requests, strict=True)]
            started = sum(len(claim.jobs) for claim in race(calls))

            assert started <= 5
            rest = [job for _ in range(40) for job in scene.claim(holders[0], 3)]
            assert 5 == started + len(rest)

    @pytest.mark.parametrize("previous", [None, 6, 1])
    def test_limit_set_during_claims_counts_all_running_jobs(
        self, scene: Scene, previous: int | None
    ) -> None:
        """A concurrent claim uses the old or the new limit; later claims use the new one and count all jobs.

        If this fails: some jobs that start while a limit is set are never counted.
        """
        handles, holders = scene.open(5), [scene.begin(str(place)) for place in range(4)]

        for number in range(ROUNDS):
            key = f"kit/a{number}"
            if previous is not None:
                scene.set_limit(key, concurrent=previous)
            scene.add_limited(12, key)
            requests = [scene.request(holder, 2) for holder in holders]
            calls: list[Callable[[], object]] = [
                partial(one.claim, request) for one, request in zip(handles, requests, strict=False)
            ]
            calls.append(partial(scene.set_limit, key, concurrent=3))
            race(calls)

            (state,) = [one for one in scene.storage.find_keys(key) if one.key == key]
            assert state.running <= max(3, previous or 8)
            more = [job for _ in range(40) for job in scene.claim(holders[0], 5)]
            assert max(0, 3 - state.running) == len(more)


class UniqueRaceTests(StorageFixtures):
    """Tests of unique keys with clients that call at the same time."""

    needs = Feature.UNIQUE

    def test_concurrent_calls_create_one_unfinished_job_per_key(self, scene: Scene) -> None:
        """If eight clients call with a few keys while jobs run and end, no key ever has two unfinished jobs.

        If this fails: a customer is charged twice.
        """
        keys = [f"tasks.run kit/{name}" for name in "abc"]
        ledger, calls_left = _Ledger(), [0] * 8
        numbers = count()

        def call(storage: Storage, place: int) -> int:
            new = 0
            for turn in range(25):
                key = keys[(place + turn * (place % 3 + 1)) % len(keys)]
                job = scene.new_job(admission=asks(unique=UniqueUse(key)), arguments=f"[{next(numbers)}]")
                (answer,) = storage.insert([job]).is_new
                if answer:
                    new += 1
                    ledger.begin(job.id, [key])
                else:
                    assert isinstance(answer, Duplicate)
            calls_left.pop()
            return new

        def run(storage: Storage, holder: ClaimHolder) -> int:
            ended = 0
            for _ in range(_EXCHANGES_LIMIT):
                is_over = not calls_left
                jobs = storage.claim(ClaimRequest(["default"], 2, holder.session, 0)).jobs
                for job in jobs:
                    ledger.end(job.id)
                    sent(storage, [succeeds(Running(job, holder))])
                ended += len(jobs)
                if is_over and not jobs:
                    return ended
                if not jobs:
                    storage.wait(["default"], 0.01)  # as a server does
            raise AssertionError("the jobs never end")

        clients = [partial(call, scene.handles.open(), place) for place in range(8)]
        servers = [partial(run, scene.handles.open(), scene.begin(str(place))) for place in range(2)]

        answers = race([*clients, *servers])

        assert set(ledger.most.values()) <= {1}
        assert sum(answers[:8]) == sum(answers[8:])

    def test_concurrent_inserts_of_the_same_keys_do_not_deadlock(self, scene: Scene) -> None:
        """Four clients can insert batches with the same keys in different orders; each key gets one job.

        If this fails: two batches wait for each other until the database aborts one of them.
        """
        handles = scene.open(4)

        for number in range(ROUNDS):
            keys = [f"tasks.run kit/{number}-{place}" for place in range(6)]
            orders = [keys, keys[::-1], keys[3:] + keys[:3], keys[::2] + keys[1::2]]
            batches = [
                [scene.new_job(admission=asks(unique=UniqueUse(key))) for key in one] for one in orders
            ]
            inserted = race([partial(one.insert, batch) for one, batch in zip(handles, batches, strict=True)])

            winners: defaultdict[str, list[str]] = defaultdict(list)
            answered: defaultdict[str, set[str]] = defaultdict(set)
            for order, batch, answer in zip(orders, batches, inserted, strict=True):
                for key, job, is_new in zip(order, batch, answer.is_new, strict=True):
                    if isinstance(is_new, Duplicate):
                        answered[key].add(is_new.job_id)
                    else:
                        assert is_new
                        winners[key].append(job.id)
            assert [1] * 6 == [len(winners[key]) for key in keys]
            assert all(answered[key] == set(winners[key]) for key in keys)

    def test_one_of_eight_concurrent_calls_with_raises_is_stored(self, scene: Scene) -> None:
        """Of eight concurrent calls with `raises` and the same free key, one is stored and seven are refused.

        If this fails: two callers are both notified that their job was stored.
        """
        handles = scene.open(8)

        def call(storage: Storage, job: NewJob) -> str | None:
            try:
                storage.insert([job])
            except DuplicateJob as error:
                return error.job_id
            return None

        for number in range(ROUNDS):
            use = UniqueUse(f"tasks.run kit/{number}", raises=True)
            jobs = [scene.new_job(admission=asks(unique=use)) for _ in handles]
            answers = race([partial(call, one, job) for one, job in zip(handles, jobs, strict=True)])

            stored = [job.id for job, answer in zip(jobs, answers, strict=True) if answer is None]
            assert 1 == len(stored)
            assert Counter(answers) == {None: 1, stored[0]: 7}

    def test_one_of_concurrent_requeue_and_call_succeeds(self, scene: Scene) -> None:
        """If a requeue races a call with the same key, one succeeds; the other is `TAKEN` or a duplicate.

        If this fails: an operator and a customer create two jobs with one key.
        """
        one, other = scene.open()

        for number in range(ROUNDS):
            admission = asks(unique=UniqueUse(f"tasks.run kit/{number}"))
            old = scene.settle(fails(scene.run(job_id=scene.add(admission=admission))))
            job = scene.new_job(admission=admission)
            (requeued,), inserted = race_two(
                partial(sent, one, [requeues(old)]), partial(other.insert, [job])
            )

            answers = requeued, inserted.is_new[0]
            assert answers in ((Applied.APPLIED, Duplicate(old)), (Applied.TAKEN, True))
            living = {old: State.ENQUEUED} if answers[0] is Applied.APPLIED else {job.id: State.ENQUEUED}
            assert list(living) == scene.claim_ids()

    def test_one_of_two_concurrent_requeues_is_applied(self, scene: Scene) -> None:
        """Of two concurrent requeues of ended jobs with one key, one is applied and the other is `TAKEN`.

        If this fails: two operators create two jobs with one key.
        """
        one, other = scene.open()

        for number in range(ROUNDS):
            admission = asks(unique=UniqueUse(f"tasks.run kit/{number}"))
            ids = [scene.settle(fails(scene.run(job_id=scene.add(admission=admission)))) for _ in range(2)]
            results = race_two(
                partial(sent, one, [requeues(ids[0])]), partial(sent, other, [requeues(ids[1])])
            )

            assert {Applied.APPLIED, Applied.TAKEN} == {result for (result,) in results}
            (living,) = scene.take(scene.begin())
            assert living.id in ids
            scene.settle(fails(living))

    def test_arguments_replaced_during_a_claim_are_not_lost(self, scene: Scene) -> None:
        """New arguments that arrive during a claim are used by the claimed job or a new one, and never lost.

        If this fails: a change that arrives just before an index is rebuilt is never included.
        """
        (one, other), holder = scene.open(), scene.begin()

        for number in range(ROUNDS):
            use = UniqueUse(f"tasks.run kit/{number}", Until.STARTED, keeps_last=True)
            first, last = (
                scene.new_job(admission=asks(unique=use), arguments=arguments) for arguments in ("[1]", "[2]")
            )
            scene.storage.insert([first])
            claim, inserted = race_two(
                partial(one.claim, scene.request(holder, 1)), partial(other.insert, [last])
            )

            claimed = claim.jobs or scene.claim(holder, 1)
            assert (claimed[0].arguments, inserted.is_new[0]) in (("[2]", Duplicate(first.id)), ("[1]", True))
            scene.claim(holder)

    def test_concurrent_debounced_calls_are_not_lost(self, scene: Scene) -> None:
        """While servers start due jobs, each debounced call belongs to a job that starts after the call.

        If this fails: the last change of a document is not saved.
        """
        keys = [f"tasks.run kit/{name}" for name in "ab"]
        claimed: dict[str, str] = {}
        calls: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        callers = [0] * 4

        def call(storage: Storage, place: int) -> None:
            for number in range(30):
                use = UniqueUse(keys[number % 2], Until.DUE, keeps_last=True, wait=1, max_wait=HOUR)
                now = storage.clock()
                job = scene.new_job(
                    admission=asks(unique=use), state=State.SCHEDULED, created_at=now, due_at=now + 1,
                    arguments=f"[{place}, {number}]",
                )  # fmt: skip
                before = set(claimed)
                (answer,) = storage.insert([job]).is_new
                job_id = answer.job_id if isinstance(answer, Duplicate) else job.id
                assert job_id not in before, "a call returned a job that had started before the call"
                calls[job_id].append((number, job.arguments))
            callers.pop()

        def run(storage: Storage, holder: ClaimHolder) -> None:
            for _ in range(_EXCHANGES_LIMIT):
                is_over = not callers
                storage.promote(10)
                jobs = storage.claim(ClaimRequest(["default"], 5, holder.session, 0)).jobs
                for job in jobs:
                    claimed[job.id] = job.arguments
                    sent(storage, [succeeds(Running(job, holder))])
                if is_over and not jobs and not storage.counts().by_state.get(State.SCHEDULED):
                    return
                if not jobs:
                    storage.wait(["default"], 0.01)
            raise AssertionError("the debounced jobs never end")

        clients = [partial(call, scene.handles.open(), place) for place in range(4)]
        servers = [partial(run, scene.handles.open(), scene.begin(str(place))) for place in range(2)]
        race([*clients, *servers])

        assert claimed.keys() == calls.keys()
        for job_id, answered in calls.items():
            by_client: dict[str, str] = {}
            for _, arguments in sorted(answered):
                by_client[arguments.partition(",")[0]] = arguments
            assert claimed[job_id] in by_client.values(), f"ran with {claimed[job_id]}, calls: {answered}"
