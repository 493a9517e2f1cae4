"""Races by barrier: several calls begin together, and each answers or raises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ROUNDS", "race"]

ROUNDS = 12
"""How often a race of two is run: each round is another chance to interleave."""

_DEADLINE = 60.0  # seconds until a call that has not begun or ended counts as hanging

_Answer = TypeVar("_Answer")


def race(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Return the answers of calls that began together, in order; the first error among them is raised."""
    barrier = threading.Barrier(len(calls), timeout=_DEADLINE)

    def begin(call: Callable[[], _Answer]) -> _Answer:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(begin, call) for call in calls]
        return [one.result(_DEADLINE) for one in running]
