"""The floors on storages with a server of their own, whichever: their scenarios."""

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
        """Store so many ready jobs more, `batch` in a transaction or call."""

    @abstractmethod
    def drain(self) -> None:
        """Run all ready jobs on ten threads, in batches that settle the former one and claim the next."""

    @abstractmethod
    def assert_counts(self, **expected: int) -> None:
        """Raise unless the counts and the jobs themselves both say so many jobs a state."""

    @abstractmethod
    def read_ends(self, *, since: int) -> tuple[int, int, int]:
        """Return how many jobs have ended since an instant, and the first and the last end, in micros."""


Opened = Callable[[str], AbstractContextManager[Floor]]
"""Opens an empty queue at a URL, closed when its block ends."""


def scenarios(running: Running, opened: Opened) -> dict[str, ScenarioFunction]:
    """Return the scenarios on servers that are run, and in queues that are opened, in these ways."""
    return {
        "enqueue_bulk_100": partial(enqueue_bulk_100, running, opened),
        "enqueue_bulk": partial(enqueue_bulk, running, opened),
        "enqueue_one": partial(enqueue_one, running, opened),
        "process": partial(process, running, opened),
        "footprint": partial(footprint, running, opened),
    }


def enqueued(running: Running, opened: Opened, load: Load, *, jobs: int, batch: int) -> Figures:
    """Measure storing so many jobs in batches of one size."""
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
    """Measure storing jobs with a commit each."""
    return enqueued(running, opened, load, jobs=load.singles, batch=1)


def drained(server: StorageServer, floor: Floor, *, jobs: int) -> Figures:
    """Measure running the ready jobs; the rate is taken between the first and the last end of one."""
    before, cpu = micros(), server.cpu_seconds()
    figures = timed(floor.drain, jobs=jobs)
    figures = with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
    ended, first, last = floor.read_ends(since=before)
    if ended != jobs:
        message = f"{jobs} jobs should have ended, {ended} have"
        raise RuntimeError(message)
    return {**figures, "jobs_per_s": (jobs - 1) / (last - first) * 1e6}


def verbs(server: StorageServer, floor: Floor, load: Load) -> Figures:
    """Measure the three verbs beside whatever is stored."""
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
    """Count what a job costs of the wire and of what the server counts and stores."""
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
