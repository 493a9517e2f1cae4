"""From the call that enqueues to the first line of the task, on a server that has nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import stamps
from benchmarks.entry import Figures
from benchmarks.servers import Server

SPACING_SECONDS = 0.01
REST_SECONDS = 1.0
WARM_UP = -1


def measure(server: Server, enqueue: Callable[[int], object], path: Path, *, samples: int) -> Figures:
    """Return percentiles of the time from just before each call of `enqueue` to the task's own stamp.

    One job warms both sides up, then the server rests a second; the calls are 10 ms apart, so each finds the
    server idle unless it is slower than that.
    """
    enqueue(WARM_UP)
    server.wait_until(lambda: WARM_UP in stamps.read(path), what="the first job had started")
    time.sleep(REST_SECONDS)
    called = []
    begun = time.perf_counter()
    for number in range(samples):
        time.sleep(max(0.0, begun + number * SPACING_SECONDS - time.perf_counter()))
        called.append(time.time_ns())
        enqueue(number)
    server.wait_until(lambda: len(stamps.read(path)) > samples, what=f"{samples} jobs had started")
    started = stamps.read(path)
    waits = sorted((started[number] - instant) / 1e6 for number, instant in enumerate(called))
    return {"p50_ms": rank(waits, 0.50), "p99_ms": rank(waits, 0.99), "max_ms": waits[-1]}


def rank(waits: list[float], share: float) -> float:
    """Return the smallest of the sorted waits that at least this share of them does not exceed."""
    return waits[max(0, -int(-len(waits) * share // 1) - 1)]
