"""Times that tasks record themselves, in a file that the measuring process reads.

The file's path is in an environment variable, which the server's processes inherit. Each line is appended by
one call, so lines of several threads or processes do not mix.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

VARIABLE = "FIRELOCK_BENCH_TIMESTAMPS"


@cache
def opened() -> int:
    """Return the descriptor of this process's file of times."""
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(number: int) -> None:
    """Record the current time for this number."""
    os.write(opened(), b"%d %d\n" % (number, time.time_ns()))


def read(path: Path) -> dict[int, int]:
    """Return the first time of each number, in nanoseconds since the epoch."""
    times: dict[int, int] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            number, time_ns = line.split()
            times.setdefault(int(number), int(time_ns))
    return times
