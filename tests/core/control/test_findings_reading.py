"""The data that `take_readings` reads from a storage, and how long readings are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

import attrs
import pytest

from firelock import Firelock, Retry
from firelock.control.catalogue import publish_tasks
from firelock.control.findings import KeptReadings, take_readings
from firelock.model.clock import SECOND
from firelock.storage import DURATION_BUCKETS, HeldClaim, Rollup
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import Worker

MINUTE = 60 * SECOND
NO_DURATIONS = (0,) * (len(DURATION_BUCKETS) + 1)


@pytest.fixture
def fire() -> Iterator[Firelock]:
    """An app in memory with a task that fails and a task that does nothing."""
    with Firelock(MemoryStorage()) as fire:

        def refuse(number: int) -> None:
            raise (ValueError, LookupError)[number % 2]

        fire.task(name="noop")(lambda: None)
        fire.task(name="refuse", retry=Retry.never())(refuse)
        yield fire


def seen(fire, **options):
    """Return the current readings."""
    return take_readings(fire.runtime, knows_tasks=True, **options)


def ended(fire, ago, outcome, count, *, task="noop"):
    """Record that this number of attempts ended this many microseconds ago."""
    minute = (fire.storage.clock() - ago) // MINUTE * MINUTE
    fire.storage.record_metrics([Rollup(minute, task, "default", outcome, count, 0, NO_DURATIONS)])


def mute(fire, fingerprint, until):
    """Store the record that a dashboard stores for a muted cause."""
    fire.storage.put_record("cause", fingerprint, json.dumps({"mute": {"until": until}}))


def test_readings_are_cached_for_their_duration():
    """A reading without a duration is not cached."""
    now, values = [100.0], iter(range(100))
    keep = KeptReadings({"slow": 5.0}, monotonic=lambda: now[0])

    def read(name):
        return keep(name, lambda: next(values))

    assert [0, 1, 2] == [read("slow"), read("quick"), read("quick")]
    now[0] += 4.9
    assert 0 == read("slow")
    now[0] += 0.1
    assert [3, 3] == [read("slow"), read("slow")]


def test_clock_difference_excludes_the_round_trip(fire):
    """The storage's time is compared with the middle of the round trip."""
    now = fire.storage.clock()
    fire.storage.clock = lambda: now
    hosts = iter([now - 7 * SECOND, now - 3 * SECOND])

    assert 5 * SECOND == seen(fire, host_clock=lambda: next(hosts)).skew


def test_start_of_the_wait_is_read_for_each_queue(fire):
    """The first job of a queue is found even if another queue has hundreds of older jobs."""
    noop = fire.task_named("noop")
    first, *_ = noop.using(queue="full").enqueue_many([()] * 250)
    later = noop.using(queue="late").enqueue()
    noop.using(queue="late").enqueue()

    waiting = seen(fire).waiting

    expected = {"full": first.record().changed_at, "late": later.record().changed_at}
    assert expected == waiting.oldest


def test_first_jobs_of_unreported_tasks_are_counted(fire):
    """Until a server has reported its tasks, no task counts as unknown."""
    fire.task_named("noop").enqueue()
    fire.task(name="other")(lambda: None).enqueue_many([()] * 2)

    before = seen(fire).waiting.unknown_tasks
    server = Firelock(fire.storage)
    server.task(name="noop")(lambda: None)
    publish_tasks(server.client)

    assert ({}, {"other": 2}) == (before, seen(fire).waiting.unknown_tasks)


def test_recent_attempts_are_counted_per_task(fire):
    """Retries and crashes count as failed attempts. Only an attempt that ended its job counts as failed."""
    for outcome, count in (("succeeded", 5), ("retried", 3), ("crashed", 2), ("failed", 1), ("deleted", 4)):
        ended(fire, 5 * MINUTE, outcome, count)
    ended(fire, 20 * MINUTE, "failed", 100)
    ended(fire, 2 * MINUTE, "succeeded", 1, task="refuse")

    readings = seen(fire)

    counts = {task: (one.runs, one.failed_attempts, one.failed) for task, one in readings.lately.items()}
    assert {"noop": (15, 6, 1), "refuse": (1, 0, 0)} == counts
    assert (115, 106, 101) == (
        readings.usually["noop"].runs, readings.usually["noop"].failed_attempts,
        readings.usually["noop"].failed,
    )  # fmt: skip


def test_daily_statistics_are_read_only_after_recent_failures(fire):
    ended(fire, 5 * MINUTE, "succeeded", 5)
    ended(fire, 20 * MINUTE, "failed", 100)

    readings = seen(fire)

    assert ({}, {}) == (readings.usually, readings.muted)


def test_longest_attempts_of_the_day_are_read_if_a_job_has_run_for_long(fire):
    """The duration is the upper bound of the longest attempt's bucket.

    Above the last bucket, it is unknown.
    """
    worker = Worker(fire)
    job = fire.task_named("noop").enqueue()
    (claimed,) = worker.claim()
    now = fire.storage.clock()
    fire.storage.reconcile(worker.holder.session, [HeldClaim(job.id, claimed.fence, now)])
    minute = (now - 60 * MINUTE) // MINUTE * MINUTE
    for task, bucket in (("noop", 2), ("noop", 4), ("refuse", len(DURATION_BUCKETS))):
        histogram = tuple(int(place == bucket) for place in range(len(DURATION_BUCKETS) + 1))
        fire.storage.record_metrics([Rollup(minute, task, "default", "succeeded", 1, 0, histogram)])

    early = seen(fire)
    fire.storage.clock = lambda: now + 11 * MINUTE
    late = seen(fire)

    assert ([], {}) == (early.running, early.usually)
    assert [job.id] == [one.id for one in late.running]
    assert (100_000, None) == (late.usually["noop"].longest, late.usually["refuse"].longest)


@pytest.mark.parametrize(("until_in", "share"), [(None, 0.5), (MINUTE, 0.5), (0, 0.0)])
def test_share_of_muted_failures_uses_the_current_mutes(fire, until_in, share):
    """A cause is muted until a given time or forever. An unreadable record does not mute any cause."""
    worker = Worker(fire)
    jobs = fire.task_named("refuse").enqueue_many([(number,) for number in range(4)])
    worker.run()
    ended(fire, 0, "failed", 4, task="refuse")
    fire.storage.put_record("cause", "broken", "{")
    now = fire.storage.clock()
    fire.storage.clock = lambda: now
    mute(fire, jobs[0].record().error.fingerprint, None if until_in is None else now + until_in)

    assert seen(fire).muted == ({"refuse": share} if share else {})


def test_jobs_that_wait_too_long_for_a_result_are_overdue(fire):
    """A job is overdue five minutes after the time at which it should have continued without a result."""
    parent = fire.task_named("noop").enqueue()
    child = parent.then(fire.task_named("noop"))
    stored, now = fire.storage.find, fire.storage.clock()

    def find(where, **options):
        page = stored(where, **options)
        jobs = [attrs.evolve(one, due_at=due_at) if one.id == child.id else one for one in page.jobs]
        return attrs.evolve(page, jobs=jobs)

    fire.storage.find = find
    fire.storage.clock = lambda: now
    found = []
    for late in (5 * MINUTE, 5 * MINUTE + 1):
        due_at = now - late
        found.append([one.id for one in seen(fire).sampled.overdue])

    assert [[], [child.id]] == found
