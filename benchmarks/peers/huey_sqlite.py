"""Huey on SQLite, with the settings that its documentation recommends.

The settings are WAL (Huey's default), no stored results, and threads in one process. A job is deleted when a
worker takes it, so a crash loses the running jobs, and no history is kept. `fsync=True` is SQLite's
synchronous=FULL, which is as durable as Firelock. `fsync=False` is synchronous=OFF, which can corrupt the
file if the power fails.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

from benchmarks import latency, servers, timestamps
from benchmarks.entry import Figures, Load, run, timed
from benchmarks.servers import Server

CONSUMER = str(Path(sys.executable).with_name("huey_consumer"))
WORKERS = 10


def open_app(load: Load, *, fsync: bool, last: int = 0) -> ModuleType:
    """Import the application; a consumer that this process starts gets the same settings."""
    os.environ["HUEY_BENCH_FILE"] = str(load.database)
    os.environ["HUEY_BENCH_FSYNC"] = "yes" if fsync else "no"
    os.environ["HUEY_BENCH_LAST"] = str(last)
    os.environ[timestamps.VARIABLE] = str(load.directory / "timestamps")
    from benchmarks.peers import huey_app  # it reads its settings at import

    return huey_app


@contextmanager
def consuming(load: Load) -> Iterator[Server]:
    """Run a consumer with ten threads during the block."""
    command = [CONSUMER, "benchmarks.peers.huey_app.huey", "-k", "thread", "-w", str(WORKERS), "--quiet"]
    with servers.running(command, environment={}, log=load.directory / "consumer.log") as server:
        yield server


def enqueue(app: ModuleType, *, jobs: int) -> None:
    """Enqueue jobs, one per call, because Huey has no bulk call."""
    for number in range(jobs):
        app.noop(number)


def enqueue_one(load: Load, *, fsync: bool) -> Figures:
    """Measure enqueueing, with one commit per job."""
    app = open_app(load, fsync=fsync)
    return timed(lambda: enqueue(app, jobs=load.singles), jobs=load.singles)


def process(load: Load, *, fsync: bool) -> Figures:
    """Measure running jobs that were all stored before, from the first end to the last.

    Huey gets a tenth of our jobs, because it is slower; its rate does not depend on their number.
    """
    jobs = max(load.jobs // 10, 1_000)
    app = open_app(load, fsync=fsync, last=jobs)
    enqueue(app, jobs=jobs)
    path = load.directory / "timestamps"
    with consuming(load) as server:
        cpu = servers.watch_drain(server, lambda: jobs - app.huey.pending_count(), jobs=jobs)
        server.wait_until(lambda: jobs in timestamps.read(path), what="the last job had ended")
    ends = timestamps.read(path)
    return {"jobs_per_s": (jobs - 1) / (ends[jobs] - ends[1]) * 1e9, **cpu}


def start_to_start(load: Load, *, fsync: bool) -> Figures:
    """Measure the time from the call to the start of the task on an idle consumer."""
    app = open_app(load, fsync=fsync)
    with consuming(load) as server:
        return latency.measure(server, app.stamp, load.directory / "timestamps", samples=load.samples)


SCENARIOS = {"enqueue_one": enqueue_one, "process": process, "latency": start_to_start}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--fsync", choices=["yes", "no"], required=True)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    run({name: partial(scenario, fsync=options.fsync == "yes") for name, scenario in SCENARIOS.items()})
