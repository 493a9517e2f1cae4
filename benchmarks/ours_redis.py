"""Firelock on Redis: the floor's scenarios, and those that only a server has."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

from benchmarks import counting, growth, latency, ours, redis_server
from benchmarks.entry import Figures, Load, ScenarioFunction, run, timed
from firelock import Firelock

WAITING = "waiting"
"""A queue that no server is told to serve."""


def enqueued(load: Load, action: Callable[[ModuleType], object], *, jobs: int) -> Figures:
    """Measure storing so many jobs in one way; the server's share is in the figures."""
    with redis_server.running(load.directory) as server, ours.opened(server.url) as app:
        cpu = server.cpu_seconds()
        figures = timed(lambda: action(app), jobs=jobs)
        figures = redis_server.with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
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
    """Measure `enqueue`, a round trip each."""
    return enqueued(load, partial(ours.enqueue_singly, jobs=load.singles), jobs=load.singles)


def process(load: Load) -> Figures:
    """Measure running jobs that were all stored before the server started."""
    with redis_server.running(load.directory) as server, ours.opened(server.url) as app:
        ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)
        return ours.drained(app, load, jobs=load.jobs, storage=server.cpu_seconds)


def footprint(load: Load) -> Figures:
    """Count what a job costs of the wire and of the server's memory.

    The server's own round trips are among those of processing, from its start on; whoever looks on is not.
    """
    jobs = load.jobs + load.singles
    with redis_server.running(load.directory) as server, counting.counting(server.port) as wire:
        onlooker = Firelock(server.url)

        def is_done() -> bool:
            return ours.count_succeeded(onlooker) >= jobs

        def work() -> None:
            with ours.serving(load) as worker:
                worker.wait_until(is_done, what=f"{jobs} jobs had ended")

        with ours.opened(wire.url) as app:
            steps: dict[str, counting.Step] = {
                "one": (load.singles, lambda: ours.enqueue_singly(app, jobs=load.singles)),
                "bulk": (load.jobs, lambda: ours.enqueue_bulk_of(app, jobs=load.jobs, size=load.jobs)),
                "process": (jobs, work),
            }
            figures = counting.measure(steps, server, wire)
        onlooker.close()
        return figures


def start_to_start(load: Load, *, gaps: latency.Gaps) -> Figures:
    """Measure the time from the call of `enqueue` to the start of the task."""
    with redis_server.running(load.directory) as server:
        return ours.start_to_start(load, server.url, gaps=gaps)


def grown(load: Load) -> Figures:
    """Compare the three verbs beside many finished and as many waiting jobs with the same beside few."""
    with redis_server.running(load.directory) as server, ours.opened(server.url) as app:
        ours.enqueue_bulk_of(app, jobs=growth.SOURCES, size=ours.CHUNK)
        ours.drained(app, load, jobs=growth.SOURCES)
        empty = ours.verbs(app, load)
        ours.enqueue_bulk_of(app, jobs=load.stored, size=load.stored)
        ours.drained(app, load, jobs=load.stored)
        app.noop.using(queue=WAITING).enqueue_many([(number,) for number in range(load.stored)])
        lists = {"slowest_list_ms": ours.slowest_list_ms(app)}
        return growth.shares(empty, ours.verbs(app, load)) | lists


def rest(load: Load) -> Figures:
    """Measure what a server without work costs: memory, processor, round trips and commands."""
    with (
        redis_server.running(load.directory) as server,
        counting.counting(server.port) as wire,
        ours.opened(server.url) as app,
    ):
        ours.enqueue_singly(app, jobs=1)
        with ours.serving(load, FIRELOCK_STORAGE=wire.url) as worker:
            worker.wait_until(lambda: ours.count_succeeded(app.fire) == 1, what="the first job had ended")
            time.sleep(ours.SETTLING_SECONDS)
            (trips, _), commands, begun = wire.look(), server.commands(), time.monotonic()
            figures = ours.watch_rest(worker, seconds=load.seconds)
            now_trips, _ = wire.look()
            seconds = time.monotonic() - begun
            executed = server.commands() - commands - 1  # without the first question itself
    return {
        **figures,
        "calls_per_s": (now_trips - trips) / seconds,
        "commands_per_s": executed / seconds,
    }


SCENARIOS: dict[str, ScenarioFunction] = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "footprint": footprint,
    "latency": partial(start_to_start, gaps=latency.even),
    "latency_busy": partial(start_to_start, gaps=latency.busy),
    "growth": grown,
    "rest": rest,
}

if __name__ == "__main__":
    run(SCENARIOS)
