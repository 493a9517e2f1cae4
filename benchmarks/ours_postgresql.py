"""Firelock on PostgreSQL: the floor's scenarios, and those that only a server has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import psycopg

from benchmarks import counting, latency, ours, postgresql_server
from benchmarks.entry import Figures, Load, ScenarioFunction, run, timed
from benchmarks.postgresql_server import PostgresqlServer
from firelock import Firelock

WRITERS = "select pg_current_xact_id()::text::bigint"


def enqueued(load: Load, action: Callable[[ModuleType], object], *, jobs: int) -> Figures:
    """Measure storing so many jobs in one way; the server's share is in the figures."""
    with postgresql_server.running(load.directory) as server, ours.opened(server.url) as app:
        cpu = server.cpu_seconds()
        figures = timed(lambda: action(app), jobs=jobs)
        figures = postgresql_server.with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
        if (stored := app.fire.jobs.counts().by_state.get("enqueued", 0)) != jobs:
            message = f"{jobs} jobs should be enqueued, {stored} are"
            raise RuntimeError(message)
        return figures


def enqueue_bulk_100(load: Load) -> Figures:
    """Measure `enqueue_many` of 100 jobs a call."""
    return enqueued(load, lambda app: ours.enqueue_bulk_of(app, jobs=load.jobs, size=100), jobs=load.jobs)


def enqueue_bulk(load: Load) -> Figures:
    """Measure one `enqueue_many` of all the jobs, which stores them in chunks of 500."""
    return enqueued(load, partial(ours.enqueue_bulk_of, jobs=load.jobs, size=load.jobs), jobs=load.jobs)


def enqueue_one(load: Load) -> Figures:
    """Measure `enqueue`, a round trip and a commit each."""
    return enqueued(load, partial(ours.enqueue_singly, jobs=load.singles), jobs=load.singles)


def process(load: Load) -> Figures:
    """Measure running jobs that were all stored before the server started."""
    with postgresql_server.running(load.directory) as server, ours.opened(server.url) as app:
        ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)
        return ours.drained(app, load, jobs=load.jobs, storage=server.cpu_seconds)


def start_to_start(load: Load, *, gaps: latency.Gaps) -> Figures:
    """Measure the time from the call of `enqueue` to the start of the task."""
    with postgresql_server.running(load.directory) as server:
        return ours.start_to_start(load, server.url, gaps=gaps)


def read_writers(server: PostgresqlServer) -> int:
    """Return how many transactions have written something, this question among them."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        found = connection.execute(WRITERS).fetchone()
        return int(found[0]) if found else 0


def footprint(load: Load) -> Figures:
    """Count what a job costs of the wire, and commits that have something to make durable.

    The server's own round trips are among those of processing, from its start on; whoever looks on is not.
    """
    jobs = load.jobs + load.singles
    figures: Figures = {}
    with postgresql_server.running(load.directory) as server, counting.counting(server.port) as wire:
        onlooker = Firelock(server.url)

        def work() -> None:
            with ours.serving(load) as worker:
                worker.wait_until(
                    lambda: ours.count_succeeded(onlooker) >= jobs, what=f"{jobs} jobs had ended"
                )

        with ours.opened(server.url_at(wire.port)) as app:
            steps: dict[str, counting.Step] = {
                "one": (load.singles, lambda: ours.enqueue_singly(app, jobs=load.singles)),
                "bulk": (load.jobs, lambda: ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)),
                "process": (jobs, work),
            }
            for name, (number, action) in steps.items():
                (trips, size), writers = wire.look(), read_writers(server)
                action()
                now_trips, now_size = wire.look()
                figures[f"{name}_trips"] = (now_trips - trips) / number
                figures[f"{name}_bytes"] = (now_size - size) / number
                figures[f"{name}_commits"] = (read_writers(server) - writers - 1) / number
        onlooker.close()
    return figures


SCENARIOS: dict[str, ScenarioFunction] = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "footprint": footprint,
    "latency": partial(start_to_start, gaps=latency.even),
    "latency_busy": partial(start_to_start, gaps=latency.busy),
}

if __name__ == "__main__":
    run(SCENARIOS)
