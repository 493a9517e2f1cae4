"""Waiting for work within one process, and a record of the work that has arrived.

Code that detects new work, including work from other processes, calls `note` with the queues of that work. A
claim finds all work that arrived before it began, so its beginning is marked. If work arrives between a claim
that found nothing and the following wait, the wait ends immediately.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Collection, Sequence

ANY_QUEUE = "*"  # all queues; used for an earlier due time, a resumed queue, or work in an unknown queue
_TAKEN = "taken "  # cannot be part of a queue's name, which contains no spaces
_REST = 0.005  # seconds to pause after waking a wait for `taken_from` names, because every arrival wakes it
_REMEMBERED = 1_000  # maximum number of queues, and sets of queues, whose last arrival is stored separately

_living: weakref.WeakSet[Waiting] = weakref.WeakSet()


def _leave_behind() -> None:
    for waiting in list(_living):
        waiting.leave_behind()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


def taken_from(session: str) -> str:
    """Return the name that the holder of a session's jobs passes to `wait` instead of a queue.

    Such a wait ends when one of the jobs is taken out of processing, by an operator or because its batch has
    ended.
    """
    return _TAKEN + session


def is_of_taken(name: str) -> bool:
    """Return whether this is a name that `taken_from` returned, not the name of a queue."""
    return name.startswith(_TAKEN)


class Waiting:
    """The `wait` calls of one handle; a storage with other notifications overrides `poll` and `sleep`."""

    def __init__(self) -> None:
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        self.changed = threading.Condition()
        self._number = 0  # number of the last arrival
        self._last_work = 0  # number of the last arrival for any queue
        self._arrived: dict[str, int] = {}  # for each queue, the number of its last arrival
        # For each set of queues, the number of the last arrival before its last claim.
        self._seen: dict[frozenset[str] | None, int] = {}
        self._interrupts = 0
        self._is_ended = False
        self._waiters = 0

    def leave_behind(self) -> None:
        """Reset the state in a forked process, in which no thread waits yet."""
        self._begin()

    # ---- arrivals ----------------------------------------------------------------------------------------

    def note(self, queues: Collection[str]) -> None:
        """Wake the waits for these queues, because work may have arrived."""
        with self.changed:
            self._number += 1
            if len(self._arrived) + len(queues) > _REMEMBERED:
                self._arrived = {ANY_QUEUE: self._number}
            self._arrived.update(dict.fromkeys(queues, self._number))
            if not all(map(is_of_taken, queues)):
                self._last_work = self._number
            self.rouse()

    def mark(self, queues: Sequence[str] | None) -> None:
        """Mark the beginning of a claim, which finds all work that was noted before."""
        with self.changed:
            self.poll()
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
            self._seen[_key(queues)] = self._number

    def interrupt(self) -> None:
        """Make every current `wait` return."""
        with self.changed:
            self._interrupts += 1
            self.rouse()

    def end(self) -> None:
        """Make every current and future `wait` return; called when the handle is closed."""
        self._is_ended = True
        self.interrupt()

    # ---- waiting -----------------------------------------------------------------------------------------

    def is_marked(self, queues: Sequence[str] | None) -> bool:
        """Return whether a claim of these queues was marked, so that a wait for them misses no work."""
        return _key(queues) in self._seen

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`."""
        deadline = time.monotonic() + timeout_seconds
        with self.changed:
            interrupts, key = self._interrupts, _key(queues)
            is_for_queues, is_roused = queues is None or not all(map(is_of_taken, queues)), False
            self._waiters += 1
            try:
                while True:
                    self.poll()
                    if self.is_news(queues):
                        self._seen[key] = self._number
                        return True
                    left = deadline - time.monotonic()
                    if left <= 0 or interrupts != self._interrupts or self._is_ended:
                        return False
                    if is_roused and not is_for_queues:
                        self._rest()
                        is_roused = False
                        continue
                    self.sleep(left)
                    is_roused = True
            finally:
                self._waiters -= 1

    def _rest(self) -> None:
        self.changed.release()
        try:
            time.sleep(_REST)
        finally:
            self.changed.acquire()

    # ---- hooks for a storage, called with the lock held ----------------------------------------------------

    def poll(self) -> None:
        """Note the work that has arrived in other processes."""

    def is_news(self, queues: Sequence[str] | None) -> bool:
        """Return whether something has arrived for these queues since their last mark or successful wait."""
        seen = self._seen.setdefault(_key(queues), self._number)
        if queues is None:
            return self._last_work > seen
        is_for_queues = not all(map(is_of_taken, queues))
        return any(self._arrived.get(queue, 0) > seen for queue in (*queues, *([ANY_QUEUE] * is_for_queues)))

    def sleep(self, seconds: float) -> None:
        """Sleep until something may have arrived, `rouse` is called, or this number of seconds has passed."""
        self.changed.wait(seconds)

    def rouse(self) -> None:
        """Make every waiting thread check for work again."""
        if self._waiters:
            self.changed.notify_all()


def _key(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)
