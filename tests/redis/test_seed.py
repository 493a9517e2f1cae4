"""Across modules: `python -m benchmarks.seed` on Redis: one partition, several, and a Cluster."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import pytest

from benchmarks.seed.shop import fire
from benchmarks.seed.story import seed
from firelock.model.job import JobRecord
from firelock.model.state import State
from firelock.plugins.loader import open_storage
from firelock.storage import JobFilter

JOBS = 1_000


def all_jobs(storage):
    """Return every job."""
    found: list[JobRecord] = []
    cursor = None
    while True:
        page = storage.find(JobFilter(), limit=500, cursor=cursor)
        found += page.jobs
        cursor = page.cursor
        if cursor is None:
            return found


def assert_is_seeded(url):
    """Seed the storage and assert that it contains the created jobs."""
    with closing(open_storage(url)) as storage:
        storage.migrate()
        *_, progress = seed(storage, fire.tasks(), JOBS)

        jobs = all_jobs(storage)
        counted = {state: count for state, count in storage.counts().by_state.items() if count}
        assert len(jobs) == progress.jobs == JOBS
        assert counted == Counter(job.state for job in jobs)
        assert set(counted) == set(State)
        assert storage.prune(1_000) == 0
        for job in jobs:
            if job.state in {State.SUCCEEDED, State.FAILED}:
                instants = (job.created_at, job.enqueued_at, job.claimed_at, job.started_at, job.ended_at)
                assert sorted(instants, key=lambda at: at or 0) == list(instants)


@pytest.mark.parametrize("options", ["", "partitions=4"], ids=["alone", "parted"])
def test_seed_fills_redis(server, options):
    """The counts match the jobs, the times are in order, and no job is due for pruning."""
    server.empty()

    assert_is_seeded(server.socket_url(options))


def test_seed_fills_a_cluster(cluster):
    """Continuations are in the partitions of their parents, and claims take jobs from all nodes."""
    cluster.empty()

    assert_is_seeded(cluster.url())
