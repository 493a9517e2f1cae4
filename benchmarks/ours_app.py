"""The application that the benchmarks run: tasks that do nothing, and one that records its start."""

from __future__ import annotations

import time

from benchmarks import timestamps
from firelock import Firelock, Limit

COMPUTING_SECONDS = 0.001

fire = Firelock()


@fire.task
def noop(number: int) -> None:
    """Do nothing."""


@fire.task(limits=[Limit("benchmarks", concurrent=1_000)])
def limited(number: int) -> None:
    """Do nothing, with a limit that ten workers never reach."""


@fire.task
def compute(number: int) -> None:
    """Compute for a millisecond."""
    begun = time.thread_time()
    while time.thread_time() - begun < COMPUTING_SECONDS:
        number += 1


@fire.task
def stamp(number: int) -> None:
    """Record when this job started."""
    timestamps.write(number)
