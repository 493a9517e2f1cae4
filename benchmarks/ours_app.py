"""The application that the benchmarks run: one task that does nothing, one that writes its start down."""

from __future__ import annotations

from benchmarks import stamps
from firelock import Firelock

fire = Firelock()


@fire.task
def noop(number: int) -> None:
    """Do nothing."""


@fire.task
def stamp(number: int) -> None:
    """Write down when this job started."""
    stamps.write(number)
