"""Celery on Redis: its two tasks, its worker and its calls."""

from __future__ import annotations

import os
import sys

from celery import Celery  # type: ignore[import-not-found]

from benchmarks import stamps
from benchmarks.peers import ends

app = Celery("bench", broker=os.environ["FIRELOCK_BENCH_REDIS"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "error")
COMMAND = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_redis:app", "worker"]
COMMAND += ["--pool", "threads", "--concurrency", "10", *QUIET]


def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


noop = app.task(name="noop")(do_nothing)
stamped = app.task(name="stamp")(stamps.write)


def enqueue(jobs: int) -> None:
    """Enqueue so many jobs, one a call."""
    for number in range(jobs):
        noop.delay(number)


def stamp(number: int) -> None:
    """Enqueue a job that writes its start down."""
    stamped.delay(number)
