"""Dramatiq on PostgreSQL with dramatiq-pg: its two tasks, its worker and its calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dramatiq  # type: ignore[import-not-found]
import psycopg2  # type: ignore[import-untyped]
from dramatiq_pg import PostgresBroker, generate_init_sql  # type: ignore[import-not-found]

from benchmarks import timestamps
from benchmarks.peers import ends

URL = os.environ["FIRELOCK_BENCH_POSTGRESQL"]
broker = PostgresBroker(url=URL, results=False)
dramatiq.set_broker(broker)

COMMAND = [str(Path(sys.executable).with_name("dramatiq")), "benchmarks.peers.dramatiq_postgresql"]
COMMAND += ["--processes", "1", "--threads", "8"]


def do_nothing(_number: int) -> None:
    """Do nothing."""
    ends.count_end()


noop = dramatiq.actor(do_nothing, actor_name="noop")
stamped = dramatiq.actor(timestamps.write, actor_name="stamp")


def open_client() -> None:
    """Create its tables like `dramatiq-pg init`, which needs packages that Python no longer has."""
    connection = psycopg2.connect(URL)
    with connection, connection.cursor() as cursor:
        cursor.execute(generate_init_sql())
    connection.close()


def enqueue(jobs: int) -> None:
    """Enqueue jobs, one per call."""
    for number in range(jobs):
        noop.send(number)


def stamp(number: int) -> None:
    """Enqueue a job that records its start."""
    stamped.send(number)
