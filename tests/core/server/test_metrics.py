"""Minute rollups: added up in memory, written in batches, lost to no failing write."""

from __future__ import annotations

import pytest

from firelock.clock import SECOND
from firelock.errors import StorageUnavailable
from firelock.memory import MemoryStorage
from firelock.server.upkeep import MinuteRollups
from firelock.storage import DURATION_BUCKETS, Rollup
from firelock.values import ClaimedJob
from tests.core.fakes import FailingStorage

MINUTE = 60 * SECOND


def job(task="mail.send", queue="default"):
    """A job that ended."""
    return ClaimedJob("id", task, "{}", "json", queue, 0, 1, 0, 0, 1, 0, 0, 0)


def histogram(**buckets):
    """A histogram with these counts: b0, b1, … by place."""
    counts = [0] * (len(DURATION_BUCKETS) + 1)
    for name, count in buckets.items():
        counts[int(name[1:])] = count
    return tuple(counts)


def test_ends_of_one_minute_are_one_rollup():
    """Task, queue, outcome and minute make a rollup: a count, the sum of durations, a histogram."""
    metrics, storage = MinuteRollups(), MemoryStorage()

    metrics.add([(job(), "succeeded", MINUTE + 1, 2_000)])
    metrics.add([(job(), "succeeded", 2 * MINUTE - 1, 5_000_000)])
    metrics.flush(storage)

    assert [
        Rollup(MINUTE, "mail.send", "default", "succeeded", 2, 5_002_000, histogram(b1=1, b8=1))
    ] == storage.timeline(0, 10 * MINUTE)


@pytest.mark.parametrize(
    ("duration", "bucket"), [(0, 0), (1_000, 0), (1_001, 1), (300 * SECOND, 11), (300 * SECOND + 1, 12)]
)
def test_a_bucket_holds_its_upper_bound(duration, bucket):
    """A duration counts in the first bucket whose bound it does not pass; the last takes what is longer."""
    metrics, storage = MinuteRollups(), MemoryStorage()

    metrics.add([(job(), "failed", 0, duration)])
    metrics.flush(storage)

    assert histogram(**{f"b{bucket}": 1}) == storage.timeline(0, MINUTE)[0].histogram


def test_what_differs_is_kept_apart():
    """Another task, queue, outcome or minute is another rollup."""
    metrics, storage = MinuteRollups(), MemoryStorage()

    metrics.add([(job(), "succeeded", 0, 0)])
    metrics.add([(job("mail.read"), "succeeded", 0, 0)])
    metrics.add([(job(queue="bulk"), "succeeded", 0, 0)])
    metrics.add([(job(), "failed", 0, 0)])
    metrics.add([(job(), "succeeded", MINUTE, 0)])
    metrics.flush(storage)

    assert [1] * 5 == [rollup.count for rollup in storage.timeline(0, 2 * MINUTE)]


def test_nothing_counted_writes_nothing():
    """A flush of nothing costs no call."""
    storage = FailingStorage()

    MinuteRollups().flush(storage)

    assert [] == storage.called["record_metrics"]


def test_a_failed_flush_loses_nothing():
    """Counts whose write failed are written by the next flush, together with newer ones."""
    metrics, storage = MinuteRollups(), FailingStorage()
    storage.fail("record_metrics", StorageUnavailable("down"))
    metrics.add([(job(), "succeeded", 0, 1_000)])

    with pytest.raises(StorageUnavailable):
        metrics.flush(storage)
    metrics.add([(job(), "succeeded", 0, 2_000)])
    metrics.flush(storage)

    assert [(2, 3_000, histogram(b0=1, b1=1))] == [
        (one.count, one.duration, one.histogram) for one in storage.timeline(0, MINUTE)
    ]


def test_a_flush_writes_once():
    """What was written is not written again."""
    metrics, storage = MinuteRollups(), MemoryStorage()
    metrics.add([(job(), "succeeded", 0, 0)])

    metrics.flush(storage)
    metrics.flush(storage)

    assert [1] == [rollup.count for rollup in storage.timeline(0, MINUTE)]
