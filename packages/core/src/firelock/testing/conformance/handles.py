"""A test's handles of one storage: opened like a user's, moved through time together, closed at the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from firelock.clock import SECOND, micros
from firelock.storage import Feature, Storage
from firelock.testing.movable_clock import movable

__all__ = ["BASE", "DAY", "HOUR", "SECOND", "STAMP", "Handles", "opener"]

BASE = micros(datetime(2030, 1, 1, tzinfo=UTC))
"""What a storage's clock says when a test begins."""

STAMP = micros(datetime(2020, 1, 1, tzinfo=UTC))
"""What callers' clocks say: ten years behind, so that a storage that judges by them is found out."""

HOUR = 3_600 * SECOND
DAY = 24 * HOUR


def opener(url: str) -> Callable[[], Storage]:
    """Return a function that opens one more handle of the storage at this URL, as an app would."""
    from firelock.plugins import open_storage

    return partial(open_storage, url)


class Handles:
    """Every handle a test opened; the first one emptied the store.

    The storage's clock stands at `BASE` when the test begins and runs on by itself; `advance` moves it for
    all handles. A test takes hours where it means "later", so a slow machine changes nothing.
    """

    def __init__(self, open_handle: Callable[[], Storage]) -> None:
        self._open_handle = open_handle
        self._opened: list[Storage] = []
        self._offset = 0
        self.first = self._open()
        self.first.clear()
        self._offset = BASE - self.first.clock()
        movable(self.first).clock_offset = self._offset

    def _open(self) -> Storage:
        handle = self._open_handle()
        movable(handle).clock_offset = self._offset
        self._opened.append(handle)
        return handle

    def open(self) -> Storage:
        """Return another handle of the same store; the first one again where the storage is not shared."""
        return self._open() if Feature.SHARED in self.first.features else self.first

    def reopen(self) -> Storage:
        """Every handle is closed; return a new one of the same store."""
        self.close()
        self.first = self._open()
        return self.first

    def advance(self, seconds: float) -> None:
        """It is that much later for every handle."""
        self._offset += int(seconds * SECOND)
        for handle in self._opened:
            movable(handle).clock_offset = self._offset

    def close(self) -> None:
        """Every handle is closed."""
        for handle in self._opened:
            handle.close()
        self._opened.clear()
