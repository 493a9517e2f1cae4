"""Celery on PostgreSQL with Kombu's SQLAlchemy transport, whose polling interval is always a second."""

from __future__ import annotations

import os

from benchmarks.peers.celery_app import App

URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]

bench = App("celery_postgresql", f"sqla+{URL.replace('postgresql:', 'postgresql+psycopg:', 1)}")
app = bench.celery
COMMAND, enqueue, stamp = bench.command, bench.enqueue, bench.stamp
