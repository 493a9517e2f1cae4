"""streaQ on Redis: its two tasks, its worker and its calls."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop  # type: ignore[import-not-found]
from streaq import Worker  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

worker = Worker(redis_url=os.environ["FIRELOCK_BENCH_REDIS"], anyio_kwargs={"use_uvloop": True})
runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
client = AsyncExitStack()

COMMAND = [str(Path(sys.executable).with_name("streaq")), "run", "benchmarks.peers.streaq_redis:worker"]


async def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


async def write_stamp(number: int) -> None:
    """Record when this job started."""
    timestamps.write(number)


noop = worker.task(ttl=0, silent=True, name="noop")(do_nothing)
stamped = worker.task(ttl=0, silent=True, name="stamp")(write_stamp)


def open_client() -> None:
    """Open the connections for calls on this process's event loop; they close with the process."""
    runner.run(client.enter_async_context(worker))


async def enqueue_singly(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        await noop.enqueue(number)


async def enqueue_in_batches(jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call."""
    for begin in range(0, jobs, size):
        numbers = range(begin, min(begin + size, jobs))
        await worker.enqueue_many([noop.enqueue(number) for number in numbers])


async def enqueue_stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    await stamped.enqueue(number)


def enqueue(jobs: int) -> None:
    """Enqueue jobs on this process's event loop."""
    runner.run(enqueue_singly(jobs))


def enqueue_bulk(jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call."""
    runner.run(enqueue_in_batches(jobs, size))


def stamp(number: int) -> None:
    """Enqueue a job that records its start, on this process's event loop."""
    runner.run(enqueue_stamp(number))
