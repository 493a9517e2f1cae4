"""RQ on Redis: its two tasks, its worker and its calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from redis import Redis
from rq import Queue  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

queue = Queue(connection=Redis.from_url(os.environ["FIRELOCK_BENCH_REDIS"]))

COMMAND = [str(Path(sys.executable).with_name("rq")), "worker", "--url", os.environ["FIRELOCK_BENCH_REDIS"]]
COMMAND += ["--worker-class", "rq.SimpleWorker", "--quiet"]


def noop(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        queue.enqueue_call(noop, (number,), result_ttl=0)


def enqueue_bulk(jobs: int, size: int) -> None:
    """Enqueue jobs, `size` per call."""
    for begin in range(0, jobs, size):
        numbers = range(begin, min(begin + size, jobs))
        queue.enqueue_many([Queue.prepare_data(noop, (number,), result_ttl=0) for number in numbers])


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    queue.enqueue_call(timestamps.write, (number,), result_ttl=0)
