"""BullMQ on Redis: its worker's command and its client program."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.entry import Figures
from benchmarks.peers.program import Program

FOLDER = Path(__file__).parent / "bullmq"
ENVIRONMENT = {"REDIS_URL": os.environ["FIRELOCK_BENCH_REDIS"]}
COMMAND = ["node", str(FOLDER / "worker.js")]

program = Program("node", str(FOLDER / "client.js"), **ENVIRONMENT)
stamp = program.stamp


def enqueue(jobs: int) -> Figures:
    """Enqueue jobs, one per call."""
    return program.enqueue(jobs, 1)


def enqueue_bulk(jobs: int, size: int) -> Figures:
    """Enqueue jobs, `size` per call."""
    return program.enqueue(jobs, size)
