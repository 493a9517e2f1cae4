"""What limited jobs write down: each start and end, with process and instant; also what they are asked.

Only the standard library is imported here: peers run it in environments of their own.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SPANS, LIMIT, RATE, SECONDS, URL = (
    "FIRELOCK_BENCH_SPANS",
    "FIRELOCK_BENCH_LIMIT",
    "FIRELOCK_BENCH_RATE",
    "FIRELOCK_BENCH_SECONDS",
    "FIRELOCK_BENCH_URL",
)


def limit() -> int:
    """Return how many jobs may run at once; 0 for any number."""
    return int(os.environ[LIMIT])


def rate() -> int:
    """Return how many may start in a second; 0 for any number."""
    return int(os.environ[RATE])


def seconds() -> float:
    """Return how long a job takes."""
    return float(os.environ[SECONDS])


def url() -> str:
    """Return where the storage is."""
    return os.environ[URL]


@cache
def opened() -> int:
    """Return the descriptor of this process's file."""
    return os.open(os.environ[SPANS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(what: str, number: int) -> None:
    """Write a start or an end down."""
    os.write(opened(), b"%s %d %d %d\n" % (what.encode(), number, os.getpid(), time.time_ns()))


def run(number: int) -> None:
    """Be a job."""
    write("start", number)
    if seconds():
        time.sleep(seconds())
    write("end", number)


def read(path: Path) -> list[tuple[str, int, int, float]]:
    """Return what was written down: start or end, number, process, instant in seconds."""
    lines = path.read_text().splitlines() if path.exists() else []
    words = (line.split() for line in lines)
    return [(what, int(number), int(pid), int(at) / 1e9) for what, number, pid, at in words]
