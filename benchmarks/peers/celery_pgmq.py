"""Celery on PostgreSQL with Kombu's transport for PGMQ."""

from __future__ import annotations

import os

from pgmq import install_pgmq_from_sql  # type: ignore[import-not-found]

from benchmarks.peers.celery_app import App

URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]

# With notifications, it checks for jobs immediately; otherwise it would poll ten times per second.
bench = App(
    "celery_pgmq",
    URL.replace("postgresql:", "pgmq:", 1),
    init_extension=False,
    use_notify=True,
    notify_throttle_interval_ms=0,
    wait_time_seconds=0,
)
app = bench.celery
COMMAND, enqueue, stamp = bench.command, bench.enqueue, bench.stamp


def open_client() -> None:
    """Create its tables and functions."""
    install_pgmq_from_sql(dsn=URL)
