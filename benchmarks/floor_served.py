"""The scenarios of the floors on storages with a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from benchmarks import counting, growth
from benchmarks.entry import Figures, Load, ScenarioFunction, timed
from benchmarks.floor import micros
from benchmarks.storage_server import Running, StorageServer, with_storage


class Floor(ABC):
    """An open queue."""

    @abstractmethod
    def enqueue(self, *, jobs: int, batch: int, queue: str = "default") -> None:
        """Store additional ready jobs, `batch` per transaction or call."""

    @abstractmethod
    def drain(self) -> None:
        """Run all ready jobs on ten threads; each batch settles the previous one and claims the next."""

    @abstractmethod
    def assert_counts(self, **expected: int) -> None:
        """Raise an error unless the counts and the jobs themselves match the expected number per state."""

    @abstractmethod
    def read_ends(self, *, since: int) -> tuple[int, int, int]:
        """Return the number of jobs that ended since a time, and the first and the last end, in micros."""


Opened = Callable[[str], AbstractContextManager[Floor]]
"""A context manager that opens an empty queue at a URL."""


def scenarios(running: Running, opened: Opened) -> dict[str, ScenarioFunction]:
    """Return the scenarios, given the functions that run a server and open a queue."""
    return {
        "enqueue_bulk_100": partial(enqueue_bulk_100, running, opened),
        "enqueue_bulk": partial(enqueue_bulk, running, opened),
        "enqueue_one": partial(enqueue_one, running, opened),
        "process": partial(process, running, opened),
        "footprint": partial(footprint, running, opened),
    }


def enqueued(running: Running, opened: Opened, load: Load, *, jobs: int, batch: int) -> Figures:
    """Measure storing jobs in batches of one size."""
    with running(load.directory) as server, opened(server.url) as floor:
        cpu = server.cpu_seconds()
        figures = timed(lambda: floor.enqueue(jobs=jobs, batch=batch), jobs=jobs)
        figures = with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
        floor.assert_counts(enqueued=jobs)
        return figures


def enqueue_bulk_100(running: Running, opened: Opened, load: Load) -> Figures:
    """Measure storing jobs in transactions of 100."""
    return enqueued(running, opened, load, jobs=load.jobs, batch=100)


def enqueue_bulk(running: Running, opened: Opened, load: Load) -> Figures:
    """Measure storing jobs in transactions of 500."""
    return enqueued(running, opened, load, jobs=load.jobs, batch=500)


def enqueue_one(running: Running, opened: Opened, load: Load) -> Figures:
    """Measure storing jobs with one commit per job."""
    return enqueued(running, opened, load, jobs=load.singles, batch=1)


def drained(server: StorageServer, floor: Floor, *, jobs: int) -> Figures:
    """Measure running the ready jobs; the rate is that between the first and the last end of a job."""
    before, cpu = micros(), server.cpu_seconds()
    figures = timed(floor.drain, jobs=jobs)
    figures = with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
    ended, first, last = floor.read_ends(since=before)
    if ended != jobs:
        message = f"{jobs} jobs should have ended, {ended} have"
        raise RuntimeError(message)
    return {**figures, "jobs_per_s": (jobs - 1) / (last - first) * 1e6}


def verbs(server: StorageServer, floor: Floor, load: Load) -> Figures:
    """Measure bulk enqueueing, running and single enqueueing with the currently stored jobs."""
    bulk = timed(lambda: floor.enqueue(jobs=load.jobs, batch=500), jobs=load.jobs)
    processed = drained(server, floor, jobs=load.jobs)
    single = timed(lambda: floor.enqueue(jobs=load.singles, batch=1), jobs=load.singles)
    floor.drain()
    return growth.verbs(bulk, processed, single)


def process(running: Running, opened: Opened, load: Load) -> Figures:
    """Measure running jobs that were all stored before."""
    with running(load.directory) as server, opened(server.url) as floor:
        floor.enqueue(jobs=load.jobs, batch=500)
        figures = drained(server, floor, jobs=load.jobs)
        floor.assert_counts(succeeded=load.jobs)
        return figures


def footprint(running: Running, opened: Opened, load: Load) -> Figures:
    """Count the traffic, the server's work and the stored bytes per job."""
    with (
        running(load.directory) as server,
        counting.counting(server.port) as wire,
        opened(server.url_at(wire.port)) as floor,
    ):
        steps: dict[str, counting.Step] = {
            "one": (load.singles, lambda: floor.enqueue(jobs=load.singles, batch=1)),
            "bulk": (load.jobs, lambda: floor.enqueue(jobs=load.jobs, batch=500)),
            "process": (load.jobs + load.singles, floor.drain),
        }
        return counting.measure(steps, server, wire)
