"""Waiting for a result with very little time."""

from __future__ import annotations

import asyncio

import pytest

from firelock import Firelock, ResultTimeout
from firelock.lifecycle import delete
from firelock.values import State


@pytest.fixture
def fire():
    with Firelock("memory://") as fire:
        yield fire


@pytest.fixture
def job(fire):
    def runs() -> None: ...

    return fire.task(name="runs")(runs).enqueue()


def end(fire, job):
    fire.storage.apply([delete(job.id, at=fire.storage.clock(), reason="a test", expires_at=None)])
    assert State.DELETED == job.refresh().state


@pytest.mark.parametrize("result", ["result", "aresult"])
def test_without_time_an_ended_job_has_its_end_all_the_same(fire, job, result):
    """A timeout of 0 asks whether the job has ended by now."""
    from firelock import JobDeleted

    end(fire, job)

    with pytest.raises(JobDeleted):
        job.result(timeout=0) if result == "result" else asyncio.run(job.aresult(timeout=0))


@pytest.mark.parametrize("result", ["result", "aresult"])
def test_without_time_a_waiting_job_is_too_late(job, result):
    """A timeout of 0 does not wait."""
    with pytest.raises(ResultTimeout, match="had not ended within 0 s"):
        job.result(timeout=0) if result == "result" else asyncio.run(job.aresult(timeout=0))
