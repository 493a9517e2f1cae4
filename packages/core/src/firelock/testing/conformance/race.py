"""Races by barrier: several calls begin together, and each answers, raises or is found to hang."""

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
"""How often a race of two is run: each round is another chance to interleave."""

_STEPS_LIMIT = 5_000
_DEADLINE = 60.0  # seconds until a call that has not begun or ended counts as hanging

_given_up: list[threading.Thread] = []  # calls that hang; at most those of one test, see `Handles`

_Answer = TypeVar("_Answer")
_Other = TypeVar("_Other")


def race(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Return the answers of calls that began together, in order; the first error among them is raised.

    Raises:
        AssertionError: a call has not returned within a minute. Its thread is left behind.
    """
    barrier = threading.Barrier(len(calls), timeout=_DEADLINE)

    def begun(call: Callable[[], _Answer]) -> _Answer:
        barrier.wait()
        return call()

    with _hasty_switches():
        return _answers([partial(begun, call) for call in calls])


def returned(call: Callable[[], _Answer]) -> _Answer:
    """Return the answer of a call, made in a thread of its own so that a call that hangs fails the test.

    Raises:
        AssertionError: the call has not returned within a minute. Its thread is left behind.
    """
    return _answers([call])[0]


def is_hanging() -> bool:
    """Tell whether a call that was given up is still under way: whatever it holds cannot be used."""
    return any(thread.is_alive() for thread in _given_up)


def _answers(calls: Sequence[Callable[[], _Answer]]) -> list[_Answer]:
    """Return the answers of calls, each made in a thread that does not keep the process alive."""
    answers: list[Future[_Answer]] = [Future() for _ in calls]

    def answer(call: Callable[[], _Answer], future: Future[_Answer]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the answers are read
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
    """Return where a thread is, as a traceback shows it."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way to see another thread
    return "".join(traceback.format_stack(frame)) if frame is not None else "(it has just ended)"


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
