"""An outage of the storage: its duration, and the time at which it is logged again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

REPORT_INTERVAL: Final = 300.0
"""Seconds between two log lines about the same outage."""


class Outage:
    """The current outage, if there is one.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._reported_at = 0.0

    def note_failure(self) -> float | None:
        """Record that the storage is unavailable; return the outage's seconds so far if a log line is due."""
        now = self._clock()
        if self._since is None:
            self._since = self._reported_at = now
        if now - self._reported_at < REPORT_INTERVAL:
            return None
        self._reported_at = now
        return now - self._since

    def end(self) -> float:
        """Record that the storage is available; return the duration of the outage in seconds."""
        lasted = 0.0 if self._since is None else self._clock() - self._since
        self._since = None
        return lasted
