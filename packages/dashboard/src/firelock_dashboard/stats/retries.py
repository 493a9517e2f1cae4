"""The number of jobs that wait for a retry.

Storages do not keep this count, so up to 101 of these jobs are read and counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from firelock import State
from firelock.storage import JobFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from firelock import Firelock

_MOST = 100  # the maximum number of jobs that are counted
_AGE = 5.0  # seconds
_WHERE = JobFilter(state=State.SCHEDULED, is_retrying=True)


@attrs.frozen
class Retrying:
    """A number of jobs that wait for a retry."""

    number: int
    is_more: bool  # whether there are more jobs than `number`

    def __str__(self) -> str:
        """Return the number for display, which is "100+" if counting stopped there."""
        return f"{self.number}{'+' if self.is_more else ''}"


class RetryCount:
    """The number of jobs that wait for a retry, at most five seconds old."""

    def __init__(self, fire: Firelock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fire = fire
        self._monotonic = monotonic
        self._found: tuple[float, Retrying] | None = None

    def get(self, scheduled: int) -> Retrying:
        """Return the number; the storage is not read if the number of scheduled jobs is zero."""
        found, now = self._found, self._monotonic()
        if not scheduled:
            return Retrying(0, is_more=False)
        if found is None or now - found[0] > _AGE:
            page = self._fire.jobs.page(_WHERE, limit=_MOST)
            found = self._found = (now, Retrying(len(page.jobs), page.cursor is not None))
        return found[1]

    def invalidate(self) -> None:
        """Discard the number, so that the next request counts again."""
        self._found = None
