"""Across modules: `python -m benchmarks.seed` writes a year of jobs that a storage could really contain."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import count, pairwise

import pytest

from benchmarks.seed.shop import fire
from benchmarks.seed.stage import Stage
from benchmarks.seed.story import seed
from firelock.arguments.serializer import JsonSerializer
from firelock.model.lifecycle import is_legal
from firelock.model.state import State
from firelock.plugins.loader import open_storage
from firelock.storage import JobFilter

JOBS = 2_000
SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_795_630_000 * SECOND  # 2026-11-25, a Wednesday, after 6 p.m.
FINAL = (State.SUCCEEDED, State.FAILED, State.DELETED)


def all_jobs(storage):
    found, cursor = [], None
    while page := storage.find(JobFilter(), limit=500, cursor=cursor):
        found += page.jobs
        cursor = page.cursor
        if cursor is None:
            return found
    raise AssertionError


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def storage(request, tmp_path_factory):
    """A seeded storage whose clock shows NOW; tests only read it."""
    url = "memory://"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('seed') / 'jobs.db'}?synchronous=normal"
    with closing(open_storage(url)) as storage:
        storage.migrate()
        storage.clock_offset = NOW - storage.clock()
        *_, progress = seed(storage, fire.tasks(), JOBS)
        assert progress.jobs == JOBS
        assert abs(storage.clock() - NOW) < 60 * SECOND
        yield storage


@pytest.fixture
def jobs(storage):
    """All jobs of the seeded storage."""
    return all_jobs(storage)


def test_seed_has_the_requested_number_of_jobs(storage, jobs):
    """Every state, every queue and most tasks have jobs. Most jobs have succeeded, and few have failed."""
    by_state = Counter(job.state for job in jobs)
    counts = storage.counts()

    assert len(jobs) == JOBS
    assert {state: count for state, count in counts.by_state.items() if count} == by_state
    assert set(by_state) == set(State)
    assert 0.9 * JOBS < by_state[State.SUCCEEDED] < 0.97 * JOBS
    assert len(counts.by_queue) == 8
    assert len({job.task for job in jobs}) > 35


def test_seeded_jobs_match_their_tasks(jobs):
    """Arguments match the parameters of the shop's tasks, and results match the return types.

    Each job has its task's queue and priority.
    """
    json_serializer = JsonSerializer()
    for job in jobs:
        info = fire.registry.get(job.task)
        binder = fire.registry.binder(info)

        binder.decode_text(job.arguments, json_serializer)
        if job.state is State.SUCCEEDED:
            binder.decode_result_text(job.result, json_serializer)
        assert (job.queue, job.priority) == (info.queue, info.priority)


def test_seeded_histories_are_valid_and_ordered(storage, jobs):
    """A claim adds no entry to the history, so the entry after "enqueued" is the outcome of the run.

    Ended jobs are kept for years.
    """
    now = storage.clock()
    for job in jobs:
        entries = storage.history(job.id).entries

        if job.state in {State.SUCCEEDED, State.FAILED}:
            instants = [job.created_at, job.enqueued_at, job.claimed_at, job.started_at, job.ended_at, now]
            assert instants == sorted(instants), job
        assert job.state not in FINAL or job.expires_at > now + 365 * DAY
        assert entries[0].at == job.created_at
        for before, after in pairwise(entries):
            state = State.PROCESSING if after.attempt is not None else before.state
            assert before.at <= after.at
            assert is_legal(state, after.state), (job.id, before, after)


def test_command_line_seeds_a_storage_only_once(tmp_path):
    """The program prints the number of created jobs. A storage that may be in use is not changed."""

    def run_seed():
        command = [sys.executable, "-m", "benchmarks.seed", "1000", "--storage", f"sqlite:///{tmp_path}/a.db"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made, refused = run_seed(), run_seed()

    assert (made.returncode, made.stdout[:10]) == (0, "1,000 jobs"), made.stderr
    assert (refused.returncode, "A server uses" in refused.stderr) == (1, True)


def test_clock_of_a_slow_storage_never_goes_back(monkeypatch):
    """Otherwise, a job could be claimed at a time before it was enqueued."""
    seconds = count()
    monkeypatch.setattr("benchmarks.seed.stage.time.monotonic", lambda: next(seconds))
    with closing(open_storage("memory://")) as storage:
        stage = Stage(storage, NOW)
        stage.promote(0, NOW - DAY)
        promoted_at = storage.clock()

        stage.insert([], NOW - DAY)

        assert promoted_at <= storage.clock()
