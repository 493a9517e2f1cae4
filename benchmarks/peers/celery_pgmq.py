"""Celery on PostgreSQL by Kombu's transport over PGMQ's functions."""

from __future__ import annotations

import os

from pgmq import install_pgmq_from_sql  # type: ignore[import-not-found]

from benchmarks.peers.celery_app import App

URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]

# Told of what is stored it looks at once, where by itself it would ask ten times a second.
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
    """Make its tables and functions."""
    install_pgmq_from_sql(dsn=URL)
