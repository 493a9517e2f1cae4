"""Those of one process who wait for work, and what each of them has not seen of what arrived.

Whoever learns of work, also from another process, notes its queues. Who claims says so before: what arrived
until then, the claim sees. So whatever arrives between a claim that found nothing and the wait ends the wait.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Collection, Sequence

ANY_QUEUE = "*"  # what concerns every queue: an instant came nearer, a queue was resumed, nobody knows which
_TAKEN = "taken "  # a queue's name has no blank
_REST = 0.005  # seconds between two looks of who waits for none of all that arrives for queues
_REMEMBERED = 1_000  # queues, and sets of queues, of which the last arrival is remembered apart

_living: weakref.WeakSet[Waiting] = weakref.WeakSet()


def _leave_behind() -> None:
    for waiting in list(_living):
        waiting.leave_behind()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


def taken_from(session: str) -> str:
    """Return what is waited for, in place of a queue, by who holds the jobs of a session.

    It arrives when others have taken one of them out of processing: an operator, or the end of its batch.
    """
    return _TAKEN + session


def is_of_taken(name: str) -> bool:
    """Tell what `taken_from` returns from the name of a queue."""
    return name.startswith(_TAKEN)


class Waiting:
    """The waits of one handle; where work is heard of in another way, `look` and `sleep` are overridden."""

    def __init__(self) -> None:
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        self.changed = threading.Condition()
        self._number = 0  # of the last arrival
        self._last_work = 0  # of the last one that concerns queues
        self._arrived: dict[str, int] = {}  # by queue: its last arrival
        self._seen: dict[frozenset[str] | None, int] = {}  # by queues: the last one before their last claim
        self._interrupts = 0
        self._is_ended = False
        self._waiters = 0

    def leave_behind(self) -> None:
        """This is another process than the one that waited, after a fork: nobody waits in it yet."""
        self._begin()

    # ---- telling -----------------------------------------------------------------------------------------

    def note(self, queues: Collection[str]) -> None:
        """Who waits for one of these queues looks for work."""
        with self.changed:
            self._number += 1
            if len(self._arrived) + len(queues) > _REMEMBERED:
                self._arrived = {ANY_QUEUE: self._number}
            self._arrived.update(dict.fromkeys(queues, self._number))
            if not all(map(is_of_taken, queues)):
                self._last_work = self._number
            self.rouse()

    def mark(self, queues: Sequence[str] | None) -> None:
        """Whatever was noted before now will be seen by the claim that follows."""
        with self.changed:
            self.look()
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
            self._seen[_key(queues)] = self._number

    def interrupt(self) -> None:
        """Every `wait` under way returns."""
        with self.changed:
            self._interrupts += 1
            self.rouse()

    def end(self) -> None:
        """Every `wait` returns from now on; for a handle's `close`."""
        self._is_ended = True
        self.interrupt()

    # ---- waiting -----------------------------------------------------------------------------------------

    def is_marked(self, queues: Sequence[str] | None) -> bool:
        """Tell whether there was a claim of these queues, so that a wait for them misses nothing."""
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
                    self.look()
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

    # ---- what a storage does in its own way, each with the lock held ---------------------------------------

    def look(self) -> None:
        """What has arrived elsewhere is noted."""

    def is_news(self, queues: Sequence[str] | None) -> bool:
        """Tell whether something has arrived for these queues since they were marked or told last."""
        seen = self._seen.setdefault(_key(queues), self._number)
        if queues is None:
            return self._last_work > seen
        is_for_queues = not all(map(is_of_taken, queues))
        return any(self._arrived.get(queue, 0) > seen for queue in (*queues, *([ANY_QUEUE] * is_for_queues)))

    def sleep(self, seconds: float) -> None:
        """Return when something may have arrived, after a `rouse`, or after so many seconds."""
        self.changed.wait(seconds)

    def rouse(self) -> None:
        """Whoever waits looks again."""
        if self._waiters:
            self.changed.notify_all()


def _key(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)
