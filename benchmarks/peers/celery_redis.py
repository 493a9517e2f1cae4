"""Celery on Redis."""

from __future__ import annotations

import os

from benchmarks.peers.celery_app import App

bench = App("celery_redis", os.environ["FIRELOCK_BENCH_REDIS"])
app = bench.celery
COMMAND, enqueue, stamp = bench.command, bench.enqueue, bench.stamp
