"""Firelock through its public API, on any storage: the scenarios that do not need internals.

The client runs in this process, the server as the command line starts it.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any, Protocol

from benchmarks import growth, latency, servers, timestamps
from benchmarks.entry import Figures, Load, timed
from benchmarks.servers import Server
from benchmarks.startup import COMMAND
from firelock import Firelock, Job, State

APPLICATION = "benchmarks.ours_app"
WORKERS = 10
CHUNK = 500
COMPUTING_SHARE = 20  # this scenario has 1/20 of the jobs of others, because each takes a millisecond
SETTLING_SECONDS = 5.0
QUEUES = 1_000
DAY_MICROS = 24 * 3_600 * 1_000_000
SERVED = ("--queues", "default")
Clock = Callable[[], float]


class Enqueue(Protocol):
    """A function that stores a number of jobs of an application."""

    def __call__(self, app: ModuleType, /, *, jobs: int) -> None:
        """Store the jobs."""


@contextmanager
def opened(url: str) -> Iterator[ModuleType]:
    """Import the application with this storage, whose tables are then created, and close it after the block.

    An application that was imported for another storage is imported again.
    """
    os.environ["FIRELOCK_STORAGE"] = url
    application = sys.modules.get(APPLICATION)
    app = importlib.reload(application) if application else importlib.import_module(APPLICATION)
    app.fire.jobs.counts()
    yield app
    app.fire.close()


@contextmanager
def serving(load: Load, *options: str, **environment: str) -> Iterator[Server]:
    """Run a server with one process and ten workers during the block."""
    size = ("--workers", str(WORKERS), "--processes", "1")
    command = [COMMAND, "server", "benchmarks.ours_app:fire", *size, *options]
    with servers.running(command, environment=environment, log=load.directory / "server.log") as server:
        yield server


def count_succeeded(fire: Firelock) -> int:
    """Return the number of succeeded jobs."""
    return fire.jobs.counts().by_state.get(State.SUCCEEDED, 0)


def enqueue_bulk_of(app: ModuleType, *, jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call; a call with more than 500 is stored in chunks of 500."""
    for begin in range(0, jobs, size):
        app.noop.enqueue_many([(number,) for number in range(begin, min(begin + size, jobs))])


def enqueue_bulk(app: ModuleType, *, jobs: int) -> None:
    """Enqueue jobs in one call, which stores them in chunks of 500."""
    enqueue_bulk_of(app, jobs=jobs, size=jobs)


def enqueue_limited(app: ModuleType, *, jobs: int) -> None:
    """Enqueue jobs with a limit that is never reached."""
    app.limited.enqueue_many([(number,) for number in range(jobs)])


def enqueue_members(app: ModuleType, *, jobs: int) -> None:
    """Enqueue a batch with members; the batch itself counts as one of the jobs."""
    with app.fire.batch("measured") as batch:
        batch.add_many(app.noop.call(number) for number in range(jobs - 1))


def enqueue_singly(app: ModuleType, *, jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        app.noop.enqueue(number)


def read_window(fire: Firelock, *, since: datetime) -> timedelta:
    """Return the time between the first and the last end of a job since a time."""
    ends = []
    for oldest_first in (True, False):
        (job,) = fire.jobs.find(state="succeeded", since=since, oldest_first=oldest_first, limit=1)
        ends.append(end_of(job))
    return ends[1] - ends[0]


def end_of(job: Job[object]) -> datetime:
    """Return the time at which a job ended."""
    if job.ended_at is None:
        message = f"{job} has succeeded and has no end"
        raise RuntimeError(message)
    return job.ended_at


def drained(
    app: ModuleType,
    load: Load,
    *options: str,
    jobs: int,
    storage: Clock | None = None,
    cores: Collection[int] = (),
) -> Figures:
    """Measure a server that starts with `jobs` ready jobs, from the first end to the last.

    If `cores` are given, the server runs on them, independently of the other processes.
    """
    fire = app.fire
    target = count_succeeded(fire) + jobs
    before = target - jobs
    begun = datetime.now(UTC)
    with serving(load, *options) as server:
        if cores:
            os.sched_setaffinity(server.pids()[0], cores)  # before the server has started other processes
        cpu = servers.watch_drain(server, lambda: count_succeeded(fire) - before, jobs=jobs, storage=storage)
    if (succeeded := count_succeeded(fire)) != target:
        message = f"{target} jobs should have succeeded by now, {succeeded} have"
        raise RuntimeError(message)
    return {"jobs_per_s": (jobs - 1) / read_window(fire, since=begun).total_seconds(), **cpu}


def start_to_start(load: Load, url: str, *, gaps: latency.Gaps = latency.even) -> Figures:
    """Measure the time from the call of `enqueue` to the start of the task on an idle server."""
    path = load.directory / "timestamps"
    with opened(url) as app, serving(load, **{timestamps.VARIABLE: str(path)}) as server:
        return latency.measure(server, app.stamp.enqueue, path, samples=load.samples, gaps=gaps)


def verbs(app: ModuleType, load: Load, flush: Callable[[], None]) -> Figures:
    """Measure bulk enqueueing, running and single enqueueing with the currently stored jobs."""
    flush()
    bulk = timed(lambda: enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs), jobs=load.jobs)
    flush()
    processed = drained(app, load, *SERVED, jobs=load.jobs)
    flush()
    single = timed(lambda: enqueue_singly(app, jobs=load.singles), jobs=load.singles)
    drained(app, load, *SERVED, jobs=load.singles)
    return growth.verbs(bulk, processed, single)


