"""Dramatiq on Redis: its two tasks, its worker and its calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

broker = RedisBroker(url=os.environ["FIRELOCK_BENCH_REDIS"])
dramatiq.set_broker(broker)

COMMAND = [str(Path(sys.executable).with_name("dramatiq")), "benchmarks.peers.dramatiq_redis"]
COMMAND += ["--processes", "1", "--threads", "8"]


def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


noop = dramatiq.actor(do_nothing, actor_name="noop")
stamped = dramatiq.actor(timestamps.write, actor_name="stamp")


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        noop.send(number)


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    stamped.send(number)
