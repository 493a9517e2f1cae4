"""The records of jobs, with process and time of each start and end; the settings of workers.

This module imports only the standard library, because peers run it in separate environments.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RECORDS, LIMIT, RATE, SECONDS, URL, WORKER = (
    "FIRELOCK_BENCH_RECORDS",
    "FIRELOCK_BENCH_LIMIT",
    "FIRELOCK_BENCH_RATE",
    "FIRELOCK_BENCH_SECONDS",
    "FIRELOCK_BENCH_URL",
    "FIRELOCK_BENCH_WORKER",
)
MOST_STEPS = 1_000
"""The factor by which a job's number is multiplied before the number of a step is added."""


def limit() -> int:
    """Return the maximum number of concurrent jobs; 0 for no limit."""
    return int(os.environ[LIMIT])


def rate() -> int:
    """Return the maximum number of starts per second; 0 for no limit."""
    return int(os.environ[RATE])


def seconds() -> float:
    """Return the duration of a job, in seconds."""
    return float(os.environ.get(SECONDS, "0"))


def worker() -> str:
    """Return the name of this worker, which its replacement has too."""
    return os.environ.get(WORKER, "client")


def url() -> str:
    """Return the URL of the storage."""
    return os.environ[URL]


@cache
def opened() -> int:
    """Return the descriptor of this process's file."""
    return os.open(os.environ[RECORDS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(what: str, number: int) -> None:
    """Write a record, such as a start or an end."""
    os.write(opened(), b"%s %d %d %d\n" % (what.encode(), number, os.getpid(), time.time_ns()))


def run(number: int) -> None:
    """Run a job."""
    write("start", number)
    if seconds():
        time.sleep(seconds())
    write("end", number)


def take_steps(number: int, steps: int, step: Callable[[str, Callable[[], int]], object]) -> None:
    """Run a job with steps; `step` runs a named step, which writes a record."""
    write("start", number)

    def run_step(index: int) -> int:
        if seconds():
            time.sleep(seconds())
        write("step", number * MOST_STEPS + index)
        return index

    for index in range(steps):
        step(f"step:{index}", partial(run_step, index))
    write("end", number)


@contextmanager
def storing() -> Iterator[None]:
    """Print how many seconds the block took."""
    begun = time.perf_counter()
    yield
    print(time.perf_counter() - begun, flush=True)


def read(path: Path) -> list[tuple[str, int, int, float]]:
    """Return the records: start or end, number, process, time in seconds."""
    lines = path.read_text().splitlines() if path.exists() else []
    words = (line.split() for line in lines)
    return [(what, int(number), int(pid), int(at) / 1e9) for what, number, pid, at in words]
