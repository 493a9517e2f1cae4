"""Oban: its two jobs, its worker and its calls."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import uvloop  # type: ignore[import-not-found]
from oban import Oban, worker  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

LIMIT = 10
URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]
PROGRAM = str(Path(sys.executable).with_name("oban"))
runners: list[Any] = []


def command(limit: int) -> list[str]:
    """Return the command of a worker with `limit` concurrent jobs; it does not search for modules."""
    queues = ("--queues", f"default:{limit}", "--cron-modules", "benchmarks.peers.oban_postgresql")
    return [PROGRAM, "start", "--dsn", URL, *queues, "--log-level", "ERROR"]


COMMAND = command(LIMIT)


# Classes, because version 0.7.0 passes wrong arguments to a function with one parameter.
@worker()
class Noop:
    """A job that does nothing."""

    async def process(self, _job: object) -> None:
        """Count the end."""
        ends.count_end()


@worker()
class Stamp:
    """A job that records its start."""

    async def process(self, job: Any) -> None:  # noqa: ANN401 - its own job
        """Record the time."""
        timestamps.write(job.args["number"])


noop: Any = Noop
stamped: Any = Stamp  # both have the methods that enqueue


async def connect() -> Any:  # noqa: ANN401 - its own client
    """Return a client, which jobs find automatically."""
    return Oban(pool=await Oban.create_pool(URL))


def open_client() -> None:
    """Create its tables and a client."""
    subprocess.run([PROGRAM, "install", "--dsn", URL], check=True, capture_output=True)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    runners[:] = [runner]
    runner.run(connect())


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""

    async def singly() -> None:
        for number in range(jobs):
            await noop.enqueue({"number": number})

    runners[0].run(singly())


def enqueue_bulk(jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call."""

    async def in_bulk() -> None:
        oban = Oban.get_instance()
        for begin in range(0, jobs, size):
            await oban.enqueue_many(
                noop.new({"number": number}) for number in range(begin, min(begin + size, jobs))
            )

    runners[0].run(in_bulk())


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    runners[0].run(stamped.enqueue({"number": number}))
