"""Races by barrier: several calls begin together, and each answers or raises."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from firelock.model.answers import Applied

if TYPE_CHECKING:
    from firelock.model.job import Transition
    from firelock.storage import Storage

ROUNDS = 12
"""How often a race of two is run: each round is another chance to interleave."""

_STEPS_LIMIT = 5_000
_DEADLINE = 60.0  # seconds until a call that has not begun or ended counts as hanging

_Answer = TypeVar("_Answer")
_Other = TypeVar("_Other")


def race(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Return the answers of calls that began together, in order; the first error among them is raised."""
    barrier = threading.Barrier(len(calls), timeout=_DEADLINE)

    def begin(call: Callable[[], _Answer]) -> _Answer:
        barrier.wait()
        return call()

    with _hasty_switches(), ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(begin, call) for call in calls]
        return [one.result(_DEADLINE) for one in running]


def race_two(one: Callable[[], _Answer], other: Callable[[], _Other]) -> tuple[_Answer, _Other]:
    """Return the answers of two different calls that began together."""
    answers: list[_Answer] = []
    others: list[_Other] = []
    race([lambda: answers.append(one()), lambda: others.append(other())])
    return answers[0], others[0]


def race_all(*calls: Callable[[], object]) -> None:
    """Calls of any kind have begun together and returned; the first error among them is raised."""
    race(calls)


def sent(storage: Storage, ends: Sequence[Transition]) -> list[Applied]:
    """Return what became of these ends; those of jobs that others had locked are sent again, as servers do.

    Raises:
        AssertionError: a job was busy all the while.
    """
    results = storage.apply(ends)
    deadline = time.monotonic() + _DEADLINE
    while busy := [place for place, result in enumerate(results) if result is Applied.BUSY]:
        assert time.monotonic() < deadline, f"{len(busy)} jobs were busy for {_DEADLINE:.0f} seconds"
        for place, result in zip(busy, storage.apply([ends[place] for place in busy]), strict=True):
            results[place] = result
    return results


@contextmanager
def _hasty_switches() -> Iterator[None]:
    """The interpreter switches threads as often as it can, so that short calls interleave as well."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def until_none_is_left(step: Callable[[], int]) -> int:
    """Return the sum of what steps say they did, once a step has nothing left to do."""
    done = 0
    for _ in range(_STEPS_LIMIT):
        number = step()
        if not number:
            return done
        done += number
    raise AssertionError(f"after {_STEPS_LIMIT} steps and {done} done there is still something left to do")
