"""Measure the cost of removing an expired job, and of each process's hourly check of all unique keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks import places
from benchmarks.pairs import Row, ratio
from benchmarks.places import Place
from benchmarks.plan import Plan
from benchmarks.retention import tasks
from firelock import Firelock
from firelock.model.job import LogLine

CHUNK = 500
LINES = 10
KEYS = 200_000


def store_expired(fire: Firelock, task: Any, jobs: int, *, is_rich: bool) -> None:  # noqa: ANN401 - any task
    """Store deleted jobs, which are kept according to the app's settings.

    Rich ones have ten lines in their log and two tags.
    """
    chosen = task.using(tags=["a", "b"]) if is_rich else task
    for _ in range(0, jobs, CHUNK):
        ids = [job.id for job in chosen.enqueue_many([()] * CHUNK)]
        if is_rich:
            lines = [
                LogLine(number, fire.storage.clock(), "info", "a line") for number in range(1, LINES + 1)
            ]
            fire.storage.append_logs(dict.fromkeys(ids, lines), {})
        fire.jobs.delete(ids)


def of_a_job(plan: Plan) -> Iterator[Row]:
    """Yield the cost of removing a rich and a plain job, in time and in processor time of the server."""
    kinds = ("rich", "plain")
    micros: dict[str, list[float]] = {kind: [] for kind in kinds}
    processor: dict[str, list[float]] = {kind: [] for kind in kinds}
    with (
        places.opened(plan.storage, plan.folder / "cost") as place,
        places.client(place.url, keep_deleted=0) as fire,
    ):
        task = tasks.declare(fire).noop
        for number in range(plan.pairs + 1):
            for kind in kinds if number % 2 else reversed(kinds):
                jobs = max(CHUNK, plan.scaled(4 * CHUNK))
                store_expired(fire, task, jobs, is_rich=kind == "rich")
                spent, used = _removed(fire, place)
                if number:  # the first round fills caches
                    micros[kind].append(spent / jobs * 1e6)
                    processor[kind].append(used / jobs * 1e6)
    yield ratio("removing a job with ten log lines and two tags, µs per job", micros["rich"], micros["plain"])
    if all(processor["plain"]):
        what = "the same, µs of the server's CPU time per job"
        yield ratio(what, processor["rich"], processor["plain"])


def _removed(fire: Firelock, place: Place) -> tuple[float, float]:
    """Remove all expired jobs; return the duration and the server's processor time, in seconds."""
    used, begun = place.cpu_seconds(), time.perf_counter()
    while fire.storage.prune(CHUNK):
        continue
    return time.perf_counter() - begun, place.cpu_seconds() - used


def of_unique_keys(plan: Plan) -> Iterator[Row]:
    """Yield the duration of a process's first `prune`, which checks all unique keys, and of the next one."""
    keys = plan.scaled(KEYS)
    with places.opened(plan.storage, plan.folder / "unique") as place:
        with places.client(place.url) as fire:
            task = tasks.declare(fire).unique
            for first in range(0, keys, CHUNK):
                task.enqueue_many([(number,) for number in range(first, min(keys, first + CHUNK))])
        firsts: list[float] = []
        seconds: list[float] = []
        for _ in range(max(3, plan.pairs // 4)):
            with places.client(place.url) as fire:
                for times in (firsts, seconds):
                    begun = time.perf_counter()
                    fire.storage.prune(CHUNK)
                    times.append((time.perf_counter() - begun) * 1_000)
    yield ratio(
        f"the hourly check of {keys:,} unique keys in use, compared with the next prune, ms", firsts, seconds
    )
