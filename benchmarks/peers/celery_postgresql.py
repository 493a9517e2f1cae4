"""Celery on PostgreSQL by Kombu's SQLAlchemy transport; that it looks each second, nothing sets."""

from __future__ import annotations

import os

from benchmarks.peers.celery_app import App

URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]

bench = App("celery_postgresql", f"sqla+{URL.replace('postgresql:', 'postgresql+psycopg:', 1)}")
app = bench.celery
COMMAND, enqueue, stamp = bench.command, bench.enqueue, bench.stamp
