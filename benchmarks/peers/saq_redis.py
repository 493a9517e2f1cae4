"""SAQ on Redis: its two tasks, its worker and its calls."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop  # type: ignore[import-not-found]
from saq import Queue  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

queue = Queue.from_url(os.environ["FIRELOCK_BENCH_REDIS"])
runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

COMMAND = [str(Path(sys.executable).with_name("saq")), "benchmarks.peers.saq_redis.settings", "--quiet"]


async def noop(_context: object, *, number: int) -> None:  # noqa: ARG001 - part of the job
    """Do nothing."""
    ends.count_end()


async def stamped(_context: object, *, number: int) -> None:
    """Record when this job started."""
    timestamps.write(number)


settings = {"queue": queue, "functions": [noop, stamped], "concurrency": 20}


async def enqueue_singly(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        await queue.enqueue("noop", number=number, ttl=-1)


def enqueue(jobs: int) -> None:
    """Enqueue jobs on this process's event loop."""
    runner.run(enqueue_singly(jobs))


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    runner.run(queue.enqueue("stamped", number=number, ttl=-1))
