"""Firelock on SQLite: the floor's scenarios, and those that only a server has."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from benchmarks import growth, ours, wal
from benchmarks.entry import Figures, Load, ScenarioFunction, run, timed
from benchmarks.startup import DRIVER, startup

TRACE = Path(__file__).parent / "trace"


def url_of(load: Load) -> str:
    """Return the URL of a run's storage."""
    return f"sqlite:///{load.database}"


def enqueue_bulk_100(load: Load) -> Figures:
    """Measure `enqueue_many` with 100 jobs per call."""
    with ours.opened(url_of(load)) as app:
        return timed(lambda: ours.enqueue_bulk_of(app, jobs=load.jobs, size=100), jobs=load.jobs)


def enqueue_bulk(load: Load) -> Figures:
    """Measure one `enqueue_many` with all jobs, which stores them in chunks of 500."""
    with ours.opened(url_of(load)) as app:
        return timed(lambda: ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs), jobs=load.jobs)


def enqueue_one(load: Load) -> Figures:
    """Measure `enqueue`, which commits each job."""
    with ours.opened(url_of(load)) as app:
        return timed(lambda: ours.enqueue_singly(app, jobs=load.singles), jobs=load.singles)


def drained(enqueue: ours.Enqueue, load: Load) -> Figures:
    """Measure running jobs that were all stored before the server started."""
    with ours.opened(url_of(load)) as app:
        enqueue(app, jobs=load.jobs)
        return ours.drained(app, load, jobs=load.jobs)


def commits(load: Load) -> Figures:
    """Count the commits per job in the write-ahead log, including the server's own from its start on."""
    jobs = load.jobs + load.singles
    with ours.opened(url_of(load)) as app, wal.kept(load.database):
        begun = wal.count_commits(load.database)
        ours.enqueue_singly(app, jobs=load.singles)
        single = wal.count_commits(load.database)
        ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)
        bulk = wal.count_commits(load.database)
        with ours.serving(load) as server:
            server.wait_until(lambda: ours.count_succeeded(app.fire) >= jobs, what=f"{jobs} jobs had ended")
            processed = wal.count_commits(load.database)
    return {
        "enqueue_one": (single - begun) / load.singles,
        "enqueue_bulk": (bulk - single) / load.jobs,
        "process": (processed - bulk) / jobs,
    }


def start_to_start(load: Load) -> Figures:
    """Measure the time from the call of `enqueue` to the start of the task on an idle server."""
    return ours.start_to_start(load, url_of(load))


def grown(load: Load) -> Figures:
    """Compare enqueueing and running with many finished and waiting jobs in the file to those with few."""
    with ours.opened(url_of(load)) as app:
        ours.enqueue_bulk_of(app, jobs=growth.SOURCES, size=ours.CHUNK)
        ours.drained(app, load, jobs=growth.SOURCES)
        empty = ours.grown_verbs(app, load)
        growth.multiply(load.database, stored=load.stored)
        if (succeeded := ours.count_succeeded(app.fire)) != load.stored:
            message = f"{load.stored} jobs are stored as succeeded, but the count is {succeeded}"
            raise RuntimeError(message)
        app.noop.using(queue=growth.WAITING).enqueue_many([(number,) for number in range(load.waiting)])
        with wal.kept(load.database):
            pass  # both measurements begin with an empty log
        lists = {"slowest_list_ms": ours.slowest_list_ms(app)}
        return growth.shares(empty, ours.grown_verbs(app, load)) | lists


def rest(load: Load) -> Figures:
    """Measure the cost of an idle server: memory, processor, storage calls."""
    with ours.opened(url_of(load)) as app:
        ours.enqueue_singly(app, jobs=1)
        with ours.serving(load) as server:
            server.wait_until(lambda: ours.count_succeeded(app.fire) == 1, what="the first job had ended")
            figures = ours.watch_rest(server, driver=DRIVER, seconds=load.seconds)
        trace = load.directory / "trace"
        with ours.serving(load, FIRELOCK_BENCH_TRACE=str(trace), PYTHONPATH=str(TRACE)):
            time.sleep(ours.SETTLING_SECONDS)
            before = trace.read_bytes().count(b"\n")
            time.sleep(load.seconds)
            after = trace.read_bytes().count(b"\n")
    return {**figures, "calls_per_s": (after - before) / load.seconds}


def started(load: Load) -> Figures:
    """Measure the cost of starts: imports, commands, and a server until its first job has ended."""
    with ours.opened(url_of(load)) as app:

        def first_job_ms() -> float:
            ended = ours.count_succeeded(app.fire)
            ours.enqueue_singly(app, jobs=1)
            with ours.serving(load) as server:
                server.wait_until(
                    lambda: ours.count_succeeded(app.fire) > ended, what="the first job had ended"
                )
                return server.cpu_seconds() * 1000

        return startup(load, first_job_ms)


def spread(load: Load) -> Figures:
    """Compare computing jobs in two processes on two cores with those in one process on one core."""
    with ours.opened(url_of(load)) as app:
        return ours.spread(app, load)


SCENARIOS: dict[str, ScenarioFunction] = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": partial(drained, ours.enqueue_bulk),
    "limited": partial(drained, ours.enqueue_limited),
    "members": partial(drained, ours.enqueue_members),
    "commits": commits,
    "latency": start_to_start,
    "growth": grown,
    "rest": rest,
    "startup": started,
    "processes": spread,
}

if __name__ == "__main__":
    run(SCENARIOS)
