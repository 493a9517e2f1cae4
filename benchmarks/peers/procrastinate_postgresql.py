"""Procrastinate: its two tasks, its worker and its calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import procrastinate  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]
COMMAND = [str(Path(sys.executable).with_name("procrastinate"))]
COMMAND += ["--app", "benchmarks.peers.procrastinate_postgresql.app", "worker", "--concurrency", "10"]

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL))


@app.task(name="noop")  # type: ignore[untyped-decorator]
async def do_nothing(number: int) -> None:
    """Do nothing."""
    del number
    ends.count_end()


@app.task(name="stamp")  # type: ignore[untyped-decorator]
async def write_stamp(number: int) -> None:
    """Record when this job started."""
    timestamps.write(number)


def open_client() -> None:
    """Create its tables and a client."""
    app.open()
    app.schema_manager.apply_schema()


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        app.tasks["noop"].defer(number=number)


def enqueue_bulk(jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call."""
    for begin in range(0, jobs, size):
        app.tasks["noop"].batch_defer(
            *({"number": number} for number in range(begin, min(begin + size, jobs)))
        )


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    app.tasks["stamp"].defer(number=number)
