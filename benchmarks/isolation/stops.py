"""Measure a graceful stop under load while the row of an ended job is locked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import places
from benchmarks.isolation import tasks
from benchmarks.isolation.locks import locked, running_jobs
from benchmarks.pairs import Row
from benchmarks.places import Place
from benchmarks.plan import Plan
from benchmarks.servers import Server
from firelock import Firelock, State

GRACE = 5.0  # seconds
_SLACK = 5.0  # seconds after the grace time in which the server must have ended
_JOBS, _CHUNK = 20_000, 500


def with_locked_row(plan: Plan) -> Iterator[Row]:
    """Yield the duration of a stop, and the number of jobs that run again although they had ended before."""
    number = max(_CHUNK, plan.scaled(_JOBS) // _CHUNK * _CHUNK)
    folder = plan.folder / "stop"
    gates = folder / "gates"
    gates.mkdir(parents=True)
    gates.chmod(0o777)
    with places.opened(plan.storage, folder / "place") as place, places.client(place.url) as fire:
        declared = tasks.declare(fire)
        scene = running_jobs(declared, "gate", 1)
        (held,) = scene.jobs
        with _serving(place, gates) as (server,):
            server.wait_until(lambda: held.refresh().state is State.PROCESSING, what="the job was running")
            with locked(place, plan.storage, scene):
                (gates / "gate").touch()
                server.wait_until(lambda: "gate 0" in tasks.runs(gates), what="the locked job had returned")
                for _ in range(0, number, _CHUNK):
                    declared.noop.enqueue_many([()] * _CHUNK)
                server.wait_until(lambda: _ended(fire) > number / 4, what="a quarter of the jobs had ended")
                began = time.monotonic()
                server.stop()
                took = time.monotonic() - began
                left = number - _ended(fire)
        with _serving(place, gates) as (server,):
            server.wait_until(lambda: _ended(fire) >= number + 1, what="all jobs had ended")
        again = sum(job.record().attempt > 1 for job in fire.jobs.iterate(task="noop"))
        runs = tasks.runs(gates).count("gate 0")
    yield {
        "what": f"seconds of a stop with {left:,} waiting jobs, compared with the maximum",
        "ratio": took / (GRACE + _SLACK), "median": took, "base": GRACE + _SLACK,
    }  # fmt: skip
    yield {"what": "other jobs that ran again", "ratio": 1.0, "median": again, "base": 0}
    yield {"what": "runs of the locked job", "ratio": runs / 2, "median": runs, "base": 2}


def _serving(place: Place, gates: Path) -> AbstractContextManager[list[Server]]:
    return places.serving(
        place, "benchmarks.isolation.app:fire", processes=2,
        BENCHMARK_MEASURES=str(gates), BENCHMARK_GATES=str(gates), FIRELOCK_GRACE=str(GRACE),
    )  # fmt: skip


def _ended(fire: Firelock) -> int:
    return fire.jobs.counts()[State.SUCCEEDED]
