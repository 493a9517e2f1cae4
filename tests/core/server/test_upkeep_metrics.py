"""Rollups per minute: added up in memory and written in batches, without losses if a write fails."""

from __future__ import annotations

import pytest

from firelock.errors import StorageUnavailable
from firelock.model.clock import SECOND
from firelock.model.job import ClaimedJob
from firelock.server.upkeep import MinuteRollups
from firelock.storage import DURATION_BUCKETS
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import FailingStorage

MINUTE = 60 * SECOND


def job(task="mail.send", queue="default"):
    """Return a job that has ended."""
    return ClaimedJob("id", task, "{}", "json", queue, 0, 1, 0, 0, 1, 0, 0, 0)


def histogram(**buckets):
    """Return a histogram with these counts; b0, b1 and so on are the places of the buckets."""
    counts = [0] * (len(DURATION_BUCKETS) + 1)
    for name, count in buckets.items():
        counts[int(name[1:])] = count
    return tuple(counts)


@pytest.mark.parametrize(
    ("duration", "bucket"), [(0, 0), (1_000, 0), (1_001, 1), (300 * SECOND, 11), (300 * SECOND + 1, 12)]
)
def test_bucket_includes_its_upper_bound(duration, bucket):
    """A duration is counted in the first bucket whose bound it does not exceed.

    The last bucket has no bound.
    """
    metrics, storage = MinuteRollups(), MemoryStorage()

    metrics.add([(job(), "failed", 0, duration)])
    metrics.flush(storage)

    assert histogram(**{f"b{bucket}": 1}) == storage.timeline(0, MINUTE)[0].histogram


def test_failed_flush_loses_no_counts():
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
