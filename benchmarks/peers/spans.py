"""What jobs of workers write down: each start and end, with process and instant; also what they are asked.

Only the standard library is imported here: peers run it in environments of their own.
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

SPANS, LIMIT, RATE, SECONDS, URL, WORKER = (
    "FIRELOCK_BENCH_SPANS",
    "FIRELOCK_BENCH_LIMIT",
    "FIRELOCK_BENCH_RATE",
    "FIRELOCK_BENCH_SECONDS",
    "FIRELOCK_BENCH_URL",
    "FIRELOCK_BENCH_WORKER",
)
MOST_STEPS = 1_000
"""Of a job: the number of its step is behind that of the job."""


def limit() -> int:
    """Return how many jobs may run at once; 0 for any number."""
    return int(os.environ[LIMIT])


def rate() -> int:
    """Return how many may start in a second; 0 for any number."""
    return int(os.environ[RATE])


def seconds() -> float:
    """Return how long a job takes."""
    return float(os.environ.get(SECONDS, "0"))


def worker() -> str:
    """Return the name of this worker, which one that takes its place has as well."""
    return os.environ.get(WORKER, "client")


def url() -> str:
    """Return where the storage is."""
    return os.environ[URL]


@cache
def opened() -> int:
    """Return the descriptor of this process's file."""
    return os.open(os.environ[SPANS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(what: str, number: int) -> None:
    """Write something down, such as a start or an end."""
    os.write(opened(), b"%s %d %d %d\n" % (what.encode(), number, os.getpid(), time.time_ns()))


def run(number: int) -> None:
    """Be a job."""
    write("start", number)
    if seconds():
        time.sleep(seconds())
    write("end", number)


def take_steps(number: int, steps: int, step: Callable[[str, Callable[[], int]], object]) -> None:
    """Be a job of so many steps; `step` runs one of a name, which writes down that it ran."""
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
    """Say how many seconds the block took."""
    begun = time.perf_counter()
    yield
    print(time.perf_counter() - begun, flush=True)


def read(path: Path) -> list[tuple[str, int, int, float]]:
    """Return what was written down: start or end, number, process, instant in seconds."""
    lines = path.read_text().splitlines() if path.exists() else []
    words = (line.split() for line in lines)
    return [(what, int(number), int(pid), int(at) / 1e9) for what, number, pid, at in words]
