"""taskiq on Redis streams: its two tasks, its worker and its calls."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop  # type: ignore[import-not-found]
from taskiq_redis import RedisStreamBroker  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

broker = RedisStreamBroker(os.environ["FIRELOCK_BENCH_REDIS"])
runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

COMMAND = [str(Path(sys.executable).with_name("taskiq")), "worker"]
COMMAND += ["benchmarks.peers.taskiq_redis_streams:broker", "--workers", "1", "--log-level", "ERROR"]


async def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


async def write_stamp(number: int) -> None:
    """Record when this job started."""
    timestamps.write(number)


noop = broker.task(task_name="noop")(do_nothing)
stamped = broker.task(task_name="stamp")(write_stamp)


async def enqueue_singly(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        await noop.kiq(number)


def open_client() -> None:
    """Prepare the broker, which the first call would otherwise do."""
    runner.run(broker.startup())


def enqueue(jobs: int) -> None:
    """Enqueue jobs on this process's event loop."""
    runner.run(enqueue_singly(jobs))


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    runner.run(stamped.kiq(number))
