"""Races with a barrier: several calls start together, and each returns, raises or is found to hang."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from firelock.model.answers import Applied

if TYPE_CHECKING:
    from firelock.model.job import Transition
    from firelock.storage import Storage

ROUNDS = 12
"""How often a race of two is run; each round is another chance to interleave."""

_CALLS_LIMIT = 5_000
_DEADLINE = 60.0  # seconds after which a call that has not started or returned counts as hanging

_given_up: list[threading.Thread] = []  # threads of hanging calls, from at most one test: see `Handles`

_Answer = TypeVar("_Answer")
_Other = TypeVar("_Other")


def race(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Return the results, in order, of calls that start together, or raise the first error.

    Raises:
        AssertionError: If a call has not returned within a minute. Its thread is abandoned.
    """
    barrier = threading.Barrier(len(calls), timeout=_DEADLINE)

    def begun(call: Callable[[], _Answer]) -> _Answer:
        barrier.wait()
        return call()

    with _hasty_switches():
        return _answers([partial(begun, call) for call in calls])


def returned(call: Callable[[], _Answer]) -> _Answer:
    """Return the result of a call in a separate thread, so that a call that hangs fails the test.

    Raises:
        AssertionError: If the call has not returned within a minute. Its thread is abandoned.
    """
    return _answers([call])[0]


def is_hanging() -> bool:
    """Return whether an abandoned call is still running; the resources that it holds cannot be used."""
    return any(thread.is_alive() for thread in _given_up)


def _answers(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Return the results of calls, each made in a thread that does not keep the process alive."""
    answers: list[Future[_Answer]] = [Future() for _ in calls]

    def answer(call: Callable[[], _Answer], future: Future[_Answer]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised when the results are read
            future.set_exception(error)

    threads = [
        threading.Thread(target=answer, args=pair, daemon=True) for pair in zip(calls, answers, strict=True)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _DEADLINE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if late := [thread for thread in threads if thread.is_alive()]:
        _given_up.extend(late)
        raise AssertionError(
            f"{len(late)} of {len(calls)} calls have not returned after {_DEADLINE:.0f} seconds. "
            f"The first one is here:\n{_place(late[0])}"
        )
    return [one.result() for one in answers]


def _place(thread: threading.Thread) -> str:
    """Return the position of a thread, as a traceback shows it."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way to do this
    return "".join(traceback.format_stack(frame)) if frame is not None else "(it has just ended)"


def race_two(one: Callable[[], _Answer], other: Callable[[], _Other]) -> tuple[_Answer, _Other]:
    """Return the results of two different calls that start together."""
    answers: list[_Answer] = []
    others: list[_Other] = []
    race([lambda: answers.append(one()), lambda: others.append(other())])
    return answers[0], others[0]


def race_all(*calls: Callable[[], object]) -> None:
    """Start calls of any kind together; raise the first error."""
    race(calls)


def sent(storage: Storage, ends: Sequence[Transition]) -> list[Applied]:
    """Return the results of these transitions; those of locked jobs are sent again, as servers do.

    Raises:
        AssertionError: If a job stayed busy until the deadline.
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
    """Make the interpreter switch threads as often as possible, so that even short calls interleave."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def until_none_is_left(call: Callable[[], int]) -> int:
    """Repeat a call until it reports that nothing is left to do; return the sum of its results."""
    done = 0
    for _ in range(_CALLS_LIMIT):
        number = call()
        if not number:
            return done
        done += number
    raise AssertionError(f"work is still left after {_CALLS_LIMIT} calls, which did {done} units of work")