def grown_verbs(app: ModuleType, load: Load, *, flush: Callable[[], None] = os.sync) -> Figures:
    """Measure enqueueing, running jobs of one and of many queues, and removing expired jobs.

    `flush` is called before each measurement. It writes all data to the disk, so that the storage does not
    write data of the previous measurement during the next one. The unserved queue is paused, because the
    server of many queues serves all of them.
    """
    figures = verbs(app, load, flush)
    jobs = max(QUEUES, load.jobs // 10 // QUEUES * QUEUES)
    for queue in range(QUEUES):
        there = app.noop.using(queue=f"queue-{queue:04}")
        there.enqueue_many([(number,) for number in range(jobs // QUEUES)])
    app.fire.queues.pause(growth.WAITING)
    flush()
    queues = drained(app, load, jobs=jobs)
    app.fire.queues.resume(growth.WAITING)
    flush()
    rates = {"queues": queues, "prune": timed(lambda: prune(app.fire, jobs=jobs), jobs=jobs)}
    return figures | {f"{name}_jobs_per_s": rate["jobs_per_s"] for name, rate in rates.items()}


def prune(fire: Firelock, *, jobs: int) -> None:
    """Remove a number of finished jobs, as if two days had passed."""
    storage: Any = fire.storage
    storage.clock_offset = 2 * DAY_MICROS
    try:
        removed = sum(storage.prune(CHUNK) for _ in range(jobs // CHUNK))
    finally:
        storage.clock_offset = 0
    if removed != jobs:
        message = f"{jobs} jobs should have been removed, {removed} were"
        raise RuntimeError(message)


def slowest_list_ms(app: ModuleType) -> float:
    """Return the longest duration of the first read of any list: pages of 50, counts, queues."""
    jobs = app.fire.jobs
    lists: tuple[Callable[[], object], ...] = (
        lambda: jobs.find(limit=50),
        lambda: jobs.find(state="succeeded", limit=50),
        lambda: jobs.find(state="succeeded", limit=50, oldest_first=True),
        lambda: jobs.find(task="benchmarks.ours_app.noop", limit=50),
        lambda: jobs.find(queue="default", limit=50),
        jobs.counts,
        app.fire.queues.list,
    )
    return max(1000 / timed(one, jobs=1)["jobs_per_s"] for one in lists)


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Run processes of the block on all cores, although the harness has pinned this process to one."""
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, pinned)


def spread(app: ModuleType, load: Load) -> Figures:
    """Compare two worker processes on two cores with one worker process on one core.

    The jobs compute for a millisecond. Each server starts with all of its jobs ready; storage and client may
    use every core.
    """
    jobs = load.jobs // COMPUTING_SHARE
    rates = {}
    for processes, first_core in ((1, max(os.sched_getaffinity(0))), (2, 0)):
        app.compute.enqueue_many([(number,) for number in range(jobs)])
        with on_all_cores():
            cores = range(first_core, first_core + processes)
            options = ("--processes", str(processes))
            rates[processes] = drained(app, load, *options, jobs=jobs, cores=cores)["jobs_per_s"]
    return {
        "one_jobs_per_s": rates[1],
        "two_jobs_per_s": rates[2],
        "two_share": rates[2] / rates[1],
    }


def watch_rest(server: Server, *, driver: str, seconds: int) -> Figures:
    """Return the memory and processor use of an idle server over some seconds.

    `driver` is the statement that imports the storage's driver, whose memory is subtracted.
    """
    time.sleep(SETTLING_SECONDS)
    cpu = server.cpu_seconds()
    time.sleep(seconds)
    memory = [servers.read_memory_mib(pid) for pid in server.pids()]
    return {
        "cpu_percent": (server.cpu_seconds() - cpu) / seconds * 100,
        "processes": len(memory),
        "rss_mib": sum(resident for resident, _ in memory),
        "pss_mib": sum(shared for _, shared in memory),
        "largest_rss_mib": max(resident for resident, _ in memory),
        "beyond_driver_mib": max(resident for resident, _ in memory) - servers.bare_memory_mib(driver),
    }
