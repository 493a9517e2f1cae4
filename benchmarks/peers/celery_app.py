"""Celery on any broker: its two tasks, its worker and its calls."""

from __future__ import annotations

import sys

from celery import Celery  # type: ignore[import-untyped]

from benchmarks import timestamps
from benchmarks.peers import ends

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "error")


def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


class App:
    """The application of a module in this package."""

    def __init__(self, module: str, broker: str, **options: object) -> None:
        self.celery = Celery("bench", broker=broker)
        self.celery.conf.update(
            broker_transport_options=options,
            task_ignore_result=True,
            task_acks_late=True,
            worker_prefetch_multiplier=64,
            worker_send_task_events=False,
            broker_connection_retry_on_startup=True,
            worker_hijack_root_logger=False,
        )
        self.command = [sys.executable, "-m", "celery", "-A", f"benchmarks.peers.{module}:app", "worker"]
        self.command += ["--pool", "threads", "--concurrency", "10", *QUIET]
        self._noop = self.celery.task(name="noop")(do_nothing)
        self._stamped = self.celery.task(name="stamp")(timestamps.write)

    def enqueue(self, jobs: int) -> None:
        """Enqueue jobs, one per call."""
        for number in range(jobs):
            self._noop.delay(number)

    def stamp(self, number: int) -> None:
        """Enqueue a job that records its start."""
        self._stamped.delay(number)
