"""Sidekiq on Redis: its worker's command and its client program."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.entry import Figures
from benchmarks.peers.program import Program

FOLDER = Path(__file__).parent / "sidekiq"
ENVIRONMENT = {"REDIS_URL": os.environ["FIRELOCK_BENCH_REDIS"]}
COMMAND = ["sidekiq", "--require", str(FOLDER / "jobs.rb"), "--concurrency", "5"]

program = Program("ruby", str(FOLDER / "client.rb"), **ENVIRONMENT)
stamp = program.stamp


def enqueue(jobs: int) -> Figures:
    """Enqueue jobs, one per call."""
    return program.enqueue(jobs, 1)


def enqueue_bulk(jobs: int, size: int) -> Figures:
    """Enqueue jobs, `size` per call."""
    return program.enqueue(jobs, size)
