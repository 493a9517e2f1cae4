"""Huey on Redis: its two tasks, its consumer and its calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from huey import RedisHuey  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

huey = RedisHuey(url=os.environ["FIRELOCK_BENCH_REDIS"], results=False, blocking=True)

COMMAND = [str(Path(sys.executable).with_name("huey_consumer")), "benchmarks.peers.huey_redis.huey"]
COMMAND += ["-k", "thread", "-w", "10", "--quiet"]


def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


noop = huey.task()(do_nothing)
stamp = huey.task()(timestamps.write)


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        noop(number)
