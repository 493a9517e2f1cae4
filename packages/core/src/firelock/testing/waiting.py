"""Waiting for what other threads and processes do: for a condition, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_LOOK = 0.01


def eventually(condition: Callable[[], _T | None], *, within: float = 10) -> _T:
    """Return what the condition returns as soon as that is true; it is asked a hundred times a second.

    Args:
        condition: what is to become true; an `AssertionError` of its own counts as not yet.
        within: seconds after which the test fails.

    Raises:
        AssertionError: it never was; the message says what the condition returned or raised last.
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
