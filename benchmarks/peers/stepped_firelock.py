"""Firelock with steps: its worker and its client."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peers import records
from firelock import Firelock, JobContext

COMMAND = [
    str(Path(sys.executable).with_name("firelock")),
    "server",
    "benchmarks.peers.stepped_firelock:fire",
]
COMMAND += ["--workers", "10", "--processes", "1"]

fire = Firelock(os.environ.get(records.URL))


@fire.task(name="work")
def work(job: JobContext, number: int, steps: int) -> None:
    """Run a number of steps."""
    records.take_steps(number, steps, job.step)


if __name__ == "__main__":
    fire.storage.migrate()
    work.enqueue_many([(number, int(sys.argv[2])) for number in range(int(sys.argv[1]))])
    fire.close()
