"""Measure the time from the enqueueing call to the first line of the task, on a server with little work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import timestamps
from benchmarks.entry import Figures
from benchmarks.servers import Server

Gaps = Callable[[int], list[float]]
"""A function of the number of calls that returns the seconds between successive calls."""

SPACING_SECONDS = 0.01
BUSY_SPACING_SECONDS = 0.005
REST_SECONDS = 1.0
WARM_UP = -1


def even(samples: int) -> list[float]:
    """Return gaps of 10 ms, so that the server is idle before each call unless it is slower."""
    return [SPACING_SECONDS] * samples


def busy(samples: int) -> list[float]:
    """Return random gaps for twice as many calls, 200 per second, often close together as with real users."""
    chance = random.Random(4_711)
    return [chance.expovariate(1 / BUSY_SPACING_SECONDS) for _ in range(2 * samples)]


def measure(
    server: Server, enqueue: Callable[[int], object], path: Path, *, samples: int, gaps: Gaps = even
) -> Figures:
    """Return percentiles of the time from just before each call of `enqueue` to the task's own timestamp.

    One job warms up both sides, then the server is idle for a second. If `enqueue` returns a number, it is
    the time before the call, in nanoseconds since the epoch, as measured by a client that is another program.
    """
    enqueue(WARM_UP)
    server.wait_until(lambda: WARM_UP in timestamps.read(path), what="the first job had started")
    time.sleep(REST_SECONDS)
    called = []
    at = time.perf_counter()
    for number, gap in enumerate(gaps(samples)):
        time.sleep(max(0.0, at - time.perf_counter()))
        at += gap
        called_at = time.time_ns()
        returned = enqueue(number)
        called.append(returned if isinstance(returned, int) else called_at)
    server.wait_until(
        lambda: len(timestamps.read(path)) > len(called), what=f"{len(called)} jobs had started"
    )
    started = timestamps.read(path)
    waits = sorted((started[number] - called_at) / 1e6 for number, called_at in enumerate(called))
    return {"p50_ms": rank(waits, 0.50), "p99_ms": rank(waits, 0.99), "max_ms": waits[-1]}


def rank(waits: list[float], share: float) -> float:
    """Return the quantile of the sorted waits: the smallest that at least this share does not exceed."""
    return waits[max(0, -int(-len(waits) * share // 1) - 1)]
