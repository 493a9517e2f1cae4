"""Firelock on a storage with a server: the scenarios that all these storages share."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

from benchmarks import counting, latency, ours
from benchmarks.entry import Figures, Load, ScenarioFunction, timed
from benchmarks.storage_server import Running, with_storage
from firelock import Firelock

DRIVERS = {
    "redis": "import redis",
    "postgresql": "import sqlalchemy.dialects.postgresql, psycopg",
    "mysql": "import sqlalchemy.dialects.mysql, pymysql",
    "mariadb": "import sqlalchemy.dialects.mysql, pymysql",
}


def scenarios(running: Running) -> dict[str, ScenarioFunction]:
    """Return the scenarios, given the function that runs a server."""
    return {
        "enqueue_bulk_100": partial(enqueue_bulk_100, running),
        "enqueue_bulk": partial(enqueue_bulk, running),
        "enqueue_one": partial(enqueue_one, running),
        "process": partial(drained, running, ours.enqueue_bulk),
        "limited": partial(drained, running, ours.enqueue_limited),
        "members": partial(drained, running, ours.enqueue_members),
        "footprint": partial(footprint, running),
        "latency": partial(start_to_start, running, gaps=latency.even),
        "latency_busy": partial(start_to_start, running, gaps=latency.busy),
        "rest": partial(rest, running),
        "processes": partial(spread, running),
    }


def enqueued(running: Running, load: Load, action: Callable[[ModuleType], object], *, jobs: int) -> Figures:
    """Measure storing jobs; the figures include the server's share."""
    with running(load.directory) as server, ours.opened(server.url) as app:
        cpu = server.cpu_seconds()
        figures = timed(lambda: action(app), jobs=jobs)
        figures = with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
        if (stored := app.fire.jobs.counts().by_state.get("enqueued", 0)) != jobs:
            message = f"{jobs} jobs should be enqueued, {stored} are"
            raise RuntimeError(message)
        return figures


def enqueue_bulk_100(running: Running, load: Load) -> Figures:
    """Measure `enqueue_many` with 100 jobs per call."""
    return enqueued(running, load, partial(ours.enqueue_bulk_of, jobs=load.jobs, size=100), jobs=load.jobs)


def enqueue_bulk(running: Running, load: Load) -> Figures:
    """Measure one `enqueue_many` with all jobs, which stores them in chunks of 500."""
    action = partial(ours.enqueue_bulk_of, jobs=load.jobs, size=load.jobs)
    return enqueued(running, load, action, jobs=load.jobs)


def enqueue_one(running: Running, load: Load) -> Figures:
    """Measure `enqueue`, with one round trip per job and, if the storage commits, one commit."""
    return enqueued(running, load, partial(ours.enqueue_singly, jobs=load.singles), jobs=load.singles)


def drained(running: Running, enqueue: ours.Enqueue, load: Load) -> Figures:
    """Measure running jobs that were all stored before the server started."""
    with running(load.directory) as server, ours.opened(server.url) as app:
        enqueue(app, jobs=load.jobs)
        return ours.drained(app, load, jobs=load.jobs, storage=server.cpu_seconds)


def spread(running: Running, load: Load) -> Figures:
    """Compare computing jobs in two processes on two cores with those in one process on one core."""
    with ours.on_all_cores(), running(load.directory) as server, ours.opened(server.url) as app:
        return ours.spread(app, load)


def footprint(running: Running, load: Load) -> Figures:
    """Count the traffic, the server's work and the stored bytes per job.

    The round trips of processing include the server's own from its start on, but not those of this process.
    """
    jobs = load.jobs + load.singles
    with running(load.directory) as server, counting.counting(server.port) as wire:
        observer = Firelock(server.url)

        def is_done() -> bool:
            return ours.count_succeeded(observer) >= jobs

        def work() -> None:
            with ours.serving(load) as worker:
                worker.wait_until(is_done, what=f"{jobs} jobs had ended")

        with ours.opened(server.url_at(wire.port)) as app:
            steps: dict[str, counting.Step] = {
                "one": (load.singles, lambda: ours.enqueue_singly(app, jobs=load.singles)),
                "bulk": (load.jobs, lambda: ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)),
                "process": (jobs, work),
            }
            figures = counting.measure(steps, server, wire)
        observer.close()
        return figures


def start_to_start(running: Running, load: Load, *, gaps: latency.Gaps) -> Figures:
    """Measure the time from the call of `enqueue` to the start of the task."""
    with running(load.directory) as server:
        return ours.start_to_start(load, server.url, gaps=gaps)


def driver_of(url: str) -> str:
    """Return the statement that imports the driver of a storage."""
    return next(statement for scheme, statement in DRIVERS.items() if url.startswith(scheme))


def rest(running: Running, load: Load) -> Figures:
    """Measure the cost of an idle server: memory, processor, round trips, and the storage's counts."""
    with (
        running(load.directory) as server,
        counting.counting(server.port) as wire,
        ours.opened(server.url) as app,
    ):
        ours.enqueue_singly(app, jobs=1)
        with ours.serving(load, FIRELOCK_STORAGE=server.url_at(wire.port)) as worker:
            worker.wait_until(lambda: ours.count_succeeded(app.fire) == 1, what="the first job had ended")
            time.sleep(ours.SETTLING_SECONDS)
            counted, trips, begun = server.meters(), wire.meters()["trips"], time.monotonic()
            figures = ours.watch_rest(worker, driver=driver_of(server.url), seconds=load.seconds)
            seconds = time.monotonic() - begun
            figures["calls_per_s"] = (wire.meters()["trips"] - trips) / seconds
            now_counted = server.meters()
    return {**figures, **{f"{what}_per_s": (now_counted[what] - counted[what]) / seconds for what in counted}}
