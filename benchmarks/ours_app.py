"""The application that the benchmarks run: tasks that do nothing, and one that stores when it started."""

from __future__ import annotations

from benchmarks import stamps
from firelock import Firelock, Limit

fire = Firelock()


@fire.task
def noop(number: int) -> None:
    """Do nothing."""


@fire.task(limits=[Limit("benchmarks", concurrent=1_000)])
def limited(number: int) -> None:
    """Do nothing, below a limit that ten workers never reach."""


@fire.task
def stamp(number: int) -> None:
    """Write down when this job started."""
    stamps.write(number)
