"""Waiting for a condition that other threads and processes fulfil, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_LOOK = 0.01


def eventually(condition: Callable[[], _T | None], *, within: float = 10) -> _T:
    """Return the first true value of the condition, which is called a hundred times per second.

    Args:
        condition: returns a true value when it is met; an `AssertionError` that it raises means not yet.
        within: seconds after which the test fails.

    Raises:
        AssertionError: the condition was never met; the message has its last value or error.
    """
    __tracebackhide__ = True
    deadline, pause = time.monotonic() + within, threading.Event()
    while True:
        reason: AssertionError | None = None
        answer: _T | None = None
        try:
            answer = condition()
        except AssertionError as error:
            reason = error
        if reason is None and answer:
            return answer
        if time.monotonic() > deadline:
            said = f"raised {reason}" if reason else f"returned {answer!r}"
            raise AssertionError(f"Not within {within:g} s: the condition still {said}.") from reason
        pause.wait(_LOOK)
