"""Measure how long ends of jobs wait until they are stored, with many short jobs in four worker processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import places
from benchmarks.isolation import tasks
from benchmarks.pairs import Row
from benchmarks.plan import Plan

APP = "benchmarks.isolation.app:fire"
JOBS, BRIEF_JOBS, PROCESSES = 20_200, 5_000, 4
_CHUNK = 1_000


def until_stored(plan: Plan) -> Iterator[Row]:
    """Yield the waits of ends and the durations of the exchanges that store them, in milliseconds."""
    yield from _measure(plan, "noop", plan.scaled(JOBS), f"{plan.scaled(JOBS):,} jobs that do nothing")
    brief = plan.scaled(BRIEF_JOBS)
    yield from _measure(plan, "brief", brief, f"{brief:,} jobs of {1_000 * tasks.BRIEF:g} ms")


def _measure(plan: Plan, task: str, number: int, jobs: str) -> Iterator[Row]:
    folder = plan.folder / f"{task}-measures"
    folder.mkdir()
    with places.opened(plan.storage, plan.folder / task) as place, places.client(place.url) as fire:
        chosen = getattr(tasks.declare(fire), task)
        for first in range(0, number, _CHUNK):
            chosen.enqueue_many([()] * min(_CHUNK, number - first))
        with places.serving(place, APP, processes=PROCESSES, BENCHMARK_MEASURES=str(folder)) as (server,):
            places.wait_for(server, fire, number)
    measured = read_measures(folder)
    waits = [1_000 * wait for one in measured for wait, _ in one["ends"]]
    took = [1_000 * took for one in measured for _, took in one["ends"]]
    before = [wait - its for wait, its in zip(waits, took, strict=True)]
    for name, place_of in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("longest", 1.0)):
        figures = {"median": quantile(waits, place_of), "base": quantile(took, place_of)}
        what = f"ends of {jobs} until stored, compared with their exchange, {name}, ms"
        yield {"what": what, "ratio": figures["median"] / figures["base"], **figures}
    yield {"what": f"ends of {jobs} until their exchange began, p99, ms", "median": quantile(before, 0.99)}


def read_measures(folder: Path) -> list[dict[str, list[tuple[float, float]]]]:
    """Return the measurements of each worker process."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def quantile(values: Sequence[float], place: float) -> float:
    """Return the quantile of the values; `place` is from 0 to 1."""
    return sorted(values)[min(len(values) - 1, int(len(values) * place))]
