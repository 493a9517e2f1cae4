"""Instants that tasks write down themselves, in a file that the measuring process reads.

The file's path is in the environment, where a server's processes find it. A line is written by one call that
appends, so lines of several threads or processes never mix.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

VARIABLE = "FIRELOCK_BENCH_STAMPS"


@cache
def opened() -> int:
    """Return the descriptor of this process's file of instants."""
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(number: int) -> None:
    """Write down that this number is reached now."""
    os.write(opened(), b"%d %d\n" % (number, time.time_ns()))


def read(path: Path) -> dict[int, int]:
    """Return the first instant of each number, in nanoseconds since the epoch."""
    instants: dict[int, int] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            number, instant = line.split()
            instants.setdefault(int(number), int(instant))
    return instants
