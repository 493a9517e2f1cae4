"""PgQueuer: its two tasks, its worker and its calls."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import uvloop  # type: ignore[import-not-found]
from pgqueuer import PgQueuer  # type: ignore[import-not-found]
from pgqueuer.db import AsyncpgDriver  # type: ignore[import-not-found]
from pgqueuer.queries import Queries  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

BATCH = 10
URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]
PROGRAM = str(Path(sys.executable).with_name("pgq"))
clients: list[Any] = []


def command(batch: int) -> list[str]:
    """Return the worker's command; PgQueuer's own command fails with every log level in version 1.6.0."""
    return [sys.executable, "-m", "benchmarks.peers.pgqueuer_postgresql", str(batch)]


COMMAND = command(BATCH)


async def make() -> Any:  # noqa: ANN401 - its own application
    """Return the application of its worker."""
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @queue.entrypoint("noop")  # type: ignore[untyped-decorator]
    async def do_nothing(_job: object) -> None:
        ends.count_end()

    @queue.entrypoint("stamp")  # type: ignore[untyped-decorator]
    async def write_stamp(job: Any) -> None:  # noqa: ANN401 - its own job
        timestamps.write(int(job.payload))

    return queue


async def connect() -> Any:  # noqa: ANN401 - its own client
    """Return a client."""
    return Queries(AsyncpgDriver(await asyncpg.connect(URL)))


def open_client() -> None:
    """Create its tables and a client."""
    subprocess.run([PROGRAM, "--pg-dsn", URL, "install"], check=True, stdout=subprocess.DEVNULL)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    clients[:] = [runner, runner.run(connect())]


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    runner, client = clients

    async def singly() -> None:
        for number in range(jobs):
            await client.enqueue("noop", str(number).encode())

    runner.run(singly())


def enqueue_bulk(jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call."""
    runner, client = clients

    async def in_bulk() -> None:
        for begin in range(0, jobs, size):
            payloads = [str(number).encode() for number in range(begin, min(begin + size, jobs))]
            await client.enqueue(["noop"] * len(payloads), payloads, [0] * len(payloads))

    runner.run(in_bulk())


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    runner, client = clients
    runner.run(client.enqueue("stamp", str(number).encode()))


async def work(batch: int) -> None:
    """Run the worker until it is stopped."""
    queue = await make()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=batch, dequeue_timeout=timedelta(seconds=1))


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])))
