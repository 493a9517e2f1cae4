"""Wait, with a deadline, for a condition that other threads and processes fulfil."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_INTERVAL = 0.01


def eventually(condition: Callable[[], _T | None], *, within: float = 10) -> _T:
    """Return the first true value of the condition, which is called a hundred times per second.

    Args:
        condition: a function that returns a true value when the condition is met. It can raise an
            `AssertionError` until then.
        within: seconds after which the test fails.

    Raises:
        AssertionError: If the condition was never met. The message contains its last value or error.
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
            outcome = f"raised {reason}" if reason else f"returned {answer!r}"
            raise AssertionError(
                f"The condition was not met within {within:g} s; it last {outcome}."
            ) from reason
        pause.wait(_INTERVAL)
